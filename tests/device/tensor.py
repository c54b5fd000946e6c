"""Tensors that say they are on a simulated device, and what becomes of an operator that is given some.

The numbers lie in a tensor on the host, `host`, and every operator is computed there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .kernels import KERNELS
from .record import Cause, Kind, Operation, Record, Wait, place
from .rules import Refused, aten, causes_to_wait, kind_of, refuse, tensors_in

if TYPE_CHECKING:
    from .memory import Pinned

NAME = "sim"
_COPIES = {aten._to_copy.default, aten.copy_.default}
# What CUDA computes of more types than a CPU.
_STAND_INS: dict[Any, Callable[..., Any]] = {
    **KERNELS,
    aten.histc.default: lambda counted, *args, **kwargs: torch.histc(counted.float(), *args, **kwargs).to(
        counted.dtype
    ),
}


class SimulatedTensor(Tensor):
    """A tensor on a simulated device."""

    host: Tensor
    # Made of a number in Python, and never written to the device as a tensor of its own.
    is_number: bool

    @staticmethod
    def __new__(cls, host: Tensor, device: torch.device, is_number: bool = False) -> SimulatedTensor:
        made: SimulatedTensor = Tensor._make_wrapper_subclass(
            cls,
            host.size(),
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            layout=host.layout,
            device=device,
            requires_grad=False,
        )
        made.host, made.is_number = host, is_number
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return run(func, args, kwargs or {})

    def tolist(self) -> Any:
        """Copied to the host first, as of any device."""
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        """Refused as by CUDA."""
        raise TypeError(f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() first")

    def data_ptr(self) -> int:
        """Where its numbers lie."""
        return self.host.data_ptr()

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"SimulatedTensor({self.host}, device={self.device})"


class Tape:
    """Operators as they were computed, to be computed again: into the same memory, with the same numbers of
    the host. That is what a captured graph does."""

    def __init__(self) -> None:
        self._written: list[tuple[Callable[[], Any], list[Tensor], set[int]]] = []

    def write(self, compute: Callable[[], Any], results: list[Tensor], given: set[int]) -> None:
        """`results` are where they are to lie again; what lies in memory that was `given` does already."""
        self._written.append((compute, results, given))

    def play(self) -> None:
        """All of them, in their order."""
        with torch.no_grad():
            for compute, results, given in self._written:
                for old, new in zip(results, tensors_in((compute(),)), strict=True):
                    if old.untyped_storage().data_ptr() not in given:
                        old.copy_(new)


class Book:
    """Where records are written, all that are open; what memory is pinned; the devices' generators."""

    records: list[Record]
    pinned: Pinned | None
    generators: dict[int, tuple[torch.Generator, torch.device]]
    tape: Tape | None

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Nothing is simulated any more."""
        self.records, self.pinned, self.generators, self.tape = [], None, {}, None


BOOK = Book()


def wait(cause: Cause, func: Any) -> None:
    """The host waits for the device."""
    if BOOK.pinned:
        BOOK.pinned.all_arrived()
    if BOOK.records:
        entry = Wait(cause, str(func), place())
        for record in BOOK.records:
            record.waits.append(entry)


def run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Any operator, of host tensors and those of devices."""
    tensors = [*tensors_in(args), *tensors_in(kwargs.values())]
    on_device = [each for each in tensors if isinstance(each, SimulatedTensor)]
    target = _device(kwargs.get("device"))
    if not on_device and (target is None or target.type != NAME):
        return BOOK.pinned.run(func, args, kwargs) if BOOK.pinned else func(*args, **kwargs)
    if func in _COPIES:
        return _copy(func, args, kwargs, target)
    device = target if target is not None and target.type == NAME else on_device[0].device
    generator = kwargs.get("generator")
    if generator is not None and device_of(generator) != device:
        raise Refused(f"{func}: expected a generator of {device}, but found one of {device_of(generator)}")
    refuse(func, args, kwargs, device, tensors)
    for cause in causes_to_wait(func, args, kwargs):
        wait(cause, func)
    compute = _STAND_INS.get(func, func)
    result = compute(*_mapped(_host, args), **_on_the_host(kwargs))
    if target is not None and target.type != NAME:
        return result
    wrapped = _wrapped(result, device, on_device, func is aten.scalar_tensor.default)
    _tape(compute, args, kwargs, wrapped)
    _note(func, kind_of(func), [*tensors, *tensors_in((wrapped,))])
    return wrapped


