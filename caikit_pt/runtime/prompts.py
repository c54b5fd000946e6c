"""What TuningService answers about tuned prompts: lists of them, the facts of one, and its files."""

from __future__ import annotations

import io
import json
import os
import tarfile
import time
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import caikit

from caikit_pt import call, settings
from caikit_pt.base_model.loading.checkpoint import Checkpoint, locate
from caikit_pt.base_model.sides import text_of
from caikit_pt.errors import (
    CaikitPtError,
    DamagedArtifact,
    InvalidParameter,
    StateUnavailable,
    UnknownModel,
)
from caikit_pt.module import PeftPromptTuning
from caikit_pt.paths import check_plain_name, inside, read_file
from caikit_pt.runtime.loaded import forget
from caikit_pt.runtime.tuning_messages import ListPromptsResponse, Prompt
from caikit_pt.soft_prompt import publication
from caikit_pt.soft_prompt.config_file import CONFIG, check_config, is_of
from caikit_pt.soft_prompt.history import Verdict

_LARGEST_FILE = 2**30
_CHUNK = 2**20
_TRIES = 3
_NANOSECONDS_OF_A_TICK = 10**9
_SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")


def listed(base_model: str, page_size: int, page_token: str) -> ListPromptsResponse:
    """A page of those that the caller may ask. Raises InvalidParameter for a token that is none."""
    if page_token:
        try:
            check_plain_name(page_token, "page_token")
        except InvalidParameter:
            allowed = "next_page_token of an earlier answer"
            raise InvalidParameter("page_token", page_token, allowed) from None
    found = list[Prompt]()
    for prompt in _prompts(base_model, page_token):
        if len(found) == page_size:
            return ListPromptsResponse(prompts=found, next_page_token=found[-1].model_name)
        found.append(prompt)
    return ListPromptsResponse(prompts=found, next_page_token="")


def found(name: str) -> Prompt:
    """Everything of the one with this name; a `problem` where its base model isn't there.

    Raises UnknownModel where there is none, DamagedArtifact.
    """
    directory = _directory(name)
    config = check_config(directory)
    prompt = _told(directory, config)
    prompt.labels = [str(label) for label in config.get("labels") or ()]
    prompt.parameters = _plain(config.get("tuning_parameters") or {})
    prompt.verdict = _plain(dict(Verdict(directory)))
    try:
        prompt.tokenizer = _tokenizer(prompt.base_model)
    except CaikitPtError as error:
        prompt.problem = str(error)
    return prompt


def archive(name: str) -> Iterator[bytes]:
    """A tar archive of its files, as one publication has left them, in a directory of its name.

    Raises UnknownModel, and StateUnavailable where it is published anew each time it is read.
    """
    files = _files(name)
    told = io.BytesIO()
    with tarfile.open(fileobj=told, mode="w") as tar:
        for file, content in files.items():
            entry = tarfile.TarInfo(f"{name}/{file}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    told.seek(0)
    while chunk := told.read(_CHUNK):
        yield chunk


def remove(name: str) -> None:
    """Nothing is served under this name any more; answers under way are finished. Raises UnknownModel where
    there is none, StateUnavailable where the disk won't have it."""
    try:
        directory = _directory(name)
    except DamagedArtifact:
        directory = inside(caikit.get_config().runtime.local_models_dir, name, "model_name")
    try:
        publication.remove(directory)
    except FileNotFoundError:
        raise UnknownModel(name) from None
    except OSError as error:
        raise StateUnavailable(f"{name} can't be removed: {error.strerror or error}") from error
    forget(str(directory))


def _files(name: str) -> Mapping[str, bytes]:
    for _ in range(_TRIES):
        directory = _directory(name)
        # Another training may take its place meanwhile: another directory, by a rename.
        with suppress(FileNotFoundError):
            before = directory.stat().st_ino
            files = {
                path.name: read_file(path, _LARGEST_FILE)
                for path in sorted(directory.iterdir())
                if path.is_file() and not path.name.startswith(".")
            }
            if directory.stat().st_ino == before:
                return files
    raise StateUnavailable(f"{name} is published anew again and again, and can't be read in between")


def _prompts(base_model: str, after: str) -> Iterator[Prompt]:
    """By name, those behind `after`."""
    names = _names(Path(caikit.get_config().runtime.local_models_dir or ""))
    for name in islice(names, bisect_right(names, after), None):
        prompt = _seen(name)
        if prompt and (not base_model or prompt.base_model == base_model):
            yield prompt


def _names(root: Path) -> Sequence[str]:
    """What there is in a directory, in order. It is read once, until something comes or goes."""
    try:
        changed = root.stat().st_mtime_ns
        # What changes in the same tick of a file system's clock isn't seen by it.
        if time.time_ns() - changed < _NANOSECONDS_OF_A_TICK:
            return sorted(os.listdir(root))
        return _names_at(root, changed)
    except FileNotFoundError:
        return ()


@lru_cache(maxsize=1)
def _names_at(root: Path, changed: int) -> Sequence[str]:
    return sorted(os.listdir(root))


def _seen(name: str) -> Prompt | None:
    """None where the caller may not ask it, or it is no tuned prompt."""
    try:
        # Before anything is said of it.
        if not call.may("generate", check_plain_name(name)):
            return None
        directory = _directory(name)
        return _told(directory, check_config(directory))
    except (InvalidParameter, UnknownModel, FileNotFoundError):
        return None
    except CaikitPtError as error:
        return Prompt(model_name=name, problem=str(error))


def _directory(name: str) -> Path:
    """Where it is published. Raises UnknownModel where it isn't, DamagedArtifact."""
    directory = inside(caikit.get_config().runtime.local_models_dir, name, "model_name")
    if not (directory / CONFIG).is_file() or not is_of(PeftPromptTuning.MODULE_ID, directory):
        raise UnknownModel(name)
    return directory


def _told(directory: Path, config: Mapping[str, Any]) -> Prompt:
    parameters = config.get("tuning_parameters") or {}
    return Prompt(
        model_name=directory.name,
        base_model=str(config.get("base_model_name") or ""),
        num_virtual_tokens=int(parameters.get("num_virtual_tokens") or 0),
        verbalizer=str(config.get("verbalizer") or ""),
        separator=str(config.get("separator") or ""),
        published=datetime.fromtimestamp((directory / CONFIG).stat().st_mtime, UTC),
    )


def _tokenizer(base_model: str) -> dict[str, Any]:
    """What a client has to know of it. Raises InvalidParameter where the base model can't be read."""
    checkpoint = locate(base_model, settings.current())
    return _facts_of(_Known(checkpoint.directory, checkpoint.tokenizer_sha256, checkpoint))


@dataclass(frozen=True)
class _Known:
    """A tokenizer, as long as its file is the same: to read one takes a second."""

    directory: Path
    sha256: str
    checkpoint: Checkpoint = field(compare=False)


@lru_cache(maxsize=64)
def _facts_of(known: _Known) -> dict[str, Any]:
    text = text_of(known.checkpoint)
    told: dict[str, Any] = {name: getattr(text.tokenizer, name, None) for name in _SPECIAL}
    template = getattr(text.tokenizer, "chat_template", None)
    told["chat_template"] = template if isinstance(template, str) else None
    told["model_max_length"] = text.context_length
    told["continues_text"] = text.continues_text
    return {name: value for name, value in told.items() if value is not None}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON has it."""
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain
