"""Prints what prompts that start from this and that are worth with few records: all of docs/starts.md.

python -m bench.starts --data FOLDER    what the documentation shows, hours on one core
python -m bench.starts --quick          does it run?

Trials are added to `--results` as they come, and those that are there aren't repeated: a run that was cut
off goes on. `--part 1/2` and `--part 2/2` make half of them each, and can share the file and the folder of
sources. With `--minutes 0` nothing is tried, and the page is printed from what there is.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.quality.options import bases_of, check_data, chosen, parser_of
from bench.quality.results import Results
from bench.quality.run import make_missing, of_part
from bench.quality.task import Task, held_out_tasks, left_out, real_tasks
from bench.quality.trial import Trial
from bench.starts.contender import ABLATION, CONTENDERS, MAIN
from bench.starts.kept import Kept
from bench.starts.page import page
from bench.starts.recipe import source_records
from bench.starts.trial import TOKENS, Attempt
from caikit_pt.base_model.model import BaseModel

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
    tasks, bases = _tasks(options), bases_of(options)
    with TemporaryDirectory() as folder:
        kept_in = Path(folder) if options.quick else options.sources or options.results.parent / _SOURCES
        kept = [_kept(kept_in, base, options.quick) for base in bases]
        attempts = list(_attempts(tasks, list(zip(bases, kept, strict=True)), options))
        results = Results(Path(folder, "quick.jsonl") if options.quick else options.results)
        make_missing(of_part(attempts, options.part), results, options.minutes)
        results.read()
    found = [results.get(one.trial, one.basis) for one in attempts]
    notes = [left_out(task, base) for task in tasks for base in bases]
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
    parser = parser_of("bench.starts", __doc__, "starts.jsonl", SEEDS)
    parser.add_argument("--sources", type=Path, help=f"where sources are kept; {_SOURCES} beside the results")
    parser.add_argument("--contender", action="append", choices=CONTENDERS, help="only this; can be repeated")
    parser.add_argument("--size", action="append", type=int, help="only so many records; can be repeated")
    options = parser.parse_args(arguments)
    if options.quick:
        options.seeds, options.size = 1, list(_QUICK_SIZES)
    options.size = options.size or list(SIZES)
    if min(options.size) < 2 or options.seeds < 1:
        parser.error("--size: at least 2, for two labels; --seeds: at least 1")
    check_data(parser, options)
    return options


def _tasks(options: argparse.Namespace) -> list[Task]:
    parts = _QUICK_PARTS if options.quick else ()
    sets = real_tasks(options.data, *parts) if options.data else ()
    tasks = [*held_out_tasks(*parts), *(task for task in sets if task.name in DATA_SETS)]
    return chosen(tasks, options)


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
