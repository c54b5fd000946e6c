"""What the tests in here share."""

from __future__ import annotations

import pytest

from ..numerics.families import Zoo


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """The tiny models of every family."""
    return Zoo(tmp_path_factory.mktemp("defects"))
