"""The template that makes a record the text that the model is given."""

from __future__ import annotations

import re
from dataclasses import dataclass

from caikit_pt.errors import InvalidParameter

_PLACEHOLDER = re.compile(r"\{\{\s*(.*?)\s*\}\}", re.DOTALL)
_ALLOWED = "a template that holds {{input}} and no other placeholder; the label can't be part of the input"


@dataclass(frozen=True, slots=True)
class Verbalizer:
    """A template around `{{input}}`, and what stands between it and the answer.

    Raises InvalidParameter where it isn't one.
    """

    template: str
    separator: str = ""

    def __post_init__(self) -> None:
        if set(_PLACEHOLDER.findall(self.template)) != {"input"}:
            raise InvalidParameter("verbalizer", self.template, _ALLOWED)

    @property
    def ends_with_input(self) -> bool:
        """Whether the template itself puts nothing between input and answer."""
        return bool(re.search(r"\}\}$", self.template))

    def render(self, text: str) -> str:
        """What the model is given: the template with `text` in the place of every `{{input}}`, and the
        separator but for spaces at its end, which belong to the answer."""
        return self.without_separator(text) + self.separator.rstrip(" ")

    def without_separator(self, text: str) -> str:
        """The template with `text` in the place of every `{{input}}`."""
        return _PLACEHOLDER.sub(lambda _: text, self.template)
