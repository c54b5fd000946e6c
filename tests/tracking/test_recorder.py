"""A training in this process and a tracker that is slow, down or refuses."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from caikit_pt.tracking import recorder
from caikit_pt.tracking.point import Point
from caikit_pt.tracking.recorder import Recorder
from caikit_pt.tracking.track import Refused, Track, Training
from tests.tracking.training import TRAINING, losses


class Tracker:
    """Keeps what it is told, once `answer` has returned."""

    name, keeps_prompts, address = "Board", True, "board/1"

    def __init__(self, answer: Callable[[], object] = lambda: None) -> None:
        self.answer = answer
        self.points: list[Point] = []
        self.requests = 0
        self.state = ""

    def open(self, training: Training) -> Track:
        self.answer()
        return self

    def log(self, points: Sequence[Point]) -> None:
        self.requests += 1
        self.answer()
        self.points += points

    def end(self, state: str, text: str, time: float) -> None:
        self.state = state

    def keep(self, artifact: Path, model_name: str) -> None: ...


def finish(track: Track) -> None:
    track.end("FINISHED", "", 0.0)


def test_many_updates_are_few_requests() -> None:
    tracker = Tracker()
    told = Recorder(tracker, TRAINING)
    for point in losses(1, 500, 1.0):
        told.log([point])
    told.close(finish)
    told.wait(60)
    assert tracker.points == losses(1, 500, 1.0)
    assert tracker.requests <= 5
    assert tracker.state == "FINISHED"


def test_one_that_never_answers_is_not_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    never = threading.Event()
    told = Recorder(Tracker(never.wait), TRAINING)
    began = time.thread_time()
    told.log(losses(1, 500, 1.0))
    told.close(finish)
    told.wait(0.05)
    assert time.thread_time() - began < 1
    assert "Board hasn't taken all of the training yet" in caplog.text
    never.set()
    told.wait(60)


def test_one_that_comes_back_has_everything(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "_SECONDS_BETWEEN_REQUESTS", 0.01)
    failures = iter([OSError("down"), OSError("down"), None, OSError("down")])

    def answer() -> None:
        if error := next(failures, None):
            raise error

    tracker = Tracker(answer)
    told = Recorder(tracker, TRAINING)
    told.log(losses(1, 5, 1.0))
    told.close(finish)
    told.wait(60)
    assert tracker.points == losses(1, 5, 1.0)
    warned = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert warned == ["Board is asked again: OSError: down"]


def test_one_that_refuses_is_asked_no_more(caplog: pytest.LogCaptureFixture) -> None:
    def answer() -> None:
        raise Refused("no such thing")

    tracker = Tracker(answer)
    told = Recorder(tracker, TRAINING)
    told.close(finish)
    told.wait(60)
    assert (tracker.requests, tracker.state) == (0, "")
    assert "Board refuses the training: no such thing" in caplog.text


def test_what_is_not_taken_in_time_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "_MOST_WAITING", 10)
    tracker = Tracker()
    told = Recorder(tracker, TRAINING)
    told.log(losses(1, 100, 1.0))
    told.close(finish)
    told.wait(60)
    assert tracker.points == losses(91, 100, 1.0)
