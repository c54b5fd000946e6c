"""Streams of events: what becomes of them when their client leaves, and when this process ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from caikit_pt.web import sse
from caikit_pt.web.refusal import Refused


def test_a_stream_whose_client_leaves_ends_without_an_error() -> None:
    """Starlette cancels it in a scope, in which every further await is cancelled, too."""
    ended = []

    async def events() -> AsyncIterator[bytes]:
        try:
            yield sse.event("a")
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    async def leave() -> None:
        came = asyncio.Event()

        async def receive() -> dict[str, str]:
            await came.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message.get("body"):
                came.set()

        await sse.streamed(events())({"type": "http", "method": "GET", "headers": []}, receive, send)
        for _ in range(10):
            await asyncio.sleep(0)

    asyncio.run(leave())
    assert ended == [True]


def test_the_end_of_the_process_ends_streams() -> None:
    async def events() -> AsyncIterator[bytes]:
        yield sse.event("a")
        await asyncio.sleep(60)

    async def end() -> list[bytes]:
        found = []
        async for one in sse.streamed(events()).body_iterator:
            found.append(bytes(one))  # type: ignore[arg-type]
            sse.end_all()
        return found

    assert asyncio.run(end()) == [b"data: a\n\n"]


def test_who_waits_sees_a_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "_SECONDS_BETWEEN_SIGNS", 0.01)

    async def events() -> AsyncIterator[bytes]:
        await asyncio.sleep(0.05)
        yield sse.event({"a": 1}, "kind", "7")
        raise Refused("no more", "field")

    async def listened() -> list[bytes]:
        return [bytes(one) async for one in sse.streamed(events()).body_iterator]  # type: ignore[arg-type]

    first, *_, told, error = asyncio.run(listened())
    assert first == b": \n\n"
    assert told == b'event: kind\nid: 7\ndata: {"a":1}\n\n'
    assert b'"message":"no more"' in error
