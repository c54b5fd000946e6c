"""Logits at a few places of a batch: the output layer computes no others.

Models take `logits_to_keep` for the same positions of every row. Rows that end at different ones would
cost the product of both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_PLACES: ContextVar[tuple[Sequence[int], Sequence[int]] | None] = ContextVar("places", default=None)


@contextmanager
def read_at(rows: Sequence[int], columns: Sequence[int]) -> Iterator[None]:
    """Within, a model that `read_where_asked` has seen gives logits [1, N, V]: those of the N places."""
    token = _PLACES.set((rows, columns))
    try:
        yield
    finally:
        _PLACES.reset(token)


def read_where_asked(model: Any) -> None:
    """Makes `model` heed `read_at`."""
    model.get_output_embeddings().register_forward_pre_hook(_pick)


def _pick(_: Any, arguments: tuple[Tensor, ...]) -> Any:
    places = _PLACES.get()
    if places is None:
        return arguments
    rows, columns = places
    return arguments[0][rows, columns][None], *arguments[1:]
