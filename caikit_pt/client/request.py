"""What a client asks for, as messages: records and parameters, looked through before they are sent."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from caikit_pt.client.server_error import ServerError
from caikit_pt.errors import InvalidParameter, InvalidRecord
from caikit_pt.parameters.table import Parameter
from caikit_pt.parameters.tuning import TUNING_PARAMETERS, task_by_name
from caikit_pt.training import Training
from caikit_pt.tuning.record_fields import Asked
from caikit_pt.tuning.record_file import rows
from caikit_pt.tuning.records import Records, field_doubts, read_records

_LOG = logging.getLogger(__name__)
GivenRecords = Iterable[Mapping[str, Any]] | Path | Records
# Training records may come inline, and answers be long.
MESSAGE_BYTES = 2**26
# What a request has besides the parameters of a training.
_OF_A_REQUEST = ("base_model", "records", "file", "validation_records", "validation_file", "training_id")


def id_of(training: str | Training) -> str:
    """Raises InvalidParameter for what is neither an id nor a Training."""
    if isinstance(training, Training):
        return training.training_id
    if not isinstance(training, str):
        raise InvalidParameter("training_id", training, "the id of a training, or a Training")
    return training


def request_of(
    base_model: str = "",
    records: GivenRecords | None = None,
    file: str = "",
    validation_records: GivenRecords | None = None,
    validation_file: str = "",
    **parameters: Any,
) -> dict[str, Any]:
    """The parameters of a train request as JSON has them.

    Records go along with the request (mappings, or the Path of a file here), or lie in a `file` under the
    server's `file_source_base`; `input_field` and `output_field` name their fields where those are others
    than README's Data has. `parameters` are those of docs/parameters.md, those of tuning_config among
    them; with `prompt_tuning_init_prompt` the `base_model` may be left out. Raises InvalidParameter.
    """
    asked = Asked(parameters.get("input_field") or "", parameters.get("output_field") or "")
    told: dict[str, Any] = {"base_model": base_model} if base_model else {}
    told["train_stream"] = stream_of(records, file, "train_stream", asked)
    if validation_records is not None or validation_file:
        told["val_stream"] = stream_of(validation_records, validation_file, "val_stream", asked)
    config: dict[str, Any] = {}
    paths = {parameter.name: parameter.path for parameter in TUNING_PARAMETERS}
    for name, value in task_by_name(parameters).items():
        if value is not None:
            (config if paths.get(name) else told)[name] = value
    return {**told, "tuning_config": config}


def stream_of(records: GivenRecords | None, file: str, stream: str, asked: Asked) -> dict[str, Any]:
    """A source of records, as JSON has it. Raises InvalidParameter, for a record InvalidRecord."""
    if file and records is not None:
        raise InvalidParameter(stream, file, "records or a file on the server, and not both")
    if file:
        return {"file": {"filename": file}}
    if not isinstance(records, Records):
        given = rows(records, str(records)) if isinstance(records, Path) else _given(records, stream)
        records = read_records(given, stream, asked)
        for doubt in field_doubts(records):
            _LOG.warning(doubt)
    data = [{"input": record.input, "output": record.output} for record in records.items]
    return {"jsondata": {"data": data}}


def _given(records: Iterable[Any] | None, stream: str) -> Iterator[Any]:
    """Raises InvalidRecord for what holds none."""
    allowed = "a pathlib.Path, or records, such as [{'input': TEXT, 'output': TEXT}]"
    if isinstance(records, (str, bytes, Mapping)) or not isinstance(records, Iterable | None):
        raise InvalidRecord(stream, f"a value of type {type(records).__name__}", allowed)
    for number, record in enumerate(records or (), start=1):
        if (
            not isinstance(record, Mapping)
            and not hasattr(record, "output")
            and not hasattr(record, "labels")
        ):
            found = f"record {number}, a value of type {type(record).__name__},"
            raise InvalidRecord(stream, found, allowed)
        yield record


def cancel_message(training_id: str | Training) -> Any:
    """The request to end a training, which is caikit's."""
    from caikit.interfaces.runtime.data_model import TrainingInfoRequest

    return TrainingInfoRequest(training_id=id_of(training_id)).to_proto()


def evaluation_message(
    model_name: str, records: GivenRecords | None, file: str, request: Mapping[str, Any]
) -> Any:
    """An EvaluateRequest, records and all. Raises ServerError."""
    from google.protobuf import json_format

    from caikit_pt.runtime.tuning_messages import EvaluateRequest

    asked = Asked(request.get("input_field") or "", request.get("output_field") or "")
    told = {name: value for name, value in request.items() if value is not None}
    try:
        told["test_stream"] = stream_of(records, file, "test_stream", asked)
        message = json_format.ParseDict(
            {"model_name": model_name, **told}, EvaluateRequest.get_proto_class()()
        )
    except (json_format.ParseError, InvalidParameter) as error:
        raise ServerError("INVALID_ARGUMENT", str(error)) from error
    return small_enough(message)


def small_enough(message: Any) -> Any:
    """`message`, which may be sent. Raises ServerError."""
    if message.ByteSize() > MESSAGE_BYTES:
        raise ServerError(
            "RESOURCE_EXHAUSTED",
            f"The records take {message.ByteSize() / 2**20:.0f} MiB, and a request may have "
            f"{MESSAGE_BYTES // 2**20}: name a file in the server's file_source_base instead",
        )
    return message


def train_message(kind: Any, model_name: str, request: Mapping[str, Any]) -> Any:
    """A message of class `kind` with what `request_of` takes. Raises ServerError."""
    from google.protobuf import json_format

    message = kind()
    try:
        _check_names(request)
        json_format.ParseDict({"model_name": model_name, "parameters": request_of(**request)}, message)
    except InvalidParameter as error:
        raise ServerError("INVALID_ARGUMENT", str(error)) from error
    except json_format.ParseError as error:
        raise ServerError("INVALID_ARGUMENT", str(_culprit(kind, request) or error)) from error
    return small_enough(message)


def _check_names(request: Mapping[str, Any]) -> None:
    """Raises InvalidParameter for a name that is no parameter's."""
    known = [*_OF_A_REQUEST, *(parameter.name for parameter in TUNING_PARAMETERS)]
    for name, value in request.items():
        if name not in known:
            likely = get_close_matches(name, known, 1)
            allowed = f"is it {likely[0]}?" if likely else "those of docs/parameters.md"
            raise InvalidParameter(name, value, f"no parameter has this name; {allowed}")


def _culprit(kind: Any, request: Mapping[str, Any]) -> InvalidParameter | None:
    """What a message of class `kind` has no room for."""
    for parameter in TUNING_PARAMETERS:
        value = request.get(parameter.name)
        if value is not None and not has_room(kind, parameter, value):
            return InvalidParameter(parameter.field, value, parameter.allowed())
    return None


def has_room(kind: Any, parameter: Parameter, value: Any) -> bool:
    """Whether a train request of class `kind` can hold `value`; whether it may is the server's to say."""
    from google.protobuf import json_format

    inner = {parameter.path: {parameter.name: value}} if parameter.path else {parameter.name: value}
    try:
        json_format.ParseDict({"parameters": inner}, kind())
    except (json_format.ParseError, TypeError, ValueError):
        return False
    return True
