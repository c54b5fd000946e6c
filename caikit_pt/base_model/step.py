"""One step of training: all that is computed between two changes of the soft prompts.

A step is given one or more prompts, takes the losses of any number of batches, and at the end carries
the gradients back to the prompts. What doesn't depend on the rows is computed once a step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from caikit_pt.base_model.frozen import BaseModel, PromptTensors, TrainingBatch
from caikit_pt.base_model.packed_rows import How, Rows
from caikit_pt.base_model.packing import Enough, mask_of_none, packed
from caikit_pt.base_model.rope import row_lengths
from caikit_pt.parameters.tuning import DECODER

if TYPE_CHECKING:
    from caikit_pt.base_model.causal import CausalModel
    from caikit_pt.base_model.seq2seq import Seq2SeqModel

# From so many places on, to such a multiple.
_MULTIPLES = ((512, 64), (256, 32), (0, 16))


class Step(ABC):
    """Losses of batches under `prompts`, and the gradients of these."""

    @abstractmethod
    def target_losses(self, batch: TrainingBatch) -> Tensor:
        """The summed cross-entropy [B] (nats, float32) of each row's target.

        `backward` of anything made of it may be called once for each batch; the gradients add up.
        """

    @abstractmethod
    def finish(self) -> None:
        """Carries the gradients that have added up through the prompts, to what they are made of."""


class _Leaves:
    """Tensors cut off from what they were computed from, so that gradients add up in them first."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._origins = tensors
        self.tensors = [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in tensors]

    def carry_on(self) -> None:
        """One backward from the leaves to where they come from."""
        pairs = [
            (origin, leaf.grad)
            for origin, leaf in zip(self._origins, self.tensors, strict=True)
            if leaf.grad is not None
        ]
        torch.autograd.backward([origin for origin, _ in pairs], [gradient for _, gradient in pairs])


class _LeafPrompts:
    """Soft prompts as leaves."""

    def __init__(self, prompts: Sequence[PromptTensors]) -> None:
        self._leaves = _Leaves([tensor for prompt in prompts for tensor in prompt.values()])
        leaves = iter(self._leaves.tensors)
        self._prompts = [{part: next(leaves) for part in prompt} for prompt in prompts]

    def of_rows(self, batch: TrainingBatch) -> list[PromptTensors]:
        """The prompt of each row of `batch`."""
        return [self._prompts[index] for index in batch.prompt_of_rows]

    def carry_on(self) -> None:
        """See `_Leaves`."""
        self._leaves.carry_on()


class PaddedStep(Step):
    """For every model: prompt and text of each row padded to one length, and nothing shared."""

    def __init__(self, base: BaseModel, prompts: Sequence[PromptTensors]) -> None:
        self._base = base
        self._prompts = _LeafPrompts(prompts)

    def target_losses(self, batch: TrainingBatch) -> Tensor:
        return self._base.padded_losses(self._prompts.of_rows(batch), batch)

    def finish(self) -> None:
        self._prompts.carry_on()


class PackedSeq2SeqStep(Step):
    """For encoder-decoder models: the rows of either side one behind another.

    An encoder's prompt looks at the text behind it, and a decoder's at what was encoded, so neither can
    be shared between rows.
    """

    def __init__(self, base: Seq2SeqModel, prompts: Sequence[PromptTensors]) -> None:
        self._base = base
        self._prompts = _LeafPrompts(prompts)

    def target_losses(self, batch: TrainingBatch) -> Tensor:
        base, prompts = self._base, self._prompts.of_rows(batch)
        sources, targets = base.encoder_rows(prompts, batch), base.decoder_rows(prompts, batch)
        encoding = _TwoSides(list(map(len, sources)), list(map(len, sources)), base)
        mask = mask_of_none(base.device)
        with packed(encoding):
            encoded = base.model.get_encoder()(
                inputs_embeds=_packed(sources, encoding)[None], attention_mask=mask
            ).last_hidden_state
        decoding = _TwoSides(
            list(map(len, targets)), list(map(len, sources)), base, _target_positions(targets, batch)
        )
        with packed(decoding):
            logits = base.model(
                encoder_outputs=(encoded,),
                attention_mask=mask,
                decoder_inputs_embeds=_packed(targets, decoding)[None],
                decoder_attention_mask=mask,
                use_cache=False,
            ).logits[0]
        return _losses_of_rows(logits, batch)

    def finish(self) -> None:
        self._prompts.carry_on()


