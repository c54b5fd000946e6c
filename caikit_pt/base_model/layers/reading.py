"""Logits where they are read, and the states of layers there: the output layer computes no others.

Models take `logits_to_keep` for the same positions of every row, or not at all. Rows that end at different
ones would cost the product of both.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# The last layer and whatever stands between it and the output layer.
LAST = -1
_CHANGING = Lock()


@dataclass(slots=True)
class Read:
    """What the output layer gets: `pick` of its input. Once it has it, that is kept in `states` as those of
    the LAST layer, beside the same of what each of `layers` gives, which are counted from 1."""

    pick: Callable[[Tensor], Tensor]
    layers: Collection[int] = ()
    states: dict[int, Tensor] = field(default_factory=dict)


_READ: ContextVar[Read | None] = ContextVar("read", default=None)


@contextmanager
def reading(
    pick: Callable[[Tensor], Tensor] = lambda hidden: hidden, layers: Collection[int] = ()
) -> Iterator[Read]:
    """Within, the output layer of a model that `read_where_asked` has seen gets `pick` of its input.

    `pick` makes [B, R, H] of [B, T, H], or [1, N, H] where rows are read at different positions. States of
    `layers` but the LAST are kept of models that `let_layers_be_read` has seen.
    """
    read = Read(pick, layers)
    token = _READ.set(read)
    try:
        yield read
    finally:
        _READ.reset(token)


def reads(model: Any) -> bool:
    """Whether `model` can heed `reading`. The output layer of a few is the table of words itself, which is
    looked into for inputs, too."""
    return model.get_output_embeddings() is not model.get_input_embeddings()


def read_where_asked(model: Any) -> None:
    """Makes `model` heed `reading`, where it can."""
    if reads(model):
        model.get_output_embeddings().register_forward_pre_hook(_picked)


def let_layers_be_read(stack: torch.nn.Module, layers: int) -> bool:
    """Makes the states of so many `layers` of a `stack` readable; whether they were found.

    Nothing is in the way of a model that nobody asks for them.
    """
    from caikit_pt.base_model.layers.front import put_in_front

    found = _layers(stack, layers)
    with _CHANGING:
        for number, layer in enumerate(found, start=1):
            if not isinstance(layer, _ReadLayer):
                layer.number_to_read = number  # type: ignore[assignment]
                put_in_front(layer, _ReadLayer)
    return bool(found)


def _layers(stack: torch.nn.Module, count: int) -> list[torch.nn.Module]:
    """The outermost list of so many layers."""
    import torch

    lists = (module for module in stack.modules() if isinstance(module, torch.nn.ModuleList))
    return list(next((layers for layers in lists if len(layers) == count), ()))


class _ReadLayer:
    """Goes in front of the class of a layer whose states are read."""

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        result = super().forward(*arguments, **keywords)  # type: ignore[misc]
        read, number = _READ.get(), cast("Any", self).number_to_read
        if read is not None and number in read.layers:
            read.states[number] = read.pick(result[0] if isinstance(result, tuple) else result)
        return result


def _picked(_: Any, arguments: tuple[Tensor, ...]) -> Any:
    read = _READ.get()
    if read is None:
        return arguments
    read.states[LAST] = read.pick(arguments[0])
    return (read.states[LAST], *arguments[1:])
