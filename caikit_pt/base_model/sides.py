"""The three sides of a family: its text, its training, its serving; found by the family's name.

A new family is a row of `family` and a file in each room, with a class for that side.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from caikit_pt.base_model.family import Family
from caikit_pt.base_model.loading.checkpoint import Checkpoint
from caikit_pt.base_model.text.side import TextSide

if TYPE_CHECKING:
    from caikit_pt.base_model.serving.side import ServingSide
    from caikit_pt.base_model.training.side import TrainingSide


def text_of(checkpoint: Checkpoint) -> TextSide:
    """What its family does with tokens, before a weight is read."""
    return text_side(checkpoint.family)(checkpoint, checkpoint.tokenizer, checkpoint.generation_config)


def text_side(family: Family) -> type[TextSide]:
    """The text side of a family."""
    return _class(family, "Text")  # type: ignore[no-any-return]


def training_side(family: Family) -> type[TrainingSide]:
    """The training side of a family."""
    return _class(family, "Training")  # type: ignore[no-any-return]


def serving_side(family: Family) -> type[ServingSide]:
    """The serving side of a family."""
    return _class(family, "Serving")  # type: ignore[no-any-return]


def _class(family: Family, side: str) -> Any:
    room = import_module(f"caikit_pt.base_model.{side.lower()}.{family.name}")
    return getattr(room, f"{family.classes}{side}")
