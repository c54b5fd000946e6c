"""How a tuned prompt came about, in files that are read when somebody asks.

Of thousands of prompts that are served nobody does; parsed, it would take more memory than they.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from caikit_pt.errors import CaikitPtError
from caikit_pt.paths import read_file
from caikit_pt.soft_prompt.tensor_file import read_tensors

if TYPE_CHECKING:
    import torch

_LOG = logging.getLogger(__name__)

TRAINING_LOGS = "training_logs.jsonl"
VERDICT = "verdict.json"
INITIAL = "initial.safetensors"
_LARGEST = 2**28  # bytes, of either


class LossCurve(Sequence[Mapping[str, Any]]):
    """The lines of training_logs.jsonl in `directory`; none where the file is missing or broken."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / TRAINING_LOGS

    @overload
    def __getitem__(self, index: int) -> Mapping[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Mapping[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> Any:
        return self._lines()[index]

    def __len__(self) -> int:
        return len(self._lines())

    def _lines(self) -> list[Mapping[str, Any]]:
        lines = _text(self._file).splitlines()
        return [entry for entry in (_parsed(line, self._file) for line in lines if line) if entry]


class Verdict(Mapping[str, Any]):
    """verdict.json in `directory` (see tuning/verdict.py); empty where it is missing or broken."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / VERDICT

    def __getitem__(self, key: str) -> Any:
        return self._object()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._object())

    def __len__(self) -> int:
        return len(self._object())

    def _object(self) -> Mapping[str, Any]:
        return _parsed(_text(self._file) or "{}", self._file)


class InitialRows(Mapping[str, "torch.Tensor"]):
    """initial.safetensors in `directory`: by side, the rows [P, H] float32 that the training started from;
    empty where the file is missing or broken."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / INITIAL

    def __getitem__(self, key: str) -> torch.Tensor:
        return self._tensors()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors())

    def __len__(self) -> int:
        return len(self._tensors())

    def _tensors(self) -> Mapping[str, torch.Tensor]:
        try:
            return read_tensors(self._file) if self._file.exists() else {}
        except ValueError as error:
            _LOG.warning("%s: %s; it counts as empty", self._file.parent.name, error)
            return {}


def write(
    training_logs: Sequence[Mapping[str, Any]],
    verdict: Mapping[str, Any],
    initial: Mapping[str, torch.Tensor],
    directory: Path,
) -> None:
    """Writes the files into `directory`; of what has no `initial` rows all but those."""
    from safetensors.torch import save

    lines = [json.dumps(_finite(entry), ensure_ascii=False) + "\n" for entry in training_logs]
    (directory / TRAINING_LOGS).write_text("".join(lines), "utf-8")
    (directory / VERDICT).write_text(json.dumps(dict(verdict), ensure_ascii=False, indent=1) + "\n", "utf-8")
    if rows := {part: tensor.contiguous() for part, tensor in initial.items()}:
        (directory / INITIAL).write_bytes(save(rows))


def _finite(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """A line of the log as JSON has it, which knows no NaN: the loss of a skipped update is null."""
    value = entry["data"]["value"]
    return entry if math.isfinite(value) else {**entry, "data": {**entry["data"], "value": None}}


def _text(file: Path) -> str:
    try:
        return read_file(file, _LARGEST).decode("utf-8")
    except (CaikitPtError, OSError, UnicodeDecodeError):
        return ""


def _parsed(text: str, file: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if isinstance(found, dict):
        return found
    _LOG.warning("%s: %s isn't JSON; it counts as empty", file.parent.name, file.name)
    return {}
