"""Decoder-only models in serving: read from the prompt's keys and values on, and generated on one timeline.

A micro-batch is read as `[pad][prompt][text][pad]`: prompts end, and texts begin, at the same position,
so that each row's own positions stand side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from caikit_pt.base_model.frozen import FrozenWeights
from caikit_pt.base_model.layers.parcel import Parcel, sent
from caikit_pt.base_model.layers.reading import reading
from caikit_pt.base_model.layers.rope import row_lengths
from caikit_pt.base_model.layers.static_timeline import StaticTimeline
from caikit_pt.base_model.layers.timeline import Timeline
from caikit_pt.base_model.one_stack import forward, last_logits
from caikit_pt.base_model.row import Row, prompt_length
from caikit_pt.base_model.serving.batch import Batch, Decoding, Prefill, position_bytes
from caikit_pt.base_model.serving.padding import pad_left, with_one_more
from caikit_pt.base_model.serving.prompt_cache import PromptCells
from caikit_pt.base_model.serving.side import ServingSide
from caikit_pt.base_model.serving.static import StaticStore
from caikit_pt.parameters.tuning import DECODER

# Of soft prompts that are computed in one pass.
_PROMPT_POSITIONS = 512


class CausalServing(ServingSide):
    """The serving side of decoder-only models."""

    def batched_prefill(self, rows: Sequence[Row]) -> Prefill:
        return CausalPrefill(self, rows)

    def growing_batch(self) -> Batch:
        return CausalBatch(self)

    def static_store(self) -> StaticStore:
        return CausalStore(self)

    def start(self, rows: Sequence[Row]) -> Decoding:
        return CausalDecoding(self, rows)

    def plain_logits(self, ids: Sequence[int], answer: Sequence[int] = ()) -> Tensor:
        whole = torch.tensor([[*ids, *answer]], device=self.weights.device)
        logits: Tensor = self.weights.model(input_ids=whole, use_cache=False).logits[0].float()
        return logits[len(ids) - 1 :]

    def source_logits(self, row: Row) -> Tensor | None:
        predicted = len(row.ids) - (not prompt_length(row.prompt, DECODER))
        with torch.inference_mode():
            embeddings, mask = pad_left([self.weights.join(row.prompt.get(DECODER), row.ids)])
            logits = last_logits(self.weights, embeddings, mask, last=predicted + 1)
        return logits[0, :-1].float()

    def prompt_cells(self, rows: Sequence[Row]) -> list[PromptCells]:
        """The keys and values of the soft prompt in front of each of `rows`, kept for other rows of these
        prompts."""
        own = [number for number, row in enumerate(rows) if DECODER in row.prompt]
        prompts = [rows[number].prompt[DECODER] for number in own]
        lengths = [self.text.served_positions(rows[number], len(rows[number].answer)) for number in own]

        def compute(places: Sequence[int]) -> Sequence[PromptCells]:
            missed = [(prompts[place], lengths[place]) for place in places]
            return _prompts_cells(self.weights, missed)

        classes = map(self.weights.length_class, lengths)
        cells: list[PromptCells] = [()] * len(rows)
        for number, found in zip(
            own, self.prompts.get(list(zip(prompts, classes, strict=True)), compute), strict=True
        ):
            cells[number] = found
        return cells


class CausalDecoding(Decoding):
    """Rows of a decoder-only model, aligned at the end."""

    def __init__(self, side: CausalServing, rows: Sequence[Row]) -> None:
        self._weights = side.weights
        embeddings, self._mask = pad_left(
            [self._weights.join(row.prompt.get(DECODER), [*row.ids, *row.answer]) for row in rows]
        )
        self._cache = DynamicCache(config=self._weights.model.config)
        self._read(embeddings)

    def advance(self, tokens: Tensor) -> None:
        self._mask = with_one_more(self._mask)
        self._read(self._weights.embed(tokens[:, None]))

    def _read(self, embeddings: Tensor) -> None:
        logits = last_logits(self._weights, embeddings, self._mask, last=1, cache=self._cache)
        self.logits = logits[:, -1].float()


class CausalPrefill(Prefill):
    """b rows of a decoder-only model that are being read."""

    def __init__(self, side: CausalServing, rows: Sequence[Row]) -> None:
        self.rows, self.parcel = rows, Parcel(side.weights.device)
        self._weights = side.weights
        prefixes = side.prompt_cells(rows)
        self.prefix_lengths = [prefix[0][0].shape[1] if prefix else 0 for prefix in prefixes]
        self.text_lengths = [len(row.ids) + len(row.answer) for row in rows]
        lengths = [sum(both) for both in zip(self.prefix_lengths, self.text_lengths, strict=True)]
        self._lengths = self.parcel.add(torch.tensor(lengths)[:, None])
        self.prefix = max(self.prefix_lengths)
        self.cache = _started(prefixes, self.prefix)
        self._logits: dict[int, Tensor] = {}
        self._read = 0
        width = max(self.text_lengths)
        ids = torch.full((len(rows), width), side.text.end_id)
        mask = torch.zeros(len(rows), self.prefix + width, dtype=torch.long)
        for number, row in enumerate(rows):
            ids[number, : self.text_lengths[number]] = torch.tensor([*row.ids, *row.answer])
            own = slice(self.prefix - self.prefix_lengths[number], self.prefix + self.text_lengths[number])
            mask[number, own] = 1
        self._width = width
        self._ids, self._mask = self.parcel.add(ids), self.parcel.add(mask)

    @property
    def columns(self) -> int:
        return self._width - self._read

    def advance(self, columns: int) -> None:
        begin, end = self._read, min(self._read + columns, self._width)
        if not begin:
            self.parcel.send()
        ending = [row for row, length in enumerate(self.text_lengths) if begin < length <= end]

        def last(hidden: Tensor) -> Tensor:
            """The last position of each row that ends here; told by slices, which are no copy there."""
            if not ending:
                return hidden[:1, :0]
            return torch.cat([hidden[row, self.text_lengths[row] - 1 - begin, None] for row in ending])[None]

        embeddings = self._weights.embed(self._ids()[:, begin:end])
        with reading(last), row_lengths(self._lengths()):
            logits = forward(self._weights, embeddings, self._mask()[:, : self.prefix + end], self.cache)
        self._logits.update(zip(ending, logits[0].float(), strict=True))
        self._read = end

    @property
    def logits(self) -> Tensor:
        return torch.stack([self._logits[row] for row in range(len(self.rows))])

    @property
    def position_bytes(self) -> int:
        return position_bytes(self.cache.layers)

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Each row's own positions in the cache."""
        pairs = zip(self.prefix_lengths, self.text_lengths, strict=True)
        return [(self.prefix - before, self.prefix + text) for before, text in pairs]


