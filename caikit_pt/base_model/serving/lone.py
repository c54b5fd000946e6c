"""A row of a model that has failed the trial of batches: read and generated the plain way, alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from caikit_pt.base_model.serving.batch import Batch, Decoding, Prefill

if TYPE_CHECKING:
    from torch import Tensor

    from caikit_pt.base_model.layers.parcel import Parcel
    from caikit_pt.base_model.row import Row


class LonePrefill(Prefill):
    """The row while it is read."""

    def __init__(
        self, start: Callable[[Sequence[Row]], Decoding], rows: Sequence[Row], parcel: Parcel
    ) -> None:
        """`start`: a family's."""
        self.rows, self.parcel = rows, parcel
        self._start = start
        self.decoding: Decoding | None = None

    @property
    def columns(self) -> int:
        return 0 if self.decoding else len(self.rows[0].ids)

    @property
    def logits(self) -> Tensor:
        assert self.decoding is not None
        return self.decoding.logits

    def advance(self, columns: int) -> None:
        self.parcel.send()
        self.decoding = self._start(self.rows)


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
