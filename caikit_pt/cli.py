"""caikit-pt: the command line.

Answers go to stdout, all else to stderr. Exit codes: 0 done; 1 the training ended in ERRORED, or the
server refused; 2 the command is wrong; 3 the training was cancelled; 4 the server can't be reached;
130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

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
from caikit_pt.errors import InvalidRecord
from caikit_pt.parameters.generation import GENERATION_PARAMETERS
from caikit_pt.parameters.table import Parameter, ParameterTable
from caikit_pt.parameters.tuning import TUNING_PARAMETERS
from caikit_pt.plotting import PlotsUnavailable
from caikit_pt.progress_bar import ProgressBar
from caikit_pt.tuning.record_fields import Asked
from caikit_pt.tuning.record_file import ENDINGS, rows
from caikit_pt.tuning.records import Records, field_doubts, read_records

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
_LENGTHS = ("median", "p90", "p99", "longest", "limit", "cut")
_OF_EVERY_TRAINING = ("base_model", "silence_progress_bars")


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
            print(_json({"generated_text": client.generate(options.model_name, text, **parameters)}))
            return DONE
        for part in client.stream(options.model_name, text, **parameters):
            print(part, end="", flush=True)
    print()
    return DONE


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
    with TuningClient(options.server) as client:
        training = client.training(options.training_id)
    output = options.output or Path(f"{training.training_id}.png")
    try:
        training.plot().savefig(output, dpi=120)
    except PlotsUnavailable as error:
        raise _Wrong(str(error)) from error
    print(output)
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


def _tell_lost(error: ServerError) -> None:
    print(
        f"The server doesn't answer, and is asked again every second ({error.status})",
        file=sys.stderr,
        flush=True,
    )


def _as_json(event: Event) -> None:
    print(_json(_known(event)), flush=True)


def _as_line(event: Event) -> None:
    print(f"{event.time:%H:%M:%S} {event}", file=sys.stderr, flush=True)


# ---- options ----


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="caikit-pt", description="Tune soft prompts and ask them.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], help: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=help, description=help)
        added.set_defaults(run=run)
        if name != "serve":
            added.add_argument("--server", default=DEFAULT_ADDRESS, metavar="HOST:PORT")
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
    check = command("check", _check, "what a training would do, without doing it")
    _add_request(check)
    plot = command("plot", _plot, "write the loss curves as PNG")
    plot.add_argument("training_id")
    plot.add_argument("-o", "--output", type=Path)
    command("health", _health, "whether the server is ready")
    return parser


def _add_request(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model_name")
    parser.add_argument("--base-model", required=True)
    for name, what in (("train", "to train on"), ("validation", "to validate with")):
        group = parser.add_mutually_exclusive_group(required=name == "train")
        group.add_argument(
            f"--{name}", type=Path, metavar="FILE", help=f"records {what}: {', '.join(ENDINGS)}; sent along"
        )
        group.add_argument(f"--{name}-on-server", metavar="FILE", help="in the server's file_source_base")
    _add(parser, TUNING_PARAMETERS, _OF_EVERY_TRAINING)


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


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError("true or false")
    return text.lower() == "true"


def _set(options: argparse.Namespace, table: ParameterTable) -> dict[str, Any]:
    found = {parameter.name: getattr(options, parameter.name, None) for parameter in table}
    return {name: value for name, value in found.items() if value is not None}


def _request(options: argparse.Namespace) -> dict[str, Any]:
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
        told = str(error.value)
        told = told if told.startswith(str(file)) else f"{file}: {told}"
        raise _Wrong(f"{told}. Expected: {error.allowed}") from None
    for doubt in field_doubts(records):
        print(f"{file}: {doubt}", file=sys.stderr)
    return records


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
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    sys.exit(main())
