"""What the commands of benches that go on where they were cut off have in common."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import caikit_pt
from bench.quality.run import part
from bench.quality.task import Task
from caikit_pt.base_model.model import BaseModel
from examples.pretraining.make_demo_data import EXAMPLES

MODELS = ("tiny-llama", "tiny-t5")


def parser_of(name: str, description: str | None, results: str, seeds: int) -> argparse.ArgumentParser:
    """That of `python -m NAME`, with the options that all have."""
    parser = argparse.ArgumentParser(prog=f"python -m {name}", description=description)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--data", type=Path, help="data sets beside the embedded models' own tasks")
    parser.add_argument("--results", type=Path, default=Path(results))
    parser.add_argument("--model", action="append", choices=MODELS, help="only this; can be repeated")
    parser.add_argument("--task", action="append", help="only this; can be repeated")
    parser.add_argument("--seeds", type=int, default=seeds, help=f"how many, from 1; {seeds}")
    parser.add_argument("--part", type=part, default=(1, 1), help="such as 1/2: only these trials are made")
    parser.add_argument("--minutes", type=float, help="no trial begins after so many")
    parser.add_argument("--quick", action="store_true", help="one model, one task, an epoch; nothing kept")
    return parser


def check_data(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Ends the command where `--data` is no folder."""
    if options.data and not options.data.is_dir():
        parser.error(f"--data: there is no folder {options.data}")


def chosen(tasks: Iterable[Task], options: argparse.Namespace) -> list[Task]:
    """Those that are asked for, of a quick run the first; ends the command where there is none."""
    there = list(tasks)
    found = [task for task in there if task.name in (options.task or (task.name,))]
    if not found:
        sys.exit(f"No such task; there are {', '.join(task.name for task in there)}")
    return found[:1] if options.quick else found


def bases_of(options: argparse.Namespace) -> list[BaseModel]:
    """The models that are asked for, of a quick run the first. On one thread, unless OMP_NUM_THREADS says
    otherwise."""
    import torch

    torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", "1")))
    names: Sequence[str] = options.model or MODELS
    return [
        caikit_pt.load_base_model(str(EXAMPLES / "base_models" / name))
        for name in (names[:1] if options.quick else names)
    ]
