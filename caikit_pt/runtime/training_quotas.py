"""What the trainings and evaluations of a tenant may take: records, places in the queue, and room for
prompts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from caikit_pt.errors import QuotaExceeded
from caikit_pt.runtime.job import WAITING
from caikit_pt.runtime.job_store import JobStore
from caikit_pt.settings import Quotas
from caikit_pt.tuning.records import Records

_MIB = 2**20
# A training takes a while.
_LATER = 60.0


class TrainingQuotas:
    """By what the store knows of them."""

    def __init__(self, quotas: Quotas, store: JobStore) -> None:
        self._each, self._all, self._store = quotas.each, quotas.all, store

    def check_records(self, streams: Iterable[Records | None]) -> None:
        """Raises QuotaExceeded where a training has more of them than one may."""
        records = [record for stream in streams if stream for record in stream.items]
        most, most_mib = self._each.training_records, self._each.training_mib
        if most and len(records) > most:
            used = f"this training has {len(records):,} records"
            raise QuotaExceeded("quotas.each.training_records", used, f"{most:,}", None)
        if most_mib:
            size = sum(len(record.input.encode()) + len(record.output.encode()) for record in records) / _MIB
            if size > most_mib:
                used = f"the records of this training have {size:,.3g} MiB"
                raise QuotaExceeded("quotas.each.training_mib", used, f"{most_mib:,g}", None)

    def counted(self, stream: Iterable[Any], size: int) -> Iterator[Any]:
        """The records of an evaluation whose message has `size` bytes, of which there may be as many as of a
        training. Raises QuotaExceeded behind the last that there may be."""
        most, most_mib = self._each.training_records, self._each.training_mib
        if most_mib and size / _MIB > most_mib:
            used = f"the records of this evaluation have {size / _MIB:,.3g} MiB"
            raise QuotaExceeded("quotas.each.training_mib", used, f"{most_mib:,g}", None)
        for number, one in enumerate(stream, start=1):
            if most and number > most:
                used = f"this evaluation has more than {most:,} records"
                raise QuotaExceeded("quotas.each.training_records", used, f"{most:,}", None)
            yield one

    def check_waiting(self, count: Callable[[], int]) -> None:
        """Raises QuotaExceeded where a tenant of whom as many wait as `count` says can't have one more."""
        most = self._each.queued_trainings
        if most and (waiting := count()) >= most:
            used = f"{waiting:,} of your trainings are queued or paused"
            raise QuotaExceeded("quotas.each.queued_trainings", used, f"{most:,}", _LATER)

    def check_room(self, tenant: str) -> None:
        """Raises QuotaExceeded where one more training of `tenant` has no place."""
        self.check_waiting(lambda: self._store.count(WAITING, tenant))
        if self._each.stored_mib:
            mine = self._store.paths_of(tenant)
            _check_stored("quotas.each.stored_mib", "your prompts", mine, self._each.stored_mib)
        if self._all.stored_mib:
            _check_stored(
                "quotas.all.stored_mib", "all prompts", self._store.paths_of(), self._all.stored_mib
            )


def _check_stored(quota: str, whose: str, paths: Iterable[str], most: float) -> None:
    size = sum(sum(_sizes(path)) for path in paths) / _MIB
    if size >= most:
        raise QuotaExceeded(quota, f"{whose} have {size:,.3g} MiB", f"{most:,g}", None)


def _sizes(path: str) -> Iterator[int]:
    """Of the files of a prompt; it may be replaced or removed meanwhile."""
    for folder, _, files in os.walk(path):
        for file in files:
            try:
                yield (Path(folder) / file).lstat().st_size
            except OSError:
                continue
