"""What the tests in here share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import LLAMA, T5
from tests.numerics.families import Zoo

from .bases import embedded
from .product import BaseModel
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


@pytest.fixture(scope="package")
def there() -> dict[str, BaseModel]:
    """The embedded models on the device, by name."""
    return {name: embedded(name) for name in (LLAMA, T5)}


@pytest.fixture
def base_there(base: BaseModel, there: dict[str, BaseModel]) -> BaseModel:
    """The same model as `base`, on the device."""
    return there[base.checkpoint.name]
