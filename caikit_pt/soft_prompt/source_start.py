"""What a training may start from, of the source prompts that there are: whole prompts to choose among.

A tuning starts from rows, whatever they were made of: those of a source's average, its shared rows, a task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from caikit_pt.parameters.tuning import AVERAGE_SOURCE, EXACT_SOURCE_TASK, ONLY_SOURCE_SHARED
from caikit_pt.soft_prompt.prompt import SoftPrompt
from caikit_pt.soft_prompt.source import SourcePrompt

if TYPE_CHECKING:
    import torch

# What is chosen among where a request names no method. Shared rows learn fast, and so look better than they
# end (docs/log.md).
METHODS = (AVERAGE_SOURCE, EXACT_SOURCE_TASK)


@dataclass(frozen=True, slots=True)
class SourceStart:
    """The rows that `method` makes of the source called `source`, of EXACT_SOURCE_TASK of its `task`th, which
    has a name or not."""

    source: str
    method: str
    prompt: SoftPrompt
    task: int | None = None
    task_name: str = ""

    @property
    def parameters(self) -> dict[str, Any]:
        """Those of a request that names this start."""
        task = {} if self.task is None else {"prompt_tuning_init_task": self.task}
        return {
            "prompt_tuning_init_source_model": self.source,
            "prompt_tuning_init_method": self.method,
            "num_virtual_tokens": self.prompt.num_virtual_tokens,
            **task,
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values: whose it is, and not its rows."""
        return {
            "source": self.source,
            "method": self.method,
            "task": self.task,
            "task_name": self.task_name,
        }

    def __str__(self) -> str:
        if self.task is None:
            return f"{self.method} of {self.source}"
        return f"task {self.task_name or self.task} of {self.source}"


def starts_of(
    sources: Sequence[SourcePrompt], methods: Sequence[str], parts: Sequence[str]
) -> Iterator[SourceStart]:
    """All starts that `methods` make of each of `sources`, on the sides `parts`."""
    for source in sources:
        for method in methods:
            if method == EXACT_SOURCE_TASK:
                names = source.tasks or ("",) * source.num_tasks
                for index, name in enumerate(names):
                    yield SourceStart(source.name, method, source.prompt_of(index, parts), index, name)
            else:
                rows = {part: _ROWS[method](source.on(part)) for part in parts}
                yield SourceStart(source.name, method, SoftPrompt(rows))


_ROWS: Mapping[str, Callable[[SourcePrompt], torch.Tensor]] = {
    AVERAGE_SOURCE: SourcePrompt.average,
    ONLY_SOURCE_SHARED: lambda source: source.shared,
}
