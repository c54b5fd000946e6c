"""One prompt of a training while it is tuned: what it learns with, its curve, and the best of it so far."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
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
from caikit_pt.tuning.learner import Learner
from caikit_pt.tuning.search import Trial

if TYPE_CHECKING:
    import torch

_LOG = logging.getLogger(__name__)
# So many updates in a row that can't be made end the training: nothing will change any more.
MOST_SKIPPED = 5
_VALIDATION = "validation_"


@dataclass(frozen=True, slots=True)
class Point:
    """An update on the loss curve, read from the device. `made` is false where the update was skipped."""

    epoch: int
    step: int
    loss: float
    learning_rate: float
    made: bool


@dataclass(frozen=True, slots=True)
class Best:
    """The prompt with the lowest validation loss, and when that was."""

    prompt: SoftPrompt
    loss: float
    epoch: int
    step: int


@dataclass(slots=True)
class _Pending:
    """An update whose loss is still on the device."""

    epoch: int
    step: int
    learning_rate: float
    loss: torch.Tensor
    made: torch.Tensor


@dataclass(slots=True)
class Candidate:
    """A soft prompt with its parameters, from its initial rows to its best ones."""

    parameters: TuningParameters
    initial: SoftPrompt
    learner: Learner
    updates: int
    trial: Trial
    curve: list[Point] = field(default_factory=list)
    logs: list[dict[str, Any]] = field(default_factory=list)
    best: Best | None = None
    skipped: int = 0
    keeps_mean: bool = False
    _in_a_row: int = 0
    _pending: list[_Pending] = field(default_factory=list)
    _sums: dict[str, torch.Tensor] = field(default_factory=dict)
    _watched: int = 0

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
        return self._in_a_row >= MOST_SKIPPED

    @property
    def prompt(self) -> SoftPrompt:
        """The one to keep: the mean, the best where there was a validation, else the one there is now."""
        if self.keeps_mean:
            return self.mean()
        return self.best.prompt if self.best else self.learner.prompt.finished()

    def state_dict(self) -> dict[str, Any]:
        """All that isn't made of the parameters again. Updates must have been read."""
        assert not self._pending
        return {
            "learner": self.learner.state_dict(),
            "losses": self.trial.losses,
            "curve": [astuple(point) for point in self.curve],
            "logs": self.logs,
            "best": self.best and {"tensors": dict(self.best.prompt.tensors), **_when(self.best)},
            "skipped": self.skipped,
            "in_a_row": self._in_a_row,
            "sums": self._sums,
            "watched": self._watched,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As it was; of a candidate that began with the same parameters."""
        self.learner.load_state_dict(state["learner"])
        self.trial.losses.update(state["losses"])
        self.curve = [Point(*values) for values in state["curve"]]
        self.logs = state["logs"]
        if best := state["best"]:
            self.best = Best(SoftPrompt(best["tensors"]), best["loss"], best["epoch"], best["step"])
        self.skipped, self._in_a_row = state["skipped"], state["in_a_row"]
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
        self._pending.append(_Pending(epoch, step, rate, loss, made))

    def read(self) -> list[Point]:
        """The updates since the last call, in one transfer from the device. Warns of skipped ones."""
        import torch

        pending, self._pending = self._pending, []
        if not pending:
            return []
        values = torch.stack([item.loss for item in pending]).tolist()
        made = torch.stack([item.made for item in pending]).tolist()
        points = [
            Point(item.epoch, item.step, value, item.learning_rate, ok)
            for item, value, ok in zip(pending, values, made, strict=True)
        ]
        for point in points:
            self._count(point)
            self.log("loss", point.epoch, point.step, point.loss)
        self.curve += points
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

    def _count(self, point: Point) -> None:
        if point.made:
            # On a GPU many updates are read at once, and the end of one may be followed by good ones.
            self._in_a_row = self._in_a_row if self.diverged else 0
            return
        self.skipped += 1
        self._in_a_row += 1
        _LOG.warning(
            "the %s is not finite at update %d of %d, which is skipped",
            _not_finite(point),
            point.step,
            self.updates,
        )

    def diverging(self) -> TrainingDiverged:
        """What to raise for a candidate that has diverged."""
        last = [point for point in self.curve if not point.made][-1]
        return TrainingDiverged(
            f"The {_not_finite(last)} is not finite at update {last.step} of {self.updates}, nor at the "
            f"{MOST_SKIPPED - 1} before it. Try a smaller learning_rate than "
            f"{self.parameters.learning_rate:g}, or torch_dtype float32 or bfloat16 where it is float16."
        )


def _when(best: Best) -> dict[str, Any]:
    return {"loss": best.loss, "epoch": best.epoch, "step": best.step}


def _not_finite(point: Point) -> str:
    return "gradient" if math.isfinite(point.loss) else "loss"
