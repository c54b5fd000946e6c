"""What a job leaves behind in the server: nothing that costs memory."""

from __future__ import annotations

import gc
import threading
from pathlib import Path
from typing import Any

import aconfig
import pytest
from caikit.core.data_model import DataStream, JobStatus

from caikit_pt import GenerationTrainRecord, PeftPromptTuning, TuningConfig
from caikit_pt.base_model.frozen import BaseModel
from caikit_pt.base_model.pool import POOL
from caikit_pt.runtime.trainer import PromptTuningTrainer
from caikit_pt.tuning.learner import Learner
from tests.conftest import T5

# Nothing else in the tests has the embedded model in this type.
DTYPE = "bfloat16"


def submit(directory: Path, epochs: int) -> Any:
    trainer = PromptTuningTrainer(aconfig.Config({}, override_env_vars=False), "default")
    records = [
        GenerationTrainRecord(input=f"number {n}", output="odd" if n % 2 else "even") for n in range(16)
    ]
    return trainer.train(
        PeftPromptTuning,
        save_path=str(directory),
        model_name="job",
        base_model=T5,
        train_stream=DataStream.from_iterable(records),
        tuning_config=TuningConfig(num_virtual_tokens=2),
        num_epochs=epochs,
        torch_dtype=DTYPE,
    )


def watched(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set once a training has made an update."""
    event, step = threading.Event(), Learner.step

    def watched_step(self: Learner, loss: Any) -> Any:
        event.set()
        return step(self, loss)

    monkeypatch.setattr(Learner, "step", watched_step)
    return event


def copies() -> int:
    gc.collect()
    return len(POOL)


@pytest.mark.parametrize("how", ["completed", "cancelled", "failed"])
def test_a_job_that_has_ended_holds_neither_its_base_nor_its_records(
    tmp_path: Path, t5: BaseModel, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    before = copies()
    if how == "failed":

        def broken(self: BaseModel, *_: Any) -> Any:
            raise ArithmeticError(self.checkpoint.name)

        monkeypatch.setattr(type(t5), "step", broken)
    under_way = watched(monkeypatch)
    future = submit(tmp_path, 2 if how != "cancelled" else 10_000)
    if how == "cancelled":
        assert under_way.wait(30)
        assert copies() == before + 1
        future.cancel()
    future.wait()
    expected = {
        "completed": JobStatus.COMPLETED,
        "cancelled": JobStatus.CANCELED,
        "failed": JobStatus.ERRORED,
    }
    info = future.get_info()
    assert info.status is expected[how]
    assert info.completion_time is not None
    assert copies() == before
    assert not future._worker.runnable_kwargs
    if how == "completed":
        assert future.load().tuned.prompt.num_virtual_tokens == 2
