"""A tuned prompt that a server has, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from caikit_pt.client.message import moment, struct


@dataclass(frozen=True, slots=True)
class Prompt:
    """A tuned prompt; `labels`, `parameters`, `verdict` and `tokenizer` only where it was asked for by name.

    `problem` is what is wrong with one that can't be asked.
    """

    model_name: str
    base_model: str
    num_virtual_tokens: int
    verbalizer: str
    separator: str
    published: datetime | None
    problem: str = ""
    labels: Sequence[str] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    verdict: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: Mapping[str, Any] = field(default_factory=dict)


def as_prompt(message: Any) -> Prompt:
    """A message Prompt."""
    return Prompt(
        model_name=message.model_name,
        base_model=message.base_model,
        num_virtual_tokens=message.num_virtual_tokens,
        verbalizer=message.verbalizer,
        separator=message.separator,
        published=moment(message, "published"),
        problem=message.problem,
        labels=list(message.labels),
        parameters=struct(message, "parameters"),
        verdict=struct(message, "verdict"),
        tokenizer=struct(message, "tokenizer"),
    )
