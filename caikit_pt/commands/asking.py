"""`generate` and `predict`: questions to a tuned prompt."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from caikit_pt.asking import IN_FLIGHT
from caikit_pt.client import ServerError, TuningClient
from caikit_pt.commands.connecting import connected
from caikit_pt.commands.files import in_file
from caikit_pt.commands.following import tell_lost
from caikit_pt.commands.options import Commands, add_table, count, given, help_of
from caikit_pt.commands.outcome import DONE, FAILED, WrongCommand
from caikit_pt.commands.output import as_json
from caikit_pt.errors import CaikitPtError, InvalidParameter, InvalidRecord
from caikit_pt.parameters.generation import GENERATION_PARAMETERS
from caikit_pt.parameters.tuning import TUNING_PARAMETERS
from caikit_pt.prediction import ERROR, Answers, Inputs, TrainedAgain, predict, written
from caikit_pt.progress_bar import AnswersBar
from caikit_pt.tuning.record_file import ENDINGS

# What makes no difference to what is printed, or takes the place of a text.
_NOT_OF_TEXTS = ("preserve_input_text", "input_ids")


def add_to(commands: Commands) -> None:
    """Both."""
    generate = commands.ask("generate", _generate, "ask a tuned prompt")
    generate.add_argument("model_name")
    generate.add_argument("text", help="- for stdin")
    add_table(generate, GENERATION_PARAMETERS, _NOT_OF_TEXTS)
    _add_prediction(commands.ask("predict", _predict, "ask a tuned prompt every record of a file"))


def _add_prediction(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model_name")
    parser.add_argument(
        "--in", dest="input", type=Path, required=True, metavar="FILE", help=f"records: {', '.join(ENDINGS)}"
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help=".jsonl or .csv; one that was begun is gone on with",
    )
    parser.add_argument("--input-field", help=help_of(TUNING_PARAMETERS["input_field"]))
    parser.add_argument(
        "--in-flight", type=count, default=IN_FLIGHT, metavar="N", help=f"requests at a time; {IN_FLIGHT}"
    )
    add_table(parser, GENERATION_PARAMETERS, _NOT_OF_TEXTS)


def _generate(options: argparse.Namespace) -> int:
    text = sys.stdin.read() if options.text == "-" else options.text
    parameters = given(options, GENERATION_PARAMETERS)
    with connected(options) as client:
        if options.json:
            print(as_json(client.answer(options.model_name, text, **parameters)))
            return DONE
        for part in client.stream(options.model_name, text, **parameters):
            print(part, end="", flush=True)
    print()
    return DONE


def _predict(options: argparse.Namespace) -> int:
    inputs = Inputs(options.input, options.input_field or "")
    parameters = given(options, GENERATION_PARAMETERS)
    try:
        checked = inputs.checked
        for file in written(options.out):
            if file.exists() and file.samefile(options.input):
                raise WrongCommand(f"{file} is the file of records: answers need another")
        with connected(options) as client:
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
    except InvalidRecord as error:
        raise WrongCommand(in_file(options.input, error)) from None
    except InvalidParameter as error:
        raise WrongCommand(str(error)) from None
    except BrokenPipeError:
        raise
    except OSError as error:
        raise WrongCommand(f"{options.out} can't be written ({error.strerror or error})") from error


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
        try:
            _ask(client, inputs, answers, count, parameters, options)
        except (KeyboardInterrupt, ServerError, OSError):
            told = f"{answers.done} of {count} answers are in {options.out}"
            print(f"{told}; the same command goes on from there", file=sys.stderr)
            raise
        except TrainedAgain as error:
            print(f"{error}. To begin anew, remove {options.out}", file=sys.stderr)
            return FAILED
    if answers.errors:
        told = f"{answers.errors} of {count} records have no answer; why not is the {ERROR} of their line"
        print(told, file=sys.stderr)
    summary = {"answers": count - answers.errors, "errors": answers.errors, "out": str(options.out)}
    print(as_json(summary) if options.json else options.out)
    return FAILED if answers.errors else DONE


def _ask(
    client: TuningClient,
    inputs: Inputs,
    answers: Answers,
    count: int,
    parameters: Mapping[str, Any],
    options: argparse.Namespace,
) -> None:
    """Raises what `predict` does."""
    with AnswersBar(answers.done, count) as bar:

        def lost(error: CaikitPtError) -> None:
            bar.clear()
            tell_lost(error)

        def show() -> None:
            bar.show(answers.done, count)

        predict(client, options.model_name, inputs, answers, options.in_flight, parameters, lost, show)
