"""Prints how fast source prompts are trained, beside plain tuning of one task with the same windows.

python -m bench.training.sources    about two minutes on one core

Tokens a CPU second, of sources and targets; the median of rounds that take turns.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from itertools import islice

from bench.training.clock import seconds
from caikit_pt.base_model.loading.checkpoint import locate
from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.pool import POOL
from caikit_pt.base_model.row import TrainingBatch
from caikit_pt.settings import Settings
from caikit_pt.soft_prompt.initializers import Start, initial_prompt
from caikit_pt.soft_prompt.prompt import PlainPrompt
from caikit_pt.soft_prompt.task_prompts import TaskPrompts
from caikit_pt.tuning.examples import Example, make_examples
from caikit_pt.tuning.learner import Learner, gradients
from caikit_pt.tuning.mixture import Mixture, OfTask
from caikit_pt.tuning.source_plan import SourcePlan, TaskData, make_source_plan
from caikit_pt.tuning.task_learner import TaskLearner
from caikit_pt.tuning.teaching import Teaching
from examples.local_server import ROOT

MODELS = ("tiny-llama", "tiny-t5")
TASKS = ("ticket_sentiment", "ticket_urgency", "film_subjectivity", "tweet_irony", "device_points")
SETTINGS = Settings(base_models_dir=str(ROOT / "examples" / "base_models"))
# Records to an update, and virtual tokens.
CASES = ((8, 20), (32, 20), (32, 100))
UPDATES, ROUNDS = 12, 5
Update = Callable[[TrainingBatch], object]


def main() -> None:
    """A line for each model, window and number of virtual tokens."""
    head = ("model", "window", "virtual tokens", "one task", "sources", "share", "with lessons", "share")
    print(f"| {' | '.join(head)} |\n|{' --- |' * len(head)}", flush=True)
    for name in MODELS:
        base = POOL.get(locate(name, SETTINGS), "float32", "cpu")
        for window, tokens in CASES:
            plain, *others = _speeds(_plan(name, window, tokens), base)
            cells = [name, window, tokens, f"{plain:,.0f}"]
            cells += [cell for speed in others for cell in (f"{speed:,.0f}", f"{speed / plain:.0%}")]
            print(f"| {' | '.join(map(str, cells))} |", flush=True)


def _plan(model: str, window: int, tokens: int) -> SourcePlan:
    data = ROOT / "examples" / "data"
    records = {
        name: [json.loads(line) for line in (data / name / "train.jsonl").read_text("utf-8").splitlines()]
        for name in TASKS
    }
    request = {"base_model": model, "batch_size": window, "num_virtual_tokens": tokens, "num_epochs": 20}
    return make_source_plan(request, [TaskData(name=name, records=records[name]) for name in TASKS], SETTINGS)


def _speeds(plan: SourcePlan, base: BaseModel) -> list[float]:
    """Of plain tuning, of sources, and of these with lessons."""
    import torch

    examples = [make_examples(one.records, base.text, one.parameters).items for one in plan.tasks.values()]
    lengths = [[len(one.source) + len(one.target) for one in task] for task in examples]
    mixture = Mixture(lengths, plan.parameters.most_records, plan.training)
    windows = [_batch(examples, one.window) for one in islice(mixture.left(), UPDATES)]
    tokens = sum(len(ids) for one in windows for ids in (*one.sources, *one.targets))
    generator = torch.Generator().manual_seed(plan.training.seed)
    initial = initial_prompt(Start(base, plan.training, generator, None))
    plain = Learner(PlainPrompt(initial, plan.training), plan.training, 10**6)
    prompts = TaskPrompts(initial, len(TASKS), plan.parameters.num_ranks, plan.training, generator)
    sources = TaskLearner(prompts, plan.training, 10**6)
    teaching = Teaching(base, [initial.tensors] * len(TASKS), plan.parameters)

    def of_one_task(batch: TrainingBatch) -> None:
        (loss,) = gradients(base, [plain], [TrainingBatch(batch.sources, batch.targets)])
        plain.step(loss)

    def of_sources(batch: TrainingBatch) -> None:
        sources.step(sources.gradients(base, batch))

    def with_lessons(batch: TrainingBatch) -> None:
        sources.step(sources.gradients(base, batch, teaching))

    ways = (of_one_task, of_sources, with_lessons)
    for way in ways:
        way(windows[0])
    taken = [[seconds(lambda way=way: _all(way, windows), "cpu") for way in ways] for _ in range(ROUNDS)]  # type: ignore[misc]
    return [tokens / statistics.median(of_way) for of_way in zip(*taken, strict=True)]


def _all(way: Update, windows: list[TrainingBatch]) -> None:
    for batch in windows:
        way(batch)


def _batch(examples: list[tuple[Example, ...]], window: Sequence[OfTask]) -> TrainingBatch:
    items = [examples[task][index] for task, index in window]
    return TrainingBatch(
        [item.source for item in items], [item.target for item in items], [task for task, _ in window]
    )


if __name__ == "__main__":
    main()
