"""Who looks sees what is submitted in its context, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Generator

from caikit_pt.base_model.model import BaseModel
from caikit_pt.serving.engine import Engine
from caikit_pt.serving.generation import Generation
from caikit_pt.serving.scheduler import Limits
from caikit_pt.serving.witness import witnessed

from .test_engine import request


def test_the_inner_and_the_outer_see_it(llama: BaseModel) -> None:
    engine = Engine(llama, Limits())
    engine.submit(request(llama, 0))
    with witnessed() as outer:
        first = engine.submit(request(llama, 1))
        with witnessed() as inner:
            second = engine.submit(request(llama, 2))
    engine.submit(request(llama, 3))
    assert outer == [first, second]
    assert inner == [second]


def test_another_thread_is_another_affair(llama: BaseModel) -> None:
    engine = Engine(llama, Limits())
    with witnessed() as seen:
        other = threading.Thread(target=engine.submit, args=(request(llama, 1),))
        other.start()
        other.join()
    assert not seen


def test_a_stream_that_another_thread_closes_leaves_nobody_looking(llama: BaseModel) -> None:
    """Its own thread goes on to other calls: what they submit isn't kept for a witness that is gone."""
    engine = Engine(llama, Limits())
    kept: list[list[Generation]] = []

    def stream() -> Generator[int]:
        with witnessed() as seen:
            kept.append(seen)
            yield 1

    began = stream()
    next(began)
    closer = threading.Thread(target=began.close)
    closer.start()
    closer.join()
    engine.submit(request(llama, 1))
    with witnessed() as seen:
        engine.submit(request(llama, 2))
    assert kept == [[]]
    assert len(seen) == 1
