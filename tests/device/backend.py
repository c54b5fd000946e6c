"""Makes torch know devices `sim:0` and `sim:1`: once in a process, and in use while a SimulatedDevice is."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from .kernels import KERNELS
from .record import Cause
from .tensor import BOOK, NAME, SimulatedTensor, move, run, wait

COUNT = 2
FREE_BYTES = TOTAL_BYTES = 2**34
# Kernels live as long as this.
_LIBRARY = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]


class Module:
    """`torch.sim`: what `torch.cuda` is for CUDA, as far as anybody asks."""

    def is_initialized(self) -> bool:
        return is_in_use()

    def is_available(self) -> bool:
        return is_in_use()

    def device_count(self) -> int:
        return COUNT if is_in_use() else 0

    def current_device(self) -> int:
        return 0

    def mem_get_info(self, device: Any = None) -> tuple[int, int]:
        return FREE_BYTES, TOTAL_BYTES

    def synchronize(self, device: Any = None) -> None:
        wait(Cause.SYNCHRONIZE, "synchronize")

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None: ...


class _Hooks(torch._C._acc.PrivateUse1Hooks):
    def is_available(self) -> bool:
        return is_in_use()

    def has_primary_context(self, index: int) -> bool:
        return True

    def is_built(self) -> bool:
        return True


def is_in_use() -> bool:
    """Whether a SimulatedDevice is entered: other tests of the process see no accelerator."""
    return bool(BOOK.records)


@cache
def register() -> None:
    """Tells torch of the devices, and of the kernels that it calls past any dispatch mode.

    `torch.tensor(list, device=...)` makes its result and copies to it that way.
    """
    _setup_privateuseone_for_python_backend(NAME, Module(), _Hooks())
    for name, kernel in (
        ("empty.memory_format", _empty),
        ("empty_strided", _empty_strided),
        ("_copy_from", _copy_from),
        ("_to_copy", _to_copy),
        # That there is one keeps torch from taking the operator apart.
        *(
            (str(func).removeprefix("aten.").removesuffix(".default"), partial(run_here, func))
            for func in KERNELS
        ),
    ):
        _LIBRARY.impl(name, kernel, "PrivateUse1")  # type: ignore[no-untyped-call]


def run_here(func: Any, *args: Any, **kwargs: Any) -> Any:
    return run(func, args, kwargs)


def _empty(
    size: Any, dtype: Any = None, layout: Any = None, device: Any = None, *_: Any, **__: Any
) -> Tensor:
    return _made(torch.empty(size, dtype=dtype), device)


def _empty_strided(
    size: Any, stride: Any, dtype: Any = None, layout: Any = None, device: Any = None, *_: Any, **__: Any
) -> Tensor:
    return _made(torch.empty_strided(size, stride, dtype=dtype), device)


def _copy_from(source: Any, result: Any, non_blocking: bool = False) -> Tensor:
    numbers = source.host if isinstance(source, SimulatedTensor) else source
    (result.host if isinstance(result, SimulatedTensor) else result).copy_(numbers)
    move(source, result, non_blocking, torch.ops.aten.copy_.default)
    assert isinstance(result, Tensor)
    return result


def _to_copy(source: Tensor, **kwargs: Any) -> Any:
    return run(torch.ops.aten._to_copy.default, (source,), kwargs)


def _made(host: Tensor, device: Any) -> Tensor:
    return SimulatedTensor(host, torch.device(NAME, (device.index if device is not None else 0) or 0))
