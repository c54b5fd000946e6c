"""caikit-pt: the command line.

Answers go to stdout, all else to stderr. Exit codes: 0 done; 1 the training ended in ERRORED, or the
server refused; 2 the command is wrong; 3 the training was cancelled; 4 the server can't be reached;
130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caikit_pt import comparison, evaluation_report
from caikit_pt.asking import IN_FLIGHT
from caikit_pt.client import (
    CANCELED,
    COMPLETED,
    DEFAULT_ADDRESS,
    ENDED,
    Event,
    ServerError,
    Training,
    TuningClient,
)
from caikit_pt.columns import aligned, cell
from caikit_pt.errors import CaikitPtError, InvalidParameter, InvalidRecord
from caikit_pt.parameters.generation import GENERATION_PARAMETERS
from caikit_pt.parameters.table import Parameter, ParameterTable
from caikit_pt.parameters.tuning import TUNING_PARAMETERS
from caikit_pt.plotting import figure_of, matrix
from caikit_pt.prediction import ERROR, Answers, Inputs, TrainedAgain, predict, written
from caikit_pt.progress_bar import ProgressBar
from caikit_pt.tuning.evaluation import Done
from caikit_pt.tuning.record_fields import Asked
from caikit_pt.tuning.record_file import ENDINGS, rows
from caikit_pt.tuning.records import Records, field_doubts, read_records

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DONE, FAILED, USAGE, WAS_CANCELED, UNREACHABLE, INTERRUPTED = 0, 1, 2, 3, 4, 130
_ENDS = {COMPLETED: DONE, CANCELED: WAS_CANCELED}
_REPORTED = (
    "records",
    "validation_records",
    "updates_per_epoch",
    "updates",
    "source_tokens",
    "target_tokens",
    "seconds",
    "device_memory_bytes",
)
_MOST_IN_FLIGHT = 1000
_SECONDS_BETWEEN_LINES = 5.0
_LENGTHS = ("median", "p90", "p99", "longest", "limit", "cut")
_OF_EVALUATIONS = (
    "against",
    "tuning_task",
    "input_field",
    "output_field",
    "max_new_tokens",
    "truncate_input_tokens",
    "labels_only",
)
_MOST_WRONG = 1_000_000
_PICTURE = ".png"
_FROM = "prompt_tuning_init_prompt"
# Not as the table has them: spelt otherwise, or not at all.
_OF_EVERY_TRAINING = ("base_model", "silence_progress_bars", _FROM)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except ServerError as error:
        print(f"{error.status}: {error}", file=sys.stderr)
        return UNREACHABLE if error.status == "UNAVAILABLE" else FAILED
    except _Wrong as error:
        print(f"caikit-pt: {error}", file=sys.stderr)
        return USAGE
    except BrokenPipeError:
        return DONE
    except KeyboardInterrupt:
        return INTERRUPTED


class _Wrong(Exception):
    """A command that can't be carried out as it stands."""


# ---- commands ----


def _serve(_: argparse.Namespace) -> int:
    from caikit_pt.runtime.launcher import serve

    serve()
    return DONE