class PackedCausalStep(Step):
    """For decoder-only models: texts one behind another, in front of all of them each prompt once.

    Nothing in front of a text depends on the text. So the keys and values of a prompt, and of tokens
    that all texts begin with, are computed once a step; the rows of all batches look at them, and what
    gradient they get by it goes back through the prompt in one backward. Of the last layer, only keys
    and values are computed for every position, all else where a target token is predicted.

    Where what stands in front of a row depends on the row's length (`BaseModel.length_class`), it is read
    once for each class of rows.
    """

    def __init__(
        self, base: CausalModel, prompts: Sequence[PromptTensors], common: Sequence[int] = ()
    ) -> None:
        self._base = base
        self._common = len(common)
        self._rows = [base.join(prompt.get(DECODER), common) for prompt in prompts]
        self._fronts: dict[bool, _Front] = {}

    def target_losses(self, batch: TrainingBatch) -> Tensor:
        base, rounds = self._base, self._base.rounds_rows
        texts = [
            [*source[self._common :], *target[:-1]]
            for source, target in zip(batch.sources, batch.targets, strict=True)
        ]
        lengths = list(map(len, texts))
        before = [len(self._rows[index]) for index in batch.prompt_of_rows]
        whole = [sum(both) for both in zip(before, lengths, strict=True)]
        fronts, prefixes = self._in_front_of(whole, batch.prompt_of_rows)
        prefix_lengths = [length for front in fronts for length in front.lengths]
        read = _rounded(_target_positions(texts, batch), rounds, sum(lengths))
        reading = _TextPass(
            Rows(lengths, lengths, base.device, True, prefixes, prefix_lengths),
            Rows(list(map(len, batch.targets)), lengths, base.device, True, prefixes, prefix_lengths),
            _side_by_side([front.cells for front in fronts]),
            read.to(base.device),
        )
        positions = _rounded(_places(lengths, before), rounds, least=len(read) - batch.target_tokens)
        positions = positions.to(base.device)
        ids = [token for text in texts for token in text]
        embeddings = base.embed([*ids, *[base.end_id] * (len(positions) - len(ids))])
        with packed(reading), row_lengths(_spread(whole, lengths, len(positions)).to(base.device)):
            logits = base.packed_logits(embeddings, positions, reading.read)
        return _losses_of_rows(logits, batch)

    def finish(self) -> None:
        for front in self._fronts.values():
            front.carry_on()

    def _in_front_of(self, lengths: Sequence[int], prompts: Sequence[int]) -> tuple[list[_Front], list[int]]:
        """What stands in front of rows of `lengths` positions in all, which begin with `prompts`.

        And for each row which of the fronts' prompts, counted through, is its own.
        """
        classes = list(map(self._base.length_class, lengths))
        for kind, length in zip(classes, lengths, strict=True):
            if kind not in self._fronts:
                self._fronts[kind] = _Front(self._base, self._rows, length)
        kinds = sorted(set(classes))
        own = [
            kinds.index(kind) * len(self._rows) + prompt
            for kind, prompt in zip(classes, prompts, strict=True)
        ]
        return [self._fronts[kind] for kind in kinds], own


class _Front:
    """The keys and values of soft prompts in front of rows of one length class, as leaves."""

    def __init__(self, base: CausalModel, rows: Sequence[Tensor], length: int) -> None:
        """`length`: of any row of the class."""
        self.lengths = [len(row) for row in rows]
        self._base = base
        self._leaves = _Leaves(self._read(rows, length))

    def carry_on(self) -> None:
        """See `_Leaves`."""
        self._leaves.carry_on()

    @cached_property
    def cells(self) -> list[list[tuple[Tensor, Tensor]]]:
        """By layer and by prompt, keys and values [1, h, P, d]; nothing where there is no prompt."""
        if not self._leaves.tensors:
            return []
        leaves = iter(self._leaves.tensors)
        return [[(next(leaves), next(leaves)) for _ in self.lengths] for _ in range(self._base.layers)]

    def _read(self, rows: Sequence[Tensor], length: int) -> list[Tensor]:
        """Keys and values [1, h, P, d] of every layer and prompt, each layer's for each prompt."""
        if not any(self.lengths):
            return []
        base = self._base
        reading = _PromptPass(Rows(self.lengths, self.lengths, base.device, True), base.layers)
        positions = _places(self.lengths).to(base.device)
        with packed(reading), row_lengths(torch.full_like(positions[None], length)), suppress(Enough):
            base.packed_logits(torch.cat(list(rows)), positions, positions[:1])
        return [
            part
            for keys, values in reading.seen
            for pair in zip(*(torch.split(part, self.lengths, dim=2) for part in (keys, values)), strict=True)
            for part in pair
        ]


