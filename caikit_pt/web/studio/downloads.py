"""What a caller takes with him: the files of a prompt, the log and the curves of a training."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from io import BytesIO
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from caikit_pt.errors import CaikitPtError
from caikit_pt.plotting import figure_of
from caikit_pt.training import ENDED, Event, Training
from caikit_pt.web.studio.curves import table
from caikit_pt.web.studio.hub import hub_of
from caikit_pt.web.studio.pages import readable
from caikit_pt.web.studio.server import Server, server_of

# No event of a training that goes on for so long: that is all of its log so far.
_SECONDS_QUIET = 1.0
_DOTS_AN_INCH = 150


@readable
async def archive(request: Request) -> Response:
    """The files of a prompt, as they come."""
    name = request.path_params["name"]
    chunks = server_of(request).archive(name)
    # A refusal is one as long as nothing has been sent.
    first = await anext(chunks, b"")

    async def all_of_it() -> AsyncIterator[bytes]:
        async with aclosing(chunks) as rest:  # type: ignore[type-var]
            yield first
            async for chunk in rest:
                yield chunk

    return StreamingResponse(all_of_it(), media_type="application/x-tar", headers=_as_file(f"{name}.tar"))


@readable
async def csv(request: Request) -> Response:
    """The loss curves."""
    training = await _training(request)
    return Response(
        table(training.points), media_type="text/csv", headers=_as_file(f"{training.model_name}-curve.csv")
    )


@readable
async def png(request: Request) -> Response:
    """The loss curves, drawn by matplotlib. Raises PlotsUnavailable without it."""
    training = await _training(request)
    made = await asyncio.to_thread(_drawn, training)
    return Response(
        made, media_type="image/png", headers=_as_file(f"{training.model_name}-curve.png", "inline")
    )


@readable
async def log(request: Request) -> Response:
    """All events so far, one a line."""
    training, server = await _training(request), server_of(request)
    last = 0 if training.state in ENDED else await _last(request, server, training.training_id)
    lines = _lines(server, training.training_id, training.state in ENDED, last)
    return StreamingResponse(
        lines,
        media_type="application/x-ndjson",
        headers=_as_file(f"{training.model_name}-{training.training_id}.jsonl"),
    )


async def _training(request: Request) -> Training:
    return await server_of(request).training(request.path_params["id"])


async def _last(request: Request, server: Server, id: str) -> int:
    """The number of the last event that there is by now; 0 where nobody can tell."""
    with suppress(CaikitPtError):
        async with hub_of(request).watching(server, id) as watch:
            await watch.settled()
            return watch.last
    return 0


async def _lines(server: Server, id: str, has_ended: bool, last: int) -> AsyncIterator[bytes]:
    """Of a training that goes on those up to number `last`: it would never end."""
    events = server.events(id)
    async with aclosing(events) as found:  # type: ignore[type-var]
        while True:
            try:
                event = await asyncio.wait_for(anext(found, None), None if has_ended else _SECONDS_QUIET)
            except TimeoutError:
                return
            if event is None:
                return
            yield json.dumps(_plain(event), ensure_ascii=False).encode() + b"\n"
            if event.number == last:
                return


def _plain(event: Event) -> dict[str, Any]:
    at = event.progress
    progress = {name: getattr(at, name) for name in at.__slots__} if at else None
    told = {"number": event.number, "time": event.time.isoformat(), "kind": event.kind, "text": event.text}
    return {**told, "state": event.state, "progress": progress, "data": dict(event.data)}


def _drawn(training: Training) -> bytes:
    # matplotlib takes what is between two of these for mathematics.
    title = f"{training.model_name} ({training.state})".replace("$", r"\$")
    drawn = BytesIO()
    figure_of({training.model_name: training.points}, title).savefig(drawn, format="png", dpi=_DOTS_AN_INCH)
    return drawn.getvalue()


def _as_file(name: str, how: str = "attachment") -> dict[str, str]:
    plain = "".join(
        letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "_" for letter in name
    )
    return {
        "content-disposition": f"{how}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}",
        "cache-control": "no-store",
    }
