"""What a source training has come to: the source prompt, and all that its manifest will say of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from caikit_pt import settings
from caikit_pt.base_model.loading.checkpoint import Checkpoint
from caikit_pt.soft_prompt.source import SourcePrompt
from caikit_pt.soft_prompt.source_bundle import write_bundle
from caikit_pt.soft_prompt.source_library import SourceLibrary
from caikit_pt.soft_prompt.source_manifest import Recipe, SourceTask


@dataclass(frozen=True, slots=True)
class TrainedSource:
    """`source` was trained on the base model of `checkpoint`; `tasks` are in the order of its tensors."""

    source: SourcePrompt
    checkpoint: Checkpoint
    tasks: Sequence[SourceTask]
    recipe: Recipe

    def write(self, directory: Path) -> None:
        """Its bundle, into `directory`, for whoever publishes it later. Raises UnusableSource, OSError."""
        write_bundle(self.source, self.checkpoint, directory, self.tasks, self.recipe)

    def publish(self, name: str, default: bool = False, library: SourceLibrary | None = None) -> SourcePrompt:
        """A new version of `name` in `library`, or else in the directory that the setting source_prompt_base
        names; as it is found now. Raises what `SourceLibrary.publish` does."""
        place = library or SourceLibrary(settings.current().source_prompt_base, "name")
        return place.publish(name, self.source, self.checkpoint, self.tasks, self.recipe, default)
