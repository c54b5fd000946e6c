"""Prints how the defaults and the search do beside a grid, peft and outsiders: all of docs/quality.md.

python -m bench.quality --data FOLDER    what the documentation shows, hours on one core
python -m bench.quality --quick          does it run?

Trials are added to `--results` as they come, and those that are there aren't repeated: a run that was cut
off goes on. `--part 1/2` and `--part 2/2` make half of them each, and can share the file. With
`--minutes 0` nothing is tried, and the page is printed from what there is.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.quality.contender import CONTENDERS, DEFAULTS, OUTSIDERS, is_chosen_among
from bench.quality.options import bases_of, check_data, chosen, parser_of
from bench.quality.page import page
from bench.quality.results import Results
from bench.quality.run import make_missing, of_part
from bench.quality.task import Task, held_out_tasks, left_out, real_tasks
from bench.quality.trial import Attempt, Trial
from caikit_pt.base_model.model import BaseModel

SEEDS, TRAIN, MOST = 3, 200, 1000
# Fewer records than those of the comparison with all contenders.
_FEW = (16, 64)
_QUICK: Mapping[str, Any] = {"seeds": 1, "records": 50, "most": 64}
_QUICK_PARTS = (60, 60)
_QUICK_REQUEST: Mapping[str, Any] = {"num_epochs": 1}


def main(arguments: Sequence[str] | None = None) -> None:
    """All trials that are missing, as long as there is time, and the page."""
    options = _options(arguments)
    tasks, bases = _tasks(options), bases_of(options)
    attempts = list(_attempts(tasks, bases, options))
    with TemporaryDirectory() as folder:
        results = Results(Path(folder, "quick.jsonl") if options.quick else options.results)
        make_missing(of_part(attempts, options.part), results, options.minutes, is_chosen_among)
        results.read()
    found = [results.get(one.trial, one.basis) for one in attempts]
    printed = page(
        f"python -m bench.quality{_shown(options)}",
        tasks,
        [(base.checkpoint.name, task) for base in bases for task in tasks if not left_out(task, base)],
        _sizes(options),
        options.records,
        [one.trial for one in attempts],
        [outcome for outcome in found if outcome],
        [reason for task in tasks for base in bases if (reason := left_out(task, base))],
    )
    print(printed)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = parser_of("bench.quality", __doc__, "quality.jsonl", SEEDS)
    parser.add_argument("--records", type=int, default=TRAIN, help=f"to train on; {TRAIN}")
    parser.add_argument("--most", type=int, default=MOST, help=f"records that count as all; {MOST}")
    options = parser.parse_args(arguments)
    if options.quick:
        vars(options).update(_QUICK)
    if options.records < 2 or options.seeds < 1:
        parser.error("--records: at least 2, one of which is split off to validate with; --seeds: at least 1")
    check_data(parser, options)
    return options


def _tasks(options: argparse.Namespace) -> list[Task]:
    parts = _QUICK_PARTS if options.quick else ()
    tasks = [*held_out_tasks(*parts), *(real_tasks(options.data, *parts) if options.data else ())]
    return chosen(tasks, options)


def _sizes(options: argparse.Namespace) -> list[int]:
    """The numbers of records of the last table, the last of which stands for all."""
    return sorted({*_FEW, options.records, options.most})


def _attempts(
    tasks: Sequence[Task], bases: Sequence[BaseModel], options: argparse.Namespace
) -> Iterator[Attempt]:
    """Every trial once: seed by seed, so that what there is after some time is whole for the first."""
    others = [size for size in _sizes(options) if size != options.records]
    rounds = [(name, options.records) for name in CONTENDERS]
    rounds += [(name, size) for size in others for name in (*OUTSIDERS, DEFAULTS)]
    also = _QUICK_REQUEST if options.quick else None
    yielded = set()
    for seed in range(1, options.seeds + 1):
        for contender, records in rounds:
            for task in tasks:
                for base in (None,) if contender in OUTSIDERS else bases:
                    if base and left_out(task, base):
                        continue
                    model = base.checkpoint.name if base else ""
                    trial = Trial(model, task.name, contender, seed, task.size(records), len(task.test))
                    if trial not in yielded:
                        yielded.add(trial)
                        yield Attempt(trial, task, base, also)


def _shown(options: argparse.Namespace) -> str:
    """The options that the figures depend on."""
    words = " --quick" if options.quick else ""
    words += " --data FOLDER" if options.data else ""
    for name in ("model", "task"):
        words += "".join(f" --{name} {value}" for value in getattr(options, name) or ())
    if not options.quick:
        for name, usual in (("seeds", SEEDS), ("records", TRAIN), ("most", MOST)):
            value = getattr(options, name)
            words += "" if value == usual else f" --{name} {value}"
    return words


if __name__ == "__main__":
    main()
