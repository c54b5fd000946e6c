"""Messages of a server as plain values."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from caikit_pt.training import PROMPT, Event, Progress, Training


def as_training(message: Any) -> Training:
    """A message Training."""
    return Training(
        training_id=message.training_id,
        model_name=message.model_name,
        base_model=message.base_model,
        state=message.state,
        submitted=moment(message, "submitted"),
        started=moment(message, "started"),
        ended=moment(message, "ended"),
        reasons=list(message.reasons),
        queued_before=message.queued_before,
        progress=_progress(message),
        path=message.path,
        parameters=struct(message, "parameters"),
        verdict=struct(message, "verdict"),
        points=struct(message, "points"),
        # A server of an earlier release makes prompts alone, and doesn't say so.
        makes=message.makes or PROMPT,
        tasks=list(message.tasks),
        outcome=message.outcome,
        outcome_text=message.outcome_text,
    )


def as_event(message: Any) -> Event:
    """A TrainingEvent."""
    return Event(
        number=message.number,
        time=message.time.ToDatetime(UTC),
        kind=message.kind,
        text=message.text,
        state=message.state,
        progress=_progress(message),
        data=struct(message, "data"),
    )


def _progress(message: Any) -> Progress | None:
    if not message.HasField("progress"):
        return None
    found = message.progress
    values: dict[str, Any] = {name: getattr(found, name) for name in Progress.__slots__}
    for name in ("loss", "validation_loss"):
        values[name] = values[name] if found.HasField(name) else None
    return Progress(**values)


def moment(message: Any, name: str) -> datetime | None:
    """The time in the field `name`; None where it is unset."""
    return getattr(message, name).ToDatetime(UTC) if message.HasField(name) else None


def struct(message: Any, name: str) -> dict[str, Any]:
    """The Struct in the field `name`; empty where it is unset."""
    from google.protobuf import json_format

    return _whole(json_format.MessageToDict(getattr(message, name))) if message.HasField(name) else {}


def plain(message: Any) -> dict[str, Any]:
    """What `message` holds, without what is unset: enums as names, and numbers as numbers, of 64 bits too."""

    def of(kind: Any, value: Any) -> Any:
        if kind.message_type:
            return plain(value)
        return kind.enum_type.values_by_number[value].name if kind.enum_type else value

    found: dict[str, Any] = {}
    for one in message.DESCRIPTOR.fields:
        value = getattr(message, one.name)
        if one.is_repeated and one.message_type and one.message_type.GetOptions().map_entry:
            of_values = one.message_type.fields_by_name["value"]
            found |= {one.name: {key: of(of_values, item) for key, item in value.items()}} if value else {}
        elif one.is_repeated:
            found |= {one.name: [of(one, item) for item in value]} if value else {}
        elif not one.has_presence or message.HasField(one.name):
            found[one.name] = of(one, value)
    return found


def _whole(value: Any) -> Any:
    """A Struct has floats only; those without a fraction were whole numbers."""
    if isinstance(value, dict):
        return {name: _whole(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_whole(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
