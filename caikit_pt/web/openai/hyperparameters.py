"""The hyperparameters of a job: OpenAI's three, and all that a training here has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from caikit_pt.client.message import struct
from caikit_pt.client.request import has_room
from caikit_pt.errors import shown
from caikit_pt.web.openai.fields import Fields
from caikit_pt.web.parameters import parameter_of
from caikit_pt.web.refusal import Refused

_PATH = "hyperparameters"
_AUTO = "auto"
_EPOCHS, _BATCH, _MULTIPLIER = "n_epochs", "batch_size", "learning_rate_multiplier"
NAMES = {_EPOCHS: "num_epochs", _BATCH: "batch_size", _MULTIPLIER: "learning_rate"}
# They stand elsewhere in a request.
_ELSEWHERE = ("base_model", "prompt_tuning_init_prompt", "seed")


@dataclass(frozen=True, slots=True)
class Table:
    """The server's parameters of a training, by name: each with its default, and the message it stands in."""

    rows: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, description: Any) -> Table:
        """By a message Description."""
        found = struct(description, "parameters").get("tuning", [])
        return cls({row["name"]: row for row in found})

    @property
    def names(self) -> dict[str, str]:
        """What an error calls each, where it has no other name."""
        return {name: f"{_PATH}.{name}" for name in self.rows}

    def default(self, name: str) -> Any:
        """None where it depends."""
        return self.rows.get(name, {}).get("default")


def taken(fields: Fields, table: Table, kind: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a request of class `kind` gets, by our names, and what it said, by OpenAI's. Raises Refused."""
    given, method = _both(fields)
    for name in set(given) & set(method):
        if given[name] != method[name]:
            differ = f"it is {shown(given[name])} here, and {shown(method[name])} in method"
            raise Refused(f"{_PATH}.{name}: {differ}", f"{_PATH}.{name}")
    said = {name: value for name, value in {**given, **method}.items() if value is not None}
    told: dict[str, Any] = {**dict.fromkeys(NAMES, _AUTO), **said}
    request = dict[str, Any]()
    for name, value in said.items():
        field = f"{_PATH}.{name}"
        if name in NAMES and value == _AUTO:
            continue
        own = NAMES.get(name, name)
        if own not in table.rows or own in _ELSEWHERE:
            raise Refused(f"{field} is no hyperparameter. {_known(table)}", field, reason="UNKNOWN_FIELD")
        if own in request:
            raise Refused(f"{field}: it is there twice, under OpenAI's name and ours", field)
        if name == _MULTIPLIER:
            value = _rate(field, value, table)
        check(kind, table, own, value, field)
        request[own] = value
    return request, told


def shown_of(note: Mapping[str, Any], parameters: Mapping[str, Any], table: Table) -> dict[str, Any]:
    """As a job has them: what was asked for, or what it resolved to, where that is known."""
    found: dict[str, Any] = {**dict.fromkeys(NAMES, _AUTO), **note}
    for name in (_EPOCHS, _BATCH):
        found[name] = parameters.get(NAMES[name], found[name])
    rate, default = parameters.get("learning_rate"), table.default("learning_rate")
    if rate and default:
        found[_MULTIPLIER] = rate / default
    return found


def check(kind: Any, table: Table, name: str, value: Any, field: str) -> None:
    """Raises Refused for what the server's message has no room for; the server sees to the rest."""
    parameter = parameter_of(table.rows.get(name, {"name": name}))
    if not has_room(kind, parameter, value):
        raise Refused(f"{field}: {shown(value)} is not allowed. Allowed: {parameter.allowed()}", field)


def _both(fields: Fields) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of the request, and of its method. Raises Refused."""
    given, method = fields.any(_PATH), fields.object("method")
    kind = method.text("type")
    if kind not in (None, "supervised"):
        raise method.refusal("type", kind, "supervised")
    supervised = method.object("supervised")
    of_method = supervised.any(_PATH)
    for name in ("dpo", "reinforcement"):
        method.same(name)
    supervised.end()
    method.end()
    for found in (given, of_method):
        if not isinstance(found, dict | None):
            raise fields.refusal(_PATH, found, "an object")
    return given or {}, of_method or {}


def _rate(field: str, value: Any, table: Table) -> float:
    default = table.default("learning_rate")
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not default:
        raise Refused(f"{field}: {shown(value)} is not allowed. Allowed: a number, or auto", field)
    try:
        return float(value) * float(default)
    except OverflowError:
        raise Refused(f"{field}: {shown(value)} is not allowed. Allowed: a number, or auto", field) from None


def _known(table: Table) -> str:
    others = sorted(set(table.rows) - set(_ELSEWHERE) - set(NAMES.values()))
    return f"There are {', '.join([*NAMES, *others])} (docs/parameters.md)"
