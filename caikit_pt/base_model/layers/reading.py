"""Logits where they are read: the output layer computes no others.

Models take `logits_to_keep` for the same positions of every row, or not at all. Rows that end at different
ones would cost the product of both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(slots=True)
class Read:
    """What the output layer gets: `pick` of its input, which is kept as `states` once it has it."""

    pick: Callable[[Tensor], Tensor]
    states: Tensor | None = None


_READ: ContextVar[Read | None] = ContextVar("read", default=None)


@contextmanager
def reading(pick: Callable[[Tensor], Tensor] = lambda hidden: hidden) -> Iterator[Read]:
    """Within, the output layer of a model that `read_where_asked` has seen gets `pick` of its input.

    `pick` makes [B, R, H] of [B, T, H], or [1, N, H] where rows are read at different positions.
    """
    read = Read(pick)
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


def _picked(_: Any, arguments: tuple[Tensor, ...]) -> Any:
    read = _READ.get()
    if read is None:
        return arguments
    read.states = read.pick(arguments[0])
    return (read.states, *arguments[1:])
