"""The whole state of a training on disk, so that it goes on, bit for bit, after whatever ended its process.

    000000120.safetensors    every tensor, and in the header's metadata all the rest as JSON
    000000120.json           the manifest, written last: where it doesn't fit, there is no snapshot

Each file is written beside its name, synced and renamed. The newest two are kept, as the newest may be torn.
Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caikit_pt.errors import TrainingInterrupted

if TYPE_CHECKING:
    import torch

_LOG = logging.getLogger(__name__)
_FORMAT_VERSION = 2
_KEPT = 2
_STATE = "state"
# How what JSON hasn't got is written.
_TENSOR, _TUPLE, _DICT = "tensor", "tuple", "dict"


class Snapshots:
    """Those of one training in `directory`, one every so many `seconds`.

    `on_kept` is called with the update and the seconds that it took. A training that goes on tells of its
    updates and validations since the update `told` again, where that is given: what told of them may not have
    been heard.
    """

    def __init__(
        self,
        directory: Path,
        seconds: float,
        on_kept: Callable[[int, float], None] | None = None,
        told: float = math.inf,
    ) -> None:
        # Whoever sets it wants the training to keep a snapshot at the next update and to end.
        self.stop = threading.Event()
        self.told = told
        self.directory, self._seconds = directory, seconds
        self._on_kept = on_kept or (lambda *_: None)
        self._last = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time for one."""
        return self.stop.is_set() or time.monotonic() - self._last >= self._seconds

    def keep(self, step: int, state: Any) -> None:
        """Writes `state`: nested dicts, lists and tuples of tensors and plain values.

        A disk that won't have it costs the training nothing but this snapshot.
        """
        began = time.monotonic()
        try:
            self._write(step, state)
        except OSError as error:
            _LOG.warning("no snapshot could be kept at update %d: %s", step, error.strerror or error)
        else:
            self._on_kept(step, time.monotonic() - began)
        self._last = time.monotonic()

    def keep_and_go_on(self, step: int, steps: int, state: Any) -> None:
        """As `keep`, of `steps` in all. Raises TrainingInterrupted where nobody wants the training to go on
        now."""
        self.keep(step, state)
        if self.stop.is_set():
            raise TrainingInterrupted(f"The training was stopped at update {step} of {steps}.")

    def newest(self) -> Any:
        """The newest state that is whole; None where there is none."""
        for manifest in self._manifests():
            try:
                return _read(manifest)
            except Exception as error:  # a torn file fails in many ways
                _LOG.warning("the snapshot %s is passed over: %s", manifest.stem, error)
        return None

    def _write(self, step: int, state: Any) -> None:
        from safetensors.torch import save

        # Not its parents: where those are gone nobody waits for it any more.
        self.directory.mkdir(exist_ok=True)
        tensors: dict[str, torch.Tensor] = {}
        plain = json.dumps(flattened(state, tensors))
        data = save(tensors, {_STATE: plain})
        told = {
            "format_version": _FORMAT_VERSION,
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        manifest = self.directory / f"{step:09}.json"
        _put(manifest.with_suffix(".safetensors"), data)
        _put(manifest, json.dumps(told).encode())
        self._tidy()

    def _tidy(self) -> None:
        """Removes all but the newest, and what a process that was killed had begun."""
        kept = {manifest.stem for manifest in self._manifests()[:_KEPT]}
        for path in self.directory.iterdir():
            if path.name.split(".")[0] not in kept:
                path.unlink(missing_ok=True)

    def _manifests(self) -> list[Path]:
        return sorted(self.directory.glob("[0-9]*.json"), reverse=True)


def flattened(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """`value` as JSON has it, with its tensors in `tensors`. Raises TypeError for what has no such form."""
    import torch

    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().clone().contiguous()
        return {_TENSOR: name}
    if isinstance(value, Mapping):
        return {_DICT: [[flattened(one, tensors) for one in pair] for pair in value.items()]}
    if isinstance(value, tuple):
        return {_TUPLE: [flattened(one, tensors) for one in value]}
    if isinstance(value, list):
        return [flattened(one, tensors) for one in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a snapshot can't hold a {type(value).__name__}")


def restored(plain: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """What `flattened` had."""
    if isinstance(plain, list):
        return [restored(one, tensors) for one in plain]
    if isinstance(plain, dict):
        ((kind, content),) = plain.items()
        if kind == _TENSOR:
            return tensors[content]
        if kind == _TUPLE:
            return tuple(restored(one, tensors) for one in content)
        return {restored(key, tensors): restored(one, tensors) for key, one in content}
    return plain


def _read(manifest: Path) -> Any:
    """Raises ValueError where the data aren't those that the manifest is of."""
    from safetensors import safe_open
    from safetensors.torch import load

    told = json.loads(manifest.read_text("utf-8"))
    if told["format_version"] != _FORMAT_VERSION:
        raise ValueError(f"its format is {told['format_version']}, not {_FORMAT_VERSION}")
    file = manifest.with_suffix(".safetensors")
    data = file.read_bytes()
    if len(data) != told["bytes"] or hashlib.sha256(data).hexdigest() != told["sha256"]:
        raise ValueError("its data are damaged")
    with safe_open(file, "pt") as opened:
        plain = json.loads(opened.metadata()[_STATE])
    return restored(plain, load(data))


def _put(file: Path, data: bytes) -> None:
    """In one piece, and there after the power fails."""
    new = file.with_name(f"{file.name}.new")
    try:
        with new.open("wb") as output:
            output.write(data)
            output.flush()
            os.fsync(output.fileno())
        os.replace(new, file)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    directory = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