class CausalBatch(Batch):
    """B rows of a decoder-only model."""

    def __init__(self, side: CausalServing) -> None:
        self._weights = side.weights
        self._timeline = Timeline()

    def join(self, prefill: Prefill) -> None:
        assert isinstance(prefill, CausalPrefill)
        self._timeline.join(prefill.cache.layers, prefill.spans)

    def leave(self, index: int) -> None:
        self._timeline.leave(index)

    def advance(self, tokens: Tensor) -> Tensor:
        embeddings = self._weights.embed(tokens[:, None])
        cache, mask = self._timeline.cache(), self._timeline.mask(self._weights.device)
        logits = last_logits(self._weights, embeddings, mask, last=1, cache=cache)
        self._timeline.grow()
        return logits[:, -1].float()


class CausalStore(StaticStore):
    """Rows of a decoder-only model whose steps have few shapes."""

    def __init__(self, side: CausalServing) -> None:
        super().__init__(side.weights, side.captured_steps())
        self._timeline = StaticTimeline(side.weights.device)
        self.parts = (self._timeline,)

    def join(self, prefill: Prefill) -> None:
        assert isinstance(prefill, CausalPrefill)
        self._timeline.join(prefill.cache.layers, prefill.spans)

    def step(self, tokens: Tensor) -> Tensor:
        line, weights = self._timeline, self.weights
        output = weights.forward(
            {"position_ids": line.positions()},
            line.cache(),
            inputs_embeds=weights.embed(tokens[:, None]),
            attention_mask=line.mask(),
        )
        line.grow()
        logits: Tensor = output.logits[:, -1]
        return logits

    def take_back(self) -> None:
        self._timeline.take_back()

    def grown(self) -> None:
        self._timeline.grown()


def _prompts_cells(weights: FrozenWeights, prompts: Sequence[tuple[Tensor, int]]) -> list[PromptCells]:
    """The keys and values [heads, P, D] of soft prompts [P, H] in every layer, computed, each for rows of so
    many positions in all. Those of one length, for rows of one class, share passes: a pass of few positions
    mostly reads weights."""
    cells: list[PromptCells] = [()] * len(prompts)
    alike: dict[tuple[int, bool], list[int]] = {}
    for number, (prompt, length) in enumerate(prompts):
        alike.setdefault((len(prompt), weights.length_class(length)), []).append(number)
    for (length, _), numbers in alike.items():
        most = max(1, _PROMPT_POSITIONS // max(1, length))
        for begin in range(0, len(numbers), most):
            together = numbers[begin : begin + most]
            found = _cells_together(weights, [prompts[number] for number in together])
            for number, one in zip(together, found, strict=True):
                cells[number] = one
    return cells


def _cells_together(weights: FrozenWeights, prompts: Sequence[tuple[Tensor, int]]) -> list[PromptCells]:
    """Of b soft prompts of one length, for rows of one class, in one pass. They go to the device at once."""
    own = [prompt for prompt, _ in prompts]
    embeddings = sent(torch.stack(own), weights.device).to(weights.dtype)
    mask = torch.ones(embeddings.shape[:2], dtype=torch.long, device=weights.device)
    longest = max(length for _, length in prompts)
    cache = DynamicCache()
    with row_lengths(torch.full((len(prompts), 1), longest, device=weights.device)):
        last_logits(weights, embeddings, mask, last=1, cache=cache)
    layers: list[Any] = cache.layers
    if len(prompts) == 1:
        return [[(layer.keys[0], layer.values[0]) for layer in layers]]
    # Copies: else each would hold all of them for as long as it is kept.
    return [
        [(layer.keys[row].clone(), layer.values[row].clone()) for layer in layers]
        for row in range(len(prompts))
    ]


def _started(prefixes: Sequence[PromptCells], longest: int) -> DynamicCache:
    """A cache that holds the prompts, aligned at the end. Sliding windows are up to the masks."""
    cache = DynamicCache()
    some = next(filter(None, prefixes), ())
    for number, layer in enumerate(some):
        keys, values = (
            tensor.new_zeros(len(prefixes), tensor.shape[0], longest, tensor.shape[2]) for tensor in layer
        )
        for row, prefix in enumerate(prefixes):
            if prefix:
                own = slice(longest - prefix[number][0].shape[1], longest)
                keys[row, :, own], values[row, :, own] = prefix[number]
        cache.update(keys, values, number)
    return cache
