"""Logits where they are read: the output layer computes no others.

Models take `logits_to_keep` for the same positions of every row, or not at all. Rows that end at different
ones would cost the product of both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_PICK: ContextVar[Callable[[Tensor], Tensor] | None] = ContextVar("pick", default=None)


@contextmanager
def reading(pick: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within, the output layer of a model that `read_where_asked` has seen gets `pick` of its input.

    `pick` makes [B, R, H] of [B, T, H], or [1, N, H] where rows are read at different positions.
    """
    token = _PICK.set(pick)
    try:
        yield
    finally:
        _PICK.reset(token)


def read_where_asked(model: Any) -> None:
    """Makes `model` heed `reading`."""
    layer = model.get_output_embeddings()
    # A few give the table of words itself, which is looked into for inputs, too.
    if layer is not model.get_input_embeddings():
        layer.register_forward_pre_hook(_picked)


def _picked(_: Any, arguments: tuple[Tensor, ...]) -> Any:
    pick = _PICK.get()
    return arguments if pick is None else (pick(arguments[0]), *arguments[1:])
