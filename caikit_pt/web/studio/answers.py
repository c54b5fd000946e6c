"""What the server says of itself, as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from caikit_pt.client.message import struct
from caikit_pt.parameters.table import Parameter
from caikit_pt.web.parameters import parameter_of


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
        **{name: [parameter_of(one) for one in tables.get(name, ())] for name in ("tuning", "generation")},
    )
