"""One training through the product's own path, and what its prompt is worth on the test records."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.quality.task import TEST, TRAIN, Task
from caikit_pt.base_model.frozen import BaseModel
from caikit_pt.errors import TrainingDiverged
from caikit_pt.settings import Settings
from caikit_pt.tuning.examples import make_examples
from caikit_pt.tuning.plan import make_plan
from caikit_pt.tuning.records import read_records
from caikit_pt.tuning.tuner import tune
from caikit_pt.tuning.validation import Validation

DEFAULTS, SEARCH = "defaults", "search"
Request = Mapping[str, Any]
_RATES = (0.03, 0.1, 0.3, 1.0)
_STARTS: tuple[tuple[str, int], ...] = (("RANDOM", 100), ("SAMPLE_VOCAB", 100), ("RANDOM", 20))
GRID: Mapping[str, Request] = {
    f"{rate} {method} {tokens}": {
        "learning_rate": rate,
        "prompt_tuning_init_method": method,
        "num_virtual_tokens": tokens,
    }
    for rate in _RATES
    for method, tokens in _STARTS
}
REQUESTS: Mapping[str, Request] = {DEFAULTS: {}, SEARCH: {"search": "auto"}, **GRID}


@dataclass(frozen=True, slots=True)
class Trial:
    """`accuracy` on the test records, the best `validation_loss`, and the CPU `seconds` of the training.

    `records` were trained on, `judged` are those of the accuracy.
    """

    model: str
    task: str
    request: str
    accuracy: float
    validation_loss: float
    seconds: float
    chosen: str
    records: int = TRAIN
    judged: int = TEST


def try_out(base: BaseModel, task: Task, request: str) -> Trial:
    """Trains with `request`, whose values are in REQUESTS, and everything else at its default.

    What diverges answers nothing.
    """
    name = base.checkpoint.name
    started = time.process_time()
    asked = {"base_model": name, "tuning_task": "classification", **REQUESTS[request]}
    plan = make_plan(asked, task.train, None, Settings(), base)
    try:
        tuned = tune(plan, base)
    except TrainingDiverged:
        seconds = time.process_time() - started
        return Trial(name, task.name, request, 0.0, math.inf, seconds, "diverged", *task.sizes)
    seconds = time.process_time() - started
    losses = [entry["data"]["value"] for entry in tuned.training_logs if entry["name"] == "validation_loss"]
    test = read_records(task.test, "test")
    judged = Validation(base, test, make_examples(test, base, plan.parameters), "classification")
    scores = judged.scores(tuned.prompt, len(test))
    kept = tuned.tuning_parameters
    chosen = " ".join(
        str(kept[name]) for name in ("learning_rate", "prompt_tuning_init_method", "num_virtual_tokens")
    )
    accuracy = scores.metrics["accuracy"].value
    return Trial(name, task.name, request, accuracy, min(losses), seconds, chosen, *task.sizes)
