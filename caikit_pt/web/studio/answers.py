"""What the server says of itself, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from caikit_pt.client.message import struct
from caikit_pt.parameters.table import Parameter

_KINDS: Mapping[str, type] = {"int": int, "float": float, "str": str, "bool": bool}


@dataclass(frozen=True, slots=True)
class Description:
    """The server as the caller has it, and the parameters of its requests, ranges as its limits have them."""

    caller: str
    version: str
    base_models: Sequence[str]
    tuning: Sequence[Parameter]
    generation: Sequence[Parameter]


def as_description(message: Any) -> Description:
    """A message Description."""
    tables = struct(message, "parameters")
    return Description(
        caller=message.caller,
        version=message.version,
        base_models=list(message.base_models),
        **{name: [_parameter(one) for one in tables.get(name, ())] for name in ("tuning", "generation")},
    )


def _parameter(told: Mapping[str, Any]) -> Parameter:
    return Parameter(
        name=told["name"],
        kind=_KINDS.get(told.get("type", ""), str),
        meaning=told.get("meaning") or "",
        default=told.get("default"),
        source=told.get("source") or "",
        low=told.get("low"),
        high=told.get("high"),
        above_low=bool(told.get("above_low")),
        choices=tuple(told.get("choices") or ()),
        many=bool(told.get("many")),
        path=told.get("path") or "",
    )
