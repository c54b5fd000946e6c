"""Trainings in Python, without a server, at both trackers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import caikit
import pytest
from caikit.core.data_model import DataStream
from caikit.runtime.types.caikit_runtime_exception import CaikitRuntimeException
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from caikit_pt import GenerationTrainRecord, PeftPromptTuning, TuningConfig
from caikit_pt.base_model.model import BaseModel
from caikit_pt.errors import TrainingDiverged
from tests.tracking.test_recorder import Tracker

RECORDS = [GenerationTrainRecord(input=f"the {thing} is good", output="good") for thing in ("kettle", "lamp")]


@pytest.fixture
def tracked(tmp_path: Path) -> Iterator[Path]:
    """Where TensorBoard is told of trainings."""
    directory = tmp_path / "runs"
    caikit.configure(config_dict={"tracking": {"tensorboard": {"directory": str(directory)}}})
    yield directory
    caikit.configure(config_dict={"tracking": {"tensorboard": {"directory": ""}}})


def train(base: Any, **parameters: Any) -> PeftPromptTuning:
    return PeftPromptTuning.train(
        base_model=base,
        train_stream=DataStream.from_iterable(RECORDS),
        tuning_config=TuningConfig(num_virtual_tokens=4),
        num_epochs=3,
        **parameters,
    )


def test_a_training_is_told_of_as_it_runs(tracked: Path, llama: BaseModel) -> None:
    model = train(llama, val_stream=DataStream.from_iterable(RECORDS))
    (directory,) = (tracked / "tiny-llama").iterdir()
    events: Any = EventAccumulator(str(directory)).Reload()
    logged = [one["data"]["value"] for one in model.tuned.training_logs if one["name"] == "loss"]
    assert [one.value for one in events.Scalars("train/loss")] == pytest.approx(logged)
    assert [one.step for one in events.Scalars("eval/loss")] == [1, 2, 3]
    (kept,) = events.Scalars("verdict/tuned/loss")
    assert kept.value == pytest.approx(model.tuned.verdict["validation"]["tuned"]["loss"]["value"])
    told = [one.tensor_proto.string_val[0].decode() for one in events.Tensors("state/text_summary")]
    assert told[0].startswith("FINISHED\n\nPerhaps better than the untuned base: ")
    assert not any("kettle" in file.read_text("latin-1") for file in directory.iterdir())


def test_a_training_that_fails_is_told_with_its_reason(
    llama: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from caikit_pt.tracking import recording
    from caikit_pt.tuning import training

    board = _Ends()
    monkeypatch.setattr(recording, "trackers", lambda _: [board])
    for error, ended in (
        (TrainingDiverged("not finite at “a text of the user”"), ("FAILED", "not finite at “…”")),
        (KeyboardInterrupt(), ("KILLED", "")),
    ):
        monkeypatch.setattr(training, "tune", _raising(error))
        with pytest.raises((CaikitRuntimeException, KeyboardInterrupt)):
            train(llama)
        assert (board.state, board.text) == ended


class _Ends(Tracker):
    """Keeps the reason, too."""

    def end(self, state: str, text: str, time: float) -> None:
        self.state, self.text = state, text


def _raising(error: BaseException) -> Any:
    def tune(*_: Any, **__: Any) -> None:
        raise error

    return tune
