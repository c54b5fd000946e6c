"""What a client asks for who wants a source prompt trained, as a message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from caikit_pt.client.request import small_enough, stream_of
from caikit_pt.client.server_error import ServerError
from caikit_pt.errors import InvalidParameter
from caikit_pt.parameters.source import OF_EACH_TASK
from caikit_pt.tuning.record_fields import Asked
from caikit_pt.tuning.source_plan import FIELD, of_task

_STREAMS = {"train_stream": ("records", "file"), "val_stream": ("validation", "validation_file")}
_KNOWN = [*(name for names in _STREAMS.values() for name in names), *OF_EACH_TASK]


def source_message(
    name: str,
    base_model: str,
    tasks: Mapping[str, Any],
    default: bool,
    training_id: str,
    parameters: Mapping[str, Any],
) -> Any:
    """A TrainSourceRequest, records and all. Raises ServerError."""
    from google.protobuf import json_format

    from caikit_pt.runtime.tuning_messages import TrainSourceRequest

    try:
        told = {
            "name": name,
            "base_model": base_model,
            "tasks": [_task(task, given) for task, given in tasks.items()],
            "parameters": {key: value for key, value in parameters.items() if value is not None},
            "training_id": training_id,
            "default": default,
        }
        message = json_format.ParseDict(told, TrainSourceRequest.get_proto_class()())
    except (json_format.ParseError, InvalidParameter) as error:
        raise ServerError("INVALID_ARGUMENT", str(error)) from error
    return small_enough(message)


def _task(name: str, given: Any) -> dict[str, Any]:
    """A task: its records alone, or a mapping of what it has. Raises InvalidParameter."""
    task = given if isinstance(given, Mapping) else {"records": given}
    wrong = [key for key in task if key not in _KNOWN]
    if wrong:
        raise InvalidParameter(f"{FIELD}.{name}", wrong[0], f"records, or a mapping with {', '.join(_KNOWN)}")
    told = {key: task[key] for key in OF_EACH_TASK if task.get(key)}
    asked = Asked(told.get("input_field", ""), told.get("output_field", ""))
    with of_task(name):
        for stream, (records, file) in _STREAMS.items():
            if stream == "train_stream" or task.get(records) is not None or task.get(file):
                told[stream] = stream_of(task.get(records), task.get(file) or "", stream, asked)
    return {"name": name, **told}
