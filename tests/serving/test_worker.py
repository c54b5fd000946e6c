"""The engine's thread: answers whoever asks, from any thread, and ends with its base model."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from caikit_pt.base_model.loading.checkpoint import locate
from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.pool import load
from caikit_pt.serving.engine import Engine
from caikit_pt.serving.request import FinishReason
from caikit_pt.serving.scheduler import Limits
from caikit_pt.serving.worker import Worker, limits, worker_for, workers
from caikit_pt.settings import Settings
from tests.conftest import LLAMA, SETTINGS

from .test_engine import alone, request

LONG = {"max_new_tokens": 300, "min_new_tokens": 300}


def test_many_threads_get_their_own_answers(base: BaseModel) -> None:
    worker = Worker(base, Limits(rows=8))
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda seed: worker.submit(request(base, seed)).result(), range(48)))
    assert [each.generated for each in answers] == [alone(base, seed) for seed in range(48)]


def test_whoever_starts_one_holds_up_nobody_of_another_base_model(
    llama: BaseModel, t5: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It tries kernels for seconds, and everybody waited who asked any other, or for metrics."""
    begun, go_on = threading.Event(), threading.Event()

    def pack() -> None:
        begun.set()
        assert go_on.wait(60)

    monkeypatch.setattr(llama.serving, "pack", pack)
    with ThreadPoolExecutor(3) as pool:
        slow = [pool.submit(worker_for, llama, Limits()) for _ in range(2)]
        try:
            assert begun.wait(60)
            other = pool.submit(worker_for, t5, Limits()).result(timeout=60)
            assert other in workers()
        finally:
            go_on.set()
        # Of one base model there is one.
        assert slow[0].result() is slow[1].result()


def test_steps_come_one_by_one_and_first_before_the_last_is_made(base: BaseModel) -> None:
    worker = Worker(base, Limits())
    generation = worker.submit(request(base, 1, **LONG))
    steps = generation.steps()
    first = next(steps)
    assert first.generated == 1
    assert len(generation.request.steps) < 300, "all were made before the first was told"
    rest = list(steps)
    assert [step.generated for step in rest] == list(range(2, 301))
    assert "".join(step.text for step in (first, *rest)) == generation.request.text
    assert [step.finish_reason for step in rest[:-1]] == [FinishReason.NOT_FINISHED] * 298
    assert rest[-1].finish_reason is FinishReason.MAX_TOKENS


def test_a_reader_who_leaves_frees_the_row(base: BaseModel) -> None:
    worker = Worker(base, Limits())
    generation = worker.submit(request(base, 1, **LONG))
    steps = generation.steps()
    next(steps)
    steps.close()
    made = len(generation.request.steps)
    wait_for(lambda: generation.ended)
    # The step that was under way may have been taken.
    assert len(generation.request.steps) <= made + 2


def test_a_slow_reader_holds_nobody_up_and_misses_nothing(base: BaseModel) -> None:
    worker = Worker(base, Limits())
    slow = worker.submit(request(base, 1, **LONG))
    steps = slow.steps()
    next(steps)
    assert worker.submit(request(base, 2)).result().generated == alone(base, 2)
    wait_for(lambda: slow.request.finished)
    assert sum(1 for _ in steps) == 299


def test_an_exception_in_the_waiting_thread_frees_the_row(base: BaseModel) -> None:
    """As caikit ends a unary call whose client has gone: it raises in the thread that waits."""
    import ctypes

    class Gone(Exception):
        pass

    worker = Worker(base, Limits())
    generation = worker.submit(request(base, 1, max_new_tokens=900, min_new_tokens=900))
    ended: list[bool] = []

    def wait() -> None:
        try:
            generation.result()
        except Gone:
            ended.append(True)

    thread = threading.Thread(target=wait)
    thread.start()
    wait_for(lambda: len(generation.request.steps) > 2)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(Gone))
    thread.join(timeout=10)
    assert ended == [True]
    wait_for(lambda: generation.ended)
    assert not generation.request.finished


def test_a_defect_of_the_engine_ends_what_it_held_and_no_more(
    base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(base, Limits())
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "_drop_cancelled", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            worker.submit(request(base, 1)).result()
    assert worker.submit(request(base, 2)).result().generated == alone(base, 2)


def test_a_base_model_has_one_worker_and_takes_it_with_it() -> None:
    base = load(locate(LLAMA, SETTINGS), "float32", "cpu")
    worker = worker_for(base, Limits())
    assert worker_for(base, Limits()) is worker
    assert worker.submit(request(base, 1)).result().generated
    alive = weakref.ref(base)
    threads = threading.active_count()
    del base, worker
    wait_for(lambda: gc.collect() is not None and alive() is None)
    wait_for(lambda: threading.active_count() < threads)


def test_the_settings_are_the_limits(base: BaseModel) -> None:
    settings = Settings(
        max_batch_size=3,
        max_waiting_requests=4,
        max_wait_seconds=5.0,
        max_prefill_tokens=6,
        kv_cache_mib=7,
        prompt_cache_mib=8,
    )
    assert limits(base, settings) == Limits(3, 4, 5.0, 7 * 2**20, 6, 8 * 2**20)


def wait_for(condition: object, seconds: float = 10.0) -> None:
    """Until `condition()` holds; AssertionError where it never does."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.01)
