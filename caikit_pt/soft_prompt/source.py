"""Source prompts in memory: what MULTITASK_PROMPT_TUNING starts from.

Shapes: P virtual tokens, H hidden size, N source tasks, R the rank of their matrices, and S sides of a model.
A source of two sides has both in each tensor, one behind the other, as peft makes them for encoder-decoder
models by default (`num_transformer_submodules: 2`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from caikit_pt.base_model.loading.checkpoint import Checkpoint
from caikit_pt.errors import InvalidSourcePrompt
from caikit_pt.parameters.tuning import DECODER, ENCODER
from caikit_pt.soft_prompt.prompt import SoftPrompt
from caikit_pt.soft_prompt.source_manifest import SourceManifest

if TYPE_CHECKING:
    import torch

# Whose rows come first where there are two.
SIDES = (ENCODER, DECODER)
_TASK = "tuning_config.prompt_tuning_init_task"
_MOST_NAMED = 20


class UnusableSource(ValueError):
    """What isn't a source prompt, or not a whole one; the text is what is allowed and then what is `wrong`,
    where that isn't all one."""

    def __init__(self, allowed: str, wrong: str = "") -> None:
        super().__init__(f"{allowed}; {wrong}" if wrong else allowed)
        self.wrong = wrong or f"it isn't {allowed}"


@dataclass(frozen=True, slots=True)
class SourcePrompt:
    """Tensors by peft's names, float32 on the CPU: `shared` (prompt_embeddings) [S·P, H] and, both or
    neither, `columns` (prefix_task_cols) [N, S·P, R] and `rows` (prefix_task_rows) [N, R, H].

    `tasks` are the names of the N tasks, where they are known, and `manifest` is that of a bundle. Raises
    UnusableSource for shapes that don't go together.
    """

    name: str
    shared: torch.Tensor
    columns: torch.Tensor | None = None
    rows: torch.Tensor | None = None
    submodules: int = 1
    tasks: tuple[str, ...] = ()
    manifest: SourceManifest | None = None

    def __post_init__(self) -> None:
        shared = self.shared
        if shared.ndim != 2 or not shared.numel():
            raise UnusableSource("a file with prompt_embeddings [tokens, width]")
        if self.submodules not in (1, 2) or shared.shape[0] % self.submodules:
            raise UnusableSource(
                "num_transformer_submodules 1, or 2 with as many rows for each",
                f"there are {shared.shape[0]} rows for {self.submodules}",
            )
        if not self._matrices_fit():
            raise UnusableSource(
                f"prefix_task_cols [tasks, {shared.shape[0]}, rank] and prefix_task_rows [tasks, rank, "
                f"{shared.shape[1]}] to go with its prompt_embeddings {list(shared.shape)}"
            )
        if self.tasks and len(self.tasks) != self.num_tasks:
            raise UnusableSource(f"the names of all {self.num_tasks} tasks", f"there are {len(self.tasks)}")

    def _matrices_fit(self) -> bool:
        columns, rows = self.columns, self.rows
        if columns is None or rows is None:
            return columns is rows
        return (
            columns.ndim == rows.ndim == 3
            and columns.shape[0] == rows.shape[0] > 0
            and columns.shape[2] == rows.shape[1] > 0
            and (columns.shape[1], rows.shape[2]) == tuple(self.shared.shape)
        )

    @property
    def num_virtual_tokens(self) -> int:
        """P, of each side."""
        return int(self.shared.shape[0]) // self.submodules

    @property
    def width(self) -> int:
        """H."""
        return int(self.shared.shape[1])

    @property
    def num_tasks(self) -> int:
        """N."""
        return 0 if self.columns is None else int(self.columns.shape[0])

    @property
    def num_ranks(self) -> int:
        """R, 0 without tasks."""
        return 0 if self.columns is None else int(self.columns.shape[2])

    @property
    def is_finite(self) -> bool:
        """Whether every number is one."""
        parts = (self.shared, self.columns, self.rows)
        return all(bool(part.isfinite().all()) for part in parts if part is not None)

    @property
    def matrices(self) -> torch.Tensor | None:
        """What each task makes of the shared rows, element by element: [N, S·P, H]; None without tasks."""
        return None if self.columns is None or self.rows is None else self.columns @ self.rows

    def check_base(self, checkpoint: Checkpoint) -> None:
        """Raises UnusableSource where it can't be a start on this base model."""
        told = self.manifest
        if told and told.fingerprint != checkpoint.fingerprint:
            raise UnusableSource(
                f"a source prompt for {checkpoint.name} {checkpoint.fingerprint}",
                f"this one is for {told.base_model} {told.fingerprint}",
            )
        if self.width != checkpoint.hidden_size:
            raise UnusableSource(
                f"a source prompt of width {checkpoint.hidden_size}, as {checkpoint.name} has it",
                f"this one has {self.width}",
            )
        if self.submodules > len(checkpoint.prompt_parts):
            raise UnusableSource(
                f"a source prompt of one side, as {checkpoint.name} has it",
                f"this one has two in one tensor, {' and '.join(SIDES)}",
            )

    def on(self, part: str) -> SourcePrompt:
        """The rows of ENCODER or DECODER alone; a source of one side has the same for both."""
        if self.submodules == 1:
            return self
        begin = SIDES.index(part) * self.num_virtual_tokens
        own = slice(begin, begin + self.num_virtual_tokens)
        columns = None if self.columns is None else self.columns[:, own]
        return replace(self, shared=self.shared[own], columns=columns, submodules=1)

    def average(self) -> torch.Tensor:
        """The mean over the source tasks of their whole prompts, [S·P, H].

        The task matrices are averaged and not their columns and rows apart: (u, v) and (-u, -v)
        are the same task, but their halves cancel out.
        """
        matrices = self.matrices
        return self.shared if matrices is None else self.shared * matrices.mean(dim=0)

    def task(self, which: int | str) -> torch.Tensor:
        """The whole prompt of one source task, by its index or its name, [S·P, H].

        Raises InvalidSourcePrompt where there is no such task.
        """
        matrices = self.matrices
        index = self.index_of(which)
        assert matrices is not None, "an index is one of a task"
        return self.shared * matrices[index]

    def prompt_of(self, which: int | str, parts: Iterable[str]) -> SoftPrompt:
        """The whole prompt of one source task on each of the sides `parts`. Raises as `task` does."""
        return SoftPrompt({part: self.on(part).task(which) for part in parts})

    def index_of(self, which: int | str) -> int:
        """The index of a task, which is an index already or a name. Raises InvalidSourcePrompt."""
        if isinstance(which, str):
            if which in self.tasks:
                return self.tasks.index(which)
            raise InvalidSourcePrompt(
                f"{_TASK}_name", which, f"the name of a task of {self.name}: {self._named}"
            )
        if not 0 <= which < self.num_tasks:
            names = f": {self._named}" if self.tasks else ""
            raise InvalidSourcePrompt(
                _TASK, which, f"the index of one of the {self.num_tasks} tasks of {self.name}{names}"
            )
        return which

    @property
    def _named(self) -> str:
        """The first of its tasks, by their names."""
        more = f" and {len(self.tasks) - _MOST_NAMED} more" if len(self.tasks) > _MOST_NAMED else ""
        unnamed = "it has names for none of them, so name an index" if self.num_tasks else "it has none"
        return ", ".join(self.tasks[:_MOST_NAMED]) + more or unnamed
