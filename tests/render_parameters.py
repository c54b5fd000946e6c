"""Renders docs/parameters.md from the tables: `python -m tests.render_parameters docs/parameters.md`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from caikit_pt.parameters.generation import GENERATION_PARAMETERS
from caikit_pt.parameters.source import NOT_OF_SOURCES, OF_EACH_TASK, SOURCE_PARAMETERS
from caikit_pt.parameters.table import Parameter, ParameterTable
from caikit_pt.parameters.tuning import TUNING_PARAMETERS

_HEAD = """# Parameters

Rendered from `caikit_pt/parameters/` by `make docs`; a test compares. A value out of range is refused with
INVALID_ARGUMENT and a text that names the field, the value and what is allowed; nothing is clipped.
The settings `tuning_limits` and `max_new_tokens_limit` can narrow ranges; `tuning_presets` replaces defaults
by base model and task.
"""


def render() -> str:
    """The whole page."""
    return "\n".join(
        [
            _HEAD,
            "## Training\n",
            *_table(TUNING_PARAMETERS),
            "",
            "A train request has `model_name`, `train_stream` and `val_stream`, too, and may have a "
            "`training_id` of 1\nto 200 letters, digits, `.`, `_` and `-`: the same request twice is then "
            "one training, and another with the same id is refused.",
            "",
            "## Source prompts\n",
            *_table(SOURCE_PARAMETERS),
            "",
            "A source training ([sources.md](sources.md)) has these, and those of a training but "
            f"{_names(NOT_OF_SOURCES)};\n{_names(OF_EACH_TASK)} are each task's own. What MPT chose is told "
            "from memory where that is said.",
            "",
            "## Inference\n",
            *_table(GENERATION_PARAMETERS),
            "",
            "`exponential_decay_length_penalty` has `start_index` (0 up) and `decay_factor` (1 to 100): from "
            "`start_index`\ngenerated tokens on, the end token's score grows by `decay_factor` a token.",
            "",
        ]
    )


def _names(names: Sequence[str]) -> str:
    *first, last = (f"`{name}`" for name in names)
    return f"{', '.join(first)} and {last}"


def _table(table: ParameterTable) -> list[str]:
    return [
        "| parameter | allowed | default | from | meaning |",
        "| --- | --- | --- | --- | --- |",
        *(_row(parameter) for parameter in table),
    ]


def _row(parameter: Parameter) -> str:
    default = "" if parameter.default is None else f"`{_shown(parameter.default)}`"
    allowed = ("a list of " if parameter.many else "") + parameter.allowed()
    cells = (f"`{parameter.field}`", allowed, default, parameter.source, parameter.meaning)
    return f"| {' | '.join(cells)} |"


def _shown(default: object) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return "[]" if default == () else str(default)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(render(), "utf-8")
