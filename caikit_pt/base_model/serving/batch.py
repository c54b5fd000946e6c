"""Rows of different soft prompts while they are read and generated: one interface for all families.

A row is first read (`Prefill`), alone or beside others and in pieces if it is long, and then joins
a `Batch`, in which every step gives each row a token.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from caikit_pt.base_model.layers.parcel import Parcel
    from caikit_pt.base_model.row import Row


class Prefill(ABC):
    """b rows that are being read. What is in `parcel` goes to the device with the first pass; whoever has
    them read may add to it until then."""

    rows: Sequence[Row]
    parcel: Parcel

    @property
    @abstractmethod
    def logits(self) -> Tensor:
        """Those of each row's next token, [b, V] (float32), when all is read."""

    @property
    @abstractmethod
    def columns(self) -> int:
        """Positions that are left to read in the longest row; 0: all is read."""

    @property
    def position_bytes(self) -> int:
        """Bytes of the keys and values of one position in all layers, when all is read."""
        return 0

    @abstractmethod
    def advance(self, columns: int) -> None:
        """Reads the next positions of every row, `columns` at most where the model can stop between."""


class Batch(ABC):
    """B rows that get a token a step."""

    @abstractmethod
    def join(self, prefill: Prefill) -> None:
        """Takes in rows that have been read, behind those there are."""

    @abstractmethod
    def leave(self, index: int) -> None:
        """Row `index` goes, and the last row takes its place."""

    def discard(self) -> None:  # noqa: B027
        """Something has failed in it: nothing of what it holds is used again."""

    @abstractmethod
    def advance(self, tokens: Tensor) -> Tensor:
        """Takes the next token [B] of every row; the logits [B, V] (float32) after it, valid for a step."""


def position_bytes(layers: Sequence[Any]) -> int:
    """Bytes of one position of one row in a cache's `layers`, [b, heads, S, D] each."""
    return sum(layer.keys[0, :, 0].nbytes + layer.values[0, :, 0].nbytes for layer in layers)


class Decoding(ABC):
    """B rows while they are being generated. `logits` [B, V] are those of the next token."""

    logits: Tensor

    @abstractmethod
    def advance(self, tokens: Tensor) -> None:
        """Takes the next token [B] of every row and computes the logits after it."""
