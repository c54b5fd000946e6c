"""Parameters of requests, as the server describes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from caikit_pt.parameters.table import Parameter

_KINDS: Mapping[str, type] = {"int": int, "float": float, "str": str, "bool": bool}


def parameter_of(told: Mapping[str, Any]) -> Parameter:
    """One, of its row in a Description; its range as the server's limits have it."""
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
