"""`sources train`: a source prompt is trained on this machine, shown while it is, and published."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from caikit_pt import settings
from caikit_pt.commands.options import Commands, add_table, given, help_of
from caikit_pt.commands.outcome import DONE, FAILED, INTERRUPTED, WrongCommand
from caikit_pt.commands.output import as_json
from caikit_pt.errors import CaikitPtError, InvalidParameter, TrainingInterrupted
from caikit_pt.parameters.source import NOT_OF_SOURCES, OF_EACH_TASK, SOURCE_PARAMETERS
from caikit_pt.parameters.tuning import TUNING_PARAMETERS
from caikit_pt.soft_prompt.source_library import SourceLibrary
from caikit_pt.soft_prompt.trained_source import TrainedSource
from caikit_pt.tuning.record_file import ENDINGS, rows
from caikit_pt.tuning.snapshot import Snapshots
from caikit_pt.tuning.source_plan import SourcePlan, TaskData, make_source_plan
from caikit_pt.tuning.source_progress import SourceProgress, TaskValidated
from caikit_pt.tuning.source_training import SourceTraining, snapshots_in

_SECONDS_BETWEEN_LINES = 5.0
# Not as the tables have them: spelt otherwise, or not at all.
_BESIDES = ("base_model", "silence_progress_bars", *OF_EACH_TASK, *NOT_OF_SOURCES)


def add_train(group: Commands) -> None:
    """It needs no server."""
    train = group.add(
        "train", _train, "train a source prompt on several tasks here, and publish it in SOURCE_PROMPT_BASE"
    )
    train.add_argument("name", help="what it is published as: a new version of this name")
    train.add_argument("--base-model", required=True, help=help_of(TUNING_PARAMETERS["base_model"]))
    train.add_argument(
        "--task",
        action="append",
        required=True,
        metavar="NAME=FILE",
        help=f"a task and its records: {', '.join(ENDINGS)}; once for each",
    )
    train.add_argument(
        "--validation",
        action="append",
        metavar="NAME=FILE",
        help="records to validate a task with; else some of its own may be split off (--validation-share)",
    )
    for parameter in OF_EACH_TASK:
        train.add_argument(
            f"--{parameter.replace('_', '-')}",
            action="append",
            dest=parameter,
            metavar="NAME=VALUE",
            help=f"of a task: {help_of(TUNING_PARAMETERS[parameter])}",
        )
    train.add_argument(
        "--state",
        type=Path,
        metavar="DIRECTORY",
        help="where snapshots are kept: after Ctrl-C or a kill the same command goes on from the last one",
    )
    train.add_argument(
        "--default", action="store_true", help="a training that names no source starts from this one"
    )
    train.add_argument("--json", action="store_true", help="what was published as JSON on stdout")
    add_table(train, SOURCE_PARAMETERS, ())
    add_table(train, TUNING_PARAMETERS, _BESIDES)


def _train(options: argparse.Namespace) -> int:
    try:
        now = settings.current()
        library = SourceLibrary(now.source_prompt_base, "name")
        library.check_target(options.name)
        training = SourceTraining(_plan(options, now))
        snapshots = snapshots_in(options.state, now) if options.state else None
        trained = _trained(training, snapshots)
        made = trained.publish(options.name, options.default, library)
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
    if snapshots:
        shutil.rmtree(snapshots.directory, ignore_errors=True)
    assert made.manifest is not None, "what is published has one"
    print(as_json({"name": made.name, **made.manifest.to_dict()}) if options.json else made.name)
    return DONE


def _plan(options: argparse.Namespace, now: settings.Settings) -> SourcePlan:
    """Raises InvalidParameter, and WrongCommand for options that don't go together."""
    files = _by_task("--task", options.task)
    validation = _by_task("--validation", options.validation or (), files)
    own = {
        name: _by_task(f"--{name.replace('_', '-')}", getattr(options, name) or (), files)
        for name in OF_EACH_TASK
    }
    tasks = [
        TaskData(
            name=name,
            records=rows(Path(file), file),
            validation=rows(Path(validation[name]), validation[name]) if name in validation else None,
            **{parameter: values.get(name, "") for parameter, values in own.items()},
        )
        for name, file in files.items()
    ]
    request = {**given(options, SOURCE_PARAMETERS), **_shared(options)}
    return make_source_plan(request, tasks, now)


def _shared(options: argparse.Namespace) -> dict[str, object]:
    """The parameters of all tasks."""
    found = given(options, TUNING_PARAMETERS)
    return {name: value for name, value in found.items() if name not in OF_EACH_TASK}


def _by_task(option: str, pairs: Sequence[str], known: dict[str, str] | None = None) -> dict[str, str]:
    """The values of an option by the names of tasks, which are `known`. Raises WrongCommand."""
    found: dict[str, str] = {}
    for pair in pairs:
        name, is_there, value = pair.partition("=")
        if not (name and is_there and value):
            raise WrongCommand(f"{option} {pair} can't be read. Expected: NAME=VALUE")
        if name in found:
            raise WrongCommand(f"{option} has {name} twice. Expected: each task once")
        if known is not None and name not in known:
            raise WrongCommand(f"{option} {pair} is of no task. Expected: one of {', '.join(known)}")
        found[name] = value
    return found


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
