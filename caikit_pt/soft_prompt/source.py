"""Source prompts: what MULTITASK_PROMPT_TUNING starts from, found under `source_prompt_base`.

A source is a file `NAME.safetensors` (or .bin, .pt), or a directory NAME with peft's
`adapter_model.safetensors` (or .bin). Its tensors have peft's names:

    prompt_embeddings   [P, H]      the rows that all source tasks share
    prefix_task_cols    [N, P, R]   for each of N source tasks, and
    prefix_task_rows    [N, R, H]   a task matrix [P, H] of rank R; both or neither

A manifest beside it (`NAME.json`, or `manifest.json` in the directory) says which base model it is
for; `{"base_model": ..., "fingerprint": "sha256:...", "tasks": [...], "default": true}`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caikit_pt.base_model.loading.checkpoint import Checkpoint
from caikit_pt.errors import InvalidSourcePrompt
from caikit_pt.paths import inside, read_file
from caikit_pt.settings import Settings
from caikit_pt.soft_prompt.tensor_file import SAFETENSORS, TORCH, WHOLE, read_tensors

if TYPE_CHECKING:
    import torch

_FIELD = "tuning_config.prompt_tuning_init_source_model"
_IN_DIRECTORY = ("adapter_model.safetensors", "adapter_model.bin")
_MANIFEST = "manifest.json"
_PEFT_CONFIG = "adapter_config.json"
_LARGEST_JSON = 2**20  # bytes
_IDENTITY = ("base_model", "fingerprint")
# peft's name, this project's own for a tuned prompt, and a file that is one tensor.
_SHARED = ("prompt_embeddings", "prompt", WHOLE)


@dataclass(frozen=True, slots=True)
class SourcePrompt:
    """A source prompt in memory; `tasks` [N, P, H] are its task matrices, None where it has none."""

    name: str
    shared: torch.Tensor
    tasks: torch.Tensor | None

    @property
    def num_virtual_tokens(self) -> int:
        """P."""
        return int(self.shared.shape[0])

    @property
    def num_tasks(self) -> int:
        """N."""
        return 0 if self.tasks is None else int(self.tasks.shape[0])

    def average(self) -> torch.Tensor:
        """The mean over the source tasks of their whole prompts, [P, H].

        The task matrices are averaged and not their columns and rows apart: (u, v) and (-u, -v)
        are the same task, but their halves cancel out.
        """
        return self.shared if self.tasks is None else self.shared * self.tasks.mean(dim=0)

    def task(self, index: int) -> torch.Tensor:
        """The whole prompt of one source task, [P, H]."""
        if self.tasks is None or index >= self.num_tasks:
            raise InvalidSourcePrompt(
                "tuning_config.prompt_tuning_init_task",
                index,
                f"the index of one of the {self.num_tasks} tasks of {self.name}",
            )
        return self.shared * self.tasks[index]


def find_source(name: str, checkpoint: Checkpoint, settings: Settings) -> SourcePrompt:
    """The source prompt called `name`, or the default one of the base model where it is empty.

    Raises InvalidSourcePrompt where there is none, where it lies outside `source_prompt_base`, can't
    be read, has another width than the base model, or is for another base model.
    """
    root = settings.source_prompt_base
    if not root or not Path(root).is_dir():
        raise InvalidSourcePrompt(
            _FIELD,
            name,
            "a source prompt, once the setting source_prompt_base (SOURCE_PROMPT_BASE) names a directory",
        )
    name = name or _default_name(Path(root), checkpoint)
    file = _file(root, name)
    _check_base_model(name, file, checkpoint)
    return _read(name, file, checkpoint)


def _file(root: str, name: str) -> Path:
    """The file behind `name`, resolved inside `root` also where a link is on the way."""
    candidates = (name, name + SAFETENSORS, *(f"{name}/{file}" for file in _IN_DIRECTORY))
    for candidate in candidates:
        path = inside(root, candidate, _FIELD, InvalidSourcePrompt)
        if path.is_file():
            if path.suffix not in (SAFETENSORS, *TORCH):
                break
            return path
    known = ", ".join(_names(Path(root))) or "none yet"
    raise InvalidSourcePrompt(
        _FIELD,
        name,
        f"a {SAFETENSORS} file or a peft directory under source_prompt_base (there: {known})",
    )


def _read(name: str, file: Path, checkpoint: Checkpoint) -> SourcePrompt:
    import torch

    try:
        tensors = read_tensors(file)
    except (ValueError, OSError) as error:
        raise InvalidSourcePrompt(_FIELD, name, f"a file of tensors ({error})") from error
    shared = next((tensors[key] for key in _SHARED if key in tensors), None)
    if shared is None or shared.ndim != 2 or not shared.numel():
        raise InvalidSourcePrompt(_FIELD, name, "a file with prompt_embeddings [tokens, width]")
    halves = int(_json(file.parent / _PEFT_CONFIG).get("num_transformer_submodules") or 1)
    if file.name in _IN_DIRECTORY and halves != 1:
        raise InvalidSourcePrompt(_FIELD, name, "a source prompt of one side; this one has two in one tensor")
    if shared.shape[1] != checkpoint.hidden_size:
        raise InvalidSourcePrompt(
            _FIELD,
            name,
            f"a source prompt of width {checkpoint.hidden_size}, as {checkpoint.name} has it; this "
            f"one has {shared.shape[1]}",
        )
    tasks = _task_matrices(name, tensors, shared)
    if not all(bool(torch.isfinite(part).all()) for part in (shared, tasks) if part is not None):
        raise InvalidSourcePrompt(_FIELD, name, "a file of finite numbers")
    return SourcePrompt(name, shared, tasks)


def _task_matrices(
    name: str, tensors: Mapping[str, torch.Tensor], shared: torch.Tensor
) -> torch.Tensor | None:
    columns, rows = tensors.get("prefix_task_cols"), tensors.get("prefix_task_rows")
    if columns is None and rows is None:
        return None
    fits = (
        columns is not None
        and rows is not None
        and columns.ndim == rows.ndim == 3
        and columns.shape[0] == rows.shape[0] > 0
        and columns.shape[2] == rows.shape[1]
        and (columns.shape[1], rows.shape[2]) == tuple(shared.shape)
    )
    if not fits or columns is None or rows is None:
        raise InvalidSourcePrompt(
            _FIELD,
            name,
            f"prefix_task_cols [tasks, {shared.shape[0]}, rank] and prefix_task_rows [tasks, rank, "
            f"{shared.shape[1]}] to go with its prompt_embeddings {list(shared.shape)}",
        )
    return columns @ rows


# ---- manifests ----


def _check_base_model(name: str, file: Path, checkpoint: Checkpoint) -> None:
    """Raises InvalidSourcePrompt where what stands beside `file` names another base model."""
    manifest = _manifest(file)
    if _is_for(manifest, checkpoint) is False:
        recorded = " ".join(str(manifest[key]) for key in _IDENTITY if manifest.get(key))
        raise InvalidSourcePrompt(
            _FIELD,
            name,
            f"a source prompt for {checkpoint.name} {checkpoint.fingerprint}; this one is for {recorded}",
        )


def _is_for(manifest: Mapping[str, Any], checkpoint: Checkpoint) -> bool | None:
    """Whether a manifest is for this base model; None where it doesn't say."""
    if manifest.get("fingerprint"):
        return bool(manifest["fingerprint"] == checkpoint.fingerprint)
    if manifest.get("base_model"):
        return _last_part(str(manifest["base_model"])) == _last_part(checkpoint.name)
    return None