def _health(options: argparse.Namespace) -> int:
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(options.server) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        except grpc.RpcError as error:
            raise ServerError(
                "UNAVAILABLE", f"{options.server} doesn't answer ({error.code().name})"
            ) from error
    print(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
    return DONE if answer.status == health_pb2.HealthCheckResponse.SERVING else FAILED


def _tune(options: argparse.Namespace) -> int:
    request = _request(options)
    with TuningClient(options.server) as client:
        id = client.tune(options.model_name, training_id=options.id, **request)
        if options.detach:
            print(json.dumps({"training_id": id}) if options.json else id)
            return DONE
        if not options.json:
            print(f"training {id}", file=sys.stderr, flush=True)
        return _followed(client, id, 0, options)


def _watch(options: argparse.Namespace) -> int:
    with TuningClient(options.server) as client:
        return _followed(client, options.training_id, options.from_event, options)


def _list(options: argparse.Namespace) -> int:
    with TuningClient(options.server) as client:
        found = client.trainings(options.state or (), options.model_name or "", options.since, options.until)
        if options.json:
            for training in found:
                print(_json(_known(training)), flush=True)
            return DONE
        rows = [
            (one.training_id, one.state, one.model_name, one.base_model, _time(one.submitted), _where(one))
            for one in found
        ]
    _print_table(("TRAINING", "STATE", "MODEL", "BASE MODEL", "SUBMITTED", ""), rows)
    return DONE


def _show(options: argparse.Namespace) -> int:
    with TuningClient(options.server) as client:
        training = client.training(options.training_id)
    if options.json:
        print(_json(asdict(training)))
        return DONE
    origins = training.parameters.get("origins", {})
    print(f"{training.training_id}  {training.state}  {training.model_name}  {_where(training)}".rstrip())
    for name in ("submitted", "started", "ended"):
        print(f"{name:10} {_time(getattr(training, name))}")
    print(f"published  {training.path}")
    for reason in training.reasons:
        print(f"- {reason}")
    print()
    names = [parameter.name for parameter in TUNING_PARAMETERS if parameter.name in training.parameters]
    _print_table(
        ("PARAMETER", "VALUE", "FROM"),
        [(name, _plain(training.parameters[name]), origins.get(name, "")) for name in names],
    )
    return DONE


def _cancel(options: argparse.Namespace) -> int:
    with TuningClient(options.server) as client:
        state = client.cancel(options.training_id)
    print(_json({"training_id": options.training_id, "state": state}) if options.json else state)
    return DONE if state == CANCELED else FAILED


def _generate(options: argparse.Namespace) -> int:
    text = sys.stdin.read() if options.text == "-" else options.text
    parameters = _set(options, GENERATION_PARAMETERS)
    with TuningClient(options.server) as client:
        if options.json:
            print(_json(client.answer(options.model_name, text, **parameters)))
            return DONE
        for part in client.stream(options.model_name, text, **parameters):
            print(part, end="", flush=True)
    print()
    return DONE


def _predict(options: argparse.Namespace) -> int:
    inputs = Inputs(options.input, options.input_field or "")
    parameters = _set(options, GENERATION_PARAMETERS)
    try:
        checked = inputs.checked
        for file in written(options.out):
            if file.exists() and file.samefile(options.input):
                raise _Wrong(f"{file} is the file of records: answers need another")
        with TuningClient(options.server) as client:
            run = {
                "model_name": options.model_name,
                "training_id": client.trained_by(options.model_name),
                "parameters": parameters,
                "input_field": inputs.field,
                "input_sha256": inputs.sha256,
            }
            answers = Answers(options.out, run, checked, client.answer_fields)
            client.check_predict(options.model_name, **parameters)
            return _answered(client, inputs, answers, checked.count, parameters, options)
    except InvalidParameter as error:
        raise _Wrong(_in_file(options.input, error) if isinstance(error, InvalidRecord) else error) from None
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _Wrong(f"{options.out} can't be written ({error.strerror or error})") from error


def _answered(
    client: TuningClient,
    inputs: Inputs,
    answers: Answers,
    count: int,
    parameters: Mapping[str, Any],
    options: argparse.Namespace,
) -> int:
    """Ctrl-C, or a server that is gone, leaves what there is; the same command goes on from there."""
    with closing(answers):
        answers.open()
        tell = _Answered(answers.done, count)
        try:
            predict(
                client, options.model_name, inputs, answers, options.in_flight, parameters, tell.lost, tell
            )
        except (KeyboardInterrupt, ServerError, OSError):
            tell.close()
            told = f"{answers.done} of {count} answers are in {options.out}"
            print(f"{told}; the same command goes on from there", file=sys.stderr)
            raise
        except TrainedAgain as error:
            tell.close()
            print(f"{error}. To begin anew, remove {options.out}", file=sys.stderr)
            return FAILED
        tell.close()
    if answers.errors:
        told = f"{answers.errors} of {count} records have no answer; why not is the {ERROR} of their line"
        print(told, file=sys.stderr)
    summary = {"answers": count - answers.errors, "errors": answers.errors, "out": str(options.out)}
    print(_json(summary) if options.json else options.out)
    return FAILED if answers.errors else DONE


class _Answered:
    """How far answers have come: a bar on a terminal, else a line every few seconds and one at the end."""

    def __init__(self, done: int, count: int) -> None:
        self._done, self._began_with, self._count = done, done, count
        self._began = time.monotonic()
        self._next = self._began + _SECONDS_BETWEEN_LINES
        self._bar: Any = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=count, initial=done, unit="answer", file=sys.stderr, dynamic_ncols=True)

    def __call__(self) -> None:
        self._done += 1
        if self._bar is not None:
            self._bar.update()
        elif time.monotonic() >= self._next or self._done == self._count:
            self._next = time.monotonic() + _SECONDS_BETWEEN_LINES
            rate = (self._done - self._began_with) / max(1e-9, time.monotonic() - self._began)
            left = (self._count - self._done) / rate
            print(
                f"{self._done} of {self._count} answers, {rate:.3g}/s, about {left:.0f} s to go",
                file=sys.stderr,
                flush=True,
            )

    def lost(self, error: CaikitPtError) -> None:
        """The server is gone for now."""
        if self._bar is not None:
            self._bar.clear()
        _tell_lost(error)

    def close(self) -> None:
        """Leaves it as it is."""
        if self._bar is not None:
            self._bar.close()


