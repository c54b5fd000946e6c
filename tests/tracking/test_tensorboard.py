"""TensorBoard's event files, read back by its own accumulator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from caikit_pt.tracking.point import Point
from caikit_pt.tracking.tensorboard import TensorBoard
from caikit_pt.tracking.track import FINISHED
from tests.tracking.training import TRAINING, losses


def read(address: str) -> Any:
    # All events: by default it keeps a sample.
    return EventAccumulator(address, size_guidance={"scalars": 0}).Reload()


def text(events: Any, tag: str) -> str:
    (one,) = events.Tensors(f"{tag}/text_summary")
    return str(one.tensor_proto.string_val[0].decode())


def test_a_training_is_a_directory_of_event_files(tmp_path: Path) -> None:
    track = TensorBoard(str(tmp_path)).open(TRAINING)
    assert track.address == str(tmp_path / "mood" / "a-1")
    track.log([*losses(1, 50, 1001.0), Point("eval/accuracy", 0.5, 30, 1001.25)])
    live = read(track.address)
    assert [(one.step, one.wall_time) for one in live.Scalars("train/loss")] == [
        (step, 1001.0) for step in range(1, 51)
    ]
    track.end(FINISHED, "The course of the loss: settled.", 1002.0)
    track.keep(tmp_path, "mood")
    events = read(track.address)
    (accuracy,) = events.Scalars("eval/accuracy")
    assert (accuracy.step, accuracy.value, accuracy.wall_time) == (30, 0.5, 1001.25)
    assert "| num_epochs | 3 | request |" in text(events, "parameters")
    assert text(events, "state") == "FINISHED\n\nThe course of the loss: settled."
    assert events.summary_metadata["_hparams_/session_start_info"].plugin_data.plugin_name == "hparams"


def test_a_training_that_goes_on_has_each_point_once(tmp_path: Path) -> None:
    tracker = TensorBoard(str(tmp_path))
    before = tracker.open(TRAINING)
    before.log(losses(1, 30, 1001.0))
    again = tracker.open(TRAINING)
    again.log([*losses(1, 30, 1001.0), *losses(21, 40, 1002.0)])
    again.log(losses(35, 50, 1003.0))
    # A reader that had the earlier file, too.
    for events in (read(again.address), read(str(tmp_path / "mood" / "a-1"))):
        assert [one.step for one in events.Scalars("train/loss")] == list(range(1, 51))
