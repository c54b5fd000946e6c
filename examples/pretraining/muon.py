"""Muon: momentum whose steps are made orthogonal, for the matrices inside a transformer.

In float32, and with matrices of one shape stacked, since on a CPU the library's own version, which
multiplies in bfloat16, takes longer than the model.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalized(matrices: Tensor, steps: int = 4) -> Tensor:
    """Bring all singular values of each matrix near one by Newton-Schulz: (n, rows, columns)."""
    a, b, c = _COEFFICIENTS
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.mT


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalized; a step's size does not depend on the gradient's."""

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95) -> None:
        super().__init__(list(params), {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every matrix."""
        for group in self.param_groups:
            stacks: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for weight in group["params"]:
                stacks[weight.shape].append(weight)
            for shape, weights in stacks.items():
                ahead = torch.stack([self._look_ahead(w, group["momentum"]) for w in weights])
                scale = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for weight, update in zip(weights, orthogonalized(ahead), strict=True):
                    weight.add_(update, alpha=-scale)

    def _look_ahead(self, weight: Tensor, momentum: float) -> Tensor:
        """Fold the gradient into the running momentum, and look one step further along it."""
        state = self.state[weight]
        gradient = weight.grad if weight.grad is not None else torch.zeros_like(weight)
        running: Tensor = state.setdefault("running", torch.zeros_like(weight))
        running.lerp_(gradient, 1 - momentum)
        return gradient.lerp(running, momentum)