def _default_name(root: Path, checkpoint: Checkpoint) -> str:
    """The one source for this base model, or the one whose manifest says `default: true`."""
    matching = [(name, manifest) for name, manifest in _manifests(root) if _is_for(manifest, checkpoint)]
    chosen = [name for name, manifest in matching if manifest.get("default") is True]
    if len(matching) == 1:
        chosen = [matching[0][0]]
    if len(chosen) != 1:
        names = ", ".join(name for name, _ in matching) or "none"
        raise InvalidSourcePrompt(
            _FIELD,
            "",
            f"a name; {len(chosen)} sources are the default of {checkpoint.name} (its sources: {names})",
        )
    return chosen[0]


def _manifests(root: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for file in _files(root):
        yield _name_of(file, root), _manifest(file)


def _names(root: Path) -> list[str]:
    return [_name_of(file, root) for file in _files(root)][:20]


def _files(root: Path) -> list[Path]:
    return sorted(file for file in root.rglob("*") if file.suffix in (SAFETENSORS, *TORCH))


def _name_of(file: Path, root: Path) -> str:
    named = file.parent if file.name in _IN_DIRECTORY else file.with_suffix("")
    if file.suffix != SAFETENSORS and named != file.parent:
        named = file
    return named.relative_to(root).as_posix()


def _manifest(file: Path) -> Mapping[str, Any]:
    """What stands beside `file` about it, in this project's words; empty where nothing does."""
    if file.name not in _IN_DIRECTORY:
        return _json(file.with_suffix(".json"))
    base = _json(file.parent / _PEFT_CONFIG).get("base_model_name_or_path")
    return _json(file.parent / _MANIFEST) or ({"base_model": base} if base else {})


def _json(file: Path) -> Mapping[str, Any]:
    """The object in `file`, empty where there is no such file, none of that size or no object in it."""
    try:
        content = json.loads(read_file(file, _LARGEST_JSON))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _last_part(name: str) -> str:
    return name.rstrip("/").rsplit("/", 1)[-1].lower()
