"""`evaluate`, `compare` and `plot`: what trainings have come to."""

from __future__ import annotations

import argparse
from pathlib import Path

from caikit_pt import comparison, evaluation_report
from caikit_pt.commands.connecting import connected
from caikit_pt.commands.files import check_picture, check_writable, draw, records_of, write
from caikit_pt.commands.naming import NAMED, training_of
from caikit_pt.commands.options import Commands, boolean, help_of
from caikit_pt.commands.outcome import DONE, WrongCommand
from caikit_pt.commands.output import as_json
from caikit_pt.parameters.generation import GENERATION_PARAMETERS
from caikit_pt.parameters.tuning import TUNING_PARAMETERS
from caikit_pt.plotting import figure_of, matrix
from caikit_pt.progress_bar import AnswersBar
from caikit_pt.tuning.record_fields import Asked
from caikit_pt.tuning.record_file import ENDINGS

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


def add_to(commands: Commands) -> None:
    """All of them."""
    plot = commands.ask("plot", _plot, "write the loss curves as PNG")
    plot.add_argument("training_id", help=NAMED)
    plot.add_argument("-o", "--output", type=Path)
    _add_evaluation(commands.ask("evaluate", _evaluate, "what a tuned prompt is worth on test records"))
    compare = commands.ask("compare", _compare, "trainings side by side")
    compare.add_argument("training_id", nargs="+", help=NAMED)
    compare.add_argument("-o", "--output", type=Path, metavar="PNG", help="their loss curves in one plot")


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
        parser.add_argument(f"--{name.replace('_', '-')}", help=help_of(TUNING_PARAMETERS[name]))
    parser.add_argument(
        "--max-new-tokens", type=int, help="of an answer; by default what the longest expected output needs"
    )
    for name, kind in (("truncate_input_tokens", int), ("labels_only", boolean)):
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=kind, help=help_of(GENERATION_PARAMETERS[name])
        )


def _plot(options: argparse.Namespace) -> int:
    check_picture(options.output)
    with connected(options) as client:
        training = training_of(client, options.training_id)
    output = options.output or Path(f"{training.training_id}.png")
    draw(training.plot(), output)
    print(output)
    return DONE


def _evaluate(options: argparse.Namespace) -> int:
    if options.wrong:
        check_writable(options.wrong)
    asked = Asked(options.input_field or "", options.output_field or "")
    request = {name: getattr(options, name) for name in _OF_EVALUATIONS}
    if options.matrix:
        check_picture(options.matrix)
        request["tuning_task"] = options.tuning_task or "classification"
    if options.test:
        request["records"] = records_of(options.test, "test_stream", asked)
    with connected(options) as client, AnswersBar() as bar:
        report = client.evaluate(
            options.model_name,
            file=options.test_on_server or "",
            on_progress=lambda at: bar.show(at.done, at.of, str(at)),
            wrong_answers=_MOST_WRONG if options.wrong else None,
            **request,
        )
    wrong = report.pop("wrong", ())
    if options.wrong:
        write(options.wrong, "".join(f"{as_json(one)}\n" for one in wrong))
    if options.json:
        print(as_json(report))
    else:
        print("\n".join(evaluation_report.lines(options.model_name, report)))
    if options.matrix and report["confusion"]:
        figure = matrix(report["confusion"], f"{options.model_name}, {report['records']} records")
        draw(figure, options.matrix)
    return DONE


def _compare(options: argparse.Namespace) -> int:
    if len(set(options.training_id)) < 2:
        raise WrongCommand("compare takes the ids of two trainings or more")
    if options.output:
        check_picture(options.output)
    with connected(options) as client:
        trainings = [training_of(client, named) for named in dict.fromkeys(options.training_id)]
    found = comparison.comparison(trainings)
    print(as_json(found) if options.json else "\n".join(comparison.lines(found)))
    if options.output:
        curves = {f"{one.model_name} ({one.training_id})": one.points for one in trainings}
        draw(figure_of(curves, ""), options.output)
    return DONE
