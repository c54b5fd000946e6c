"""Decoder-only models in training: texts one behind another, in front of all of them each prompt once.

Padded, a row is `[pad][prompt][text]` (`one_stack`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, TypeAlias

import torch
from torch import Tensor

from caikit_pt.base_model.frozen import FrozenWeights
from caikit_pt.base_model.layers.attention import Rows, Scoring
from caikit_pt.base_model.layers.packing import StopForward, mask_of_none, packed
from caikit_pt.base_model.layers.parcel import upload
from caikit_pt.base_model.layers.reading import reading
from caikit_pt.base_model.layers.rope import row_lengths
from caikit_pt.base_model.layers.spans import Attending, Bins, Places, Spans, binned
from caikit_pt.base_model.one_stack import last_read
from caikit_pt.base_model.row import PromptTensors, TrainingBatch, prompt_length
from caikit_pt.base_model.training.packed import (
    asking,
    before_ends,
    labels_of,
    places,
    rounded,
    target_positions,
)
from caikit_pt.base_model.training.side import TrainingSide
from caikit_pt.base_model.training.step import Leaves, Step
from caikit_pt.base_model.training.table import RowTable, padded, picked
from caikit_pt.base_model.training.targets import Targets, read_at
from caikit_pt.parameters.tuning import DECODER

# By layer, keys and values [1, h, P, d] of all prefixes one behind another; None: nothing is before any text.
_Cells: TypeAlias = Sequence[tuple[Tensor, Tensor]] | None


class CausalTraining(TrainingSide):
    """The training side of decoder-only models."""

    def packed_step(self, prompts: Sequence[PromptTensors], common: Sequence[int] = ()) -> Step:
        return PackedCausalStep(self, prompts, common)

    def padded_targets(
        self, prompts: Sequence[PromptTensors], batch: TrainingBatch, layers: Collection[int] = ()
    ) -> Targets:
        table = RowTable(prompts, self.text.end_id)
        pairs = zip(batch.sources, batch.targets, strict=True)
        rows = [table.row(DECODER, row, [*ids, *target[:-1]]) for row, (ids, target) in enumerate(pairs)]
        places_of_rows, mask = padded(rows, table.nobody, left=True)
        # Aligned at the end, every target lies in the last K positions: the rest needs no logits.
        longest = max(map(len, batch.targets))
        ends = [longest * (row + 1) for row in range(len(rows))]
        told = [torch.tensor(table.ids), mask, before_ends(ends, batch.targets), *labels_of(batch)]
        sent = upload([*told, *table.told(places_of_rows)], self.weights.device)
        ids, mask, at, labels, of, *where = sent
        embeddings = picked(table.embedded(self.weights, ids), *where).view(*mask.shape, -1)
        read = last_read(self.weights, embeddings, mask, last=longest, layers=layers)
        return read_at(at, *read, labels, of, len(rows))

    def positions(self, source: int, target: int, prompt: PromptTensors) -> int:
        shared = 0 if self.trains_packed else prompt_length(prompt, DECODER)
        return shared + source + target - 1


class PackedCausalStep(Step):
    """For decoder-only models: texts one behind another, in front of all of them each prompt once.

    Nothing in front of a text depends on the text. So the keys and values of a prompt, and of tokens
    that all texts begin with, are computed once a step; the rows of all batches look at them, and what
    gradient they get by it goes back through the prompt in one backward. Of the last layer, only keys
    and values are computed for every position, all else where a target token is predicted.

    Where what stands in front of a row depends on the row's length (`FrozenWeights.length_class`), it is read
    once for each class of rows.
    """

    def __init__(
        self, side: CausalTraining, prompts: Sequence[PromptTensors], common: Sequence[int] = ()
    ) -> None:
        self._side, self._weights = side, side.weights
        self._common = common
        self._prompts = [prompt.get(DECODER) for prompt in prompts]
        self._fronts: dict[bool, _Front] = {}

    def targets(self, batch: TrainingBatch, layers: Collection[int] = ()) -> Targets:
        texts = [
            [*source[len(self._common) :], *target[:-1]]
            for source, target in zip(batch.sources, batch.targets, strict=True)
        ]
        lengths = [0 if prompt is None else len(prompt) for prompt in self._prompts]
        before = [len(self._common) + lengths[index] for index in batch.prompt_of_rows]
        reads = _read_tight if self._weights.device.type == "cpu" else _read_in_bins
        rows = _Texts(texts, batch, before)
        what = reads(self._side, rows, self._in_front_of(rows))
        embeddings = self._weights.embed(what.ids)
        with packed(what.layout), row_lengths(what.lengths[None]):
            read = _read(self._weights, embeddings, what.positions, what.predicting, layers)
        return Targets(*read, what.labels, what.rows, len(texts))

    def finish(self) -> None:
        for front in self._fronts.values():
            front.carry_on()

    def _in_front_of(self, texts: _Texts) -> _Prefixes:
        """What stands in front of `texts`: of each row the front of its length class."""
        whole = texts.whole
        classes = list(map(self._weights.length_class, whole))
        for kind, length in zip(classes, whole, strict=True):
            if kind not in self._fronts:
                self._fronts[kind] = _Front(self._weights, self._prompts, self._common, length)
        kinds = sorted(set(classes))
        own = [
            kinds.index(kind) * len(self._prompts) + prompt
            for kind, prompt in zip(classes, texts.batch.prompt_of_rows, strict=True)
        ]
        fronts = [self._fronts[kind] for kind in kinds]
        lengths = [length for front in fronts for length in front.lengths]
        return _Prefixes(own, lengths, _side_by_side([front.cells for front in fronts]))


class _Front:
    """The keys and values of soft prompts in front of rows of one length class, as leaves."""

    def __init__(
        self,
        weights: FrozenWeights,
        prompts: Sequence[Tensor | None],
        common: Sequence[int],
        length: int,
    ) -> None:
        """`prompts` [P, H], and behind each the tokens `common`; `length`: of any row of the class."""
        self.lengths = [(0 if prompt is None else len(prompt)) + len(common) for prompt in prompts]
        self._weights = weights
        self._leaves = Leaves(self._read(prompts, common, length))

    def carry_on(self) -> None:
        """See `Leaves`."""
        self._leaves.carry_on()

    @cached_property
    def cells(self) -> list[tuple[Tensor, Tensor]]:
        """By layer, the keys and values [1, h, P, d] of all prompts; nothing where there is no prompt."""
        leaves = iter(self._leaves.tensors)
        return list(zip(leaves, leaves, strict=True))

    def _read(self, prompts: Sequence[Tensor | None], common: Sequence[int], length: int) -> list[Tensor]:
        """Keys and values [1, h, P, d] of all prompts in every layer, one layer's behind another's."""
        if not any(self.lengths):
            return []
        weights, device = self._weights, self._weights.device
        of_rows = torch.repeat_interleave(torch.arange(len(self.lengths)), torch.tensor(self.lengths))
        told = [torch.tensor(common, dtype=torch.long), places(self.lengths), of_rows]
        ids, positions, of_rows = upload(told, device)
        attention: Attending
        if device.type == "cpu":
            attention = Rows(self.lengths, self.lengths, True)
        else:
            together = Places(of_rows[None], positions[None])
            attention = Spans(together, together, causal=True)
        layout = _PromptPass(attention, weights.layers)
        rows = torch.cat([weights.join(prompt, ids) for prompt in prompts])
        with packed(layout), row_lengths(torch.full_like(positions[None], length)), suppress(StopForward):
            _read(weights, rows, positions, positions[:1])
        return [part for pair in layout.seen for part in pair]


# ---- how texts are read ----


@dataclass(frozen=True, slots=True)
class _Prefixes:
    """Which prefix is in front of each row, the positions of all prefixes, and their keys and values."""

    of_rows: Sequence[int]
    lengths: Sequence[int]
    cells: _Cells


@dataclass(frozen=True, slots=True)
class _Texts:
    """What stands behind the prompts: `ids` of each row, `before` so many positions of it."""

    ids: Sequence[Sequence[int]]
    batch: TrainingBatch
    before: Sequence[int]

    @property
    def lengths(self) -> list[int]:
        """Positions of each row behind its prefix."""
        return list(map(len, self.ids))

    @property
    def whole(self) -> list[int]:
        """Positions of each row, those of its prefix too."""
        return [had + length for had, length in zip(self.before, self.lengths, strict=True)]


@dataclass(frozen=True, slots=True)
class _Reading:
    """Packed positions as the model is told of them, all [N] (int64) on its device: tokens, their places in
    their rows, and how long these are. And the positions [R] whose logits are read, the first of which [L]
    predict target tokens: `labels` [L], which are of `rows` [L]."""

    ids: Tensor
    positions: Tensor
    lengths: Tensor
    layout: _TextPass
    predicting: Tensor
    labels: Tensor
    rows: Tensor


def _read_tight(side: CausalTraining, texts: _Texts, front: _Prefixes) -> _Reading:
    """One behind another, grouped by length in attention: for CPUs, where calls are cheap and work isn't."""
    rounds, lengths, batch = side.rounds_rows, texts.lengths, texts.batch
    read = rounded(target_positions(texts.ids, batch), rounds, sum(lengths))
    layout = _TextPass(
        Rows(lengths, lengths, True, front.of_rows, front.lengths),
        Rows(list(map(len, batch.targets)), lengths, True, front.of_rows, front.lengths),
        front.cells,
        read,
    )
    positions = rounded(places(lengths, texts.before), rounds, least=len(read) - batch.target_tokens)
    ids = torch.tensor([token for text in texts.ids for token in text])
    ids = torch.nn.functional.pad(ids, (0, len(positions) - len(ids)), value=side.text.end_id)
    return _Reading(
        ids, positions, _spread(texts.whole, lengths, len(positions)), layout, read, *labels_of(batch)
    )


