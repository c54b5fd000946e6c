"""One prompt of a training while it is tuned: what it learns with, its curve, and the best of it so far."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from caikit_pt.base_model.model import BaseModel
from caikit_pt.errors import TrainingDiverged
from caikit_pt.parameters.tuning import TuningParameters
from caikit_pt.soft_prompt.initial import InitialPrompt
from caikit_pt.soft_prompt.initializers import Start, initial_prompt
from caikit_pt.soft_prompt.prompt import SoftPrompt
from caikit_pt.soft_prompt.source import SourcePrompt
from caikit_pt.soft_prompt.trainable import trainable
from caikit_pt.tuning.curve import Curve, Point
from caikit_pt.tuning.learner import Learner
from caikit_pt.tuning.trial import Trial

if TYPE_CHECKING:
    import torch

_VALIDATION = "validation_"


@dataclass(frozen=True, slots=True)
class Best:
    """The prompt with the lowest validation loss, and when that was."""

    prompt: SoftPrompt
    loss: float
    epoch: int
    step: int


@dataclass(slots=True)
class Candidate:
    """A soft prompt with its parameters, from its initial rows to its best ones."""

    parameters: TuningParameters
    initial: SoftPrompt
    learner: Learner
    updates: int
    trial: Trial
    logs: list[dict[str, Any]] = field(default_factory=list)
    best: Best | None = None
    keeps_mean: bool = False
    _sums: dict[str, torch.Tensor] = field(default_factory=dict)
    _watched: int = 0
    _losses: Curve = field(init=False)

    def __post_init__(self) -> None:
        self._losses = Curve(self.updates)

    @classmethod
    def begin(
        cls,
        base: BaseModel,
        parameters: TuningParameters,
        source: SourcePrompt | None,
        updates: int,
        tuned: InitialPrompt | None = None,
    ) -> Candidate:
        """A new one, whose random numbers all come from the seed of its parameters."""
        import torch

        generator = torch.Generator().manual_seed(parameters.seed)
        initial = initial_prompt(Start(base, parameters, generator, source, tuned))
        prompt = trainable(initial.to(base.weights.device), parameters, generator)
        learner = Learner(prompt, parameters, updates)
        return cls(parameters, initial, learner, updates, Trial(parameters))

    @property
    def diverged(self) -> bool:
        """Whether there is no point in going on."""
        return self._losses.diverged

    @property
    def curve(self) -> list[Point]:
        """Its updates that have been read."""
        return self._losses.points

    @property
    def losses(self) -> list[float]:
        """Of all updates, those whose losses are still on the device, too."""
        return self._losses.losses

    @property
    def skipped(self) -> int:
        """Of these, how many weren't made."""
        return self._losses.skipped

    @property
    def prompt(self) -> SoftPrompt:
        """The one to keep: the mean, the best where there was a validation, else the one there is now."""
        if self.keeps_mean:
            return self.mean()
        return self.best.prompt if self.best else self.learner.prompt.finished()

    def state_dict(self) -> dict[str, Any]:
        """All that isn't made of the parameters again. Updates must have been read."""
        return {
            "learner": self.learner.state_dict(),
            "losses": self.trial.losses,
            "logs": self.logs,
            "best": self.best and {"tensors": dict(self.best.prompt.tensors), **_when(self.best)},
            **self._losses.state_dict(),
            "sums": self._sums,
            "watched": self._watched,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As it was; of a candidate that began with the same parameters."""
        self.learner.load_state_dict(state["learner"])
        self.trial.losses.update(state["losses"])
        self._losses.load_state_dict(state)
        self.logs = state["logs"]
        if best := state["best"]:
            self.best = Best(SoftPrompt(best["tensors"]), best["loss"], best["epoch"], best["step"])
        device = next(iter(self.learner.prompt.tensors().values())).device
        self._sums = {part: total.to(device) for part, total in state["sums"].items()}
        self._watched = state["watched"]

    def watch(self, anew: bool) -> None:
        """Adds the prompt as it is now to its mean, which begins `anew` or not."""
        now = {part: tensor.detach() for part, tensor in self.learner.prompt.tensors().items()}
        if anew or not self._watched:
            self._sums, self._watched = {part: tensor.clone() for part, tensor in now.items()}, 1
            return
        self._watched += 1
        for part, tensor in now.items():
            self._sums[part] += tensor

    def mean(self) -> SoftPrompt:
        """The mean of the prompts that were watched."""
        return SoftPrompt({part: (total / self._watched).cpu() for part, total in self._sums.items()})

    @property
    def kept(self) -> dict[str, int]:
        """The update that `prompt` is of: of a mean the last, and of how many."""
        last = self.curve[-1]
        if self.keeps_mean:
            return {"epoch": last.epoch, "step": last.step, "mean_of": self._watched}
        at = self.best or last
        return {"epoch": at.epoch, "step": at.step}

    def updated(self, epoch: int, step: int, rate: float, loss: torch.Tensor, made: torch.Tensor) -> None:
        """Remembers an update without waiting for its loss."""
        self._losses.updated(epoch, step, rate, loss, made)

    def read(self) -> list[Point]:
        """The updates since the last call, in one transfer from the device. Warns of skipped ones."""
        points = self._losses.read()
        for point in points:
            self.log("loss", point.epoch, point.step, point.loss)
        return points

    def validated(self, epoch: int, step: int, values: dict[str, float]) -> bool:
        """Remembers a validation, `loss` and metrics by name; whether its loss is the lowest so far."""
        for name, value in values.items():
            self.log(f"{_VALIDATION}{name}", epoch, step, value)
        loss = values["loss"]
        better = math.isfinite(loss) and (self.best is None or loss < self.best.loss)
        if better:
            self.best = Best(self.learner.prompt.finished(), loss, epoch, step)
        return better

    @property
    def validations(self) -> dict[tuple[int, int], dict[str, float]]:
        """The values of each, by its epoch and update."""
        found: dict[tuple[int, int], dict[str, float]] = {}
        for line in self.logs:
            name, data = line["name"], line["data"]
            if name.startswith(_VALIDATION):
                values = found.setdefault((data["epoch"], data["step"]), {})
                values[name.removeprefix(_VALIDATION)] = data["value"]
        return found

    @property
    def validations_since_best(self) -> int:
        """In a row without a better loss; what it began with isn't one of them."""
        best = self.best.step if self.best else 0
        steps = (one["data"]["step"] for one in reversed(self.logs) if one["name"] == "validation_loss")
        return sum(1 for _ in takewhile(lambda step: step > best, steps))

    def log(self, name: str, epoch: int, step: int, value: float) -> None:
        """A line of training_logs.jsonl, as caikit-nlp has them."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        data = {"epoch": epoch, "step": step, "value": value, "timestamp": now}
        self.logs.append({"name": name, "data": data})

    def diverging(self) -> TrainingDiverged:
        """What to raise for a candidate that has diverged."""
        return self._losses.diverging(self.parameters.learning_rate)


def _when(best: Best) -> dict[str, Any]:
    return {"loss": best.loss, "epoch": best.epoch, "step": best.step}
