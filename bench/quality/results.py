"""Outcomes in a file of JSON lines: a run that was cut off goes on, and several can share the file."""

from __future__ import annotations

import fcntl
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from bench.quality.trial import Outcome, Trial


class Results:
    """What is in `file` already, and what is added to it. It is locked while a line is written."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._outcomes: dict[tuple[Trial, str], Outcome] = {}
        self.read()

    def read(self) -> None:
        """What others have added, too."""
        self._outcomes.update({(one.trial, one.basis): one for one in _outcomes(self._file)})

    def get(self, trial: Trial, basis: str) -> Outcome | None:
        """Its outcome, where it was made on the same basis."""
        return self._outcomes.get((trial, basis))

    def of_equal(self, trial: Trial, basis: str, selected: bool) -> Outcome | None:
        """Another contender's on the same basis, as an outcome of `trial`; `selected` where it has to be."""
        for (other, of), outcome in self._outcomes.items():
            same = of == basis and replace(other, contender=trial.contender) == trial
            if same and (outcome.selected is not None or not selected):
                return replace(outcome, trial=trial)
        return None

    def add(self, outcome: Outcome) -> Outcome:
        """Keeps it, and tells of it."""
        self._outcomes[outcome.trial, outcome.basis] = outcome
        with self._file.open("ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # A process that was killed may have left half a line.
            if file.seek(0, 2) and (file.seek(-1, 2), file.read(1))[1] != b"\n":
                file.write(b"\n")
            file.write(json.dumps(asdict(outcome)).encode() + b"\n")
        trial = outcome.trial
        name = " ".join(filter(None, (trial.model, trial.task, trial.contender)))
        told = f"{name}, seed {trial.seed}, {trial.records} records: {outcome.accuracy:.3f}"
        print(f"{told}, {outcome.seconds:.0f} s", file=sys.stderr, flush=True)
        return outcome


def _outcomes(file: Path) -> Iterator[Outcome]:
    """Those that were written whole."""
    for line in file.read_text("utf-8").splitlines() if file.exists() else ():
        try:
            fields = json.loads(line)
        except ValueError:
            continue
        yield Outcome(**{**fields, "trial": Trial(**fields["trial"])})
