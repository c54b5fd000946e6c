"""The simulated device itself: a planted fault of each kind is found, and what is right is let be."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from .record import Cause, Kind
from .rules import Refused
from .simulated import SimulatedDevice

Act = Callable[[], Any]


def on(device: str, *shape: int) -> Tensor:
    """Numbers on a device, without a copy from the host."""
    return torch.arange(1.0, torch.Size(shape).numel() + 1, device=device).view(shape)


def there(*shape: int) -> Tensor:
    return on("sim:0", *shape)


# ---- what is refused ----


def _of_generator(of: str, device: str) -> Act:
    return lambda: torch.rand(2, device=device, generator=torch.Generator(of))


def _whole() -> Tensor:
    return torch.ones(2, 2, dtype=torch.long, device="sim:0")


REFUSED: dict[str, Act] = {
    "a host tensor": lambda: there(2, 2) + torch.ones(2, 2),
    "a host tensor in a product": lambda: there(2, 2) @ torch.ones(2, 2),
    "a host tensor in a list": lambda: torch.cat([there(2), torch.ones(2)]),
    "a number of the host in a list": lambda: torch.stack([there(1)[0], torch.tensor(1.0)]),
    "a number of the host as index": lambda: there(2).index_select(0, torch.tensor(1)),
    "ids on the host": lambda: torch.nn.functional.embedding(torch.tensor([0]), there(2, 2)),
    "weights on the host": lambda: torch.nn.functional.embedding(there(1).long() - 1, torch.ones(2, 2)),
    "a host tensor that is written": lambda: torch.ones(()).add_(there(1)[0]),
    "a mask on the host": lambda: there(2).masked_fill(torch.tensor([True, False]), 0.0),
    "values on the host": lambda: there(2).index_put_((there(2).long() - 1,), torch.ones(2)),
    "another device": lambda: there(2) + on("sim:1", 2),
    "a number of another device": lambda: there(2) + on("sim:1", 1)[0],
    "indices of another device": lambda: there(2)[on("sim:1", 1).long()],
    "another device in a list": lambda: torch.cat([there(2), on("sim:1", 2)]),
    "a generator of the host": _of_generator("cpu", "sim:0"),
    "a generator of another device": _of_generator("sim:1", "sim:0"),
    "a generator of another device, in place": lambda: there(2).normal_(generator=torch.Generator("sim:1")),
    "a product of whole numbers": lambda: _whole() @ _whole(),
    "the optimiser's count on the host": lambda: _adam(torch.zeros(())),
}


def _adam(step: Tensor) -> None:
    torch._fused_adamw_(
        [there(2)],
        [there(2)],
        [there(2)],
        [there(2)],
        [],
        [step],
        lr=0.1,
        beta1=0.9,
        beta2=0.99,
        weight_decay=0.0,
        eps=1e-8,
        amsgrad=False,
        maximize=False,
    )


@pytest.mark.parametrize("what", REFUSED)
def test_what_cuda_refuses_is_refused(device: SimulatedDevice, what: str) -> None:
    with pytest.raises(Refused):
        REFUSED[what]()


@pytest.mark.parametrize("into", [lambda tensor: tensor.numpy(), torch.Tensor.__array__])
def test_no_array_is_made_of_what_is_on_a_device(
    device: SimulatedDevice, into: Callable[[Tensor], Any]
) -> None:
    with pytest.raises(TypeError, match="can't convert sim:0"):
        into(there(2))


# ---- what is not ----

ALLOWED: dict[str, Act] = {
    "a number of the host": lambda: there(2) * torch.tensor(2.0) + torch.tensor(1),
    "a number of the host where a mask is": lambda: there(2).masked_fill(there(2) > 1, torch.tensor(0.0)),
    "either of two numbers": lambda: torch.where(there(2) > 1, torch.tensor(0.0), there(2)),
    "a number of Python": lambda: there(2).add_(1).clamp_(max=2),
    "its own generator": _of_generator("sim:1", "sim:1"),
    "the host's generator on the host": lambda: torch.rand(2, generator=torch.Generator()),
    "whole numbers one by one": lambda: _whole() * _whole() + _whole().sum(),
    "the host by itself": lambda: torch.ones(2, 2) @ torch.ones(2, 2),
    "the optimiser's count": lambda: _adam(torch.zeros((), device="sim:0")),
    "another device by a copy": lambda: there(2).to("sim:1") + on("sim:1", 2),
}


@pytest.mark.parametrize("what", ALLOWED)
def test_what_cuda_takes_is_taken_without_a_wait(device: SimulatedDevice, what: str) -> None:
    ALLOWED[what]()
    assert device.waits == []


# ---- what the host waits for ----


def _set(index: Callable[[Tensor], Any], value: Callable[[], Any]) -> Act:
    def act() -> None:
        tensor = there(2, 2)
        tensor[index(tensor)] = value()

    return act


HOST = torch.ones(2, 3)
WAITS: dict[str, tuple[Cause, Act]] = {
    "item": (Cause.ITEM, lambda: there(1).item()),
    "float": (Cause.ITEM, lambda: float(there(1))),
    "bool": (Cause.ITEM, lambda: bool((there(2) > 1).any())),
    "a number as index": (Cause.ITEM, lambda: there(2)[there(1).long()[0]]),
    "allclose": (Cause.EQUAL, lambda: torch.allclose(there(2), there(2))),
    "multinomial": (Cause.ITEM, lambda: there(2).multinomial(1)),
    "equal": (Cause.EQUAL, lambda: torch.equal(there(2), there(2))),
    "tolist": (Cause.TO_HOST, lambda: there(2).tolist()),
    "cpu": (Cause.TO_HOST, lambda: there(2).cpu()),
    "copy_ to the host, non_blocking": (
        Cause.TO_HOST,
        lambda: torch.ones(2).copy_(there(2), non_blocking=True),
    ),
    "copy_ to the host": (Cause.TO_HOST, lambda: torch.ones(2).copy_(there(2))),
    "to": (Cause.PAGEABLE, lambda: HOST.to("sim:0")),
    "to, non_blocking": (Cause.PAGEABLE, lambda: HOST.to("sim:0", non_blocking=True)),
    "copy_": (Cause.PAGEABLE, lambda: there(2).copy_(torch.ones(2), non_blocking=True)),
    "pinned, but not in its order": (
        Cause.PAGEABLE,
        lambda: HOST.pin_memory().t().to("sim:0", non_blocking=True),
    ),
    "pinned, but of another type": (
        Cause.PAGEABLE,
        lambda: HOST.pin_memory().to("sim:0", torch.float64, non_blocking=True),
    ),
    "pinned, but blocking": (Cause.BLOCKING, lambda: HOST.pin_memory().to("sim:0")),
    "torch.tensor": (Cause.PAGEABLE, lambda: torch.tensor([1, 2], device="sim:0")),
    "new_tensor": (Cause.PAGEABLE, lambda: there(2).new_tensor([1, 2])),
    "a list as index": (Cause.PAGEABLE, lambda: there(2)[[0, 1]]),
    "a host tensor as index": (Cause.HOST_INDEX, lambda: there(2)[torch.tensor([0, 1])]),
    "a mask as index": (Cause.MASK, lambda: there(2)[there(2) > 1]),
    "a mask to be written": (Cause.MASK, _set(lambda tensor: tensor > 1, lambda: there(3))),
    "a mask to be written with a number there": (
        Cause.MASK,
        _set(lambda tensor: tensor > 1, lambda: there(1)[0]),
    ),
    "one number": (Cause.PAGEABLE, _set(lambda _: (0, 1), lambda: 5.0)),
    "nonzero": (Cause.SHAPE, lambda: there(2).nonzero()),
    "where": (Cause.SHAPE, lambda: torch.where(there(2) > 1)),
    "masked_select": (Cause.SHAPE, lambda: there(2).masked_select(there(2) > 1)),
    "unique": (Cause.SHAPE, lambda: torch.unique(there(2))),
    "repeat_interleave": (Cause.SHAPE, lambda: there(2).repeat_interleave(there(2).long())),
    "synchronize": (Cause.SYNCHRONIZE, lambda: torch.get_device_module("sim").synchronize()),
}


@pytest.mark.parametrize("what", WAITS)
def test_what_makes_the_host_wait_is_counted(device: SimulatedDevice, what: str) -> None:
    cause, act = WAITS[what]
    act()
    assert [wait.cause for wait in device.waits] == [cause]
    (wait,) = device.waits
    assert wait.place.file == "tests/device/test_simulated.py"


FREE: dict[str, Act] = {
    "pinned": lambda: HOST.pin_memory().to("sim:0", non_blocking=True),
    "a part of pinned": lambda: HOST.pin_memory()[1].to("sim:0", non_blocking=True),
    "empty and pinned": lambda: torch.empty(3, pin_memory=True).to("sim:0", non_blocking=True),
    "a list that is pinned": lambda: torch.tensor([1], pin_memory=True).to("sim:0", non_blocking=True),
    "copy_ of pinned": lambda: there(2, 3).copy_(HOST.pin_memory(), non_blocking=True),
    "to the host, non_blocking": lambda: there(2).to("cpu", non_blocking=True),
    "copy_ to the host, to pinned": lambda: HOST.pin_memory().copy_(there(2, 3), non_blocking=True),
    "nothing": lambda: torch.tensor([], device="sim:0"),
    "another device": lambda: there(2).to("sim:1"),
    "indices that are there": lambda: there(2)[there(2).long() - 1],
    "a mask to be written with a number": _set(lambda tensor: tensor > 1, lambda: 0.0),
    "several to be written with a number": _set(lambda _: 0, lambda: 5.0),
    "repeat_interleave of a known size": lambda: there(2).repeat_interleave(there(2).long(), output_size=3),
    "where of three": lambda: torch.where(there(2) > 1, there(2), 0.0),
    "sorting": lambda: (there(2).sort(), there(2).topk(1), there(2).cumsum(0), there(2).argmax()),
}


@pytest.mark.parametrize("what", FREE)
def test_what_makes_nobody_wait_is_not_counted(device: SimulatedDevice, what: str) -> None:
    FREE[what]()
    assert device.waits == []


@pytest.mark.parametrize("look", [Tensor.tolist, Tensor.numpy, Tensor.item, Tensor.sum])
def test_nobody_looks_at_what_may_not_have_arrived(
    device: SimulatedDevice, look: Callable[[Tensor], Any]
) -> None:
    arriving = there(1).to("cpu", non_blocking=True)
    with pytest.raises(Refused, match="may not have arrived"):
        look(arriving[:1])
    there(1).item()
    look(arriving)


# ---- what is written down ----


def test_a_part_is_counted_by_itself(device: SimulatedDevice) -> None:
    there(1).item()
    with device.counted() as part:
        with device.counted() as inner:
            there(2).sum()
        there(2)[0].item()
    there(1).item()
    assert len(device.waits) == 3
    assert part.causes == {Cause.ITEM: 1}
    assert inner.waits == []
    assert [each.name for each in inner.operations] == ["arange.start", "view.default", "sum.default"]


def test_views_and_memory_are_told_from_work(device: SimulatedDevice) -> None:
    tensor = there(2, 3)
    with device.counted() as part:
        tensor.t()[0].unsqueeze(0).expand(4, 2).detach()
        torch.empty(2, device="sim:0")
        HOST.to("sim:0")
        tensor.t().reshape(6)
    kinds = [each.kind for each in part.operations]
    assert len(part.views) == 7  # a reshape that has to copy looks at its copy in another way
    assert kinds.count(Kind.ALLOCATE) == kinds.count(Kind.COPY) == 1
    assert [each.name for each in part.computing] == ["_to_copy.default", "clone.default"]


def test_steps_can_be_compared_by_their_work_and_by_where_it_lies(device: SimulatedDevice) -> None:
    kept = there(3)

    def step(tensor: Tensor) -> Any:
        with device.counted() as part:
            tensor.mul_(2).add_(kept)
        return part

    first, again, longer = step(kept), step(kept), step(there(1, 3))
    assert first.work == again.work != longer.work
    assert first.addresses == again.addresses
    assert first.addresses != step(there(3)).addresses
    assert first.work == step(there(3)).work


def test_numbers_and_gradients_are_those_of_the_cpu(device: SimulatedDevice) -> None:
    def compute(where: str) -> list[Tensor]:
        generator = torch.Generator().manual_seed(3)
        weight, x = (torch.randn(4, 4, generator=generator).to(where) for _ in range(2))
        weight.requires_grad_()
        loss = torch.nn.functional.cross_entropy((x @ weight).tanh(), (x[:, 0] > 0).long())
        loss.backward()  # type: ignore[no-untyped-call]
        assert weight.grad is not None
        return [loss.detach().cpu(), weight.grad.cpu()]

    assert all(map(torch.equal, compute("sim:0"), compute("cpu")))


def test_threads_that_are_started_inside_are_on_the_devices_too(device: SimulatedDevice) -> None:
    seen: list[Any] = []

    def work() -> None:
        weight = on("sim:1", 2).requires_grad_()
        (weight * weight).sum().backward()  # type: ignore[no-untyped-call]
        seen.append(weight.grad)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen[0].tolist() == [2, 4]
    assert device.record.causes == {Cause.TO_HOST: 1}


def test_a_module_moves_as_a_whole(device: SimulatedDevice) -> None:
    one, other = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
    other.weight = one.weight
    both = torch.nn.Sequential(one, other).to("sim:1")
    assert one.weight is other.weight
    assert isinstance(one.weight, torch.nn.Parameter)
    assert {weight.device for weight in both.parameters()} == {torch.device("sim:1")}


def test_what_cannot_be_simulated_says_so(device: SimulatedDevice) -> None:
    with pytest.raises(NotImplementedError):
        there(2, 3).t_()
    tensor = there(2)
    tensor.data = there(3)
    with pytest.raises(NotImplementedError):
        tensor + 1


def test_afterwards_all_is_as_it_was() -> None:
    def replaced() -> list[Any]:
        return [torch.inference_mode, torch.Generator, torch.nn.Module.to, threading.Thread.run]

    before = replaced()
    with SimulatedDevice():
        tensor = there(2)
        assert torch.get_device_module("sim").device_count() == 2
    assert replaced() == before
    assert not torch.get_device_module("sim").is_available()
    assert not torch.accelerator.is_available()
    assert tensor.tolist() == [1, 2]
    with torch.device("meta"):
        assert torch.tensor([1]).is_meta
