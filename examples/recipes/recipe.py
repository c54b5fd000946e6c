"""A file of task definitions: what stands in which field of which file, and what a model is to answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from caikit_pt.tuning.record_file import ENDINGS, rows

_FIELD = re.compile(r"\{([\w.]+)\}")


class RecipeError(Exception):
    """What a directory of data hasn't got, or has and can't be used, in words for whoever filled it."""


@dataclass(frozen=True)
class Task:
    """A data set. `input` and `output` are templates of its fields, `a.b` one within another; `names` has
    what is answered in the place of an output."""

    name: str
    input: str
    output: str
    tuning_task: str
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def fields(self) -> Sequence[str]:
        """Those that are read."""
        return list(dict.fromkeys(_FIELD.findall(self.input + self.output)))

    def file(self, data: Path, split: str) -> Path | None:
        """That of a split in the directory `data`, if it is there."""
        files = (data / self.name / (split + ending) for ending in ENDINGS)
        return next((file for file in files if file.is_file()), None)

    def expected(self, split: str) -> str:
        """What a split is to look like."""
        return f"{self.name}/{split}{{{','.join(ENDINGS)}}} with the fields {', '.join(self.fields)}"

    def records(self, file: Path) -> Iterator[dict[str, str]]:
        """Input and output of each row. Raises RecipeError, with file, number and field; InvalidRecord."""
        for number, row in enumerate(rows(file, str(file)), start=1):
            missing = [name for name in self.fields if _found(row.fields, name) is None]
            if missing:
                raise RecipeError(f"{file}: record {number} has no {missing[0]}. Expected: {self._told}")
            output = _filled(self.output, row.fields, lambda values: values[0] if values else "")
            if self.names and output not in self.names:
                raise RecipeError(
                    f"{file}: record {number} has {output!r} as its output. Expected: {', '.join(self.names)}"
                )
            yield {
                "input": _filled(self.input, row.fields, ", ".join),
                "output": self.names.get(output, output),
            }

    @property
    def _told(self) -> str:
        return f"the fields {', '.join(self.fields)}"


@dataclass(frozen=True)
class Recipe:
    """A source prompt of the tasks `sources`, and what each of `targets` makes of it."""

    about: str
    source_parameters: Mapping[str, Any]
    target_parameters: Mapping[str, Any]
    sources: Sequence[Task]
    targets: Sequence[Task]

    @classmethod
    def read(cls, file: Path) -> Recipe:
        """Raises OSError, and TypeError and ValueError for what is no recipe."""
        told = json.loads(file.read_text("utf-8"))
        sources, targets = ([Task(**one) for one in told.pop(kind)] for kind in ("sources", "targets"))
        return cls(**told, sources=sources, targets=targets)


@dataclass(frozen=True)
class Splits:
    """The files of a target task: what it is trained on and, if there is more than one other, chosen by; and
    what it is judged by."""

    train: Path
    validation: Path | None
    test: Path


@dataclass(frozen=True)
class Data:
    """The directory `folder` with the data sets of a `recipe`."""

    recipe: Recipe
    folder: Path

    def check(self) -> None:
        """Raises RecipeError where a source task isn't there, with all that are missing."""
        missing = [
            task.expected("train") for task in self.recipe.sources if not task.file(self.folder, "train")
        ]
        if missing:
            listed = "\n  ".join(missing)
            raise RecipeError(f"{self.folder} lacks these source tasks; nothing was trained:\n  {listed}")

    @cached_property
    def targets(self) -> Mapping[str, Splits]:
        """Those that are there, by name."""
        found = {task.name: self._splits(task) for task in self.recipe.targets}
        return {name: splits for name, splits in found.items() if splits}

    @property
    def missing_targets(self) -> Sequence[str]:
        """What the others would have to look like."""
        return [
            f"{task.expected('train')}, and the same as test or validation"
            for task in self.recipe.targets
            if task.name not in self.targets
        ]

    def _splits(self, task: Task) -> Splits | None:
        train, validation, test = (task.file(self.folder, split) for split in ("train", "validation", "test"))
        judged_by = test or validation
        if not (train and judged_by):
            return None
        return Splits(train, validation if test else None, judged_by)


def _filled(template: str, fields: Mapping[str, Any], together: Any) -> str:
    """`together` makes one text of a list of them."""

    def text(match: re.Match[str]) -> str:
        value = _found(fields, match[1])
        return str(together([str(one) for one in value]) if isinstance(value, list) else value)

    return _FIELD.sub(text, template)


def _found(fields: Mapping[str, Any], path: str) -> Any:
    value: Any = fields
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
