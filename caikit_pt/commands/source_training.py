"""`sources train`: a source prompt is trained here and published, or that is a job of a server."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from caikit_pt import settings
from caikit_pt.commands import source_job
from caikit_pt.commands.options import Commands, add_table, help_of
from caikit_pt.commands.outcome import DONE, FAILED, INTERRUPTED, WrongCommand
from caikit_pt.commands.output import as_json
from caikit_pt.commands.report import print_report
from caikit_pt.commands.source_tasks import add_tasks, parameters_of, tasks_of
from caikit_pt.errors import CaikitPtError, InvalidParameter, TrainingInterrupted
from caikit_pt.parameters.source import SHARED_PARAMETERS, SOURCE_PARAMETERS
from caikit_pt.parameters.tuning import TUNING_PARAMETERS
from caikit_pt.soft_prompt.source import SourcePrompt
from caikit_pt.soft_prompt.source_library import SourceLibrary
from caikit_pt.soft_prompt.trained_source import TrainedSource
from caikit_pt.tuning.record_file import rows
from caikit_pt.tuning.snapshot import Snapshots
from caikit_pt.tuning.source_plan import SourcePlan, TaskData, make_source_plan
from caikit_pt.tuning.source_preflight import source_preflight
from caikit_pt.tuning.source_progress import SourceProgress, TaskValidated
from caikit_pt.tuning.source_training import SourceTraining, snapshots_in

_SECONDS_BETWEEN_LINES = 5.0
# Not as the table has them: spelt otherwise, or not at all.
_BESIDES = ("base_model", "silence_progress_bars")


def add_train(group: Commands) -> None:
    """It asks a server where it is given one."""
    train = group.may_ask(
        "train",
        _train,
        "train a source prompt on several tasks, and publish it in SOURCE_PROMPT_BASE",
        "the server whose job it is; without, it is trained in this process, and published on this machine",
    )
    train.add_argument("name", help="what it is published as: a new version of this name")
    train.add_argument("--base-model", required=True, help=help_of(TUNING_PARAMETERS["base_model"]))
    add_tasks(train)
    train.add_argument(
        "--default", action="store_true", help="a training that names no source starts from this one"
    )
    train.add_argument("--dry-run", action="store_true", help="tell what it would do, and don't do it")
    train.add_argument(
        "--state",
        type=Path,
        metavar="DIRECTORY",
        help="without --server: where snapshots are kept; after Ctrl-C or a kill the same command goes on "
        "from the last one",
    )
    source_job.add_to(train)
    add_table(train, SOURCE_PARAMETERS, ())
    add_table(train, SHARED_PARAMETERS, _BESIDES)


def _train(options: argparse.Namespace) -> int:
    if options.server and options.state:
        raise WrongCommand("--state is of a training here; a server keeps the snapshots of its jobs itself")
    if options.server:
        return source_job.run(options)
    source_job.check_unset(options)
    try:
        now = settings.current()
        library = SourceLibrary(now.source_prompt_base, "name")
        library.check_target(options.name)
        plan = _plan(options, now)
        if options.dry_run:
            plan.check_training()
            print_report(source_preflight(plan).to_dict(), options.json)
            return DONE
        with snapshots_in(options.state or "", now) as snapshots:
            trained = _trained(SourceTraining(plan), snapshots)
            made = trained.publish(options.name, options.default, library)
            if snapshots:
                shutil.rmtree(snapshots.directory, ignore_errors=True)
    except InvalidParameter as error:
        raise WrongCommand(str(error)) from None
    except TrainingInterrupted as error:
        print(f"{error} The same command goes on from there.", file=sys.stderr)
        return INTERRUPTED
    except CaikitPtError as error:
        print(error, file=sys.stderr)
        return FAILED
    except OSError as error:
        raise WrongCommand(f"{options.name} can't be written ({error.strerror or error})") from None
    _print(made, options.json)
    return DONE


def _print(made: SourcePrompt, json: bool) -> None:
    assert made.manifest is not None, "what is published has one"
    print(as_json({"name": made.name, **made.manifest.to_dict()}) if json else made.name)


def _plan(options: argparse.Namespace, now: settings.Settings) -> SourcePlan:
    """Raises InvalidParameter, and WrongCommand for options that don't go together."""
    tasks = [
        TaskData(
            name=name,
            records=rows(Path(task.records), task.records),
            validation=rows(Path(task.validation), task.validation) if task.validation else None,
            **task.own,
        )
        for name, task in tasks_of(options).items()
    ]
    return make_source_plan({"base_model": options.base_model, **parameters_of(options)}, tasks, now)


def _trained(training: SourceTraining, snapshots: Snapshots | None) -> TrainedSource:
    """Raises what `SourceTraining.run` does."""
    lines = _Lines()
    with _stopping(snapshots):
        return training.run(lines.updated, lines.validated, snapshots)


@contextmanager
def _stopping(snapshots: Snapshots | None) -> Iterator[None]:
    """Inside, Ctrl-C and SIGTERM end the training behind a snapshot; the second of them at once."""
    if snapshots is None:
        yield
        return
    stop, before = snapshots.stop, {}

    def handle(number: int, _: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Lines:
    """A line on stderr every few seconds, where a phase begins, and for each validation."""

    def __init__(self) -> None:
        self._next = time.monotonic() + _SECONDS_BETWEEN_LINES
        self._phase = ""

    def updated(self, progress: SourceProgress) -> None:
        """An update was made."""
        is_new, is_last = progress.phase != self._phase, progress.step == progress.steps
        if not (is_new or is_last or time.monotonic() >= self._next):
            return
        self._phase, self._next = progress.phase, time.monotonic() + _SECONDS_BETWEEN_LINES
        print(
            f"{progress.phase}: update {progress.step} of {progress.steps}, epoch {progress.epoch}, "
            f"loss {progress.loss:.4f}, {progress.seconds:.0f} s, about {progress.eta_seconds:.0f} s to go",
            file=sys.stderr,
            flush=True,
        )

    def validated(self, one: TaskValidated) -> None:
        """A task was looked at, or all were."""
        if not one.task:
            found = one.found
            best = ", the best yet" if found.best else ""
            print(
                f"{one.phase}: epoch {found.epoch}, validation loss {found.scores['loss']:.4f}{best}",
                file=sys.stderr,
                flush=True,
            )
