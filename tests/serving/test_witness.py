"""Who looks sees what is submitted in its context, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Generator

from caikit_pt.base_model.model import BaseModel
from caikit_pt.serving.engine import Engine
from caikit_pt.serving.scheduler import Limits
from caikit_pt.serving.witness import Seen, witnessed

from .test_engine import finish, request


def test_the_inner_and_the_outer_see_it(llama: BaseModel) -> None:
    engine = Engine(llama, Limits())
    engine.submit(request(llama, 0))
    with witnessed() as outer:
        first = engine.submit(request(llama, 1))
        with witnessed() as inner:
            second = engine.submit(request(llama, 2))
    engine.submit(request(llama, 3))
    assert (outer.first, outer.count) == (first, 2)
    assert (inner.first, inner.count) == (second, 1)
    finish(engine)
    assert outer.input_tokens == sum(len(one.request.row.ids) for one in (first, second))
    assert outer.output_tokens == sum(len(one.request.generated) for one in (first, second))
    assert inner.output_tokens == len(second.request.generated)


def test_of_a_million_answers_sums_are_kept(llama: BaseModel) -> None:
    """Those of an evaluation, of which some are under way together, last as long as it doesn't take them."""
    engine, wanted = Engine(llama, Limits()), [0, 0]
    with witnessed() as outer, witnessed() as seen:
        for start in range(0, 200, 20):
            now = [engine.submit(request(llama, seed, max_new_tokens=2)) for seed in range(start, start + 20)]
            finish(engine)
            wanted[0] += sum(len(one.request.row.ids) for one in now)
            wanted[1] += sum(len(one.request.generated) for one in now)
            assert len(seen._kept) <= 64
            assert [seen.input_tokens, seen.output_tokens] == wanted
    assert (outer.count, outer.input_tokens, outer.output_tokens) == (200, *wanted)
    assert not outer._kept


def test_another_thread_is_another_affair(llama: BaseModel) -> None:
    engine = Engine(llama, Limits())
    with witnessed() as seen:
        other = threading.Thread(target=engine.submit, args=(request(llama, 1),))
        other.start()
        other.join()
    assert not seen.count


def test_a_stream_that_another_thread_closes_leaves_nobody_looking(llama: BaseModel) -> None:
    """Its own thread goes on to other calls: what they submit isn't kept for a witness that is gone."""
    engine = Engine(llama, Limits())
    kept: list[Seen] = []

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
    assert [one.count for one in kept] == [0]
    assert seen.count == 1
