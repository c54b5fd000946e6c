"""A frozen language model as tuning and serving see it: one interface for both families.

Letters in shapes: B rows, P virtual tokens, T positions, K target positions, H hidden size, V
vocabulary. Nothing here changes the model: rows of different soft prompts can share a call, and
calls can run at the same time.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

from caikit_pt.base_model.batch import Batch, LoneBatch, LonePrefill, Prefill
from caikit_pt.base_model.budget import budget_for
from caikit_pt.base_model.checkpoint import Checkpoint, cache_argument
from caikit_pt.base_model.prompt_cache import PromptCache
from caikit_pt.base_model.text import TextSide

if TYPE_CHECKING:
    import torch

    from caikit_pt.base_model.step import Step

_LOG = logging.getLogger(__name__)
# Of the free memory, so much may a second copy of the weights take.
_SHARE_TO_PACK = 0.25

# By ENCODER or DECODER, the rows [P, H] that go in front of that side's input.
PromptTensors: TypeAlias = Mapping[str, "torch.Tensor"]


@dataclass(frozen=True, slots=True)
class Row:
    """One text to continue, with the soft prompt in front of it, and its answer as far as there is one."""

    prompt: PromptTensors
    ids: Sequence[int]
    answer: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """Token ids of B examples. Targets end with the end token and hold no token of the source.

    `prompts` says for each row which of a step's soft prompts stands in front of it; empty: the first.
    """

    sources: Sequence[Sequence[int]]
    targets: Sequence[Sequence[int]]
    prompts: Sequence[int] = ()

    @property
    def target_tokens(self) -> int:
        """Tokens that count in the loss."""
        return sum(map(len, self.targets))

    @property
    def prompt_of_rows(self) -> Sequence[int]:
        """The index of its soft prompt for each row."""
        return self.prompts or [0] * len(self.sources)


class BaseModel(TextSide):
    """One frozen copy of a language model with its tokenizer, on one device in one data type."""

    def __init__(self, checkpoint: Checkpoint, model: Any, tokenizer: Any, packable: bool = False) -> None:
        """`packable`: whether the model heeds layouts (`packing.prepare`)."""
        super().__init__(checkpoint, tokenizer, model.generation_config)
        self.packable = packable
        self.model = model.eval().requires_grad_(False)
        # What has been found to fit in memory: for all who train on this copy.
        self.budget = budget_for(self.device.type, checkpoint.hidden_size)
        self.prompts = PromptCache()
        self._trains = set[frozenset[str]]()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.get_input_embeddings().weight.device  # type: ignore[no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        """The weights' data type."""
        return self.model.get_input_embeddings().weight.dtype  # type: ignore[no-any-return]

    @cached_property
    def cache_argument(self) -> str:
        """What the model's forward calls the keys and values of earlier tokens."""
        name = cache_argument(type(self.model))
        assert name, "refused by the checkpoint"
        return name

    @property
    def vocabulary(self) -> int:
        """Logits at a position, V."""
        return int(self.model.config.get_text_config().vocab_size)

    @property
    def rows(self) -> int:
        return min(int(self.model.get_input_embeddings().weight.shape[0]), self.vocabulary)

    # ---- what differs between the families ----

    @abstractmethod
    def source_logits(self, row: Row) -> torch.Tensor | None:
        """The logits [T, V] (float32) that predicted each token of the text; None if none did."""

    @abstractmethod
    def plain_logits(self, ids: Sequence[int], answer: Sequence[int] = ()) -> torch.Tensor:
        """The logits [1 + len(answer), V] (float32) behind a text without a soft prompt.

        By token ids and in one pass: the plain way, to test the others against.
        """

    # ---- numbers ----

    def embed(self, ids: Sequence[int]) -> torch.Tensor:
        """Word embeddings [T, H] as the first layer gets them, in the model's data type."""
        import torch

        return self.model.get_input_embeddings()(  # type: ignore[no-any-return]
            torch.tensor(ids, dtype=torch.long, device=self.device)
        )

    def join(self, prompt: torch.Tensor | None, ids: Sequence[int]) -> torch.Tensor:
        """The soft prompt in front of the embedded `ids`: [P + T, H]."""
        import torch

        text = self.embed(ids)
        if prompt is None:
            return text
        return torch.cat([prompt.to(text.device, text.dtype), text])

    def length_class(self, length: int) -> bool:
        """Rows of one class have one way to compute a position.

        A row that grows into another class has to be read anew, soft prompt included.
        """
        return self._longest_short_row is not None and length > self._longest_short_row

    @cached_property
    def _longest_short_row(self) -> int | None:
        from caikit_pt.base_model.rope import longest_short_row

        return longest_short_row(self.model)

    # ---- training ----

    def step(self, prompts: Sequence[PromptTensors], common: Sequence[int] = ()) -> Step:
        """What is to be computed between two changes of `prompts`, the fastest way that is exact.

        Every source of every batch begins with the tokens `common`, and has more than these.
        """
        if self.trains_packed:
            return self.packed_step(prompts, common)
        return self.padded_step(prompts)

    @cached_property
    def trains_packed(self) -> bool:
        """Whether rows can be packed one behind another without padding: tried, not looked up."""
        from caikit_pt.base_model.linear import settle_training
        from caikit_pt.base_model.self_test import check_packing

        settle_training(self.model, self.checkpoint.name)
        return check_packing(self)

    @cached_property
    def rounds_rows(self) -> bool:
        """Whether passes of training had better have few different numbers of positions."""
        from caikit_pt.base_model.linear import builds_code

        return builds_code(self.model)

    def check_training(self, parts: Collection[str]) -> None:
        """Raises InvalidParameter where a step of training fails with prompts on `parts`: tried once."""
        from caikit_pt.base_model.self_test import check_training

        if frozenset(parts) not in self._trains:
            check_training(self, parts)
            self._trains.add(frozenset(parts))

    def padded_step(self, prompts: Sequence[PromptTensors]) -> Step:
        """The plain way, right for every model: every row is padded to the longest of its batch."""
        from caikit_pt.base_model.step import PaddedStep

        return PaddedStep(self, prompts)

    @abstractmethod
    def packed_step(self, prompts: Sequence[PromptTensors], common: Sequence[int] = ()) -> Step:
        """The fast way, for models that `trains_packed`."""

    @abstractmethod
    def padded_losses(self, prompts: Sequence[PromptTensors], batch: TrainingBatch) -> torch.Tensor:
        """The summed cross-entropy [B] (nats, float32) of each row's target; a prompt for each row.

        Differentiable in the prompts; the model gets no gradient.
        """

    @abstractmethod
    def positions(self, source: int, target: int, prompt: PromptTensors) -> int:
        """Positions that a model computes for a row, by the lengths of its source and its target."""

    def cohort(self, row: Row) -> Hashable:
        """Rows with the same cohort may share a batch. Most models have one cohort."""
        return 0

    @abstractmethod
    def start(self, rows: Sequence[Row]) -> Decoding:
        """Reads `rows` of one cohort and stands ready to generate: the plain way."""

    # ---- serving ----

    @cached_property
    def serves_batched(self) -> bool:
        """Whether rows can be read from a prompt's keys on, and join and leave a batch: tried."""
        from caikit_pt.base_model.self_test import check_batching

        return check_batching(self)

    def pack(self) -> None:
        """Makes products of few rows faster by a second copy of the weights, where memory is plenty."""
        from caikit_pt.base_model.linear import bytes_to_pack, pack_linears
        from caikit_pt.base_model.memory import free_memory

        needed, free = bytes_to_pack(self.model, self.checkpoint.name), free_memory()
        if needed <= free * _SHARE_TO_PACK:
            pack_linears(self.model)
        else:
            sizes = f"{needed >> 20} MiB of the {free >> 20} that are free"
            _LOG.warning(
                "%s is served from unpacked weights: packed ones take %s", self.checkpoint.name, sizes
            )

    @cached_property
    def position_bytes(self) -> int:
        """Bytes of the keys and values of one position, in all layers; 0 where batches don't hold them."""
        import torch

        if not self.serves_batched:
            return 0
        with torch.inference_mode():
            prefill = self.batched_prefill([Row({}, self.source_ids("a"))])
            prefill.advance(prefill.columns)
        return prefill.position_bytes

    @property
    def shift_invariant(self) -> bool:
        """Whether a row is the same wherever it begins."""
        return True

    @property
    def rows_join(self) -> bool:
        """Whether a row can join a batch that is under way; else only rows that start together share one."""
        return self.serves_batched and self.shift_invariant

    def prefill(self, rows: Sequence[Row]) -> Prefill:
        """`rows` of one cohort, to be read; only one where the model isn't served in batches."""
        return self.batched_prefill(rows) if self.serves_batched else LonePrefill(self, rows)

    def new_batch(self) -> Batch:
        """A batch without a row, for what `prefill` reads."""
        return self.growing_batch() if self.serves_batched else LoneBatch()

    @abstractmethod
    def batched_prefill(self, rows: Sequence[Row]) -> Prefill:
        """The fast way to read, for models that pass the test of batches."""

    @abstractmethod
    def growing_batch(self) -> Batch:
        """The fast way to generate, for models that pass the test of batches."""


