"""A tuned prompt that another training goes on from (`prompt_tuning_init_prompt`).

What it came to is a plain prompt, whatever its tuning type was. Its rows are the initial ones, bit for bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caikit_pt.base_model.loading.checkpoint import Checkpoint
from caikit_pt.errors import BaseModelMismatch, InvalidParameter
from caikit_pt.parameters.table import Limits
from caikit_pt.parameters.tuning import TUNED_PROMPT, TUNING_PARAMETERS
from caikit_pt.paths import inside
from caikit_pt.soft_prompt.artifact import TunedPrompt
from caikit_pt.soft_prompt.prompt import SoftPrompt

FIELD = "prompt_tuning_init_prompt"
# Parameters of its training that the next one takes over; a prompt of caikit-nlp has kept none.
_KEPT = ("max_source_length", "max_target_length", "tuning_task")


@dataclass(frozen=True, slots=True)
class InitialPrompt:
    """The rows to start from, the `name` that a request gave them, and the `labels` that they answer with."""

    name: str
    prompt: SoftPrompt
    labels: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """Of its tensors: the name may be that of another prompt by now."""
        digest = hashlib.sha256()
        for part, tensor in sorted(self.prompt.tensors.items()):
            digest.update(f"{part} {list(tensor.shape)} ".encode())
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Predecessor:
    """The tuned prompt `name` with all that a training which goes on from it takes over."""

    name: str
    tuned: TunedPrompt

    @property
    def initial(self) -> InitialPrompt:
        """What the training starts from."""
        return InitialPrompt(self.name, self.tuned.prompt, tuple(self.tuned.labels))

    def taken(self, limits: Limits) -> dict[str, tuple[Any, str]]:
        """What a request needn't name, by name, with its origin. Raises InvalidParameter where it is out of
        range."""
        known = self.tuned.tuning_parameters
        values = {
            **{name: known[name] for name in _KEPT if known.get(name) is not None},
            "base_model": self.tuned.base_model_name,
            "verbalizer": self.tuned.verbalizer,
            "separator": self.tuned.separator,
            "num_virtual_tokens": self.tuned.prompt.num_virtual_tokens,
            "output_model_types": list(self.tuned.prompt.tensors),
        }
        checked = TUNING_PARAMETERS.check(values, limits)
        return {
            name: (value, self._told)
            for name, value in {**checked, "prompt_tuning_init_method": TUNED_PROMPT}.items()
        }

    def check(self, given: Mapping[str, Any], checkpoint: Checkpoint) -> None:
        """Raises InvalidParameter where the request `given` contradicts the prompt, BaseModelMismatch where
        the base model that it was tuned on has other weights by now."""
        self._check_base(given.get("base_model", ""), checkpoint)
        prompt = self.tuned.prompt
        has = {
            "num_virtual_tokens": prompt.num_virtual_tokens,
            "output_model_types": tuple(sorted(prompt.tensors)),
        }
        for name, value in has.items():
            asked = given.get(name, value)
            if (tuple(sorted(asked)) if isinstance(asked, tuple) else asked) != value:
                shown = ", ".join(value) if isinstance(value, tuple) else value
                raise InvalidParameter(
                    TUNING_PARAMETERS[name].field, asked, f"{shown}, as the {self._told} has it, or unset"
                )

    @property
    def _told(self) -> str:
        return f"tuned prompt {self.name}"

    def _check_base(self, asked: str, checkpoint: Checkpoint) -> None:
        told = ""
        try:
            self.tuned.check_base(checkpoint)
        except BaseModelMismatch as error:
            if not asked:
                raise
            told = f" {error}"
        # Prompts of caikit-nlp have no fingerprint.
        unsure = self.tuned.base_model_fingerprint is None and self.tuned.base_model_name
        if asked and (told or (unsure and not _same_name(checkpoint.name, self.tuned.base_model_name))):
            raise InvalidParameter(
                "base_model",
                asked,
                f"{self.tuned.base_model_name}, as the {self._told} was tuned on, or unset.{told}",
            )


def published(name: str, root: str | Path) -> Path:
    """The directory of the tuned prompt `name` in `root`, the directory of models.

    Raises InvalidParameter where there is none, and where `name` leads out of `root`.
    """
    path = inside(root, name, FIELD)
    # What is half-written begins with a dot.
    if path.name.startswith(".") or not (path / "config.yml").is_file():
        raise InvalidParameter(FIELD, name, "the name of a tuned prompt that is published on this server")
    return path


def _same_name(one: str, other: str) -> bool:
    """Whether they are the same but for the directories in front."""
    return Path(one).name.lower() == Path(other).name.lower()
