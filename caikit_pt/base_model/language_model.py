"""A base model as requests see it, whether its weights are in this process or elsewhere."""

from __future__ import annotations

from typing import Protocol

from caikit_pt.base_model.loading.checkpoint import Checkpoint
from caikit_pt.base_model.text.side import TextSide


class LanguageModel(Protocol):
    """What tokens are made of its texts; a backend of serving gives the logits."""

    @property
    def checkpoint(self) -> Checkpoint:
        """The base model on disk."""

    @property
    def text(self) -> TextSide:
        """What its family does with tokens."""
