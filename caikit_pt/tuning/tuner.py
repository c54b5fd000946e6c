"""Tunes a soft prompt: plan -> examples -> windows -> updates -> soft prompt.

Knows nothing of gRPC or caikit. All randomness comes from one generator seeded by the plan, so a
job has the same result alone and beside others.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from caikit_pt.base_model.frozen import BaseModel
from caikit_pt.errors import TrainingDiverged
from caikit_pt.soft_prompt.artifact import TunedPrompt
from caikit_pt.soft_prompt.initializers import Start, initial_prompt
from caikit_pt.soft_prompt.prompt import TrainablePrompt, trainable
from caikit_pt.tuning.batches import Window, updates_per_epoch, windows
from caikit_pt.tuning.examples import Examples, make_examples
from caikit_pt.tuning.plan import TuningPlan

if TYPE_CHECKING:
    import torch

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a training stands after an update. `loss` is nats a target token."""

    epoch: int
    step: int
    steps: int
    loss: float
    seconds: float

    @property
    def eta_seconds(self) -> float:
        """Seconds that the rest takes if it goes on like this."""
        return self.seconds / self.step * (self.steps - self.step)


def tune(
    plan: TuningPlan, base: BaseModel, on_update: Callable[[Progress], None] | None = None
) -> TunedPrompt:
    """Trains the soft prompt that `plan` describes in front of the frozen `base`.

    Raises TrainingDiverged where the loss stops being a finite number.
    """
    return _Tuning(plan, base, on_update or (lambda _: None)).run()


class _Tuning:
    """One training while it runs."""

    def __init__(self, plan: TuningPlan, base: BaseModel, on_update: Callable[[Progress], None]) -> None:
        import torch

        self._plan, self._base, self._on_update = plan, base, on_update
        self._parameters = plan.parameters
        self._generator = torch.Generator().manual_seed(self._parameters.seed)
        self._examples = make_examples(plan.records, base, self._parameters)
        self._validation = make_examples(plan.validation, base, self._parameters) if plan.validation else None
        start = Start(base, self._parameters, self._generator, plan.source)
        self._prompt = trainable(initial_prompt(start).to(base.device), self._parameters)
        self._logs: list[dict[str, Any]] = []
        self._step = 0
        self._steps = self._parameters.num_epochs * updates_per_epoch(
            len(self._examples), self._parameters.batch_size, self._parameters.accumulate_steps
        )

    def run(self) -> TunedPrompt:
        """Every epoch, every window; the finished prompt."""
        self._say_what_is_cut()
        optimizer, schedule = self._optimizer()
        started = time.monotonic()
        for epoch in range(1, self._parameters.num_epochs + 1):
            for window in self._windows():
                loss = self._update(window, optimizer)
                schedule.step()
                self._step += 1
                self._record("loss", epoch, loss)
                self._on_update(Progress(epoch, self._step, self._steps, loss, time.monotonic() - started))
            if self._validation is not None:
                loss = validation_loss(self._base, self._prompt, self._validation, self._batch_size)
                self._record("validation_loss", epoch, loss)
        return self._tuned()

    def _update(self, window: Window, optimizer: torch.optim.Optimizer) -> float:
        """One step of the optimiser on the mean loss over the target tokens of `window`."""
        import torch

        batches = [self._examples.batch(indices) for indices in window]
        tokens = sum(batch.target_tokens for batch in batches)
        optimizer.zero_grad()
        total = torch.zeros((), device=self._base.device, dtype=torch.float32)
        for batch in batches:
            loss = self._base.target_loss(self._prompt.tensors(), batch) / tokens
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        value = float(total)
        self._check_finite("loss", [total])
        self._check_finite("gradient", [weight.grad for weight in _weights(optimizer)])
        optimizer.step()
        self._check_finite("prompt", _weights(optimizer))
        return value

    def _check_finite(self, name: str, tensors: Sequence[torch.Tensor | None]) -> None:
        """Raises TrainingDiverged where a tensor holds something that is no number."""
        import torch

        if all(tensor is None or bool(torch.isfinite(tensor).all()) for tensor in tensors):
            return
        raise TrainingDiverged(
            f"The {name} is not finite at update {self._step + 1} of {self._steps}. Try a smaller "
            f"learning_rate than {self._parameters.learning_rate:g}, or torch_dtype float32 or "
            "bfloat16 where it is float16."
        )

    def _optimizer(self) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        """AdamW, and a schedule that counts updates and reaches zero after the last one."""
        import torch

        # No weight decay: it would pull the prompt towards zero, which isn't where words are.
        optimizer = torch.optim.AdamW(self._prompt.parameter_groups(), weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / self._steps)
        return optimizer, schedule

    def _windows(self) -> Any:
        return windows(
            len(self._examples),
            self._batch_size,
            self._parameters.accumulate_steps,
            self._generator,
        )

    @property
    def _batch_size(self) -> int:
        return self._parameters.batch_size

    def _record(self, name: str, epoch: int, value: float) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        data = {"epoch": epoch, "step": self._step, "value": value, "timestamp": now}
        self._logs.append({"name": name, "data": data})

    def _say_what_is_cut(self) -> None:
        for name, cut in (
            ("max_source_length", self._examples.cut_sources),
            ("max_target_length", self._examples.cut_targets),
        ):
            if cut:
                _LOG.warning("%d of %d records cut at %s", cut, len(self._examples), name)

    def _tuned(self) -> TunedPrompt:
        checkpoint = self._plan.checkpoint
        return TunedPrompt(
            prompt=self._prompt.finished(),
            base_model_name=checkpoint.name,
            base_model_fingerprint=checkpoint.fingerprint,
            verbalizer=self._parameters.verbalizer,
            tuning_parameters={
                **self._parameters.to_dict(),
                "records": len(self._examples),
                "cut_sources": self._examples.cut_sources,
                "cut_targets": self._examples.cut_targets,
            },
            training_logs=self._logs,
        )


def _weights(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def validation_loss(base: BaseModel, prompt: TrainablePrompt, examples: Examples, batch_size: int) -> float:
    """The mean loss over all target tokens of `examples`, in nats."""
    import torch

    total, tokens = 0.0, 0
    with torch.no_grad():
        tensors = prompt.tensors()
        for start in range(0, len(examples), batch_size):
            indices = list(range(start, min(start + batch_size, len(examples))))
            batch = examples.batch(indices)
            total += float(base.target_loss(tensors, batch))
            tokens += batch.target_tokens
    return total / tokens