def _check(options: argparse.Namespace) -> int:
    with TuningClient(options.server) as client:
        report = client.check(options.model_name, **_request(options))
    if options.json:
        print(_json(report))
        return DONE
    for name in _REPORTED:
        print(f"{name:22} {_reported(report[name])}")
    for warning in report.get("warnings", ()):
        print(f"- {warning}")
    return DONE


def _plot(options: argparse.Namespace) -> int:
    _check_picture(options.output)
    with TuningClient(options.server) as client:
        training = client.training(options.training_id)
    output = options.output or Path(f"{training.training_id}.png")
    _draw(training.plot(), output)
    print(output)
    return DONE


def _evaluate(options: argparse.Namespace) -> int:
    if options.wrong:
        _check_writable(options.wrong)
    asked = Asked(options.input_field or "", options.output_field or "")
    request = {name: getattr(options, name) for name in _OF_EVALUATIONS}
    if options.matrix:
        _check_picture(options.matrix)
        request["tuning_task"] = options.tuning_task or "classification"
    if options.test:
        request["records"] = _records(options.test, "test_stream", asked)
    with TuningClient(options.server) as client, _AnswersBar() as show:
        report = client.evaluate(
            options.model_name,
            file=options.test_on_server or "",
            on_progress=show,
            wrong_answers=_MOST_WRONG if options.wrong else None,
            **request,
        )
    wrong = report.pop("wrong", ())
    if options.wrong:
        _write(options.wrong, "".join(f"{_json(one)}\n" for one in wrong))
    if options.json:
        print(_json(report))
    else:
        print("\n".join(evaluation_report.lines(options.model_name, report)))
    if options.matrix and report["confusion"]:
        figure = matrix(report["confusion"], f"{options.model_name}, {report['records']} records")
        _draw(figure, options.matrix)
    return DONE


def _compare(options: argparse.Namespace) -> int:
    if len(set(options.training_id)) < 2:
        raise _Wrong("compare takes the ids of two trainings or more")
    if options.output:
        _check_picture(options.output)
    with TuningClient(options.server) as client:
        trainings = [client.training(id) for id in dict.fromkeys(options.training_id)]
    found = comparison.comparison(trainings)
    print(_json(found) if options.json else "\n".join(comparison.lines(found)))
    if options.output:
        curves = {f"{one.model_name} ({one.training_id})": one.points for one in trainings}
        _draw(figure_of(curves, ""), options.output)
    return DONE


