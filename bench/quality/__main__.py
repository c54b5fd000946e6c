"""Prints how the defaults and the search do beside a grid of twelve, as Markdown.

python -m bench.quality --data FOLDER    what the documentation shows, over an hour on one core
python -m bench.quality --quick          does it run?

Trials are added to `--results` as they come, and those that are there aren't repeated.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import caikit_pt
from bench.quality.results import Results
from bench.quality.table import table
from bench.quality.task import TEST, TRAIN, Task, held_out_tasks, left_out, real_tasks
from bench.quality.trial import REQUESTS, Trial, try_out
from caikit_pt.base_model.frozen import BaseModel
from caikit_pt.parameters.tuning import FEWEST_TO_SPLIT
from examples.pretraining.make_demo_data import EXAMPLES

MODELS = ("tiny-llama", "tiny-t5")
_QUICK_TRAIN, _QUICK_TEST = FEWEST_TO_SPLIT, 100


def main(arguments: Sequence[str] | None = None) -> None:
    """All trials that are missing, and the table."""
    options = _options(arguments)
    import torch

    torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", "1")))
    tasks = _tasks(options)
    models = options.model or MODELS
    if options.quick:
        tasks, models = tasks[:1], models[:1]
    bases = [caikit_pt.load_base_model(str(EXAMPLES / "base_models" / name)) for name in models]
    reasons = {reason: None for task in tasks for base in bases if (reason := left_out(task, base))}
    with TemporaryDirectory() as folder:
        results = Results(Path(folder, "quick.jsonl") if options.quick else options.results)
        trials = list(_trials(tasks, bases, results))
    print(f"    python -m bench.quality{_shown(options)}\n")
    print(f"At most {options.records} records to train on, a part of which is split off to validate with.")
    print("Accuracy in % of other records, the same for all trials of a task, ± one standard error. The best")
    print("of twelve is chosen by these very records, so some of its lead is luck.\n")
    print(table(trials))
    print(
        "- Labels have to be words that the model can say: tokens of the targets that it was pretrained on."
    )
    for reason in reasons:
        print(f"- {reason}")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.quality", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--data", type=Path, help="data sets beside the embedded models' own tasks")
    parser.add_argument("--results", type=Path, default=Path("quality.jsonl"))
    parser.add_argument("--model", action="append", choices=MODELS, help="only this; can be repeated")
    parser.add_argument("--task", action="append", help="only this; can be repeated")
    parser.add_argument("--records", type=int, default=TRAIN, help=f"to train on; {TRAIN}")
    parser.add_argument("--quick", action="store_true", help="one model, one task, few records; nothing kept")
    options = parser.parse_args(arguments)
    if options.quick:
        options.records = _QUICK_TRAIN
    if options.records < FEWEST_TO_SPLIT:
        parser.error(f"--records: with fewer than {FEWEST_TO_SPLIT}, none are split off to validate with")
    if options.data and not options.data.is_dir():
        parser.error(f"--data: there is no folder {options.data}")
    return options


def _tasks(options: argparse.Namespace) -> list[Task]:
    sizes = (options.records, _QUICK_TEST if options.quick else TEST)
    tasks = [*held_out_tasks(*sizes), *(real_tasks(options.data, *sizes) if options.data else ())]
    chosen = [task for task in tasks if task.name in (options.task or (task.name,))]
    if not chosen:
        sys.exit(f"No such task; there are {', '.join(task.name for task in tasks)}")
    return chosen


def _trials(tasks: Sequence[Task], bases: Sequence[BaseModel], results: Results) -> Iterator[Trial]:
    """Every trial of every task that the models can do, made where it isn't there."""
    for task in tasks:
        for base in bases:
            if not left_out(task, base):
                for request in REQUESTS:
                    yield results.get(base, task, request) or results.add(try_out(base, task, request))


def _shown(options: argparse.Namespace) -> str:
    """The options that the figures depend on."""
    words = " --quick" if options.quick else ""
    words += " --data FOLDER" if options.data else ""
    for name in ("model", "task"):
        words += "".join(f" --{name} {value}" for value in getattr(options, name) or ())
    return words + ("" if options.records in (TRAIN, _QUICK_TRAIN) else f" --records {options.records}")


if __name__ == "__main__":
    main()