def move(source: Tensor, result: Tensor, non_blocking: bool, func: Any) -> None:
    """Notes that the numbers of `source` went to another device's `result`."""
    if not source.numel():
        return
    from_device, to_device = (isinstance(each, SimulatedTensor) for each in (source, result))
    if from_device and not to_device:
        if not (non_blocking and _as_it_is(source, result) and BOOK.pinned and BOOK.pinned.has(result)):
            wait(Cause.TO_HOST, func)
        else:
            BOOK.pinned.leaves_for(result)
    elif to_device and not from_device:
        # What isn't pinned, or is in another order or of another type, is first copied by the host.
        if not (_as_it_is(source, result) and BOOK.pinned and BOOK.pinned.has(source)):
            wait(Cause.PAGEABLE, func)
        elif not non_blocking:
            wait(Cause.BLOCKING, func)
    elif getattr(source, "is_number", False) and not result.dim():
        # A number that is written to one place is copied there; to several they are filled with it.
        wait(Cause.PAGEABLE, func)
    _note(func, Kind.COPY if from_device != to_device else Kind.COMPUTE, [source, result])


def address_of(generator: torch.Generator) -> int:
    """The same of all objects that are one generator: operators are given another one than was made."""
    return int(generator._cdata)  # type: ignore[attr-defined]


def device_of(generator: torch.Generator) -> torch.device:
    """The device that a generator is of."""
    known = BOOK.generators.get(address_of(generator))
    return known[1] if known else torch.device("cpu")


# ---- helpers ----


def _copy(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], target: torch.device | None) -> Any:
    """`copy_` and what `to` is made of."""
    if func is aten.copy_.default:
        result, source, *rest = args
        non_blocking = bool(rest[0]) if rest else bool(kwargs.get("non_blocking", False))
        _host(result).copy_(_host(source))
        move(source, result, non_blocking, func)
        _tape(func, args, kwargs, result)
        return result
    (source,) = args
    non_blocking = bool(kwargs.get("non_blocking", False))
    device = source.device if target is None else target
    copied = func(_host(source), **{**_on_the_host(kwargs), "non_blocking": False})
    result = SimulatedTensor(copied, device) if device.type == NAME else copied
    if device.type != NAME and non_blocking and BOOK.pinned:
        BOOK.pinned.add(result)
    move(source, result, non_blocking, func)
    _tape(func, args, kwargs, result)
    return result


def _tape(compute: Callable[..., Any], args: Any, kwargs: dict[str, Any], result: Any) -> None:
    """Writes an operator on the tape that is running, if there is one."""
    if BOOK.tape is None:
        return
    hosts, keywords = _mapped(_host, args), _on_the_host(kwargs)
    given = {
        each.untyped_storage().data_ptr() for each in (*tensors_in(hosts), *tensors_in(keywords.values()))
    }
    results = [_host(each) for each in tensors_in((result,))]
    BOOK.tape.write(lambda: compute(*hosts, **keywords), results, given)


def _as_it_is(source: Tensor, result: Tensor) -> bool:
    """Whether a copy needs no other one in between."""
    return source.is_contiguous() and result.is_contiguous() and source.dtype == result.dtype


def _note(func: Any, kind: Kind, tensors: list[Tensor]) -> None:
    if not BOOK.records:
        return
    shapes = tuple(tuple(each.shape) for each in tensors)
    addresses = tuple(_host(each).data_ptr() for each in tensors)
    entry = Operation(str(func).removeprefix("aten."), kind, shapes, addresses, place())
    for record in BOOK.records:
        record.operations.append(entry)


def _device(named: Any) -> torch.device | None:
    """With its index, as a tensor says it."""
    if named is None:
        return None
    device = torch.device(named)
    return torch.device(NAME, device.index or 0) if device.type == NAME else device


def _host(value: Any) -> Any:
    if not isinstance(value, SimulatedTensor):
        return value
    if value.shape != value.host.shape or value.dtype is not value.host.dtype:
        raise NotImplementedError(
            "a tensor on a simulated device was changed behind its back: set_data, resize_"
        )
    return value.host


def _on_the_host(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The keywords of an operator, for host tensors."""
    moved = {name: value if name == "generator" else _mapped(_host, value) for name, value in kwargs.items()}
    if moved.get("device") is not None:
        moved["device"] = torch.device("cpu")
    if "pin_memory" in moved:
        moved["pin_memory"] = False
    return moved


def _wrapped(result: Any, device: torch.device, given: list[SimulatedTensor], is_number: bool) -> Any:
    """Results as tensors of the device; what was changed in place is what was given."""
    known = {id(each.host): each for each in given}

    def wrap(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        same = known.get(id(value))
        if same is None:
            return SimulatedTensor(value, device, is_number)
        same.is_number = False
        if same.shape != value.shape or same.stride() != value.stride():
            raise NotImplementedError("views in place aren't simulated")
        return same

    return _mapped(wrap, result)


def _mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """`value` with what is in it changed, in lists and tuples too."""
    if isinstance(value, (list, tuple)):
        return type(value)([_mapped(change, each) for each in value])
    return change(value)