# ---- a training that is watched ----


def _followed(client: TuningClient, id: str, from_event: int, options: argparse.Namespace) -> int:
    """Shows events until the end. Ctrl-C leaves the training running."""
    bar = ProgressBar() if sys.stderr.isatty() and not options.json else None
    show = bar.show if bar else _as_json if options.json else _as_line
    try:
        for event in client.watch(id, from_event, _tell_lost):
            # Reasons stand below, a line each.
            if options.json or event.state not in ENDED:
                show(event)
    except KeyboardInterrupt:
        print(f"\nThe training goes on. Watch it again: caikit-pt watch {id}", file=sys.stderr)
        return INTERRUPTED
    finally:
        if bar:
            bar.close()
    training = client.training(id)
    if not options.json:
        for reason in training.reasons:
            print(reason, file=sys.stderr)
        print(training.state)
    return _ENDS.get(training.state, FAILED)


def _tell_lost(error: CaikitPtError) -> None:
    print(
        f"The server doesn't answer, and is asked again every second ({error.status})",
        file=sys.stderr,
        flush=True,
    )


def _as_json(event: Event) -> None:
    print(_json(_known(event)), flush=True)


def _as_line(event: Event) -> None:
    print(f"{event.time:%H:%M:%S} {event}", file=sys.stderr, flush=True)


