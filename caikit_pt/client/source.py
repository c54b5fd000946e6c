"""A source prompt as a client sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from caikit_pt.client.message import moment, struct


@dataclass(frozen=True, slots=True)
class Source:
    """What is known of it; what isn't is empty, 0 or None. `problem` is what is wrong with one that can't be
    used, and `manifest` (docs/sources.md) is there only where it was asked for by its name."""

    name: str
    version: int
    base_model: str
    fingerprint: str
    num_virtual_tokens: int
    width: int
    num_ranks: int
    num_transformer_submodules: int
    tasks: Sequence[str]
    is_default: bool
    created: datetime | None
    sha256: str
    problem: str
    manifest: Mapping[str, Any] = field(default_factory=dict)


def as_source(message: Any) -> Source:
    """A message Source."""
    plain = ("name", "version", "base_model", "fingerprint", "num_virtual_tokens", "width", "num_ranks")
    told = (*plain, "num_transformer_submodules", "is_default", "sha256", "problem")
    return Source(
        **{name: getattr(message, name) for name in told},
        tasks=list(message.tasks),
        created=moment(message, "created"),
        manifest=struct(message, "manifest"),
    )
