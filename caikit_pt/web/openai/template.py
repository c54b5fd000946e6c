"""A conversation as the text that a chat model reads, by the template that came with its tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from caikit_pt.web.refusal import Refused

_FIELD = "messages"
_MOST_CHARACTERS = 2**22
_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")


class _Generation(Extension):
    """{% generation %}: what is inside, as it is. transformers marks with it what is trained on."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class _Told(TemplateError):
    """What a template says of a conversation that it isn't made for."""


def rendered(tokenizer: Mapping[str, Any], messages: Sequence[Mapping[str, str]]) -> str:
    """`messages` with all that stands around and between them, up to where the answer begins.

    Raises Refused where the template doesn't take them. Templates may do nothing but write text.
    """
    special = {name: tokenizer[name] for name in _TOKENS if name in tokenizer}
    try:
        template = _environment().from_string(str(tokenizer["chat_template"]))
        parts, length = list[str](), 0
        for part in template.generate(messages=list(messages), add_generation_prompt=True, **special):
            parts.append(part)
            length += len(part)
            if length > _MOST_CHARACTERS:
                raise Refused(f"{_FIELD}: they are more than {_MOST_CHARACTERS:,} characters", _FIELD)
        return "".join(parts)
    except Refused:
        raise
    except Exception as error:  # a template is a program
        # Of others than the template itself the text may hold a message's.
        why = str(error) if isinstance(error, _Told) else type(error).__name__
        raise Refused(f"{_FIELD}: the model's chat template doesn't take them ({why})", _FIELD) from None


def _environment() -> Any:
    """As transformers has it: transformers/utils/chat_template_utils.py."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    made.filters["tojson"] = _to_json
    made.globals["raise_exception"] = _raise
    made.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return made


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    known = {name: options[name] for name in ("separators", "sort_keys") if name in options}
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **known)


def _raise(message: str) -> None:
    raise _Told(str(message))