class Decoding(ABC):
    """B rows while they are being generated. `logits` [B, V] are those of the next token."""

    logits: torch.Tensor

    @abstractmethod
    def advance(self, tokens: torch.Tensor) -> None:
        """Takes the next token [B] of every row and computes the logits after it."""


def prompt_length(prompt: PromptTensors, part: str) -> int:
    """Virtual tokens that `prompt` has on one side."""
    return int(prompt[part].shape[0]) if part in prompt else 0


def pad_left(rows: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows [T_i, H] as one tensor [B, T, H] aligned at the end, and its mask [B, T] (int64)."""
    return _pad(rows, left=True)


def pad_right(rows: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows [T_i, H] as one tensor [B, T, H] aligned at the start, and its mask [B, T] (int64)."""
    return _pad(rows, left=False)


def row_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The summed cross-entropy [B] (float32) of logits [B, K, V] at labels [B, K]; -100 doesn't count."""
    import torch

    counted = labels != -100
    losses = torch.nn.functional.cross_entropy(logits[counted].float(), labels[counted], reduction="none")
    rows = counted.nonzero()[:, 0]
    return losses.new_zeros(len(labels)).index_add(0, rows, losses)


def with_one_more(mask: torch.Tensor) -> torch.Tensor:
    """The mask [B, T] of rows that have all grown by a token: [B, T + 1]."""
    import torch

    return torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)


def _pad(rows: Sequence[torch.Tensor], left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    longest = max(row.shape[0] for row in rows)
    padded, masks = [], []
    for row in rows:
        missing = longest - row.shape[0]
        rim = (missing, 0) if left else (0, missing)
        padded.append(torch.nn.functional.pad(row, (0, 0, *rim)))
        ones = torch.ones(row.shape[0], dtype=torch.long, device=row.device)
        masks.append(torch.nn.functional.pad(ones, rim))
    return torch.stack(padded), torch.stack(masks)
