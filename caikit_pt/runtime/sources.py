"""What TuningService answers about source prompts: lists of them, and one that is read to its last byte."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

from caikit_pt import settings
from caikit_pt.errors import InvalidParameter, InvalidSourcePrompt
from caikit_pt.paths import check_source_name
from caikit_pt.runtime.tuning_messages import ListSourcesResponse, Source
from caikit_pt.soft_prompt.source_card import SourceCard
from caikit_pt.soft_prompt.source_library import SourceLibrary


def listed(base_model: str, page_size: int, page_token: str) -> ListSourcesResponse:
    """A page of those that GetSource can be asked for. Raises InvalidParameter for a token that is none."""
    if page_token:
        try:
            check_source_name(page_token, "page_token")
        except InvalidParameter:
            allowed = "next_page_token of an earlier answer"
            raise InvalidParameter("page_token", page_token, allowed) from None
    found = list(islice(_cards(base_model, page_token), page_size + 1))
    more = found[page_size - 1].name if len(found) > page_size else ""
    return ListSourcesResponse(sources=[_told(card) for card in found[:page_size]], next_page_token=more)


def found(name: str) -> Source:
    """The one with this name. Raises InvalidSourcePrompt where there is none, and where it isn't whole."""
    library = SourceLibrary(settings.current().source_prompt_base, "name")
    source = library.read(name)
    told = _told(library.card(source.name))
    told.num_virtual_tokens, told.width = source.num_virtual_tokens, source.width
    told.num_ranks, told.num_transformer_submodules = source.num_ranks, source.submodules
    told.tasks = list(source.tasks)
    if source.manifest:
        told.manifest = _plain(source.manifest.to_dict())
    return told


def _cards(base_model: str, after: str) -> Iterator[SourceCard]:
    root = settings.current().source_prompt_base
    with suppress(InvalidSourcePrompt):
        for card in SourceLibrary(root).cards(after):
            if (not base_model or card.base_model == base_model) and _can_be_asked_for(card.name):
                yield card


def _can_be_asked_for(name: str) -> bool:
    try:
        check_source_name(name, "name")
    except InvalidParameter:
        return False
    return True


def _told(card: SourceCard) -> Source:
    manifest = card.manifest
    return Source(
        name=card.name,
        version=card.version,
        base_model=card.base_model,
        fingerprint=card.fingerprint,
        num_virtual_tokens=card.num_virtual_tokens,
        width=card.width,
        num_ranks=manifest.num_ranks if manifest else 0,
        num_transformer_submodules=manifest.num_transformer_submodules if manifest else 0,
        tasks=list(card.tasks),
        is_default=card.default,
        created=card.created,
        sha256=manifest.sha256 if manifest else "",
        problem=card.problem,
    )


def _plain(values: dict[str, object]) -> dict[str, Any]:
    """With lists for tuples."""
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain
