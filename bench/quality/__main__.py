"""Prints how the defaults and the search do beside a grid of twelve, as Markdown.

    python -m bench.quality --data FOLDER_OF_DATA_SETS --results trials.jsonl

Trials are added to `--results` as they come, and those that are there aren't repeated.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import caikit_pt
from bench.quality.table import table
from bench.quality.task import TEST, TRAIN, Task, held_out_tasks, real_tasks, unspeakable
from bench.quality.trial import REQUESTS, Trial, try_out
from caikit_pt.base_model.frozen import BaseModel
from examples.pretraining.make_demo_data import EXAMPLES

MODELS = ("tiny-llama", "tiny-t5")
_FEWEST_TEST = 100  # with fewer records, points mean nothing


def main() -> None:
    """All trials that are missing, and the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="data sets beside the embedded models' own tasks")
    parser.add_argument("--results", type=Path, default=Path("quality.jsonl"))
    parser.add_argument("--model", action="append", choices=MODELS)
    parser.add_argument("--task", action="append")
    options = parser.parse_args()
    trials = _read(options.results)
    tasks = [*held_out_tasks(), *(real_tasks(options.data) if options.data else ())]
    if not options.data:
        print("Only the embedded models' own tasks: --data names no folder of data sets.")
    for task in tasks:
        for name in options.model or MODELS:
            if not options.task or task.name in options.task:
                base = caikit_pt.load_base_model(str(EXAMPLES / "base_models" / name))
                for trial in _missing(base, task, trials):
                    trials.append(trial)
                    with options.results.open("a") as file:
                        file.write(json.dumps(asdict(trial)) + "\n")
    print(f"\nAt most {TRAIN} records to train on and {TEST} to be judged by: two standard errors of an")
    print("accuracy of 90 % are 2.7 points.\n")
    print(table(trials))


def _missing(base: BaseModel, task: Task, trials: list[Trial]) -> Iterator[Trial]:
    """The trials of a model and a task that aren't there yet, or a word on why there are none."""
    name = base.checkpoint.name
    unknown = unspeakable(task, base)
    if unknown:
        print(f"{task.name} is left out for {name}, which can't say {', '.join(map(repr, unknown))}")
        return
    if len(task.test) < _FEWEST_TEST:
        print(f"{task.name} is left out: {len(task.test)} test records")
        return
    known = {trial.request for trial in trials if (trial.model, trial.task) == (name, task.name)}
    for request in REQUESTS:
        if request not in known:
            trial = try_out(base, task, request)
            print(f"{name} {task.name} {request}: {trial.accuracy:.3f}, {trial.seconds:.0f} s", flush=True)
            yield trial


def _read(file: Path) -> list[Trial]:
    lines = file.read_text().splitlines() if file.exists() else ()
    return [Trial(**json.loads(line)) for line in lines]


if __name__ == "__main__":
    main()
