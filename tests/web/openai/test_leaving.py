"""Clients that leave, read slowly, or ask while the server is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from starlette.requests import Request

from caikit_pt.client.server_error import ServerError
from caikit_pt.web.openai.question import Question
from caikit_pt.web.openai.server import Server, begun, unless_left
from caikit_pt.web.refusal import Refused
from examples.local_server import free_port
from tests.web.openai.place import ADA
from tests.web.site import site


class Link:
    """Streams of so many parts, which know whether they go on."""

    def __init__(self, parts: int, failing: str = "") -> None:
        self.parts, self.failing = parts, failing
        self.told, self.open, self.ended = 0, 0, 0
        message = SimpleNamespace
        names = ("TextGenerationTaskRequest", "ServerStreamingTextGenerationTaskRequest")
        messages = SimpleNamespace(**dict.fromkeys(names, message))
        self.stubs = SimpleNamespace(messages=messages, stream=None, predict=None)

    async def stream(self, rpc: Any, message: Any, token: str, model_name: str) -> AsyncIterator[int]:
        self.open += 1
        try:
            for number in range(self.parts):
                await asyncio.sleep(0)
                if message.text == self.failing and number == 3:
                    raise ServerError("UNAVAILABLE", "It has gone")
                self.told += 1
                yield number
        finally:
            self.open -= 1
            self.ended += 1

    async def answer(self, rpc: Any, message: Any, token: str, model_name: str) -> Any:
        self.open += 1
        try:
            if message.text == self.failing:
                raise ServerError("UNAVAILABLE", "It has gone")
            await asyncio.sleep(60)
        finally:
            self.open -= 1
            self.ended += 1


def question(link: Any, *texts: str) -> Question:
    made = Question(Server(link, "token"), "moods", {}, {}, 1, False, False)
    made.ask(list(texts), "prompt")
    return made


def request(*messages: str) -> Request:
    """From a client that sends these, and then nothing."""
    left = list(messages)

    async def receive() -> dict[str, str]:
        if left:
            return {"type": left.pop(0)}
        await asyncio.sleep(60)
        raise AssertionError

    return Request({"type": "http", "headers": []}, receive)


def test_a_client_that_leaves_ends_what_was_done_for_it() -> None:
    link = Link(0)

    async def ask() -> None:
        work = question(link, "a", "b").answers()
        with pytest.raises(Refused, match="left") as error:
            await unless_left(request("http.request", "http.disconnect"), work)
        assert error.value.status == "CANCELLED"

    asyncio.run(ask())
    assert link.open == 0


def test_a_client_that_stays_is_answered() -> None:
    async def work() -> str:
        await asyncio.sleep(0)
        return "an answer"

    assert asyncio.run(unless_left(request(), work())) == "an answer"


def test_one_answer_that_fails_ends_the_others() -> None:
    link = Link(0, failing="b")
    with pytest.raises(ServerError, match="It has gone"):
        asyncio.run(question(link, "a", "b", "c").answers())
    assert (link.open, link.ended) == (0, 3)


def test_a_stream_that_nobody_reads_any_more_ends_all_of_its_calls() -> None:
    link = Link(1_000_000)

    async def read() -> None:
        async with aclosing(question(link, "a", "b", "c").parts()) as parts:
            async for _ in parts:
                break

    asyncio.run(read())
    assert (link.open, link.ended) == (0, 3)


def test_a_slow_reader_has_the_server_wait() -> None:
    link = Link(1_000_000)

    async def read() -> None:
        async with aclosing(question(link, "a", "b").parts()) as parts:
            await anext(parts)
            for _ in range(10_000):
                await asyncio.sleep(0)
            assert link.told < 100

    asyncio.run(read())


def test_a_stream_that_fails_ends_the_others() -> None:
    link = Link(1_000_000, failing="b")

    async def read() -> None:
        async with aclosing(question(link, "a", "b").parts()) as parts:
            async for _ in parts:
                pass

    with pytest.raises(ServerError, match="It has gone"):
        asyncio.run(read())
    assert (link.open, link.ended) == (0, 2)


def test_a_stream_has_begun_when_its_first_event_is_there() -> None:
    async def events(fails: bool) -> Any:
        if fails:
            raise Refused("Not like this")
        yield b"first"
        yield b"second"

    async def read(fails: bool) -> list[bytes]:
        return [one async for one in await begun(events(fails))]

    assert asyncio.run(read(False)) == [b"first", b"second"]
    with pytest.raises(Refused):
        asyncio.run(read(True))


def test_a_server_that_is_away_is_said_to_be(tmp_path: Path) -> None:
    with site(f"localhost:{free_port()}", asks_who=True, directory=str(tmp_path)) as address:
        answer = requests.get(f"{address}/v1/models", headers={"authorization": f"Bearer {ADA}"}, timeout=60)
    assert answer.status_code == 503
    assert answer.json()["error"]["type"] == "server_error"
