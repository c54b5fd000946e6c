"""Workers of a training as threads of one process, which meet as processes do, and die where a test says."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from caikit_pt.base_model.model import BaseModel
from caikit_pt.soft_prompt.artifact import TunedPrompt
from caikit_pt.tuning.crew import Crew, Helpers, help_with
from caikit_pt.tuning.group import Group, GroupBroken, meeting_in
from caikit_pt.tuning.learner import gradients
from caikit_pt.tuning.plan import TuningPlan
from caikit_pt.tuning.progress import Progress
from caikit_pt.tuning.snapshot import Snapshots
from caikit_pt.tuning.tuner import tune

LOOPBACK = "127.0.0.1"


def tuned_by(
    crew: Crew,
    plan: TuningPlan,
    base: BaseModel,
    on_update: Callable[[Progress], None] | None = None,
    snapshots: Snapshots | None = None,
) -> TunedPrompt:
    """What `crew` makes of `plan`."""
    compute = partial(gradients, backward=crew.backward)
    return tune(plan, base, on_update, compute, snapshots, losses=crew.losses)


class Threads(Helpers):
    """So many helpers of a training on `base`. Before the errand with a number of `deaths`, from 1 on, the
    helper that it names dies: `early`, before it has computed its shares, or with these in its hands. Who has
    died is there again from the next errand on, if he `returns`."""

    def __init__(
        self, base: BaseModel, count: int, directory: Path, deaths: dict[int, int] | None = None, **how: bool
    ) -> None:
        self._base, self._directory, self._deaths = base, directory, dict(deaths or {})
        self._early, self._returns = how.get("early", True), how.get("returns", False)
        self._count, self._met, self._errands = count, 0, 0
        self._group, self._threads = Group(), list[threading.Thread]()
        self.sizes: list[int] = []
        self._gather()

    def group(self) -> Group:
        if self._returns and self._group.size <= self._count:
            self._gather()
        self._errands += 1
        self.sizes.append(self._group.size)
        return self._group

    def lost(self, error: GroupBroken) -> None:
        if not self._returns:
            self._count -= 1
        self._errands -= 1
        self._deaths = {at: who for at, who in self._deaths.items() if at > self._errands + 1}
        self._gather()

    def close(self) -> None:
        with suppress(GroupBroken):
            self._group.tell(b"")
        self._group.leave()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()

    def _gather(self) -> None:
        self.close()
        self._met += 1
        size, file = self._count + 1, self._directory / f"group-{self._met}"
        self._threads = [
            threading.Thread(target=self._help, args=(rank, size, file)) for rank in range(1, size)
        ]
        for thread in self._threads:
            thread.start()
        self._group = Group(meeting_in(file, size) if size > 1 else None, 0, size, LOOPBACK)

    def _help(self, rank: int, size: int, file: Path) -> None:
        with suppress(GroupBroken):
            group = Group(meeting_in(file, size), rank, size, LOOPBACK)
            try:
                help_with(self._base, _Mortal(group, self._dies))
            finally:
                group.leave()

    def _dies(self, rank: int, has_computed: bool) -> bool:
        return has_computed != self._early and self._deaths.get(self._errands) == rank


class _Mortal(Group):
    """As a helper sees it; it leaves when it is to die."""

    def __init__(self, group: Group, dies: Callable[[int, bool], bool]) -> None:
        super().__init__()
        self.rank, self.size, self._of, self._dies = group.rank, group.size, group, dies

    def hear(self) -> bytes:
        told = self._of.hear()
        self._end_where_it_is_time(False)
        return told

    def add(self, parts: Any, shares: int, seconds: float = 0) -> Any:
        self._end_where_it_is_time(True)
        return self._of.add(parts, shares, seconds)

    def _end_where_it_is_time(self, has_computed: bool) -> None:
        if self._dies(self.rank, has_computed):
            self._of.leave()
            raise GroupBroken("it dies")


@contextmanager
def crew_of(
    base: BaseModel, workers: int, directory: Path, deaths: dict[int, int] | None = None, **how: bool
) -> Iterator[tuple[Crew, Threads]]:
    """So many workers, and those of them that help."""
    helpers = Threads(base, workers - 1, directory, deaths, **how)
    try:
        yield Crew(workers, helpers), helpers
    finally:
        helpers.close()
