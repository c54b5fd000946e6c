"""The files of CONFIG_FILES and the environment, before anything is made of them: can they be read, and are
their names those of settings?

It imports no caikit, which reads CONFIG_FILES as it is imported and fails with what it stumbles over.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from caikit_pt.errors import InvalidParameter
from caikit_pt.settings import typed, variable

# Below these anyone may add names of his own.
_OPEN = (
    "data_streams.source_plugins.",
    "inference_plugin.",
    "libraries.",
    "model_management.",
    "runtime.batching.",
    "runtime.grpc.options.",
    "runtime.http.server_config.",
    "runtime.version_info.",
    "tuning_limits.",
)
# How alike two names are, of 1: what is left to others' variables in the environment, which has many.
_LIKE_IN_A_FILE, _LIKE_IN_THE_ENVIRONMENT = 0.75, 0.88


def contents() -> dict[str, Mapping[str, Any]]:
    """What stands in each file of CONFIG_FILES, by its path.

    Raises InvalidParameter where one isn't there, isn't YAML or isn't made of names and values.
    """
    named = [part.strip() for part in os.environ.get("CONFIG_FILES", "").split(",")]
    return {path: _content(path) for path in named if path or len(named) > 1}


def check() -> list[str]:
    """Raises InvalidParameter for a name or a value that no setting has; what is doubtful is returned.

    A wrong name in the environment is only doubtful: it may be meant for another program.
    """
    known = _known()
    for name, value in known.items():
        if isinstance(value, Mapping | list) and variable(name) in os.environ:
            allowed = f"unset; {name} holds more than one value, and stands in a file that CONFIG_FILES names"
            raise InvalidParameter(variable(name), os.environ[variable(name)], allowed)
    told = []
    for path, content in contents().items():
        if content.get("merge_strategy", "merge") != "merge":
            raise InvalidParameter(
                f"merge_strategy in {path}",
                content["merge_strategy"],
                "merge: all settings that a file leaves out would be gone",
            )
        for name, value in _dotted(content):
            if isinstance(known.get(name), Mapping) and not isinstance(value, Mapping):
                raise InvalidParameter(f"{name} in {path}", value, "a section: NAME: VALUE in lines below it")
            section = name.rpartition(".")[0]
            # What stands below a wrong name is told with it.
            if name in known or f"{section}.".startswith(_OPEN) or section not in ("", *known):
                continue
            like = _nearest(name, known, _LIKE_IN_A_FILE)
            if like:
                raise InvalidParameter(f"CONFIG_FILES ({path})", name, f"the name of a setting: {like}?")
            told.append(f"{path}: {name} is not a setting of caikit_pt or caikit, and nothing here reads it")
        try:
            typed(content)
        except InvalidParameter as error:
            raise InvalidParameter(f"{error.field} in {path}", error.value, error.allowed) from None
    return told + [
        f"the environment variable {name} sets nothing here. Was {like} meant?"
        for name, like in _misspelt(known)
    ]


def _content(path: str) -> Mapping[str, Any]:
    if not path.endswith((".yml", ".yaml")) or not Path(path).is_file():
        raise InvalidParameter(
            "CONFIG_FILES", path, "files that are there and end in .yml or .yaml, separated by commas"
        )
    field = f"CONFIG_FILES ({path})"
    try:
        content = yaml.safe_load(Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InvalidParameter(field, "its text", f"YAML in UTF-8 ({reason})") from None
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        raise InvalidParameter(field, content, "YAML of lines like `max_queued: 100`")
    return content


def _known() -> dict[str, Any]:
    """Every setting of caikit and of this package by its dotted name, sections among them."""
    caikit = importlib.util.find_spec("caikit")
    assert caikit is not None
    assert caikit.origin is not None
    files = (Path(__file__).with_name("config.yml"), Path(caikit.origin).parent / "config" / "config.yml")
    return {name: value for file in files for name, value in _dotted(yaml.safe_load(file.read_text("utf-8")))}


def _dotted(content: Mapping[str, Any], section: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        name = f"{section}.{key}" if section else str(key)
        yield name, value
        if isinstance(value, Mapping):
            yield from _dotted(value, name)


def _nearest(name: str, known: Iterable[str], likeness: float) -> str:
    """The setting that is most like `name`: of the same name in another section, or nearly so spelt."""
    plain = name.lower().replace("-", "_").removeprefix("caikit_pt.").removeprefix("caikit_pt_")
    last = plain.rpartition(".")[2]
    same = [one for one in known if one == plain or one.rpartition(".")[2] == last]
    return next(iter(same or difflib.get_close_matches(plain, known, 1, likeness)), "")


def _misspelt(known: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Names in the environment that are nearly those of settings, each with the one it is like."""
    ours = {variable(name): name for name in known}
    for name in sorted(os.environ):
        if name in ours:
            continue
        plain = name.upper().removeprefix("CAIKIT_PT_")
        like = difflib.get_close_matches(plain, ours, 1, _LIKE_IN_THE_ENVIRONMENT)
        if like:
            yield name, like[0]
