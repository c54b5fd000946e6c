"""Server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html."""

from __future__ import annotations

import asyncio
import json
from asyncio import FIRST_COMPLETED
from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import StreamingResponse

from caikit_pt.errors import CaikitPtError
from caikit_pt.web.refusal import body_of

_SECONDS_BETWEEN_SIGNS = 15.0
_SIGN_OF_LIFE = b": \n\n"
# Those that are open, and those that are being closed: the event loop keeps no task that nobody else does.
_OPEN, _CLOSING = set[asyncio.Event](), set[asyncio.Task[None]]()
_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


def event(data: Any, kind: str = "", id: str = "") -> bytes:
    """One event: `data` as JSON, text as it is, which then is of one line."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    named = (f"event: {kind}\n" if kind else "") + (f"id: {id}\n" if id else "")
    return f"{named}data: {text}\n\n".encode()


def streamed(events: AsyncIterator[bytes]) -> StreamingResponse:
    """A response of `events`, with a sign of life where none come for a while. What it fails with once it
    has begun is its last event."""
    return StreamingResponse(_alive(events), media_type="text/event-stream", headers=_HEADERS)


def end_all() -> None:
    """Ends the streams of this process: it ends, and clients come again."""
    for over in list(_OPEN):
        over.set()


async def _alive(events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    waiting: asyncio.Task[bytes] | None = None
    over = asyncio.Event()
    ending = asyncio.ensure_future(over.wait())
    _OPEN.add(over)
    try:
        while True:
            waiting = waiting or asyncio.ensure_future(anext(events))
            await asyncio.wait((waiting, ending), timeout=_SECONDS_BETWEEN_SIGNS, return_when=FIRST_COMPLETED)
            if ending.done():
                return
            if not waiting.done():
                yield _SIGN_OF_LIFE
                continue
            ended, waiting = waiting, None
            try:
                yield ended.result()
            except StopAsyncIteration:
                return
            except CaikitPtError as error:
                yield event(body_of(error))
                return
    finally:
        _OPEN.discard(over)
        ending.cancel()
        # Where the client has left, whatever is awaited here is cancelled at once: a task of its own ends it.
        closing = asyncio.ensure_future(_closed(events, waiting))
        _CLOSING.add(closing)
        closing.add_done_callback(_CLOSING.discard)
        await asyncio.shield(closing)


async def _closed(events: AsyncIterator[bytes], waiting: asyncio.Task[bytes] | None) -> None:
    if waiting:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    await events.aclose()  # type: ignore[attr-defined]
