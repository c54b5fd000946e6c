"""Prints what prompts that start from this and that are worth with few records: all of docs/starts.md.

python -m bench.starts --data FOLDER    what the documentation shows, hours on one core
python -m bench.starts --quick          does it run?

Trials are added to `--results` as they come, and those that are there aren't repeated: a run that was cut
off goes on. `--part 1/2` and `--part 2/2` make half of them each, and can share the file and the folder of
sources. With `--minutes 0` nothing is tried, and the page is printed from what there is.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import caikit_pt
from bench.quality.results import Results
from bench.quality.run import make_missing, of_part, part
from bench.quality.task import Task, held_out_tasks, left_out, real_tasks
from bench.quality.trial import Trial
from bench.starts.available import not_available
from bench.starts.contender import ABLATION, CONTENDERS, MAIN
from bench.starts.kept import Kept
from bench.starts.page import page
from bench.starts.recipe import source_records
from bench.starts.trial import TOKENS, Attempt
from caikit_pt.base_model.model import BaseModel
from examples.pretraining.make_demo_data import EXAMPLES

MODELS = ("tiny-llama", "tiny-t5")
# Of the data sets, those with enough records to score on and no source like them in words and labels.
DATA_SETS = ("clinc_domain", "pros_cons", "subjectivity", "tweeteval_irony")
SEEDS = 5
SIZES = (4, 16, 32, 200)
# Beside the results, where no other folder is named.
_SOURCES = "starts.sources"
_QUICK_PARTS = (8, 24)
_QUICK_SIZES = (4,)
_QUICK_REQUEST: Mapping[str, Any] = {"num_epochs": 1, "num_virtual_tokens": 4}
# Tasks, and records of each.
_QUICK_SOURCES = (2, 8)


def main(arguments: Sequence[str] | None = None) -> None:
    """All trials that are missing, as long as there is time, and the page."""
    options = _options(arguments)
    import torch

    torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", "1")))
    tasks, models = _tasks(options), options.model or MODELS
    if options.quick:
        tasks, models = tasks[:1], models[:1]
    bases = [caikit_pt.load_base_model(str(EXAMPLES / "base_models" / name)) for name in models]
    with TemporaryDirectory() as folder:
        kept_in = Path(folder) if options.quick else options.sources or options.results.parent / _SOURCES
        kept = [_kept(kept_in, base, options.quick) for base in bases]
        attempts = list(_attempts(tasks, list(zip(bases, kept, strict=True)), options))
        results = Results(Path(folder, "quick.jsonl") if options.quick else options.results)
        make_missing(of_part(attempts, options.part), results, options.minutes)
        results.read()
    found = [results.get(one.trial, one.basis) for one in attempts]
    notes = [left_out(task, base) for task in tasks for base in bases]
    notes += [not_available(one, base) for one in CONTENDERS.values() for base in bases]
    printed = page(
        f"python -m bench.starts{_shown(options)}",
        tasks,
        [(base.checkpoint.name, task) for base in bases for task in tasks if not left_out(task, base)],
        options.size,
        [one.trial for one in attempts],
        [outcome for outcome in found if outcome],
        [note for note in notes if note],
    )
    print(printed)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.starts", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--data", type=Path, help="data sets beside the embedded models' own tasks")
    parser.add_argument("--results", type=Path, default=Path("starts.jsonl"))
    parser.add_argument("--sources", type=Path, help=f"where sources are kept; {_SOURCES} beside the results")
    parser.add_argument("--model", action="append", choices=MODELS, help="only this; can be repeated")
    parser.add_argument("--task", action="append", help="only this; can be repeated")
    parser.add_argument("--contender", action="append", choices=CONTENDERS, help="only this; can be repeated")
    parser.add_argument("--size", action="append", type=int, help="only so many records; can be repeated")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"how many, from 1; {SEEDS}")
    parser.add_argument("--part", type=part, default=(1, 1), help="such as 1/2: only these trials are made")
    parser.add_argument("--minutes", type=float, help="no trial begins after so many")
    parser.add_argument("--quick", action="store_true", help="one model, one task, an epoch; nothing kept")
    options = parser.parse_args(arguments)
    if options.quick:
        options.seeds, options.size = 1, list(_QUICK_SIZES)
    options.size = options.size or list(SIZES)
    if min(options.size) < 2 or options.seeds < 1:
        parser.error("--size: at least 2, for two labels; --seeds: at least 1")
    if options.data and not options.data.is_dir():
        parser.error(f"--data: there is no folder {options.data}")
    return options


def _tasks(options: argparse.Namespace) -> list[Task]:
    parts = _QUICK_PARTS if options.quick else ()
    sets = real_tasks(options.data, *parts) if options.data else ()
    tasks = [*held_out_tasks(*parts), *(task for task in sets if task.name in DATA_SETS)]
    chosen = [task for task in tasks if task.name in (options.task or (task.name,))]
    if not chosen:
        sys.exit(f"No such task; there are {', '.join(task.name for task in tasks)}")
    return chosen


def _kept(folder: Path, base: BaseModel, quick: bool) -> Kept:
    also = {"num_virtual_tokens": TOKENS, **(_QUICK_REQUEST if quick else {})}
    return Kept(folder, base, source_records(*(_QUICK_SOURCES if quick else ())), also)


def _attempts(
    tasks: Sequence[Task], bases: Sequence[tuple[BaseModel, Kept]], options: argparse.Namespace
) -> Iterator[Attempt]:
    """Every trial once: what the first tables need before the ablation, and either seed by seed, so that what
    there is after some time is whole for the first."""
    also = _QUICK_REQUEST if options.quick else None
    wanted = options.contender or CONTENDERS
    pairs = [(task, base, kept) for task, (base, kept) in product(tasks, bases) if not left_out(task, base)]
    for group in (MAIN, ABLATION):
        chosen = [one for one in group if one.name in wanted]
        for seed, size in product(range(1, options.seeds + 1), options.size):
            for one, (task, base, kept) in product(chosen, pairs):
                if not_available(one, base):
                    continue
                trial = Trial(base.checkpoint.name, task.name, one.name, seed, size, len(task.test))
                yield Attempt(trial, task, base, kept, also)


def _shown(options: argparse.Namespace) -> str:
    """The options that the figures depend on."""
    words = " --quick" if options.quick else ""
    words += " --data FOLDER" if options.data else ""
    for name in ("model", "task", "contender"):
        words += "".join(f" --{name} {shlex.quote(value)}" for value in getattr(options, name) or ())
    if not options.quick:
        words += "" if options.size == list(SIZES) else "".join(f" --size {size}" for size in options.size)
        words += "" if options.seeds == SEEDS else f" --seeds {options.seeds}"
    return words


if __name__ == "__main__":
    main()
