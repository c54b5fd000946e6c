"""What a tracker is told of the trainings of a server, whatever becomes of either."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from caikit_pt.runtime import job as kinds
from caikit_pt.runtime.follower import Follower
from caikit_pt.runtime.job import CANCELED, COMPLETED, ERRORED, QUEUED, RUNNING, Job
from caikit_pt.runtime.job_store import JobStore
from caikit_pt.runtime.trainer import reasons
from caikit_pt.tracking.point import Point
from caikit_pt.tracking.track import Refused
from tests.tracking.test_recorder import Tracker

VERDICT = {
    "course": "settled",
    "kept": {"epoch": 1, "step": 4},
    "skipped_updates": 0,
    "validation_records": 5,
    "answers": 5,
    "validation": {
        name: {"accuracy": {"value": 0.5, "low": 0.1, "high": None}, "perplexity": 1.5}
        for name in ("untuned", "initial", "tuned")
    },
}


class Board(Tracker):
    """Keeps how a training ended, too."""

    def __init__(self, answer: Callable[[], object] = lambda: None) -> None:
        super().__init__(answer)
        self.told: list[str] = []
        self.kept: list[tuple[str, list[str]]] = []

    def end(self, state: str, text: str, time: float) -> None:
        self.state = state
        self.told = text.splitlines()

    def keep(self, artifact: Path, model_name: str) -> None:
        self.kept.append((model_name, sorted(file.name for file in artifact.iterdir())))


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    return JobStore(tmp_path / "state", ["Board"])


@pytest.fixture
def job(store: JobStore, tmp_path: Path) -> Job:
    published = tmp_path / "models" / "mood"
    published.mkdir(parents=True)
    (published / "verdict.json").write_text(json.dumps(VERDICT))
    parameters = {"num_epochs": 3, "origins": {"num_epochs": "request"}}
    return store.add(
        Job(id="a", model_name="mood", path=str(published), digest="d", parameters=parameters, submitted=1.0)
    )


def progress(store: JobStore, first: int, last: int) -> None:
    points = [[step, 1 / step] for step in range(first, last + 1)]
    data = {"step": last, "loss": 1 / last, "learning_rate": 0.3, "samples_per_second": 7.0, "points": points}
    store.add_event("a", kinds.PROGRESS, data)


def named(tracker: Tracker, name: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in tracker.points if point.name == name]


def events(store: JobStore, job: Job, kind: str) -> list[Any]:
    return [event.data for event in store.events(job, kinds=[kind])]


def test_all_that_happens_is_told_as_it_happens(store: JobStore, job: Job) -> None:
    board = Board()
    follower = Follower(store, board, lambda: True)
    follower.look()
    assert board.requests == 0
    store.move("a", RUNNING)
    progress(store, 1, 3)
    follower.look()
    assert named(board, "train/loss") == [(1, 1.0), (2, 1 / 2), (3, 1 / 3)]
    assert named(board, "train/learning_rate") == [(3, 0.3)]
    assert named(board, "train/samples_per_second") == [(3, 7.0)]
    scores = {"loss": 0.5, "accuracy": 0.25, "perplexity": None}
    store.add_event("a", kinds.VALIDATION, {"step": 3, "epoch": 1, "scores": scores, "best": True})
    progress(store, 4, 4)
    store.add_event("a", kinds.VERDICT, VERDICT)
    store.move("a", COMPLETED, ["8 records are few: “a text of the user”"])
    follower.look()
    assert named(board, "eval/accuracy") == [(3, 0.25)]
    assert not named(board, "eval/perplexity")
    assert named(board, "verdict/tuned/accuracy") == [(4, 0.5)]
    assert board.state == "FINISHED"
    assert board.told[0].startswith("The course of the loss: settled")
    assert not any("few" in line for line in board.told)
    assert board.kept == [("mood", ["verdict.json"])]
    requests = board.requests
    follower.look()
    assert board.requests == requests


@pytest.mark.parametrize(
    ("state", "ended", "told"), [(ERRORED, "FAILED", "line 3: “…”"), (CANCELED, "KILLED", "")]
)
def test_other_ends(store: JobStore, job: Job, state: str, ended: str, told: str) -> None:
    store.move("a", RUNNING)
    store.move("a", state, ["line 3: “a text of the user”"] if state == ERRORED else [])
    board = Board()
    Follower(store, board, lambda: True).look()
    assert (board.state, "".join(board.told)) == (ended, told)
    assert not board.kept
    assert not store.to_track("Board")


def test_what_never_began_is_not_told_of(store: JobStore, job: Job) -> None:
    store.move("a", CANCELED)
    board = Board()
    Follower(store, board, lambda: True).look()
    assert (board.requests, board.state) == (0, "")
    assert not store.to_track("Board")


def test_the_address_stands_in_events_and_status(store: JobStore, job: Job) -> None:
    store.move("a", RUNNING)
    for _ in range(2):  # servers, one after the other
        Follower(store, Board(), lambda: True).look()
    assert events(store, job, kinds.TRACKING) == [{"tracker": "Board", "text": "Board: board/1"}]
    found = store.find("a")
    assert found is not None
    assert reasons(store, found)[-1] == "Board: board/1"
    store.move("a", COMPLETED, ["Done."])
    found = store.find("a")
    assert found is not None
    assert reasons(store, found) == ["Done.", "Board: board/1"]


def test_a_tracker_that_is_down_is_told_later_and_warned_of_once(store: JobStore, job: Job) -> None:
    down = True

    def answer() -> None:
        if down:
            raise ConnectionError("refused")

    board = Board(answer)
    follower = Follower(store, board, lambda: True)
    store.move("a", RUNNING)
    progress(store, 1, 3)
    for _ in range(3):
        follower.look()
    Follower(store, board, lambda: True).look()
    assert events(store, job, kinds.WARNING) == [{"text": "Board is asked again: ConnectionError: refused"}]
    store.move("a", CANCELED)
    down = False
    follower.look()
    assert [step for step, _ in named(board, "train/loss")] == [1, 2, 3]
    assert board.state == "KILLED"


def test_one_training_that_is_refused_holds_no_other_up(store: JobStore, job: Job) -> None:
    other = store.add(
        Job(id="b", model_name="b", path="/b", digest="d", parameters=job.parameters, submitted=1.0)
    )
    answers = iter([Refused("no")])

    def answer() -> None:
        if error := next(answers, None):
            raise error

    for id in ("a", "b"):
        store.move(id, RUNNING)
    Follower(store, Board(answer), lambda: True).look()
    assert events(store, job, kinds.WARNING) == [{"text": "Board refuses it: no"}]
    assert not events(store, other, kinds.WARNING)
    assert [one.id for one in store.to_track("Board")] == ["b"]


def test_the_prompt_of_another_training_is_not_taken_for_its_own(store: JobStore, job: Job) -> None:
    store.move("a", RUNNING)
    store.add_event("a", kinds.VERDICT, {**VERDICT, "course": "flat"})
    store.move("a", COMPLETED)
    board = Board()
    Follower(store, board, lambda: True).look()
    assert board.state == "FINISHED"
    assert not board.kept
    (warning,) = events(store, job, kinds.WARNING)
    assert "the prompt of another training" in warning["text"]


def test_a_training_that_is_queued_again_is_told_of_when_it_goes_on(store: JobStore, job: Job) -> None:
    board = Board()
    follower = Follower(store, board, lambda: True)
    store.move("a", RUNNING)
    progress(store, 1, 2)
    store.move("a", QUEUED)
    follower.look()
    assert board.requests == 0
    store.move("a", RUNNING)
    follower.look()
    assert [step for step, _ in named(board, "train/loss")] == [1, 2]


def test_what_has_not_ended_when_a_tracker_is_set_is_told_of(tmp_path: Path) -> None:
    plain = JobStore(tmp_path)
    for id in ("a", "b"):
        plain.add(Job(id=id, model_name=id, path=f"/{id}", digest="d", parameters={}, submitted=1.0))
    plain.move("a", CANCELED)
    assert [one.id for one in JobStore(tmp_path, ["Board"]).to_track("Board")] == ["b"]


def test_the_thread_ends_with_the_server(store: JobStore, job: Job) -> None:
    follower = Follower(store, Board(), lambda: True)
    follower.start()
    store.move("a", RUNNING)
    store.move("a", CANCELED)
    while store.to_track("Board"):
        store.wait_for_change(store.changes, 0.1)
    follower.stop(60)
    assert not follower._thread.is_alive()


def test_points_of_what_is_not_finite_are_left_out() -> None:
    from caikit_pt.tracking.point import of_progress

    assert of_progress([(1, None), (2, float("nan"))], 0.3, 1.0, 0.0) == []
    assert of_progress([(1, 0.5), (2, None)], 0.3, 1.0, 0.0)[0] == Point("train/loss", 0.5, 1, 0.0)