class _AnswersBar:
    """How far an evaluation is: a bar on a terminal, in a pipe a line now and then."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._told = 0.0

    def __enter__(self) -> _AnswersBar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, at: Done) -> None:
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = self._bar or tqdm(unit="answer", file=sys.stderr, dynamic_ncols=True)
            self._bar.total, self._bar.n = at.of, at.done
            self._bar.refresh()
        elif at.seconds - self._told >= _SECONDS_BETWEEN_LINES or at.done == at.of:
            self._told = at.seconds
            print(at, file=sys.stderr, flush=True)


# ---- options ----


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="caikit-pt", description="Tune soft prompts and ask them.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], help: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=help, description=help)
        added.set_defaults(run=run)
        if name != "serve":
            added.add_argument(
                "--server",
                type=_address,
                default=DEFAULT_ADDRESS,
                metavar="HOST:PORT",
                help=f"{DEFAULT_ADDRESS} by default",
            )
            added.add_argument("--json", action="store_true", help="JSON on stdout, an object a line")
        return added

    command("serve", _serve, "run the server, with the settings of CONFIG_FILES")
    tune = command("tune", _tune, "tune a prompt, and watch how it goes")
    _add_request(tune)
    tune.add_argument("--id", help="an id of your own: submitted twice, it is one training")
    tune.add_argument("--detach", action="store_true", help="print the id, and don't watch")
    watch = command("watch", _watch, "watch a training until it has ended")
    watch.add_argument("training_id")
    watch.add_argument("--from-event", type=int, default=0, metavar="N", help="what happened behind event N")
    listed = command("list", _list, "the trainings, the latest first")
    listed.add_argument("--state", action="append", help="only these; can be repeated")
    listed.add_argument("--model-name")
    for name in ("--since", "--until"):
        listed.add_argument(name, type=datetime.fromisoformat, metavar="TIME", help="of submission, UTC")
    command("show", _show, "all that is known of a training").add_argument("training_id")
    command("cancel", _cancel, "end a training").add_argument("training_id")
    generate = command("generate", _generate, "ask a tuned prompt")
    generate.add_argument("model_name")
    generate.add_argument("text", help="- for stdin")
    _add(generate, GENERATION_PARAMETERS, ("preserve_input_text",))
    predicted = command("predict", _predict, "ask a tuned prompt every record of a file")
    predicted.add_argument("model_name")
    predicted.add_argument(
        "--in", dest="input", type=Path, required=True, metavar="FILE", help=f"records: {', '.join(ENDINGS)}"
    )
    predicted.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help=".jsonl or .csv; one that was begun is gone on with",
    )
    predicted.add_argument("--input-field", help=_help(TUNING_PARAMETERS["input_field"]))
    predicted.add_argument(
        "--in-flight", type=_count, default=IN_FLIGHT, metavar="N", help=f"requests at a time; {IN_FLIGHT}"
    )
    _add(predicted, GENERATION_PARAMETERS, ("preserve_input_text",))
    check = command("check", _check, "what a training would do, without doing it")
    _add_request(check)
    plot = command("plot", _plot, "write the loss curves as PNG")
    plot.add_argument("training_id")
    plot.add_argument("-o", "--output", type=Path)
    command("health", _health, "whether the server is ready")
    _add_evaluation(command("evaluate", _evaluate, "what a tuned prompt is worth on test records"))
    compare = command("compare", _compare, "trainings side by side")
    compare.add_argument("training_id", nargs="+")
    compare.add_argument("-o", "--output", type=Path, metavar="PNG", help="their loss curves in one plot")
    return parser


def _add_request(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model_name")
    parser.add_argument("--base-model", help=_help(TUNING_PARAMETERS["base_model"]))
    parser.add_argument(
        "--from",
        dest=_FROM,
        metavar="NAME",
        help=_help(TUNING_PARAMETERS[_FROM]),
    )
    for name, what in (("train", "to train on"), ("validation", "to validate with")):
        group = parser.add_mutually_exclusive_group(required=name == "train")
        group.add_argument(
            f"--{name}", type=Path, metavar="FILE", help=f"records {what}: {', '.join(ENDINGS)}; sent along"
        )
        group.add_argument(f"--{name}-on-server", metavar="FILE", help="in the server's file_source_base")
    _add(parser, TUNING_PARAMETERS, _OF_EVERY_TRAINING)


def _add_evaluation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model_name")
    group = parser.add_mutually_exclusive_group(required=True)
    endings = ", ".join(ENDINGS)
    group.add_argument("--test", type=Path, metavar="FILE", help=f"records: {endings}; sent along")
    group.add_argument("--test-on-server", metavar="FILE", help="in the server's file_source_base")
    parser.add_argument("--against", metavar="OTHER", help="another tuned prompt, on whatever base model")
    parser.add_argument("--wrong", type=Path, metavar="FILE", help="write wrong answers here, as JSON lines")
    parser.add_argument(
        "--matrix", type=Path, metavar="PNG", help="draw the confusion matrix; outputs are labels then"
    )
    parser.add_argument(
        "--tuning-task",
        choices=TUNING_PARAMETERS["tuning_task"].choices,
        help="what the records are for, by default as in the training",
    )
    for name in ("input_field", "output_field"):
        parser.add_argument(f"--{name.replace('_', '-')}", help=_help(TUNING_PARAMETERS[name]))
    parser.add_argument(
        "--max-new-tokens", type=int, help="of an answer; by default what the longest expected output needs"
    )
    for name, kind in (("truncate_input_tokens", int), ("labels_only", _boolean)):
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help=_help(GENERATION_PARAMETERS[name]))


def _add(parser: argparse.ArgumentParser, table: ParameterTable, besides: Iterable[str]) -> None:
    group = parser.add_argument_group("parameters (docs/parameters.md)")
    for parameter in table:
        if parameter.name not in besides:
            group.add_argument(
                f"--{parameter.name.replace('_', '-')}",
                dest=parameter.name,
                type=_boolean if parameter.kind is bool else parameter.kind,
                nargs="+" if parameter.many else None,
                choices=parameter.choices or None,
                metavar=None if parameter.choices else parameter.kind.__name__.upper(),
                help=_help(parameter),
            )


def _help(parameter: Parameter) -> str:
    return parameter.meaning.replace("%", "%%")


def _address(text: str) -> str:
    if not re.fullmatch(r"(?:[^\s:/\[\]]+|\[[^\s/\[\]]+\]):[0-9]{1,5}", text):
        raise argparse.ArgumentTypeError(
            f"HOST:PORT is expected, such as {DEFAULT_ADDRESS}, and not {text!r}"
        )
    return text


def _count(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= _MOST_IN_FLIGHT:
        raise argparse.ArgumentTypeError(f"1 to {_MOST_IN_FLIGHT}")
    return int(text)


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError("true or false")
    return text.lower() == "true"


def _set(options: argparse.Namespace, table: ParameterTable) -> dict[str, Any]:
    found = {parameter.name: getattr(options, parameter.name, None) for parameter in table}
    return {name: value for name, value in found.items() if value is not None}


def _request(options: argparse.Namespace) -> dict[str, Any]:
    if not (options.base_model or getattr(options, _FROM)):
        raise _Wrong("--base-model is needed, or the tuned prompt to go on from: --from")
    request = {**_set(options, TUNING_PARAMETERS), "file": options.train_on_server or ""}
    asked = Asked(options.input_field or "", options.output_field or "")
    if options.train:
        request["records"] = _records(options.train, "train_stream", asked)
    if options.validation:
        request["validation_records"] = _records(options.validation, "val_stream", asked)
    return {**request, "validation_file": options.validation_on_server or ""}


def _records(file: Path, stream: str, asked: Asked) -> Records:
    """Raises _Wrong."""
    try:
        records = read_records(rows(file, str(file)), stream, asked)
    except InvalidRecord as error:
        raise _Wrong(_in_file(file, error)) from None
    for doubt in field_doubts(records):
        print(f"{file}: {doubt}", file=sys.stderr)
    return records


def _in_file(file: Path, error: InvalidRecord) -> str:
    told = str(error.value)
    return f"{told if told.startswith(str(file)) else f'{file}: {told}'}. Expected: {error.allowed}"


# ---- output ----


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _known(value: Any) -> dict[str, Any]:
    return {name: found for name, found in asdict(value).items() if found not in (None, "", {}, [])}


def _where(training: Training) -> str:
    at = training.progress
    if training.state == "QUEUED":
        return f"{training.queued_before} before it"
    if at is None or training.ended:
        return ""
    return f"update {at.step} of {at.steps}, about {at.eta_seconds:.0f} s to go"


def _time(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}" if moment else "-"


def _reported(value: Any) -> str:
    return ", ".join(f"{name} {value[name]}" for name in _LENGTHS) if isinstance(value, dict) else str(value)


def _plain(value: Any) -> str:
    return cell(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    for line in aligned(head, rows):
        print(line)


# ---- files ----


def _check_picture(file: Path | None) -> None:
    """Raises _Wrong where none can be drawn, or written to `file`: before anything is asked for."""
    if find_spec("matplotlib") is None:
        raise _Wrong("plots need matplotlib: install caikit-pt[plot]")
    if file is not None:
        _check_writable(file)
        if file.suffix.lower() != _PICTURE:
            raise _Wrong(f"{file} can't be drawn: pictures are PNG, in files whose names end in {_PICTURE}")


def _check_writable(file: Path) -> None:
    """Raises _Wrong where it can't be written: before anything is asked for."""
    if (
        file.is_dir()
        or not file.parent.is_dir()
        or not os.access(file if file.exists() else file.parent, os.W_OK)
    ):
        raise _Wrong(f"{file} can't be written: name a file in a directory that there is, and that is yours")


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, "utf-8")
    except OSError as error:
        raise _Wrong(f"{file} can't be written: {error.strerror}") from error


def _draw(figure: Figure, file: Path) -> None:
    try:
        figure.savefig(file, format="png", dpi=120)
    except OSError as error:
        raise _Wrong(f"{file} can't be written: {error.strerror}") from error


if __name__ == "__main__":
    sys.exit(main())
