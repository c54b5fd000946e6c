"""The floating-point operations that an update can't do without, by which shares of the peak are taken.

A product of [M, K] with [K, N] counts 2 M K N. Counted are products of matrices alone, of real tokens
alone: no padding, no row twice, no norms or softmax, no gradient of a weight. What is counted for each
update:

* The weights' products, forward, at every position whose result is read, and backward to their input
  where that depends on the prompt: so a backward costs a forward at most. A text's embeddings don't
  depend on the prompt, so in the first layer nothing goes back through its queries, keys and values.
* Attention's products, for each pair of a position and one that it sees: queries by keys and weights by
  values forward, and four backward (the gradients of weights, values, queries, keys), of which the first
  layer needs the last three only where they reach the prompt.
* Llama: the prompt once an update, through all layers, of the last one its keys and values only. The
  texts behind it: all layers, of the last one keys and values at every position, all else where a
  target token is predicted. Of a target's last token nothing: nobody asks what follows it.
* T5, prompt in front of the encoder: the prompt in every row, since it looks at the text. In the
  decoder the first layer's self-attention, and the queries behind it, need no backward.
* Logits at the target tokens, forward and backward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.training.records import Record
from bench.training.shapes import Shape

_GATED = 3  # products of a gated feed-forward layer


@dataclass(frozen=True, slots=True)
class _Layer:
    """Operations of one position in each of a layer's products, and of one pair in attention's."""

    queries: int
    keys_values: int
    output: int
    feed_forward: int
    pair: int

    @property
    def attention(self) -> int:
        """All of an attention's weights."""
        return self.queries + self.keys_values + self.output


def needed(shape: Shape, prompt: int, window: Sequence[Record]) -> int:
    """Operations of one update: forward and backward of the records of `window` behind `prompt` tokens."""
    layer = _Layer(
        queries=2 * shape.width * shape.heads * shape.head_width,
        keys_values=2 * 2 * shape.width * shape.kv_heads * shape.head_width,
        output=2 * shape.width * shape.heads * shape.head_width,
        feed_forward=2 * _GATED * shape.width * shape.inner,
        pair=2 * shape.heads * shape.head_width,
    )
    logits = 2 * 2 * shape.width * shape.vocabulary * sum(len(record.target) for record in window)
    if not shape.causal:
        return logits + sum(_seq2seq_row(shape.layers, layer, prompt, record) for record in window)
    texts = sum(_causal_text(shape.layers, layer, prompt, record) for record in window)
    return logits + _causal_prompt(shape.layers, layer, prompt) + texts


def _causal_prompt(layers: int, layer: _Layer, prompt: int) -> int:
    whole = 2 * prompt * (layer.attention + layer.feed_forward) + 6 * _causal_pairs(prompt) * layer.pair
    return (layers - 1) * whole + 2 * prompt * layer.keys_values


def _causal_text(layers: int, layer: _Layer, prompt: int, record: Record) -> int:
    read = len(record.target)
    positions = len(record.source) + read - 1
    total = 0
    for number in range(layers):
        first, last = number == 0, number == layers - 1
        asking = read if last else positions
        pairs = asking * prompt + _causal_pairs(positions) - _causal_pairs(positions - asking)
        forward = asking * layer.queries + positions * layer.keys_values
        behind = asking * (layer.output + layer.feed_forward)
        total += (forward if first else 2 * forward) + 2 * behind
        # Forward 2, backward 1 of all pairs; values and keys of the prompt, or of all, and queries.
        total += layer.pair * (3 * pairs + (2 * asking * prompt if first else 3 * pairs))
    return total


def _seq2seq_row(layers: int, layer: _Layer, prompt: int, record: Record) -> int:
    read, encoded = len(record.target), prompt + len(record.source)
    projections = layer.queries + layer.keys_values
    total = 0
    for number in range(layers):
        first = number == 0
        # Encoder.
        total += encoded * (2 * (layer.attention + layer.feed_forward))
        total += layer.pair * 6 * encoded**2
        if first:
            total -= len(record.source) * projections
            total -= layer.pair * 3 * len(record.source) * encoded
        # Decoder: self-attention, attention to what was encoded, feed-forward.
        total += (1 if first else 2) * read * layer.attention
        total += layer.pair * (2 if first else 6) * _causal_pairs(read)
        total += (1 if first else 2) * read * layer.queries + 2 * encoded * layer.keys_values
        total += layer.pair * (5 if first else 6) * read * encoded
        total += 2 * read * (layer.output + layer.feed_forward)
    return total


def _causal_pairs(positions: int) -> int:
    """Pairs of a position and itself or one before it."""
    return positions * (positions + 1) // 2
