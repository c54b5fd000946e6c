"""Decoder-only models in training: texts one behind another, in front of all of them each prompt once.

Padded, a row is `[pad][prompt][text]` (`one_stack`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from caikit_pt.base_model.frozen import FrozenWeights
from caikit_pt.base_model.layers.attention import Rows, Scoring
from caikit_pt.base_model.layers.packing import StopForward, mask_of_none, packed
from caikit_pt.base_model.layers.reading import reading
from caikit_pt.base_model.layers.rope import row_lengths
from caikit_pt.base_model.one_stack import last_logits
from caikit_pt.base_model.padding import pad_left, row_losses
from caikit_pt.base_model.row import PromptTensors, TrainingBatch, prompt_length
from caikit_pt.base_model.training.packed import losses_of_rows, places, rounded, target_positions
from caikit_pt.base_model.training.side import TrainingSide
from caikit_pt.base_model.training.step import Leaves, Step
from caikit_pt.parameters.tuning import DECODER


class CausalTraining(TrainingSide):
    """The training side of decoder-only models."""

    def packed_step(self, prompts: Sequence[PromptTensors], common: Sequence[int] = ()) -> Step:
        return PackedCausalStep(self, prompts, common)

    def padded_losses(self, prompts: Sequence[PromptTensors], batch: TrainingBatch) -> Tensor:
        weights = self.weights
        rows = [
            weights.join(prompt.get(DECODER), [*source, *target[:-1]])
            for prompt, source, target in zip(prompts, batch.sources, batch.targets, strict=True)
        ]
        # Aligned at the end, every target lies in the last K positions: the rest needs no logits.
        longest = max(map(len, batch.targets))
        logits = last_logits(weights, *pad_left(rows), last=longest)
        labels = torch.full((len(rows), longest), -100, device=weights.device)
        for label, target in zip(labels, batch.targets, strict=True):
            label[longest - len(target) :] = torch.tensor(target, device=weights.device)
        return row_losses(logits, labels)

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
        self._common = len(common)
        self._rows = [side.weights.join(prompt.get(DECODER), common) for prompt in prompts]
        self._fronts: dict[bool, _Front] = {}

    def target_losses(self, batch: TrainingBatch) -> Tensor:
        device, rounds = self._weights.device, self._side.rounds_rows
        texts = [
            [*source[self._common :], *target[:-1]]
            for source, target in zip(batch.sources, batch.targets, strict=True)
        ]
        lengths = list(map(len, texts))
        before = [len(self._rows[index]) for index in batch.prompt_of_rows]
        whole = [sum(both) for both in zip(before, lengths, strict=True)]
        fronts, prefixes = self._in_front_of(whole, batch.prompt_of_rows)
        prefix_lengths = [length for front in fronts for length in front.lengths]
        read = rounded(target_positions(texts, batch), rounds, sum(lengths))
        layout = _TextPass(
            Rows(lengths, lengths, device, True, prefixes, prefix_lengths),
            Rows(list(map(len, batch.targets)), lengths, device, True, prefixes, prefix_lengths),
            _side_by_side([front.cells for front in fronts]),
            read.to(device),
        )
        positions = rounded(places(lengths, before), rounds, least=len(read) - batch.target_tokens)
        positions = positions.to(device)
        ids = [token for text in texts for token in text]
        embeddings = self._weights.embed([*ids, *[self._side.text.end_id] * (len(positions) - len(ids))])
        with packed(layout), row_lengths(_spread(whole, lengths, len(positions)).to(device)):
            logits = _logits(self._weights, embeddings, positions, layout.read)
        return losses_of_rows(logits, batch)

    def finish(self) -> None:
        for front in self._fronts.values():
            front.carry_on()

    def _in_front_of(self, lengths: Sequence[int], prompts: Sequence[int]) -> tuple[list[_Front], list[int]]:
        """What stands in front of rows of `lengths` positions in all, which begin with `prompts`.

        And for each row which of the fronts' prompts, counted through, is its own.
        """
        classes = list(map(self._weights.length_class, lengths))
        for kind, length in zip(classes, lengths, strict=True):
            if kind not in self._fronts:
                self._fronts[kind] = _Front(self._weights, self._rows, length)
        kinds = sorted(set(classes))
        own = [
            kinds.index(kind) * len(self._rows) + prompt
            for kind, prompt in zip(classes, prompts, strict=True)
        ]
        return [self._fronts[kind] for kind in kinds], own


class _Front:
    """The keys and values of soft prompts in front of rows of one length class, as leaves."""

    def __init__(self, weights: FrozenWeights, rows: Sequence[Tensor], length: int) -> None:
        """`length`: of any row of the class."""
        self.lengths = [len(row) for row in rows]
        self._weights = weights
        self._leaves = Leaves(self._read(rows, length))

    def carry_on(self) -> None:
        """See `Leaves`."""
        self._leaves.carry_on()

    @cached_property
    def cells(self) -> list[list[tuple[Tensor, Tensor]]]:
        """By layer and by prompt, keys and values [1, h, P, d]; nothing where there is no prompt."""
        if not self._leaves.tensors:
            return []
        leaves = iter(self._leaves.tensors)
        return [[(next(leaves), next(leaves)) for _ in self.lengths] for _ in range(self._weights.layers)]

    def _read(self, rows: Sequence[Tensor], length: int) -> list[Tensor]:
        """Keys and values [1, h, P, d] of every layer and prompt, each layer's for each prompt."""
        if not any(self.lengths):
            return []
        weights = self._weights
        layout = _PromptPass(Rows(self.lengths, self.lengths, weights.device, True), weights.layers)
        positions = places(self.lengths).to(weights.device)
        with packed(layout), row_lengths(torch.full_like(positions[None], length)), suppress(StopForward):
            _logits(weights, torch.cat(list(rows)), positions, positions[:1])
        return [
            part
            for keys, values in layout.seen
            for pair in zip(*(torch.split(part, self.lengths, dim=2) for part in (keys, values)), strict=True)
            for part in pair
        ]


class _PromptPass:
    """Keeps the keys and values of every layer, and ends in the last."""

    read = positions = None
    longest = 0

    def __init__(self, rows: Rows, layers: int) -> None:
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
        rows: Rows,
        last: Rows,
        prefixes: Sequence[Sequence[tuple[Tensor, Tensor]]] | None,
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


def _side_by_side(
    fronts: Sequence[list[list[tuple[Tensor, Tensor]]]],
) -> list[list[tuple[Tensor, Tensor]]] | None:
    """By layer, the cells of all `fronts`; None where nothing stands in front of any text."""
    layers = [[cell for layer in together for cell in layer] for together in zip(*fronts, strict=True)]
    return layers or None


def _spread(numbers: Sequence[int], lengths: Sequence[int], positions: int) -> Tensor:
    """A number of each row at each of its positions: [1, N], of `positions` with those that are nobody's."""
    spread = torch.repeat_interleave(torch.tensor(numbers), torch.tensor(lengths))
    return torch.nn.functional.pad(spread, (0, positions - len(spread)))[None]


def _logits(weights: FrozenWeights, embeddings: Tensor, positions: Tensor, read: Tensor) -> Tensor:
    """The logits [R, V] at `read` [R] of packed embeddings [N, H], whose places in their rows are
    `positions` [N]."""
    with reading(lambda hidden: hidden[:, read]):
        return weights.forward(  # type: ignore[no-any-return]
            {"position_ids": positions[None]},
            inputs_embeds=embeddings[None],
            attention_mask=mask_of_none(embeddings.device),
        ).logits[0]
