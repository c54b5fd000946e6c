"""What predicts the target tokens of a batch, and what a row loses by it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Targets:
    """Of `count` rows B: `logits` [R, V] and, by layer as `layers.reading` counts them, the `states` [R, H]
    that were asked for and those of the LAST, which logits are made of. All begin with what predicts `labels`
    [L] (int64), which are of `rows` [L].

    LAST states of a model whose output layer is its table of words aren't known.
    """

    logits: Tensor
    states: Mapping[int, Tensor]
    labels: Tensor
    rows: Tensor
    count: int

    def losses(self) -> Tensor:
        """The summed cross-entropy [B] (nats, float32) of each row's target."""
        return self._of_rows(functional.cross_entropy(self._own(self.logits), self.labels, reduction="none"))

    def divergences(self, taught: Targets, temperature: float) -> Tensor:
        """The summed Kullback-Leibler divergence [B] (nats, float32) of each row's next tokens from what they
        are `taught`, both at `temperature`, and times its square, so that its gradients keep their size
        (Hinton et al. 2015, arXiv 1503.02531)."""
        own, theirs = (
            functional.log_softmax(one._own(one.logits) / temperature, dim=-1) for one in (self, taught)
        )
        return self._of_rows(
            functional.kl_div(own, theirs, reduction="none", log_target=True).sum(-1) * temperature**2
        )

    def distances(self, taught: Targets, layers: Collection[int]) -> Tensor:
        """The summed square [B] (float32) of what each row's states differ by from those they are `taught`,
        of each token in shares of the square of these: models, and layers, differ in the size of their
        states. The mean of `layers`, which have been asked for."""
        return torch.stack([self._distance(taught, layer) for layer in layers]).mean(0)

    def _distance(self, taught: Targets, layer: int) -> Tensor:
        own, theirs = self._own(self.states[layer]), taught._own(taught.states[layer])
        sizes = theirs.square().sum(-1).clamp(min=torch.finfo(theirs.dtype).tiny)
        return self._of_rows((own - theirs).square().sum(-1) / sizes)

    def _own(self, read: Tensor) -> Tensor:
        """What predicts, of what was `read` [R, ...], in float32."""
        return read[: len(self.labels)].float()

    def _of_rows(self, tokens: Tensor) -> Tensor:
        return tokens.new_zeros(self.count).index_add(0, self.rows, tokens)


def read_at(
    positions: Tensor,
    logits: Tensor,
    states: Mapping[int, Tensor],
    labels: Tensor,
    rows: Tensor,
    count: int,
) -> Targets:
    """Of padded `logits` [B, K, V] and `states` [B, K, H], those at `positions` [L] (int64) of all."""

    def picked(padded: Tensor) -> Tensor:
        return padded.flatten(0, 1).index_select(0, positions)

    of_layers = {layer: picked(own) for layer, own in states.items()}
    return Targets(picked(logits), of_layers, labels, rows, count)