def _read_in_bins(side: CausalTraining, texts: _Texts, front: _Prefixes) -> _Reading:
    """In bins of rows with one prefix, for accelerators."""
    order = sorted(range(len(texts.ids)), key=front.of_rows.__getitem__)
    lengths, before, whole, prefixes = (
        [each[row] for row in order] for each in (texts.lengths, texts.before, texts.whole, front.of_rows)
    )
    longest = max(front.lengths) if front.cells else 0
    bins = binned([lengths], prefixes, longest)
    own = [torch.arange(begin, end) for begin, end in zip(before, whole, strict=True)]
    position = bins.filled(0, own, 0)
    row = bins.filled(0, [torch.full_like(each, number) for number, each in enumerate(own)], -1)
    ends = dict(zip(order, map(sum, zip(bins.starts[0], lengths, strict=True)), strict=True))
    predicting = before_ends([ends[number] for number in range(len(order))], texts.batch.targets)
    read = asking(bins, 0, predicting)
    told = [
        bins.filled(0, [torch.tensor(texts.ids[row]) for row in order], side.text.end_id).flatten(),
        position,
        bins.filled(0, [torch.full_like(each, end) for each, end in zip(own, whole, strict=True)], 0),
        row,
        row.flatten()[read],
        position.flatten()[read],
        _prefixes_of_bins(bins, prefixes, front.lengths, longest),
        read.flatten(),
        predicting,
        *labels_of(texts.batch),
    ]
    sent = upload(told, side.weights.device)
    tokens, position, ending, row, row_asking, place_asking, in_front, read, predicting, labels, rows = sent
    keys, prefix = Places(row, position), in_front if front.cells else None
    last = Spans(Places(row_asking, place_asking), keys, True, prefix)
    layout = _TextPass(Spans(keys, keys, True, prefix), last, front.cells, read)
    return _Reading(tokens, position.flatten(), ending.flatten(), layout, predicting, labels, rows)


