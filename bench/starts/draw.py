"""The records of a trial: a draw by seed in which more than one label occurs."""

from __future__ import annotations

from itertools import count

from bench.quality.task import Record, Task

# Further than any seed is from another.
_AGAIN = 1000


def draw(task: Task, records: int, seed: int) -> list[Record]:
    """`Task.draw`, and where only one label occurs in it the first with two, of `seed` + 1000, + 2000 ...

    Raises ValueError for a task of one label.
    """
    if records < 2 or len({record["output"] for record in task.pool}) < 2:
        raise ValueError(f"{task.name}: two records of different labels can't be drawn")
    draws = (task.draw(records, seed + _AGAIN * again) for again in count())
    return next(drawn for drawn in draws if len(labels(drawn)) > 1)


def labels(records: list[Record]) -> list[str]:
    """Those that occur, sorted."""
    return sorted({record["output"] for record in records})
