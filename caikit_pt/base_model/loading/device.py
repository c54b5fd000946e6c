"""The device and the data type of a request: its own, else those of the settings, else what suits."""

from __future__ import annotations

from caikit_pt.base_model.loading.checkpoint import Checkpoint
from caikit_pt.errors import InvalidParameter
from caikit_pt.parameters.tuning import DTYPES
from caikit_pt.settings import Settings


def resolve_device(asked: str, settings: Settings) -> str:
    """The device for a request: its own, else the setting, else cuda where there is one.

    Raises InvalidParameter where it is unknown or this machine lacks it.
    """
    import torch

    count = torch.cuda.device_count()
    device = asked or settings.device or ("cuda" if count else "cpu")
    devices = ["cpu", *(["cuda"] if count else []), *(f"cuda:{index}" for index in range(count))]
    if device not in devices:
        raise InvalidParameter("device", device, f"one of {', '.join(devices)} on this machine")
    return "cuda:0" if device == "cuda" else device


def resolve_dtype(asked: str, checkpoint: Checkpoint, device: str, settings: Settings) -> str:
    """The data type for a request: its own, else the setting, else what suits the device.

    bfloat16 and float16 on a CPU round differently from batch to batch and can change answers on
    near-ties, so float32 is the default there.
    """
    dtype = asked or settings.torch_dtype
    if not dtype:
        return "float32" if device == "cpu" else checkpoint.dtype
    if dtype not in DTYPES:
        raise InvalidParameter("torch_dtype", dtype, ", ".join(DTYPES))
    return dtype
