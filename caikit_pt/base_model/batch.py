"""Rows of different soft prompts while they are read and generated: one interface for both families.

A row is first read (`Prefill`), alone or beside others and in pieces if it is long, and then joins
a `Batch`, in which every step gives each row a token.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from caikit_pt.base_model.frozen import BaseModel, Decoding, Row


class Prefill(ABC):
    """b rows that are being read."""

    rows: Sequence[Row]

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

    @abstractmethod
    def advance(self, tokens: Tensor) -> Tensor:
        """Takes the next token [B] of every row; the logits [B, V] (float32) after it."""


def position_bytes(layers: Sequence[Any]) -> int:
    """Bytes of one position of one row in a cache's `layers`, [b, heads, S, D] each."""
    return sum(layer.keys[0, :, 0].nbytes + layer.values[0, :, 0].nbytes for layer in layers)


class LonePrefill(Prefill):
    """A row of a model that has failed the test of batches: read the plain way."""

    def __init__(self, base: BaseModel, rows: Sequence[Row]) -> None:
        self.rows = rows
        self._base = base
        self.decoding: Decoding | None = None

    @property
    def columns(self) -> int:
        return 0 if self.decoding else len(self.rows[0].ids)

    @property
    def logits(self) -> Tensor:
        assert self.decoding is not None
        return self.decoding.logits

    def advance(self, columns: int) -> None:
        self.decoding = self._base.start(self.rows)


class LoneBatch(Batch):
    """The batch of a row that has to be alone."""

    def __init__(self) -> None:
        self._decoding: Decoding | None = None

    def join(self, prefill: Prefill) -> None:
        assert isinstance(prefill, LonePrefill)
        self._decoding = prefill.decoding

    def leave(self, index: int) -> None:
        self._decoding = None

    def advance(self, tokens: Tensor) -> Tensor:
        assert self._decoding is not None
        self._decoding.advance(tokens)
        return self._decoding.logits
