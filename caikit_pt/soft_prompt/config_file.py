"""config.yml of a tuned prompt, looked through before caikit reads it, which takes it for its own.

A few lines of YAML whose aliases hold aliases stand for more values than there is time for, and what is empty
or no mapping is an error of caikit's internals.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from caikit_pt.errors import DamagedArtifact
from caikit_pt.paths import read_file

CONFIG = "config.yml"
_LARGEST = 2**20  # bytes
# Texts whose values are kept, of so many characters at the most.
_MOST_KEPT, _LONGEST_KEPT = 2048, 2**13
# With every alias counted as what it stands for. A thousand labels are a thousand.
_MOST_VALUES = 100_000
_DEEPEST = 32
# caikit takes the names of earlier releases, too.
_IDS = ("module_id", "block_id", "workflow_id", "resource_id")
# The same as SafeLoader in C, where it was built: a MiB in some tenths of a second instead of some seconds.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def is_of(module_id: str, directory: Path) -> bool:
    """Whether the module of this id has saved what is in `directory`: nothing of others is read any further.

    Raises DamagedArtifact.
    """
    try:
        return bool(check_config(directory).get("module_id") == module_id)
    except FileNotFoundError:
        return False


def check_config(directory: Path) -> Mapping[str, Any]:
    """config.yml in `directory`. Raises DamagedArtifact where it isn't what `save` could have written.

    Raises FileNotFoundError where there is none.
    """
    try:
        text = read_file(directory / CONFIG, _LARGEST).decode("utf-8")
        config = _values_again(text) if len(text) <= _LONGEST_KEPT else _values(text)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _damaged(directory, f"can't be read ({error.strerror})") from error
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        told = str(error) if type(error) is _TooMuch else "is no YAML"
        raise _damaged(directory, told) from error
    if not isinstance(config, dict) or not all(isinstance(name, str) for name in config):
        raise _damaged(directory, "is empty, or something other than names with their values")
    if not any(config.get(name) for name in _IDS) or "model_path" in config:
        raise _damaged(directory, "has no module_id, or a model_path of its own")
    return config


def _values(text: str) -> Any:
    """What it stands for. Raises ValueError, yaml.YAMLError, RecursionError."""
    _check_size(text)
    return _LOADER(text).get_single_data()


# A list of prompts reads those of a hundred, twice each, and a page asks every few seconds.
_values_again = lru_cache(maxsize=_MOST_KEPT)(_values)


class _TooMuch(ValueError):
    """More than a config.yml holds."""


def _check_size(text: str) -> None:
    """Raises _TooMuch for values that are too many or too deep, without making them."""
    total, sizes = 0, dict[str, int]()
    open_ones: list[tuple[str | None, int]] = []
    for event in _events(text):
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_ones.pop()
            if anchor:
                sizes[anchor] = total - before
            continue
        if isinstance(event, yaml.AliasEvent):
            # Of one that isn't whole yet, and so holds itself, nothing is known.
            total += sizes.get(event.anchor or "", _MOST_VALUES)
        elif isinstance(event, yaml.NodeEvent):
            if isinstance(event, yaml.CollectionStartEvent):
                open_ones.append((event.anchor, total))
            elif event.anchor:
                sizes[event.anchor] = 1
            total += 1
        if total > _MOST_VALUES or len(open_ones) > _DEEPEST:
            raise _TooMuch(
                f"holds more than {_MOST_VALUES:,} values, its aliases counted, or more than {_DEEPEST} in "
                "one another"
            )


def _events(text: str) -> Iterator[yaml.Event]:
    events: Iterator[yaml.Event] = yaml.parse(text, _LOADER)
    return events


def _damaged(directory: Path, told: str) -> DamagedArtifact:
    return DamagedArtifact(f"{directory.name}: {CONFIG} {told}.")
