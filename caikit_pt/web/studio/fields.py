"""Fields of a form, made of the parameters that the server describes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import FormData

from caikit_pt.errors import InvalidParameter
from caikit_pt.parameters.table import Parameter
from caikit_pt.web.studio.records import text_of
from caikit_pt.web.studio.shown import plain

# In the form's order; the rest is folded away. What the form has fields of its own for is in neither.
COMMON = (
    "num_virtual_tokens",
    "num_epochs",
    "learning_rate",
    "batch_size",
    "accumulate_steps",
    "prompt_tuning_init_method",
    "prompt_tuning_init_text",
    "verbalizer",
    "separator",
    "search",
)
OWN = ("base_model", "silence_progress_bars")
# Text of several lines, and text for which empty is a value of its own.
_LONG = ("verbalizer", "prompt_tuning_init_text")
_MAY_BE_EMPTY = ("separator",)
EMPTY = "empty:"
_YES_NO = ("true", "false")
# What is none of 64 bits has no room in a message; NaN and infinity are in no range either.
_LEAST, _MOST = -(2**63), 2**64


@dataclass(frozen=True, slots=True)
class Field:
    """One of a form: `value` is what stands in it, `error` what the server says of it."""

    parameter: Parameter
    value: str | Sequence[str] = ""
    is_empty: bool = False
    error: str = ""
    options: Sequence[str] = ()

    @property
    def name(self) -> str:
        """Of the parameter."""
        return self.parameter.name

    @property
    def label(self) -> str:
        """The name as words."""
        words = self.name.removeprefix("prompt_tuning_").replace("_", " ").replace("init ", "initialization ")
        words = "number of " + words.removeprefix("num ") if words.startswith("num ") else words
        return words[:1].upper() + words[1:]

    @property
    def kind(self) -> str:
        """Of what the template makes it."""
        if self.parameter.many:
            return "several" if self.parameter.choices else "text"
        if self.parameter.choices or self.parameter.kind is bool:
            return "choice"
        if self.parameter.kind in (int, float):
            return "number"
        return "long" if self.name in _LONG else "text"

    @property
    def choices(self) -> Sequence[str]:
        """What there is to choose from."""
        return _YES_NO if self.parameter.kind is bool else self.parameter.choices

    @property
    def may_be_empty(self) -> bool:
        """Whether no text at all is another value than an unset one."""
        return self.name in _MAY_BE_EMPTY

    @property
    def default(self) -> str:
        """The value where it is unset; empty where that depends on something else."""
        return plain(self.parameter.default)

    @property
    def allowed(self) -> str:
        """The range of numbers in words; of what is chosen, all is there to see."""
        return self.parameter.allowed() if self.parameter.kind in (int, float) else ""

    @property
    def told(self) -> str:
        """Default and where that is from."""
        parameter = self.parameter
        if parameter.default is not None:
            value = self.default or "empty"
            return f"{value} ({parameter.source})" if parameter.source else value
        return parameter.source or "none"


def fields_of(
    parameters: Sequence[Parameter],
    values: Mapping[str, Any],
    errors: Mapping[str, str],
    options: Mapping[str, Sequence[str]] | None = None,
) -> list[Field]:
    """The fields of a form in which `values` stand, each with what is wrong with it."""
    return [
        Field(
            one,
            _value(one, values.get(one.name)),
            values.get(one.name) == "" and one.name in _MAY_BE_EMPTY,
            errors.get(one.name, ""),
            (options or {}).get(one.name, ()),
        )
        for one in parameters
    ]


def common(fields: Sequence[Field]) -> list[Field]:
    """Those that most forms are about, in their order."""
    known = {field.name: field for field in fields}
    return [known[name] for name in COMMON if name in known]


def rest(fields: Sequence[Field]) -> list[Field]:
    """All others."""
    return [field for field in fields if field.name not in COMMON]


def values_of(
    form: FormData, parameters: Sequence[Parameter], without: Collection[str] = ()
) -> dict[str, Any]:
    """What the form sets, as it is typed: what is left open isn't there."""
    found: dict[str, Any] = {}
    for parameter in parameters:
        name = parameter.name
        if name in without:
            continue
        if parameter.many and parameter.choices:
            if several := [one for one in form.getlist(name) if isinstance(one, str)]:
                found[name] = several
        elif text_of(form, EMPTY + name):
            found[name] = ""
        elif text := text_of(form, name):
            found[name] = text
    return found


def checked(values: Mapping[str, Any], parameters: Sequence[Parameter]) -> dict[str, Any]:
    """`values` of the types that they should have. Raises InvalidParameter, in the words of the server, which
    checks the rest."""
    known = {parameter.name: parameter for parameter in parameters}
    return {name: _typed(known[name], value) for name, value in values.items()}


def _typed(parameter: Parameter, value: Any) -> Any:
    if parameter.many:
        items = value if isinstance(value, list) else [part.strip() for part in str(value).split(",")]
        return [_one(parameter, item) for item in items]
    return _one(parameter, value)


def _one(parameter: Parameter, text: str) -> Any:
    try:
        if parameter.kind is int:
            return _within(parameter, int(text))
        if parameter.kind is float:
            return _within(parameter, float(text))
    except ValueError:
        raise InvalidParameter(parameter.field, text, parameter.allowed()) from None
    if parameter.kind is bool:
        if text not in _YES_NO:
            raise InvalidParameter(parameter.field, text, parameter.allowed())
        return text == "true"
    return text


def _within(parameter: Parameter, number: float) -> float:
    """One that fits into a message, whatever it means. Raises ValueError."""
    if not _LEAST <= number < _MOST or (number < 0 and parameter.low is not None and parameter.low >= 0):
        raise ValueError(number)
    return number


def _value(parameter: Parameter, value: Any) -> str | Sequence[str]:
    if parameter.many and parameter.choices:
        return list(map(str, value or ()))
    return plain(value)


def names(parameters: Sequence[Parameter]) -> Iterator[str]:
    """Of all."""
    return (parameter.name for parameter in parameters)
