"""Residual prompt tuning (Razdaibiedina et al. 2023, arXiv 2305.03937): P + f(P) while P is tuned.

f is one small network for all virtual tokens of a side: down, ReLU, up, layer norm. It makes training
less sensitive to learning rate and initialisation. Its weights are dropped afterwards, and what is kept
is the plain prompt P + f(P).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from caikit_pt.parameters.tuning import TuningParameters
from caikit_pt.soft_prompt.prompt import SoftPrompt, TrainablePrompt

if TYPE_CHECKING:
    import torch

# Rows of the network's inner layer, as a share of H. The paper has 250 to 400 of T5-base's 768.
_BOTTLENECK = 0.5
# The network's weights are far smaller than the numbers of a prompt; so are its steps.
_NETWORK_RATE = 0.01


class ResidualPrompt(TrainablePrompt):
    """The rows of a plain prompt and, for each side, a network with a skip connection around it."""

    def __init__(self, initial: SoftPrompt, parameters: TuningParameters, generator: torch.Generator) -> None:
        self._rows = {part: tensor.clone().requires_grad_() for part, tensor in initial.tensors.items()}
        self._networks = {part: _Network(tensor, generator) for part, tensor in initial.tensors.items()}
        self._learning_rate = parameters.learning_rate

    def tensors(self) -> Mapping[str, torch.Tensor]:
        return {part: rows + self._networks[part](rows) for part, rows in self._rows.items()}

    def parameter_groups(self) -> list[dict[str, Any]]:
        weights = [weight for network in self._networks.values() for weight in network.weights]
        return [
            {"params": list(self._rows.values()), "lr": self._learning_rate},
            {"params": weights, "lr": _NETWORK_RATE * self._learning_rate},
        ]


class _Network:
    """f: [P, H] -> [P, H], zero at the start: its norm begins with a gain of zero.

    It works on rows divided by the size of the initial ones, and its result is multiplied by it, so that
    it behaves alike on models with small embeddings and with large ones.
    """

    def __init__(self, rows: torch.Tensor, generator: torch.Generator) -> None:
        import torch

        width = rows.shape[1]
        inner = max(1, round(_BOTTLENECK * width))
        self._size = rows.square().mean().sqrt().clamp(min=torch.finfo(rows.dtype).tiny)
        shapes = (inner, width), (width, inner)
        # Drawn on the CPU, where the job's own generator is.
        self._down, self._up = (
            (torch.randn(shape, generator=generator) / shape[1] ** 0.5).to(rows.device).requires_grad_()
            for shape in shapes
        )
        self._gain = rows.new_zeros(width).requires_grad_()

    @property
    def weights(self) -> list[torch.Tensor]:
        """What an optimiser moves."""
        return [self._down, self._up, self._gain]

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        import torch

        inner = torch.relu(rows / self._size @ self._down.T)
        normed = torch.nn.functional.layer_norm(inner @ self._up.T, (rows.shape[1],))
        return self._size * self._gain * normed
