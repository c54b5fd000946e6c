"""How one run of a job ends, by what its training raises. Its process: test_jobs.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from caikit_pt.base_model.model import BaseModel
from caikit_pt.errors import InvalidParameter, TrainingInterrupted
from caikit_pt.runtime.job_folder import JobFolder
from caikit_pt.runtime.job_run import JobRun
from caikit_pt.runtime.order import Order
from caikit_pt.runtime.reports import BROKEN, FAILED, INTERRUPTED, Report
from tests.tuning.training import plan

from .jobs import job


class Reports:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.sent: list[Report] = []

    def send(self, report: Report, may_be_dropped: bool = False) -> bool:
        self.sent.append(report)
        return True


ENDS: list[tuple[BaseException, str, str]] = [
    (
        InvalidParameter("base_model", "b", "others"),
        FAILED,
        "base_model: 'b' is not allowed. Allowed: others",
    ),
    (
        RuntimeError("a view\nand more"),
        BROKEN,
        "The training failed with RuntimeError: a view. Submit it again",
    ),
    (IndexError("tuple index out of range"), BROKEN, "The training failed with IndexError: tuple index"),
    (OSError(5, "Input/output error"), BROKEN, "The training can't read or write its files: OSError"),
    (
        torch.OutOfMemoryError("full"),
        BROKEN,
        "Out of memory: OutOfMemoryError: full. Train when less else runs",
    ),
    (MemoryError(), BROKEN, "Out of memory: MemoryError. Train"),
    (SystemExit(3), BROKEN, "The training failed with SystemExit: 3. Submit it again"),
    (TrainingInterrupted("at update 3"), INTERRUPTED, ""),
]


@pytest.mark.parametrize(("error", "kind", "text"), ENDS, ids=lambda value: type(value).__name__)
def test_whatever_ends_a_training_is_told_with_what_to_do(
    error: BaseException,
    kind: str,
    text: str,
    tmp_path: Path,
    llama: BaseModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any) -> None:
        raise error

    JobFolder(tmp_path / "one").create(job("one"), plan(llama))
    monkeypatch.setattr("caikit_pt.tuning.training.tune", fail)
    reports: Any = Reports()
    order = Order(
        job="one",
        folder=str(tmp_path / "one"),
        fence=1,
        device="cpu",
        environment={},
        joined=False,
        seconds=60.0,
        told=0,
        alone=False,
        shared=False,
    )
    JobRun(reports, order)._run()
    end = reports.sent[-1]
    assert end.kind == kind
    assert end.data.get("text", "").startswith(text)