def _prefixes_of_bins(bins: Bins, prefixes: Sequence[int], lengths: Sequence[int], longest: int) -> Tensor:
    """Which of all prefixes' positions stand in front of each bin, [n, P] (int64); -1: none."""
    begins = [0, *accumulate(lengths)]
    picked = torch.full((bins.count, longest), -1)
    for bin, prefix in zip(bins.bins, prefixes, strict=True):
        picked[bin, : lengths[prefix]] = torch.arange(begins[prefix], begins[prefix] + lengths[prefix])
    return picked


class _PromptPass:
    """Keeps the keys and values of every layer, and ends in the last."""

    read = positions = None
    longest = 0

    def __init__(self, rows: Attending, layers: int) -> None:
        self._rows, self._layers = rows, layers
        self.seen: list[tuple[Tensor, Tensor]] = []

    def attend(self, module: Any, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring) -> Tensor:
        # A list of its own for each state of the pass: what is computed again is none of the others'.
        self.seen = [*self.seen, (key, value)]
        if len(self.seen) == self._layers:
            raise StopForward
        return self._rows.attend(query, key, value, scoring)

    def collect(self) -> None:
        raise NotImplementedError


class _TextPass:
    """Texts behind prompts; in the last layer, few positions ask and all are asked."""

    positions = None
    longest = 0

    def __init__(
        self,
        rows: Attending,
        last: Attending,
        prefixes: _Cells,
        read: Tensor,
    ) -> None:
        self.read = read
        self._rows, self._last, self._prefixes = rows, last, prefixes
        self._layer = 0
        self._collecting = False
        self._collected: tuple[Tensor, Tensor] | None = None

    def collect(self) -> None:
        self._collecting = True

    def attend(self, module: Any, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring) -> Tensor:
        if self._collecting:
            self._collecting, self._collected = False, (key, value)
            raise StopForward
        prefix = None if self._prefixes is None else self._prefixes[self._layer]
        self._layer += 1
        if self._collected is not None:
            return self._last.attend(query, *self._collected, scoring, prefix)
        return self._rows.attend(query, key, value, scoring, prefix)


