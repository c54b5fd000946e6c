"""What tells one set of frozen weights from another, without reading all of it.

A soft prompt is worth nothing on other weights than those it was tuned on, so every tuned prompt
carries the fingerprint of its base. It covers the architecture and, for each tensor of the
checkpoint, its name, type, shape and first and last bytes. Fine-tuning moves every tensor it
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

from caikit_pt.errors import InvalidParameter

_SAMPLE_BYTES = 2048
_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors format itself


def fingerprint(directory: Path) -> str:
    """`sha256:` and 64 hex digits for the checkpoint in `directory`.

    Raises InvalidParameter where there are no weights to take it of.
    """
    files = sorted(directory.glob("*.safetensors")) or sorted(directory.glob("pytorch_model*.bin"))
    if not files:
        raise InvalidParameter(
            "base_model", directory.name, "a directory with *.safetensors or pytorch_model*.bin"
        )
    stamps = tuple((str(file), *_stamp(file)) for file in (directory / "config.json", *files))
    return _fingerprint(stamps)


def _stamp(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=256)
def _fingerprint(stamps: tuple[tuple[str, int, int], ...]) -> str:
    config, *files = (Path(stamp[0]) for stamp in stamps)
    digest = hashlib.sha256(json.loads(config.read_text("utf-8")).get("model_type", "").encode())
    samples = sorted(sample for file in files for sample in _samples(file))
    for name, described, ends in samples:
        digest.update(f"\n{name} {described} ".encode() + ends)
    return f"sha256:{digest.hexdigest()}"


def _samples(file: Path) -> Iterator[tuple[str, str, bytes]]:
    """Of each tensor in `file`: its name, its type and shape, its first and last bytes."""
    if file.suffix == ".safetensors":
        return _safetensors_samples(file)
    return _torch_samples(file)


def _safetensors_samples(file: Path) -> Iterator[tuple[str, str, bytes]]:
    with file.open("rb") as stream:
        (header_bytes,) = struct.unpack("<Q", stream.read(8))
        if header_bytes > _MAX_HEADER_BYTES:
            raise InvalidParameter("base_model", file.name, "a safetensors file with a valid header")
        header = json.loads(stream.read(header_bytes))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            start, end = (8 + header_bytes + offset for offset in entry["data_offsets"])
            stream.seek(start)
            first = stream.read(min(_SAMPLE_BYTES, end - start))
            stream.seek(max(start, end - _SAMPLE_BYTES))
            last = stream.read(end - max(start, end - _SAMPLE_BYTES))
            yield name, f"{entry['dtype']} {entry['shape']}", first + last


def _torch_samples(file: Path) -> Iterator[tuple[str, str, bytes]]:
    import torch

    for name, tensor in torch.load(file, map_location="cpu", mmap=True, weights_only=True).items():
        flat = tensor.contiguous().view(-1).view(torch.uint8)
        ends = bytes(flat[:_SAMPLE_BYTES].tolist()) + bytes(flat[-_SAMPLE_BYTES:].tolist())
        yield name, f"{tensor.dtype} {list(tensor.shape)}", ends
