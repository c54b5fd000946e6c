"""The files of a checkpoint: all of them files, its weights whole, or it is refused with the one that isn't.

No weight is read.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from caikit_pt.errors import InvalidParameter, in_short
from caikit_pt.paths import check_file, check_scarcity, open_file

_MOST_NAMED = 5
# What types of models call the number of layers that they build.
_LAYERS = (
    "num_hidden_layers",
    "num_layers",
    "num_decoder_layers",
    "encoder_layers",
    "decoder_layers",
    "n_layer",
    "n_layers",
)
# In the order in which transformers looks for them.
_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_TORCH_WHOLE, _TORCH_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
# The one folder in a checkpoint's that transformers reads from.
_TEMPLATES = "additional_chat_templates"
_KINDS = (
    (stat.S_ISFIFO, "pipe"),
    (stat.S_ISSOCK, "socket"),
    (lambda mode: stat.S_ISCHR(mode) or stat.S_ISBLK(mode), "device"),
)


def check_kinds(name: str, directory: Path) -> None:
    """Raises InvalidParameter where anything in `directory` is neither file nor folder, links followed.

    Whoever opened it would wait for good; safetensors, with the interpreter's lock.
    """
    for path in sorted(directory.iterdir()):
        try:
            mode = path.stat().st_mode
        except OSError:  # a link that leads nowhere, which nobody can open
            continue
        kind = next((kind for is_one, kind in _KINDS if is_one(mode)), "")
        if kind:
            raise broken(name, f"{path.name} is a {kind}")
        if path.name == _TEMPLATES and stat.S_ISDIR(mode):
            check_kinds(name, path)


@contextmanager
def opened_tensors(file: Path) -> Iterator[Any]:
    """A safetensors `file`, of which nothing but the header is read. Raises OSError where it is no file, and
    whatever safetensors does."""
    from safetensors import safe_open

    check_file(file)
    with safe_open(file, "pt") as tensors:
        yield tensors


def check_files(name: str, directory: Path) -> None:
    """Looks at the files of weights, of safetensors at the headers. Raises InvalidParameter with the file.

    Cheap: no weight is read.
    """
    for file in sorted(directory.glob("*.safetensors")):
        try:
            with opened_tensors(file) as tensors:
                _ = tensors.keys()
        except Exception as error:  # torn, no file at all, a link to itself
            check_scarcity(error)
            raise broken(name, f"{file.name} can't be read ({in_short(error)})") from error
    for whole, index in ((_WHOLE, _INDEX), (_TORCH_WHOLE, _TORCH_INDEX)):
        if (directory / whole).exists():
            return
        if (directory / index).exists():
            _check_index(name, directory / index)
            return
    if not any(directory.glob("*.safetensors")) and not any(directory.glob("pytorch_model*.bin")):
        raise broken(name, "there is no *.safetensors and no pytorch_model*.bin")


def weight_files(directory: Path) -> list[Path]:
    """Those that transformers reads: other forms of the same weights may lie beside them. For files that
    `check_files` has let pass."""
    for whole, index in ((_WHOLE, _INDEX), (_TORCH_WHOLE, _TORCH_INDEX)):
        if (directory / whole).exists():
            return [directory / whole]
        if (directory / index).exists():
            return sorted(directory / file for file in _indexed(directory / index))
    return sorted(directory.glob("*.safetensors")) or sorted(directory.glob("pytorch_model*.bin"))


def check_layers(name: str, directory: Path, config: Mapping[str, Any]) -> None:
    """Raises InvalidParameter where `config` asks for more layers than there are tensors: they would be built
    before anybody finds that their weights are missing."""
    tensors = 0
    for file in directory.glob("*.safetensors"):
        with opened_tensors(file) as opened:
            tensors += len(opened.keys())
    for key in _LAYERS:
        value = config.get(key)
        if type(value) is int and value > tensors > 0:
            raise broken(name, f"{key} in config.json is {value:,}, and the files have {tensors:,} tensors")


def broken(name: str, what: str) -> InvalidParameter:
    """A refusal of the base model `name`, whose files aren't whole: `what` is wrong with them."""
    return InvalidParameter(
        "base_model", name, f"a checkpoint whose files are whole; {what}. Fetch or save it again"
    )


def some(names: Iterable[str]) -> str:
    """The first of `names`, and how many more there are."""
    ordered = sorted(names)
    shown = ", ".join(ordered[:_MOST_NAMED])
    return shown if len(ordered) <= _MOST_NAMED else f"{shown} and {len(ordered) - _MOST_NAMED} more"


def _check_index(name: str, index: Path) -> None:
    try:
        files = _indexed(index)
    except Exception as error:  # no JSON, or another one
        check_scarcity(error)
        raise broken(name, f"{index.name} is no index of weights ({in_short(error)})") from error
    outside = [file for file in files if not isinstance(file, str) or Path(file).name != file]
    if outside:
        raise broken(name, f"{index.name} names {some(map(repr, outside))}, not files beside it")
    missing = [file for file in files if not (index.parent / file).is_file()]
    if missing:
        raise broken(name, f"{index.name} names {some(missing)}, which aren't there")


def _indexed(index: Path) -> set[str]:
    return set(read_json(index)["weight_map"].values())


def read_json(file: Path) -> Any:
    """What is in `file`. Raises OSError, and ValueError where it is no JSON."""
    with open_file(file) as opened:
        return json.loads(opened.read().decode("utf-8"))