def _side_by_side(fronts: Sequence[Sequence[tuple[Tensor, Tensor]]]) -> _Cells:
    """By layer, the cells of all `fronts`; None where nothing stands in front of any text."""
    if len(fronts) == 1:
        return fronts[0] or None
    layers = [
        tuple(torch.cat(parts, dim=2) for parts in zip(*of_layer, strict=True))
        for of_layer in zip(*fronts, strict=True)
    ]
    return [(keys, values) for keys, values in layers] or None


def _spread(numbers: Sequence[int], lengths: Sequence[int], positions: int) -> Tensor:
    """A number of each row at each of its positions: [N], of `positions` with those that are nobody's."""
    spread = torch.repeat_interleave(torch.tensor(numbers), torch.tensor(lengths))
    return torch.nn.functional.pad(spread, (0, positions - len(spread)))


def _read(
    weights: FrozenWeights,
    embeddings: Tensor,
    positions: Tensor,
    at: Tensor,
    layers: Collection[int] = (),
) -> tuple[Tensor, Mapping[int, Tensor]]:
    """Logits [R, V], and the states [R, H] of the LAST layer and `layers`, `at` [R] of packed embeddings
    [N, H], whose places in their rows are `positions` [N]."""
    with reading(lambda hidden: hidden.index_select(1, at), layers) as read:
        logits = weights.forward(
            {"position_ids": positions[None]},
            inputs_embeds=embeddings[None],
            attention_mask=mask_of_none(embeddings.device),
        ).logits[0]
    return logits, {layer: states[0] for layer, states in read.states.items()}
