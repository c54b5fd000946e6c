"""Renders docs/settings.md from caikit_pt/config.yml.

python -m tests.render_settings FILE
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from caikit_pt.settings import variable
from examples.local_server import ROOT

CONFIG = ROOT / "caikit_pt" / "config.yml"
# What no variable can hold, or is no setting to be changed.
_WITHOUT_VARIABLE = "runtime.grpc.options."
_LEFT_OUT = ("runtime.library", "model_management.", "data_streams.source_plugins", "tuning_presets.")
_LONGEST_DEFAULT = 60
_HEAD = """# Settings

Every setting with its default, made from [caikit_pt/config.yml](../caikit_pt/config.yml) by `make docs`.
A file that CONFIG_FILES names overrides it (`a.b` is `b` in the section `a`), and the variable overrides
both. What has no variable holds more than one value. Relative paths are those of the directory that the
server starts in. A value that can't be, or a name that is nearly a setting's, ends the start in one line
that says what is allowed.

| setting | variable | default | what it does |
| --- | --- | --- | --- |
"""


def render() -> str:
    """The whole page."""
    content = yaml.safe_load(CONFIG.read_text("utf-8"))
    rows = []
    for name, comment in _commented(CONFIG.read_text("utf-8").splitlines()):
        value = _value(content, name)
        if (isinstance(value, Mapping) and value) or name.startswith(_LEFT_OUT):
            continue
        holds_one = not isinstance(value, Mapping | list) and not name.startswith(_WITHOUT_VARIABLE)
        cells = (f"`{name}`", f"`{variable(name)}`" if holds_one else "", _shown(value), comment)
        rows.append(f"| {' | '.join(cells)} |")
    return _HEAD + "\n".join(rows) + "\n"


def _commented(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Each setting with what stands above it; one that has nothing of its own with that of those before it in
    its section, or with the section's."""
    above: list[str] = []
    before: dict[int, str] = {}
    sections: list[tuple[int, str, str]] = []
    for line in lines:
        found = re.match(r"( *)([A-Za-z_][\w.]*):(?: |$)", line)
        if comment := re.match(r" *#(?! ----)( .*)?$", line):
            above.append((comment[1] or "").strip())
        elif found:
            indent = len(found[1])
            sections = [one for one in sections if one[0] < indent]
            before = {one: told for one, told in before.items() if one <= indent}
            told = " ".join(above) or before.get(indent) or (sections[-1][2] if sections else "")
            above = []
            before[indent] = told
            yield ".".join([*(name for _, name, _ in sections), found[2]]), told.replace("|", "\\|")
            sections.append((indent, found[2], told))
        elif not line.strip():
            above = []


def _value(content: Any, name: str) -> Any:
    """By its dotted name, in which a key may have dots of its own."""
    if not name:
        return content
    for key, value in content.items() if isinstance(content, Mapping) else ():
        if name == key or name.startswith(f"{key}."):
            return _value(value, name[len(key) + 1 :])
    return None


def _shown(value: object) -> str:
    if value in ("", None):
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    text = str(value)
    return f"`{text}`" if len(text) <= _LONGEST_DEFAULT else "in the file"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(render(), "utf-8")