# ---- layouts ----


class _TwoSides:
    """Of an encoder, or of a decoder that also looks at what was encoded."""

    def __init__(
        self, own: Sequence[int], other: Sequence[int], base: BaseModel, read: Tensor | None = None
    ) -> None:
        rounds, device = base.rounds_rows, base.device
        # Without a decoder prompt every position predicts a target token.
        every = read is None or len(read) == sum(own)
        rounded = None if read is None or every else _rounded(read, rounds, sum(own))
        least = 0 if read is None or rounded is None else len(rounded) - len(read)
        self.read = None if rounded is None else rounded.to(device)
        self.longest = max(*own, *other)
        self.positions = _rounded(_places(own), rounds, least=least).to(device)
        self._own, self._other, self._device = own, other, device

    @cached_property
    def _causal(self) -> Rows:
        return Rows(self._own, self._own, self._device, causal=True)

    @cached_property
    def _bidirectional(self) -> Rows:
        return Rows(self._own, self._other, self._device, causal=False)

    def attend(self, module: Any, query: Tensor, key: Tensor, value: Tensor, how: How) -> Tensor:
        rows = self._causal if module.is_causal else self._bidirectional
        return rows.attend(query, key, value, how)

    def collect(self) -> None:
        raise NotImplementedError


class _PromptPass:
    """Keeps the keys and values of every layer, and ends in the last."""

    read = positions = None
    longest = 0

    def __init__(self, rows: Rows, layers: int) -> None:
        self._rows, self._layers = rows, layers
        self.seen: list[tuple[Tensor, Tensor]] = []

    def attend(self, module: Any, query: Tensor, key: Tensor, value: Tensor, how: How) -> Tensor:
        # A list of its own for each state of the pass: what is computed again is none of the others'.
        self.seen = [*self.seen, (key, value)]
        if len(self.seen) == self._layers:
            raise Enough
        return self._rows.attend(query, key, value, how)

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

    def attend(self, module: Any, query: Tensor, key: Tensor, value: Tensor, how: How) -> Tensor:
        if self._collecting:
            self._collecting, self._collected = False, (key, value)
            raise Enough
        prefix = None if self._prefixes is None else self._prefixes[self._layer]
        self._layer += 1
        if self._collected is not None:
            return self._last.attend(query, *self._collected, how, prefix)
        return self._rows.attend(query, key, value, how, prefix)


def _places(lengths: Sequence[int], before: Sequence[int] | None = None) -> Tensor:
    """The place [N] of each packed position in its row, `before` positions from the row's start."""
    starts = before or [0] * len(lengths)
    return torch.cat(
        [torch.arange(start, start + length) for start, length in zip(starts, lengths, strict=True)]
    )


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


def _rounded(places: Tensor, rounds: bool, more: int = 0, least: int = 0) -> Tensor:
    """`places` [N] and, if it `rounds`, behind them `more` up to a multiple.

    They are nobody's, and one at least where there are to be any. Kernels that build code for each number of
    rows build it for few then, for a few percent more rows.
    """
    if not rounds:
        return places
    least = min(least, 1)
    multiple = next(multiple for fewest, multiple in _MULTIPLES if len(places) >= fewest)
    return torch.nn.functional.pad(places, (0, least - (len(places) + least) % -multiple), value=more)


def _packed(rows: Sequence[Tensor], layout: _TwoSides) -> Tensor:
    """Rows [T_i, H] one behind another, as many positions as `layout` has: [N, H]."""
    missing = len(layout.positions) - sum(map(len, rows))
    # Any numbers will do that a model can reckon with.
    return torch.cat([*rows, rows[0].detach()[:1].expand(missing, -1)])


def _target_positions(rows: Sequence[Any], batch: TrainingBatch) -> Tensor:
    """Where packed rows that end with their targets predict these, [R]."""
    ends = accumulate(map(len, rows))
    pairs = zip(ends, batch.targets, strict=True)
    return torch.cat([torch.arange(end - len(target), end) for end, target in pairs])


def _losses_of_rows(logits: Tensor, batch: TrainingBatch) -> Tensor:
    """The summed cross-entropy [B] of each row; the logits [R, V] begin with those at all target tokens."""
    labels = torch.tensor([token for target in batch.targets for token in target], device=logits.device)
    rows = torch.tensor(
        [row for row, target in enumerate(batch.targets) for _ in target], device=logits.device
    )
    losses = torch.nn.functional.cross_entropy(logits[: len(labels)].float(), labels, reduction="none")
    return losses.new_zeros(len(batch.targets)).index_add(0, rows, losses)
