"""What an engine counts: every end once, every wait where it belongs."""

from __future__ import annotations

import random
import threading
import time
from bisect import bisect_left

import pytest

from caikit_pt.base_model.model import BaseModel
from caikit_pt.serving.engine import Engine
from caikit_pt.serving.scheduler import Limits
from caikit_pt.serving.statistics import ABORT, FAILED, LENGTH, STEP, STOP, Histogram, Statistics

from .test_engine import broken, finish, request


def test_a_value_is_counted_up_to_its_bound_and_with_it() -> None:
    histogram = Histogram(STEP)
    values = [0.0, 0.001, 0.0011, 5.0, 5.1, *(random.Random(0).uniform(0, 6) for _ in range(50))]
    for value in values:
        histogram.observe(value, times=2)
    for number, bound in enumerate(STEP):
        assert sum(histogram.counts[: number + 1]) == 2 * sum(value <= bound for value in values)
    assert sum(histogram.counts) == 2 * len(values)
    assert histogram.sum == pytest.approx(2 * sum(values))
    assert histogram.counts[bisect_left(STEP, 5.1)] == histogram.counts[-1] > 0


def test_every_end_counts_once(base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(base, Limits())
    long = engine.submit(request(base, 1, max_new_tokens=50, min_new_tokens=50))
    engine.submit(request(base, 2, max_new_tokens=3, min_new_tokens=3))
    for _ in range(8):
        engine.step()
    assert engine.running == 1
    assert 0 < engine.kv_usage < 1
    long.cancel()
    finish(engine)
    assert engine.statistics.ends == {STOP: 0, LENGTH: 1, ABORT: 1, FAILED: 0}
    monkeypatch.setattr(base.serving, "prefill", broken)
    engine.submit(request(base, 3))
    finish(engine)
    assert engine.statistics.ends == {STOP: 0, LENGTH: 1, ABORT: 1, FAILED: 1}
    assert sum(engine.statistics.latency.counts) == 1, "only answers have a latency"
    assert (engine.running, engine.waiting, engine.kv_usage, engine.oldest) == (0, 0, 0.0, None)


def test_a_text_that_is_read_again_counts_once(base: BaseModel) -> None:
    engine = Engine(base, Limits())
    one = request(base, 1, max_new_tokens=20, min_new_tokens=20)
    generation = engine.submit(one)
    for _ in range(3):
        engine.step()
    taken = generation.taken
    engine._withdraw([generation])
    engine._scheduler.put_back([generation])
    assert engine.waiting == 1
    finish(engine)
    assert engine.statistics.text_tokens == len(one.row.ids)
    assert engine.statistics.answer_tokens == 20
    assert generation.taken == taken, "it waited for its first turn only"


def test_when_things_happened_is_in_their_order(base: BaseModel) -> None:
    engine = Engine(base, Limits(rows=1))
    first, second = (engine.submit(request(base, seed, max_new_tokens=5)) for seed in (1, 2))
    assert engine.oldest == first.arrived
    finish(engine)
    for one in (first, second):
        moments = [one.arrived, one.taken, one.read, one.first, one.ended_at]
        assert None not in moments
        assert moments == sorted(moments)  # type: ignore[type-var]
    assert second.taken is not None
    assert first.ended_at is not None
    assert second.taken >= first.ended_at


def test_rows_and_time_of_each_step(base: BaseModel) -> None:
    engine = Engine(base, Limits())
    for seed in range(3):
        engine.submit(request(base, seed, max_new_tokens=6, min_new_tokens=6))
    steps = 0
    while engine.busy:
        engine.step()
        steps += 1
    statistics = engine.statistics
    assert sum(statistics.step_seconds.counts) == sum(statistics.step_tokens.counts) == steps
    # Rows got their first tokens as they were read, and the others in steps.
    assert statistics.step_rows.sum == statistics.answer_tokens - 3 == 15
    assert sum(statistics.next_token.counts) == 15


class Interrupted(dict[str, int]):
    """Another thread gets its turn between what is read of it and what is written."""

    def __getitem__(self, name: str) -> int:
        found = super().__getitem__(name)
        time.sleep(0.0001)
        return found


def test_ends_that_several_threads_tell_are_all_counted(llama: BaseModel) -> None:
    """Whoever comes to a full queue ends another's request, in his own thread, while the engine ends some."""
    engine = Engine(llama, Limits())
    generation = engine.submit(request(llama, 1, max_new_tokens=1))
    finish(engine)
    statistics = Statistics()
    statistics.ends = Interrupted(statistics.ends)

    def end() -> None:
        for _ in range(50):
            statistics.ended(generation)

    threads = [threading.Thread(target=end) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(statistics.ends.values()) == sum(statistics.latency.counts) == 200
