"""What the tests in here share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.numerics.families import Zoo

from .simulated import SimulatedDevice


@pytest.fixture
def device() -> Iterator[SimulatedDevice]:
    """A simulated device in use."""
    with SimulatedDevice() as device:
        yield device


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """The tiny models of every family."""
    return Zoo(tmp_path_factory.mktemp("device"))
