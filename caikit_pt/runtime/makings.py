"""The kinds of jobs that there are."""

from __future__ import annotations

from collections.abc import Mapping

from caikit_pt.errors import CaikitPtError
from caikit_pt.runtime.job import PROMPT, SOURCE
from caikit_pt.runtime.making import AnyMaking
from caikit_pt.runtime.prompt_making import PromptMaking
from caikit_pt.runtime.source_making import SourceMaking

PROMPTS, SOURCES = PromptMaking(), SourceMaking()
_MAKINGS: Mapping[str, AnyMaking] = {PROMPT: PROMPTS, SOURCE: SOURCES}


def making_of(makes: str) -> AnyMaking:
    """That of jobs which make these. Raises CaikitPtError for what a later release has queued."""
    try:
        return _MAKINGS[makes]
    except KeyError:
        raise CaikitPtError(f"This release knows no jobs that make a {makes!r:.40}") from None
