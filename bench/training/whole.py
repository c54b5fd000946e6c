"""Whole trainings of small models with the defaults, from records to verdict: what they cost on one core."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from bench.training.shapes import SHAPES

if TYPE_CHECKING:
    from caikit_pt.base_model.model import BaseModel

_EXAMPLES = Path(__file__).parents[2] / "examples"
_RECORDS, _LENGTHS, _LABELS = 1058, (20, 60), 2
_TASK = "guestbook_sentiment"
MODELS = ("tiny-llama", "tiny-t5", "llama-260k")
HERE = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Spent:
    """CPU seconds of `updates` updates and all that goes with them, and the last loss."""

    seconds: float
    updates: int
    loss: float


def compare(models: Sequence[str], trees: Sequence[Path], epochs: int, rounds: int) -> str:
    """Markdown: each training by the product in each of `trees`, in turn, each time in a process of its own.

    `epochs` 0 is the default. Compared are medians.
    """
    head = ["model", "updates", *(f"{'this' if tree == HERE else tree.name}, CPU s" for tree in trees)]
    lines = [head, ["---"] * len(head)]
    for name in models:
        spent: dict[Path, list[Spent]] = {tree: [] for tree in trees}
        for number in range(rounds):
            for tree in trees:
                spent[tree].append(_in_a_process(name, tree, epochs))
                shown = f"{name}, round {number + 1} of {rounds}, {tree}: {spent[tree][-1]}"
                print(shown, file=sys.stderr, flush=True)
        medians = [median(one.seconds for one in spent[tree]) for tree in trees]
        updates = spent[trees[0]][0].updates
        ratios = [
            f" ({medians[0] / other:.2f} times as fast)" if number else ""
            for number, other in enumerate(medians)
        ]
        cells = [f"{seconds:.1f}{ratio}" for seconds, ratio in zip(medians, ratios, strict=True)]
        lines.append([name, str(updates), *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _in_a_process(name: str, tree: Path, epochs: int) -> Spent:
    """With the product in `tree`; everything else is of here."""
    code = (
        f"import sys; sys.path[:0] = [{str(tree)!r}, {str(HERE)!r}]; import caikit_pt; "
        f"sys.path.pop(0); from bench.training.whole import main; main({name!r}, {epochs})"
    )
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env={**os.environ, **threads}, stdout=subprocess.PIPE, check=True
    )
    return Spent(**json.loads(done.stdout.splitlines()[-1]))


def main(name: str, epochs: int) -> None:
    """One training in this process; prints what it came to as JSON."""
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    with TemporaryDirectory() as folder:
        base, records = _prepared(name, Path(folder))
        spent = train(base, records, epochs)
    print(json.dumps({"seconds": spent.seconds, "updates": spent.updates, "loss": spent.loss}))


def train(base: BaseModel, records: Sequence[Mapping[str, str]], epochs: int = 0) -> Spent:
    """With the defaults, but `epochs` where they aren't 0."""
    from caikit_pt.base_model.trials.training import check_training
    from caikit_pt.settings import Settings
    from caikit_pt.tuning.plan import make_plan
    from caikit_pt.tuning.progress import Progress
    from caikit_pt.tuning.tuner import tune

    asked: dict[str, Any] = {"base_model": base.checkpoint.name, "tuning_task": "classification"}
    if epochs:
        asked["num_epochs"] = epochs
    plan = make_plan(asked, records, None, Settings(), base)
    seen: list[Progress] = []
    # What is tried once for each model in memory is no part of a training.
    check_training(base.training, plan.parameters.output_model_types)
    began = time.process_time()
    tune(plan, base, seen.append)
    return Spent(time.process_time() - began, seen[-1].step, seen[-1].loss)


def _prepared(name: str, folder: Path) -> tuple[BaseModel, list[dict[str, str]]]:
    if name in SHAPES:
        from bench.serving.checkpoint import FIRST_WORD, make_models, text_of

        shape = SHAPES[name]
        chance = random.Random(0)
        ordinary = range(FIRST_WORD + _LABELS, shape.vocabulary)
        records = [
            {
                "input": text_of([chance.choice(ordinary) for _ in range(chance.randint(*_LENGTHS))]),
                "output": text_of([FIRST_WORD + number % _LABELS]),
            }
            for number in range(_RECORDS)
        ]
        return make_models(shape, folder, "float32", "cpu").base, records
    import caikit_pt

    lines = (_EXAMPLES / "data" / _TASK / "train.jsonl").read_text("utf-8").splitlines()
    return caikit_pt.load_base_model(str(_EXAMPLES / "base_models" / name)), list(map(json.loads, lines))
