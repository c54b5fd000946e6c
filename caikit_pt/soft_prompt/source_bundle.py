"""A source prompt on disk, as it is published: docs/sources.md specifies it.

    adapter_model.safetensors   the tensors, by peft's names
    adapter_config.json         what peft needs to load them
    manifest.json               what they are, with the SHA-256 of the first file

Whatever isn't whole is refused: a file that is missing, leads elsewhere or is another than the manifest says.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from caikit_pt.base_model.loading.checkpoint import Checkpoint
from caikit_pt.errors import InvalidParameter
from caikit_pt.paths import inside, read_file
from caikit_pt.soft_prompt.json_object import JsonObject, WrongField
from caikit_pt.soft_prompt.source import SourcePrompt, UnusableSource
from caikit_pt.soft_prompt.source_file import BUNDLE_MARK, COLUMNS, PEFT_CONFIG, ROWS, SHARED
from caikit_pt.soft_prompt.source_manifest import (
    FORMAT_VERSION,
    LARGEST_MANIFEST,
    Recipe,
    SourceManifest,
    SourceTask,
    library_versions,
)
from caikit_pt.soft_prompt.tensor_file import LARGEST

if TYPE_CHECKING:
    import torch

TENSORS, MANIFEST = "adapter_model.safetensors", "manifest.json"
FILES = (TENSORS, PEFT_CONFIG, MANIFEST)
_VERSIONED = "format_version"
# Of a recipe.
_TRAINING = "training_id"


def write_bundle(
    source: SourcePrompt,
    checkpoint: Checkpoint,
    directory: Path,
    tasks: Sequence[SourceTask] = (),
    recipe: Recipe | None = None,
    libraries: Mapping[str, str] | None = None,
    default: bool = False,
) -> SourceManifest:
    """Writes `source`, which was made on `checkpoint`, into `directory`; its manifest.

    There is one of `tasks` for each task of the tensors. `libraries` are those of this environment unless
    they are told. Raises UnusableSource for what nobody could read again.
    """
    content = _tensors_file(source)
    manifest = SourceManifest(
        base_model=checkpoint.name,
        fingerprint=checkpoint.fingerprint,
        tokenizer_sha256=checkpoint.tokenizer_sha256,
        num_virtual_tokens=source.num_virtual_tokens,
        width=source.width,
        num_ranks=source.num_ranks,
        num_transformer_submodules=source.submodules,
        tasks=tuple(tasks),
        recipe=recipe or {},
        libraries=library_versions() if libraries is None else libraries,
        created=datetime.now(UTC),
        default=default,
        sha256=_sha256(content),
    )
    if len(manifest.tasks) != source.num_tasks:
        raise UnusableSource(f"a task for each of its {source.num_tasks}", f"{len(manifest.tasks)} are named")
    try:
        told = manifest.to_bytes()
    except WrongField as error:
        raise UnusableSource(f"a source prompt that a {MANIFEST} can describe", str(error)) from error
    (directory / TENSORS).write_bytes(content)
    (directory / PEFT_CONFIG).write_text(_peft_config(manifest, checkpoint), "utf-8")
    (directory / MANIFEST).write_bytes(told)
    return manifest


def copy_trained(bundle: Path, directory: Path, training_id: str, default: bool) -> None:
    """The bundle that a training has left in `bundle`, into `directory`, as what is published now: by which
    training is in its recipe. Raises UnusableSource, OSError."""
    manifest = read_manifest(bundle)
    recipe = {**manifest.recipe, _TRAINING: training_id}
    made = replace(manifest, created=datetime.now(UTC), default=default, recipe=recipe)
    for file in (TENSORS, PEFT_CONFIG):
        shutil.copy(bundle / file, directory)
    (directory / MANIFEST).write_bytes(made.to_bytes())


def trained_by(directory: Path) -> str:
    """The id of the training that the bundle in `directory` was published by; empty: nobody knows."""
    try:
        return str(read_manifest(directory).recipe.get(_TRAINING, ""))
    except UnusableSource:
        return ""


def read_bundle(directory: Path, name: str) -> SourcePrompt:
    """The source prompt in `directory`, which is called `name`, compared with its manifest to the last byte.

    Raises UnusableSource with the file and the field that isn't as it was published.
    """
    manifest = read_manifest(directory)
    _check_config(directory, manifest)
    content = _read(directory, TENSORS, LARGEST)
    found = _sha256(content)
    if found != manifest.sha256:
        raise _damaged(f"sha256 of its {TENSORS} is {found}, and its {MANIFEST} has {manifest.sha256}")
    tensors = _tensors_in(content, manifest)
    source = SourcePrompt(
        name,
        tensors[SHARED],
        tensors.get(COLUMNS),
        tensors.get(ROWS),
        manifest.num_transformer_submodules,
        manifest.task_names,
        manifest,
    )
    if not source.is_finite:
        raise _damaged(f"{TENSORS} holds numbers that aren't finite")
    return source


def read_manifest(directory: Path) -> SourceManifest:
    """What the bundle in `directory` says of itself. Raises UnusableSource."""
    try:
        return SourceManifest.of(_read(directory, MANIFEST, LARGEST_MANIFEST))
    except WrongField as error:
        raise _damaged(f"{MANIFEST}: {error}") from error


def is_bundle(directory: Path) -> bool:
    """Whether `directory` is one, be it damaged, by its manifest: others' say no format, or there is none."""
    if not (directory / MANIFEST).exists() and not (directory / MANIFEST).is_symlink():
        return False
    try:
        return _VERSIONED in JsonObject.of(_read(directory, MANIFEST, LARGEST_MANIFEST)).values
    except (UnusableSource, WrongField):
        return True


