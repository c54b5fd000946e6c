"""How a family is served: rows are read, join a batch, get a token a step and leave."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import torch

from caikit_pt.base_model.frozen import FrozenWeights
from caikit_pt.base_model.layers.captured import cuda_graphs
from caikit_pt.base_model.layers.linear import bytes_to_pack, pack_linears
from caikit_pt.base_model.layers.parcel import Parcel
from caikit_pt.base_model.loading.memory import free_memory
from caikit_pt.base_model.row import Row
from caikit_pt.base_model.serving.batch import Batch, Decoding, Prefill
from caikit_pt.base_model.serving.captured_steps import CapturedSteps, Capturing
from caikit_pt.base_model.serving.lone import LoneBatch, LonePrefill
from caikit_pt.base_model.serving.prompt_cache import PromptCache
from caikit_pt.base_model.serving.static import StaticBatch, StaticStore
from caikit_pt.base_model.text.side import TextSide

if TYPE_CHECKING:
    from torch import Tensor

_LOG = logging.getLogger(__name__)
# Of the free memory, so much may a second copy of the weights take.
_SHARE_TO_PACK = 0.25
# Scores of attention are there with their bias, its sum with the mask, and the weights made of them.
_SCORES_AT_ONCE = 4
_BYTES_OF_A_SCORE = 4  # also where weights are float16: softmax is taken in float32

# Of a side, and of its batches whose steps have few shapes or of the others.
Check: TypeAlias = "Callable[[ServingSide, bool], bool]"


class ServingSide(ABC):
    """What serving asks of a base model."""

    def __init__(self, weights: FrozenWeights, text: TextSide, batches: Check) -> None:
        """`batches` tries whether rows that join and leave a batch are what they are alone."""
        self.weights = weights
        self.text = text
        self.prompts = PromptCache()
        self._batches = batches
        self._idle: list[StaticStore] = []
        self.capturing = Capturing(text.checkpoint.name)

    @cached_property
    def serves_batched(self) -> bool:
        """Whether rows can be read from a prompt's keys on, and join and leave a batch: tried."""
        return self._batches(self, False)

    @cached_property
    def steps_static(self) -> bool:
        """Whether steps have few shapes, which only accelerators are faster with: tried there."""
        return self.weights.device.type != "cpu" and self.serves_batched and self._batches(self, True)

    def pack(self) -> None:
        """Makes products of few rows faster by a second copy of the weights, where memory is plenty."""
        name = self.text.checkpoint.name
        needed, free = bytes_to_pack(self.weights.model, name), free_memory()
        if needed <= free * _SHARE_TO_PACK:
            pack_linears(self.weights.model)
        else:
            sizes = f"{needed >> 20} MiB of the {free >> 20} that are free"
            _LOG.warning("%s is served from unpacked weights: packed ones take %s", name, sizes)

    @cached_property
    def position_bytes(self) -> int:
        """Bytes of the keys and values of one position, in all layers; 0 where batches don't hold them."""
        if not self.serves_batched:
            return 0
        with torch.inference_mode():
            prefill = self.batched_prefill([Row({}, self.text.source_ids("a"))])
            prefill.advance(prefill.columns)
        return prefill.position_bytes

    def read_at_once(self, row: Row) -> int:
        """Positions of `row` that are read in one pass, each of which looks at all others; 0 where a row is
        read in pieces."""
        return 0 if self.serves_batched else self.text.served_positions(row, len(row.answer))

    @property
    def square_bytes(self) -> int:
        """Bytes of memory for each pair of positions that are read at once, in a layer of a stack."""
        return _SCORES_AT_ONCE * _BYTES_OF_A_SCORE * self._heads

    @cached_property
    def _heads(self) -> int:
        return int(getattr(self.text.checkpoint.config, "num_attention_heads", None) or 1)

    @property
    def shift_invariant(self) -> bool:
        """Whether a row is the same wherever it begins."""
        return True

    @property
    def rows_join(self) -> bool:
        """Whether a row can join a batch that is under way; else only rows that start together share one."""
        return self.serves_batched and self.shift_invariant

    def cohort(self, row: Row) -> Hashable:
        """Rows with the same cohort may share a batch. Most models have one cohort."""
        return 0

    def prefill(self, rows: Sequence[Row]) -> Prefill:
        """`rows` of one cohort, to be read; only one where the model isn't served in batches."""
        if self.serves_batched:
            return self.batched_prefill(rows)
        return LonePrefill(self.start, rows, Parcel(self.weights.device))

    def new_batch(self) -> Batch:
        """A batch without a row, for what `prefill` reads."""
        if not self.serves_batched:
            return LoneBatch()
        return self.static_batch() if self.steps_static else self.growing_batch()

    def static_batch(self) -> Batch:
        """A batch whose steps have few shapes."""
        try:
            store = self._idle.pop()
        except IndexError:
            store = self.static_store()
        return StaticBatch(store, self._idle)

    def captured_steps(self) -> CapturedSteps:
        """How the steps of a new store are captured."""
        return CapturedSteps(self.capturing)

    def capture_steps(self, wanted: bool = True) -> None:
        """Whether from now on steps are captured as CUDA graphs, where that can be."""
        self.capturing.capture = cuda_graphs(self.weights.device) if wanted else None

    def give_room(self) -> None:
        """Memory is wanted elsewhere: forgets what can be computed again."""
        self.prompts.clear()
        self.forget_stores()

    def forget_stores(self) -> None:
        """What earlier batches were kept in isn't used again: it may hold what isn't finite."""
        self._idle.clear()

    @abstractmethod
    def batched_prefill(self, rows: Sequence[Row]) -> Prefill:
        """The fast way to read, for models that pass the trial of batches."""

    @abstractmethod
    def growing_batch(self) -> Batch:
        """The fast way to generate, for models that pass the trial of batches."""

    @abstractmethod
    def static_store(self) -> StaticStore:
        """What a batch whose steps have few shapes is kept in."""

    @abstractmethod
    def start(self, rows: Sequence[Row]) -> Decoding:
        """Reads `rows` of one cohort and stands ready to generate: the plain way."""

    @abstractmethod
    def plain_logits(self, ids: Sequence[int], answer: Sequence[int] = ()) -> Tensor:
        """The logits [1 + len(answer), V] (float32) behind a text without a soft prompt.

        By token ids and in one pass: the plain way, to test the others against.
        """

    @abstractmethod
    def source_logits(self, row: Row) -> Tensor | None:
        """The logits [T, V] (float32) that predicted each token of the text; those of all but the first where
        nothing is in front of that; None if the family predicts none."""
