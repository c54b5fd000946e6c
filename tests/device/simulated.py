"""A simulated accelerator: tensors on `sim:0` and `sim:1` are computed on the CPU, with real numbers.

Inside `with SimulatedDevice() as device` whatever mixes devices raises as on CUDA, and all that would make
the host wait is written down: `device.waits`, `device.operations`; of a part `with device.counted() as part`.

Two things more raise, which CUDA lets pass: views in place, which aren't simulated, and a look at numbers
that were copied to the host with `non_blocking` before anything has made the host wait.

What a CPU can't show isn't shown: there are no streams and no events; random numbers of a device's
generator are the CPU's; operators are counted, not kernels. Without gradients attention and the root mean
square norm are one operator each, as on CUDA, where a mask of truths is made numbers first. It holds for
the thread that enters it and for those that are started inside.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from .backend import register
from .kernels import fused_attention, fused_rms_norm
from .memory import Pinned
from .record import Operation, Record, Wait
from .tensor import BOOK, NAME, SimulatedTensor, address_of, device_of, run


class _Dispatching(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Every operator of a thread goes through here, those without a tensor too."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return run(func, args, kwargs or {})


class SimulatedDevice(_Dispatching):  # type: ignore[no-untyped-call]
    """The devices `sim:0` and `sim:1`, from `with` on to its end."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        register()
        self.record = Record()
        self._patches = ExitStack()

    @property
    def waits(self) -> list[Wait]:
        """All that made the host wait so far."""
        return self.record.waits

    @property
    def operations(self) -> list[Operation]:
        """All operators on the devices so far."""
        return self.record.operations

    @contextmanager
    def counted(self) -> Iterator[Record]:
        """What happens inside, by itself."""
        part = Record()
        BOOK.records.append(part)
        try:
            yield part
        finally:
            BOOK.records.remove(part)

    def __enter__(self) -> SimulatedDevice:
        assert not BOOK.records, "there is one at a time"
        BOOK.records.append(self.record)
        BOOK.pinned = Pinned()
        for target, name, replacement in (
            # Tensors that wrap others don't mix with those of inference mode.
            (torch, "inference_mode", _without_gradients),
            (torch, "Generator", Generator),
            (torch.nn.Module, "to", _to),
            (threading.Thread, "run", _run),
        ):
            self._patches.enter_context(patch.object(target, name, replacement))
        self._patches.enter_context(_of_a_thread())
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._patches.close()
        BOOK.clear()


class Generator(torch.Generator):
    """A generator that says which device it is of; its numbers are those of a CPU."""

    def __new__(cls, device: Any = "cpu") -> Generator:
        made = super().__new__(cls)
        named = torch.device(device)
        if named.type == NAME:
            BOOK.generators[address_of(made)] = made, torch.device(NAME, named.index or 0)
        return made

    def __init__(self, device: Any = "cpu") -> None: ...

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return device_of(self)


class _PastOperators(TorchFunctionMode):
    """What torch decides before an operator: memory of a new tensor is pinned, or looked into; and attention
    and norms are one kernel, which is a choice by a table of devices that Python can't add to.

    `torch.tensor` isn't replaced, as others are: torch remembers for good what it makes tensors with.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.tensor and kwargs.get("pin_memory"):
            return torch.tensor(*args, **{**kwargs, "pin_memory": False}).pin_memory()
        if func in _LOOKING and BOOK.pinned:
            BOOK.pinned.check(args[0])
        if func in _ONE_KERNEL and isinstance(args[0], SimulatedTensor):
            return _ONE_KERNEL[func](*args, **kwargs)
        return func(*args, **kwargs)


# What is one operator on CUDA, and made of several where there are no kernels.
_ONE_KERNEL: dict[Any, Callable[..., Any]] = {
    torch.nn.functional.scaled_dot_product_attention: fused_attention,
    torch.nn.functional.rms_norm: fused_rms_norm,
}
_LOOKING = {torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.__array__}


def _without_gradients(mode: bool = True) -> Any:
    return torch.no_grad() if mode else torch.enable_grad()


_REAL_RUN = threading.Thread.run


def _run(self: threading.Thread) -> None:
    """A thread that is started inside."""
    with _of_a_thread(), _Dispatching():  # type: ignore[no-untyped-call]
        _REAL_RUN(self)


@contextmanager
def _of_a_thread() -> Iterator[None]:
    """What each thread needs: the backward is on the one that asks for it, so that it is known who does."""
    with _PastOperators(), torch.autograd.set_multithreading_enabled(False):
        yield


_REAL_TO = torch.nn.Module.to


def _to(self: torch.nn.Module, *args: Any, **kwargs: Any) -> torch.nn.Module:
    """As on a device of torch's own: weights that were one tensor stay one."""
    before = [
        (module, name, weight)
        for module in self.modules()
        for name, weight in module._parameters.items()
        if weight is not None
    ]
    moved = _REAL_TO(self, *args, **kwargs)
    first: dict[int, Any] = {}
    for module, name, weight in before:
        module._parameters[name] = first.setdefault(id(weight), module._parameters[name])
    return moved
