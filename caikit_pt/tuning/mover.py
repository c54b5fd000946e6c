"""Weights that learn: their optimiser and their learning rates, and one update of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from caikit_pt.parameters.tuning import ADAFACTOR, CONSTANT, TuningParameters

if TYPE_CHECKING:
    import torch


class Mover:
    """Moves the weights of `groups`, each of which has a learning rate, by the gradients they get. `updates`
    are those that it will make in all."""

    def __init__(self, groups: list[dict[str, Any]], parameters: TuningParameters, updates: int) -> None:
        import torch

        self._max_grad_norm = parameters.max_grad_norm
        self._weights: list[torch.Tensor] = [weight for group in groups for weight in group["params"]]
        self._optimizer = _optimizer(groups, parameters, self._weights[0].device.type != "cpu")
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimizer, _factor(parameters, updates))

    @property
    def learning_rate(self) -> float:
        """That of the next update, of the first group."""
        return float(self._schedule.get_last_lr()[0])

    def state_dict(self) -> dict[str, Any]:
        """All that an update changes."""
        return {
            "weights": list(self._weights),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As it was; of weights with the same parameters."""
        import torch

        with torch.no_grad():
            for weight, saved in zip(self._weights, state["weights"], strict=True):
                weight.copy_(saved)
        self._optimizer.load_state_dict(dict(state["optimizer"]))
        self._schedule.load_state_dict(dict(state["schedule"]))

    def forget_gradients(self) -> None:
        """Before an update."""
        self._optimizer.zero_grad()

    def step(self, loss: torch.Tensor) -> torch.Tensor:
        """One update by the gradients that are there; whether it was made, as a tensor (bool scalar).

        Where `loss` (float32 scalar) or a gradient isn't finite, or the update itself would end in something
        that isn't, weights and moments stay what they were. Either way the schedule goes on. All of it
        happens on the device, without waiting for it; only Adafactor looks at its count of steps.
        """
        import torch

        finite = torch.isfinite(loss)
        for weight in self._weights:
            if weight.grad is not None:
                finite &= torch.isfinite(weight.grad).all()
        before = [tensor.detach().clone() for tensor in self._state()]
        if self._max_grad_norm:
            torch.nn.utils.clip_grad_norm_(self._weights, self._max_grad_norm)
        self._optimizer.step()
        after = self._state()
        for tensor in after:
            finite &= torch.isfinite(tensor).all()
        # What there was no moment of before the first update begins with zero.
        before += [torch.zeros_like(tensor) for tensor in after[len(before) :]]
        with torch.no_grad():
            for old, new in zip(before, after, strict=True):
                new.copy_(torch.where(finite.to(new.device), new, old))
        self._schedule.step()
        return finite

    def _state(self) -> list[torch.Tensor]:
        """Every tensor that an update changes: the weights first, then the optimiser's in a fixed order."""
        import torch

        moments = []
        for weight in self._weights:
            for name, value in self._optimizer.state.get(weight, {}).items():
                if not isinstance(value, torch.Tensor):
                    # Adafactor's numbers: as tensors they can be taken back like the rest.
                    value = self._optimizer.state[weight][name] = weight.new_tensor(value)
                moments.append(value)
        return [*self._weights, *moments]


def _optimizer(
    groups: list[dict[str, Any]], parameters: TuningParameters, accelerated: bool
) -> torch.optim.Optimizer:
    import torch

    if parameters.optimizer == ADAFACTOR:
        from transformers.optimization import Adafactor

        # Lester et al. 2021: the rate as it is given, not a share of the parameter's size.
        return Adafactor(  # type: ignore[no-untyped-call]
            groups, scale_parameter=False, relative_step=False, weight_decay=parameters.weight_decay
        )
    # Fused, the count of steps is on the device, too; else a step that is skipped there would wait for it.
    return torch.optim.AdamW(groups, weight_decay=parameters.weight_decay, fused=accelerated)


def _factor(parameters: TuningParameters, updates: int) -> Callable[[int], float]:
    """The share of the learning rate at an update, counted from 0: up, then constant or down to zero."""
    rising = round(parameters.warmup_ratio * updates)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / (rising + 1)
        if parameters.lr_scheduler_type == CONSTANT:
            return 1.0
        return max(0.0, (updates - step) / max(1, updates - rising))

    return factor