def _tensors_file(source: SourcePrompt) -> bytes:
    from safetensors.torch import save

    tensors = {SHARED: source.shared, COLUMNS: source.columns, ROWS: source.rows}
    # One entry alone: more of them have another order each time.
    return save(
        {name: tensor.float().contiguous() for name, tensor in tensors.items() if tensor is not None},
        metadata={BUNDLE_MARK: str(FORMAT_VERSION)},
    )


def _tensors_in(content: bytes, manifest: SourceManifest) -> dict[str, torch.Tensor]:
    """Raises UnusableSource for others than the manifest tells of."""
    import torch
    from safetensors.torch import load

    try:
        tensors: dict[str, torch.Tensor] = load(content)
    except Exception as error:  # a damaged file fails in many ways
        raise _damaged(f"{TENSORS} is no file of safetensors ({type(error).__name__})") from error
    expected = _shapes(manifest)
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != expected or any(tensor.dtype is not torch.float32 for tensor in tensors.values()):
        told = ", ".join(f"{name} {list(tensor.shape)} {tensor.dtype}" for name, tensor in tensors.items())
        wanted = ", ".join(f"{name} {list(shape)}" for name, shape in expected.items())
        raise _damaged(f"{TENSORS} has {told[:300]}, and its {MANIFEST} tells of {wanted} in float32")
    return tensors


def _shapes(manifest: SourceManifest) -> dict[str, tuple[int, ...]]:
    rows, tasks = manifest.num_virtual_tokens * manifest.num_transformer_submodules, len(manifest.tasks)
    shapes: dict[str, tuple[int, ...]] = {SHARED: (rows, manifest.width)}
    if tasks:
        shapes[COLUMNS] = (tasks, rows, manifest.num_ranks)
        shapes[ROWS] = (tasks, manifest.num_ranks, manifest.width)
    return shapes


def _peft_config(manifest: SourceManifest, checkpoint: Checkpoint) -> str:
    """adapter_config.json: a plain prompt where there are no tasks."""
    config = {
        "base_model_name_or_path": manifest.base_model,
        "inference_mode": True,
        "peft_type": "MULTITASK_PROMPT_TUNING" if manifest.tasks else "PROMPT_TUNING",
        "prompt_tuning_init": "RANDOM",
        "task_type": checkpoint.family.peft_task,
        **_of_config(manifest),
    }
    return json.dumps(config, ensure_ascii=False, indent=2) + "\n"


def _of_config(manifest: SourceManifest) -> dict[str, int]:
    """What adapter_config.json has of the manifest."""
    told = {
        "num_transformer_submodules": manifest.num_transformer_submodules,
        "num_virtual_tokens": manifest.num_virtual_tokens,
        "token_dim": manifest.width,
    }
    of_tasks = {"num_ranks": manifest.num_ranks, "num_tasks": len(manifest.tasks)}
    return {**told, **of_tasks} if manifest.tasks else told


def _check_config(directory: Path, manifest: SourceManifest) -> None:
    """Raises UnusableSource where what peft reads isn't what the manifest says."""
    try:
        config = JsonObject.of(_read(directory, PEFT_CONFIG, LARGEST_MANIFEST)).values
    except WrongField as error:
        raise _damaged(f"{PEFT_CONFIG}: {error}") from error
    for name, value in _of_config(manifest).items():
        if config.get(name) != value:
            raise _damaged(
                f"{name} is {config.get(name)!r:.80} in its {PEFT_CONFIG}, and {value} in its {MANIFEST}"
            )


def _read(directory: Path, file: str, largest: int) -> bytes:
    """All of a file of the bundle, which is no link out of it. Raises UnusableSource."""
    try:
        return read_file(inside(directory, file, file), largest)
    except FileNotFoundError:
        raise _damaged(f"{file} is missing") from None
    except OSError as error:
        raise _damaged(f"{file} can't be read ({error.strerror})") from error
    except InvalidParameter as error:
        raise _damaged(f"{file} leads out of its directory") from error


def _damaged(told: str) -> UnusableSource:
    return UnusableSource("a source prompt that is whole, as it was published", f"{told}. Publish it again")


def _sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
