"""What tells one set of frozen weights from another, without reading all of it.

A soft prompt is worth nothing on other weights than those it was tuned on, so every tuned prompt
carries the fingerprint of its base. It covers what config.json says that tensors can't (heads, norms,
activation, positions), the vocabulary and, for each tensor of the checkpoint, its name, type, shape
and first and last bytes. Fine-tuning moves every tensor it
touches, so a fine-tuned copy differs; resharding a checkpoint changes nothing. A copy converted to
another data type differs, because its numbers do.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from caikit_pt.base_model.loading.files import check_files, read_json
from caikit_pt.errors import CaikitPtError, InvalidParameter, in_short
from caikit_pt.paths import check_file, check_scarcity, open_file

_SAMPLE_BYTES = 2048
# Names that every release of transformers writes alike; the rest of config.json changes between releases.
_ARCHITECTURE = (
    "model_type",
    "num_attention_heads",
    "n_head",
    "num_heads",
    "num_key_value_heads",
    "hidden_act",
    "activation_function",
    "rms_norm_eps",
    "layer_norm_eps",
    "layer_norm_epsilon",
    "relative_attention_num_buckets",
    "relative_attention_max_distance",
)
_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors format itself


def fingerprint(directory: Path, name: str = "") -> str:
    """`sha256:` and 64 hex digits for the checkpoint in `directory`, which is called `name`.

    Raises InvalidParameter where there are no weights to take it of, or files that aren't whole.
    """
    name = name or directory.name
    files = sorted(directory.glob("*.safetensors")) or sorted(directory.glob("pytorch_model*.bin"))
    described = (directory / "config.json", directory / "tokenizer.json")
    indices = sorted(directory.glob("*.index.json"))
    looked_at = tuple((str(file), *_stamp(file)) for file in (*indices, *files))
    try:
        _check(name, directory, looked_at)
        return _fingerprint(tuple((str(file), *_stamp(file)) for file in (*described, *files)))
    except CaikitPtError:
        raise
    except Exception as error:  # a broken file fails in many ways
        check_scarcity(error)
        raise InvalidParameter(
            "base_model",
            name,
            f"a checkpoint whose files are whole; this one's can't be read ({in_short(error)}). "
            "Fetch or save it again",
        ) from error


def tokenizer_sha256(directory: Path) -> str:
    """`sha256:` and 64 hex digits of all bytes of tokenizer.json; empty for other kinds of tokenizers."""
    try:
        return f"sha256:{hashlib.sha256((directory / 'tokenizer.json').read_bytes()).hexdigest()}"
    except FileNotFoundError:
        return ""


@lru_cache(maxsize=256)
def _check(name: str, directory: Path, stamps: tuple[tuple[str, int, int], ...]) -> None:
    """Once for the state of the files that `stamps` tell."""
    check_files(name, directory)


def _stamp(file: Path) -> tuple[int, int]:
    if not file.exists():
        return 0, 0
    status = file.stat()
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=256)
def _fingerprint(stamps: tuple[tuple[str, int, int], ...]) -> str:
    config, tokenizer, *files = (Path(stamp[0]) for stamp in stamps)
    digest = hashlib.sha256(_canonical([_architecture(config), _vocabulary(tokenizer)]))
    samples = sorted(sample for file in files for sample in _samples(file))
    for name, described, ends in samples:
        digest.update(f"\n{name} {described} ".encode() + ends)
    return f"sha256:{digest.hexdigest()}"


def _architecture(config: Path) -> dict[str, Any]:
    values = _json(config)
    found = {name: values[name] for name in _ARCHITECTURE if name in values}
    # Moved into rope_parameters by transformers 5.
    rope = values.get("rope_parameters") or {}
    return {**found, "rope_theta": values.get("rope_theta", rope.get("rope_theta"))}


def _vocabulary(tokenizer: Path) -> Any:
    """Pieces and their ids. Models with another kind of tokenizer file go by their weights alone."""
    if not tokenizer.exists():
        return None
    return _json(tokenizer).get("model", {}).get("vocab")


def _json(file: Path) -> Any:
    try:
        return read_json(file)
    except ValueError as error:
        raise ValueError(f"{file.name}: {error}") from error


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=False).encode()


def _samples(file: Path) -> Iterator[tuple[str, str, bytes]]:
    """Of each tensor in `file`: its name, its type and shape, its first and last bytes."""
    if file.suffix == ".safetensors":
        return _safetensors_samples(file)
    return _torch_samples(file)


def _safetensors_samples(file: Path) -> Iterator[tuple[str, str, bytes]]:
    with open_file(file) as stream:
        (header_bytes,) = struct.unpack("<Q", stream.read(8))
        if header_bytes > _MAX_HEADER_BYTES:
            raise InvalidParameter("base_model", file.name, "a safetensors file with a valid header")
        header = json.loads(stream.read(header_bytes))
        header.pop("__metadata__", None)
        size = file.stat().st_size
        for name, entry in header.items():
            start, end = (8 + header_bytes + offset for offset in entry["data_offsets"])
            if not 0 <= start <= end <= size:
                raise ValueError(f"{name} lies outside its file")
            stream.seek(start)
            first = stream.read(min(_SAMPLE_BYTES, end - start))
            stream.seek(max(start, end - _SAMPLE_BYTES))
            last = stream.read(end - max(start, end - _SAMPLE_BYTES))
            yield name, f"{entry['dtype']} {entry['shape']}", first + last


def _torch_samples(file: Path) -> Iterator[tuple[str, str, bytes]]:
    import torch

    check_file(file)
    for name, tensor in torch.load(file, map_location="cpu", mmap=True, weights_only=True).items():
        flat = tensor.contiguous().view(-1).view(torch.uint8)
        ends = bytes(flat[:_SAMPLE_BYTES].tolist()) + bytes(flat[-_SAMPLE_BYTES:].tolist())
        yield name, f"{tensor.dtype} {list(tensor.shape)}", ends
