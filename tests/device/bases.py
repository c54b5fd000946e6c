"""Base models on a simulated device, loaded and tried as a server loads and tries them."""

from __future__ import annotations

from tests.conftest import SETTINGS

from .product import BaseModel, Checkpoint, load, locate
from .simulated import SimulatedDevice

FIRST, SECOND = "sim:0", "sim:1"


def on_device(checkpoint: Checkpoint, device: str = FIRST, dtype: str = "float32") -> BaseModel:
    """`checkpoint`, frozen on `device` and past its trials; to be used inside any SimulatedDevice."""
    with SimulatedDevice():
        return load(checkpoint, dtype, device)


def embedded(name: str, device: str = FIRST) -> BaseModel:
    """An embedded model of the examples."""
    return on_device(locate(name, SETTINGS), device)
