"""A tuned prompt on disk: a directory without a copy of its base model.

    config.yml               what follows, and what caikit adds (module_id ...)
    encoder.safetensors      `prompt` [P, H] float32, where the encoder has a prompt
    decoder.safetensors      `prompt` [P, H] float32, where the decoder has one
    training_logs.jsonl      the loss curve, a JSON object a line
    verdict.json             what came of the training
    initial.safetensors      ENCODER, DECODER or both [P, H] float32, what the training started from

File and key names are caikit-nlp's where it has them, whose `encoder.pt` / `decoder.pt` are read
too. caikit writes and reads config.yml; here it is a mapping.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caikit_pt.base_model.loading.checkpoint import Checkpoint
from caikit_pt.errors import BaseModelMismatch, DamagedArtifact, InvalidParameter
from caikit_pt.parameters.tuning import DECODER, ENCODER
from caikit_pt.paths import inside
from caikit_pt.soft_prompt import history
from caikit_pt.soft_prompt.history import TRAINING_LOGS, InitialRows, LossCurve, Verdict
from caikit_pt.soft_prompt.prompt import SoftPrompt
from caikit_pt.soft_prompt.tensor_file import WHOLE, read_tensors

if TYPE_CHECKING:
    import torch

# 2: with a separator, without which an answer is another one.
FORMAT_VERSION = 2
_KEY = "prompt"


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedPrompt:
    """A soft prompt with all that is needed to serve it, and how it came about."""

    prompt: SoftPrompt
    base_model_name: str
    base_model_fingerprint: str | None
    verbalizer: str
    # What stands between the verbalized text and the answer.
    separator: str = ""
    # What answers are confined to; nothing where they are free.
    labels: Sequence[str] = ()
    tuning_parameters: Mapping[str, Any] = field(default_factory=dict)
    training_logs: Sequence[Mapping[str, Any]] = ()
    # What came of the training; see tuning/verdict.py.
    verdict: Mapping[str, Any] = field(default_factory=dict)
    # By side, the rows [P, H] that the training started from, where they are known.
    initial: Mapping[str, torch.Tensor] = field(default_factory=dict)

    @property
    def warnings(self) -> list[str]:
        """What a user should know of how the prompt came about."""
        told = {"cut_sources": "max_source_length", "cut_targets": "max_target_length"}
        total = self.tuning_parameters.get("records")
        return [
            f"{self.tuning_parameters[cut]} of {total} records cut at {limit}"
            for cut, limit in told.items()
            if self.tuning_parameters.get(cut)
        ]

    def check_base(self, checkpoint: Checkpoint) -> None:
        """Raises BaseModelMismatch where `checkpoint` isn't what the prompt was tuned on."""
        expected = self.base_model_fingerprint
        if expected is not None and expected != checkpoint.fingerprint:
            raise BaseModelMismatch(
                f"This prompt was tuned on {self.base_model_name} with fingerprint {expected}, but "
                f"the base model found under that name has {checkpoint.fingerprint}. Put the "
                "original weights back, or tune again."
            )
        if self.prompt.hidden_size != checkpoint.hidden_size:
            raise BaseModelMismatch(
                f"This prompt has width {self.prompt.hidden_size}, but {checkpoint.name} has "
                f"{checkpoint.hidden_size}."
            )
        missing = set(self.prompt.tensors) - set(checkpoint.prompt_parts)
        if missing:
            raise BaseModelMismatch(
                f"This prompt is for the {', '.join(sorted(missing))} of a model, which the "
                f"{checkpoint.family} model {checkpoint.name} hasn't got."
            )


def write(tuned: TunedPrompt, directory: Path) -> dict[str, Any]:
    """Writes the files of `tuned` into `directory` and returns what config.yml is to hold."""
    from safetensors.torch import save

    files = {}
    for part, tensor in tuned.prompt.tensors.items():
        files[part] = f"{part.lower()}.safetensors"
        # Written as bytes, so that the file has the permissions of every other one.
        (directory / files[part]).write_bytes(save({_KEY: tensor.contiguous()}))
    history.write(tuned.training_logs, tuned.verdict, tuned.initial, directory)
    return {
        "format_version": FORMAT_VERSION,
        "base_model_name": tuned.base_model_name,
        "base_model_fingerprint": tuned.base_model_fingerprint,
        "verbalizer": tuned.verbalizer,
        "separator": tuned.separator,
        "labels": list(tuned.labels),
        "output_model_types": sorted(files),
        **files,
        "training_logs": TRAINING_LOGS,
        "tuning_parameters": dict(tuned.tuning_parameters),
    }


def read(config: Mapping[str, Any], directory: Path) -> TunedPrompt:
    """The tuned prompt in `directory`, whose config.yml is `config`. Raises DamagedArtifact."""
    version = config.get("format_version", FORMAT_VERSION)
    if version not in range(1, FORMAT_VERSION + 1):
        raise DamagedArtifact(
            f"{directory.name} has format_version {version}; this release reads up to {FORMAT_VERSION}."
        )
    for name in ("base_model_name", "verbalizer"):
        if not isinstance(config.get(name), str):
            raise DamagedArtifact(f"{directory.name}: config.yml has no {name}.")
    tensors = {
        part: _read_prompt(directory, str(config[part])) for part in (ENCODER, DECODER) if config.get(part)
    }
    if not tensors or len({tensor.shape for tensor in tensors.values()}) != 1:
        raise DamagedArtifact(f"{directory.name}: config.yml names no soft prompt, or two that differ.")
    return TunedPrompt(
        prompt=SoftPrompt(tensors),
        base_model_name=config["base_model_name"],
        base_model_fingerprint=config.get("base_model_fingerprint"),
        verbalizer=config["verbalizer"],
        separator=_text(config, "separator", directory),
        labels=_labels(config, directory),
        tuning_parameters=config.get("tuning_parameters") or {},
        training_logs=LossCurve(directory),
        verdict=Verdict(directory),
        initial=InitialRows(directory),
    )


def _text(config: Mapping[str, Any], name: str, directory: Path) -> str:
    text = config.get(name) or ""
    if not isinstance(text, str):
        raise DamagedArtifact(f"{directory.name}: config.yml has a {name} that is no text.")
    return text


def _labels(config: Mapping[str, Any], directory: Path) -> tuple[str, ...]:
    labels = tuple(config.get("labels") or ())
    if not all(isinstance(label, str) for label in labels) or len(set(labels)) != len(labels):
        raise DamagedArtifact(f"{directory.name}: config.yml has labels that aren't texts, each once.")
    return labels


def _read_prompt(directory: Path, name: str) -> Any:
    import torch

    try:
        tensors = read_tensors(inside(directory, name, "config.yml"))
    except (ValueError, OSError, InvalidParameter) as error:
        raise DamagedArtifact(f"{directory.name}: {error}") from error
    tensor = tensors.get(_KEY, tensors.get(WHOLE))
    if tensor is None or tensor.ndim != 2 or not tensor.numel() or not torch.isfinite(tensor).all():
        raise DamagedArtifact(f"{directory.name}: {name} holds no soft prompt [P, H] of finite numbers.")
    return tensor
