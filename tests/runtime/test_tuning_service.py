"""What TuningService makes of long loss curves, and of clients that leave an evaluation. Its RPCs are in
test_jobs.py and test_command_line.py."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from caikit_pt.errors import QuotaExceeded, StateUnavailable
from caikit_pt.runtime import tuning_service
from caikit_pt.runtime.job_store import JobStore
from caikit_pt.runtime.training_quotas import TrainingQuotas
from caikit_pt.runtime.tuning_messages import EvaluateRequest, ListTrainingsRequest, WatchTrainingRequest
from caikit_pt.runtime.tuning_service import TuningServicer, _thinned
from caikit_pt.settings import Quotas, QuotasOfEach
from caikit_pt.tuning.evaluation import Done

from .jobs import job


@pytest.mark.parametrize("length", [0, 1, 9, 10, 11, 20, 95, 1001])
def test_a_long_curve_is_thinned_at_equal_distances(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    monkeypatch.setattr(tuning_service, "_MOST_POINTS", 10)
    points: list[list[float | None]] = [
        [step, None if step == 3 else step / 7] for step in range(1, length + 1)
    ]
    thin = _thinned(points)
    assert len(thin) <= 10
    assert thin[-1:] == points[-1:]
    assert thin == sorted(thin, key=lambda point: point[0] or 0)
    assert all(point in points for point in thin)
    steps = [point[0] or 0 for point in thin]
    assert len({after - before for before, after in pairwise(steps)}) <= 1
    assert length > 10 or thin == points


class Left(Exception):
    """What a context raises that is aborted."""


class Context:
    """A client that listens to so many events."""

    def __init__(self, events: int) -> None:
        self.events = events
        self.status = ""

    def is_active(self) -> bool:
        return self.events > 0

    def abort(self, code: Any, text: str) -> None:
        self.status = code.name
        raise Left(text)


class Endless:
    """An evaluation that nothing ends but its client."""

    def __init__(self) -> None:
        self.closed = False

    def run(self) -> Iterator[Done]:
        try:
            for number in count(1):
                yield Done(number, 10**9, float(number))
        finally:
            self.closed = True


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> Endless:
    evaluation = Endless()
    monkeypatch.setattr(tuning_service, "_evaluation", lambda *_: evaluation)
    return evaluation


@pytest.fixture
def servicer() -> TuningServicer:
    """Without trainings."""
    return TuningServicer(SimpleNamespace(store=None, quotas=None))  # type: ignore[arg-type]


def test_a_client_that_leaves_ends_its_evaluation(servicer: TuningServicer, endless: Endless) -> None:
    context, seen = Context(3), []
    for event in servicer.Evaluate(EvaluateRequest().to_proto(), context):
        seen.append(event.done)
        context.events -= 1
    assert seen == [1, 2, 3]
    assert endless.closed


def test_an_evaluation_goes_on_while_the_server_stops(servicer: TuningServicer, endless: Endless) -> None:
    """It is an answer under way, and the grace period is for these."""
    events = servicer.Evaluate(EvaluateRequest().to_proto(), one := Context(2))
    assert next(events).done == 1
    servicer.stop()
    assert next(events).done == 2
    # What is cut off at its end isn't active any more.
    one.events = 0
    assert list(events) == []
    assert endless.closed


def test_whoever_watches_is_sent_elsewhere_when_the_server_stops(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    store.add(job("one"))
    servicer = TuningServicer(SimpleNamespace(store=store, job=store.find))  # type: ignore[arg-type]
    request = WatchTrainingRequest(training_id="one").to_proto()
    watched = servicer.WatchTraining(request, context := Context(9))
    assert next(watched).kind == "state"
    servicer.stop()
    with pytest.raises(Left, match="The server stops; the training goes on when it is back"):
        next(watched)
    assert context.status == "UNAVAILABLE"


def test_a_watch_that_the_store_fails_is_to_be_taken_up_again(tmp_path: Path) -> None:
    """The client reconnects on UNAVAILABLE alone; what gRPC makes of an exception is UNKNOWN."""
    store = JobStore(tmp_path)
    store.add(job("one"))
    trainer: Any = SimpleNamespace(store=store, job=store.find)
    servicer, request = TuningServicer(trainer), WatchTrainingRequest(training_id="one").to_proto()
    for failing in ("find", "events"):
        watched = servicer.WatchTraining(request, context := Context(9))
        assert next(watched).kind == "state"
        with pytest.MonkeyPatch.context() as locked:
            locked.setattr(store, failing, _locked)
            trainer.job = store.find
            with pytest.raises(Left, match="can't be read or written now: locked"):
                next(watched)
        trainer.job = store.find
        assert context.status == "UNAVAILABLE"


def _locked(*_: object, **__: object) -> None:
    raise StateUnavailable("The jobs in state_dir can't be read or written now: locked")


@pytest.mark.parametrize("confined", [None, False, True])
def test_an_evaluation_is_asked_for_as_the_request_says(
    confined: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What isn't set is left to the prompt."""
    asked: dict[str, Any] = {}
    prompt = SimpleNamespace(evaluation=lambda *_, **options: asked.update(options))
    monkeypatch.setattr(tuning_service, "_published", lambda *_: prompt)
    message = EvaluateRequest.get_proto_class()(model_name="mood", test_stream={}, labels_only=confined)
    tuning_service._evaluation(message, TrainingQuotas(Quotas(), cast("Any", None)))
    assert asked["labels_only"] is confined
    assert asked["tuning_task"] is None
    assert asked["max_new_tokens"] is None


def test_an_evaluation_has_as_many_records_as_a_training() -> None:
    quotas = TrainingQuotas(Quotas(each=QuotasOfEach(training_records=3, training_mib=1)), cast("Any", None))
    assert list(quotas.counted("abc", 100)) == ["a", "b", "c"]
    with pytest.raises(QuotaExceeded, match=r"training_records: this evaluation has more than 3 records"):
        list(quotas.counted("abcd", 100))
    with pytest.raises(QuotaExceeded, match=r"training_mib: the records of this evaluation have 2 MiB"):
        list(quotas.counted("a", 2 * 2**20))


def test_the_turns_of_a_page_are_looked_up_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, looked = JobStore(tmp_path), list[bool]()
    for number in range(5):
        store.add(job(f"job-{number}"))
    before = store.queue.before

    def look(jobs: Any) -> Any:
        looked.append(True)
        return before(jobs)

    monkeypatch.setattr(store.queue, "before", look)
    trainer: Any = SimpleNamespace(store=store, job=store.find, why_not="")
    request = ListTrainingsRequest().to_proto()
    found = TuningServicer(trainer).ListTrainings(request, Context(1)).trainings
    assert [one.queued_before for one in found] == [4, 3, 2, 1, 0]
    assert list(found[0].reasons) == ["4 queued trainings are before it."]
    assert len(looked) == 1
