"""What many pages look at, asked of the server once: a watch for a training, a poll for a list."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, TypeVar

from starlette.requests import Request

from caikit_pt.client.server_error import ServerError
from caikit_pt.training import Event, Training
from caikit_pt.web.refusal import Refused
from caikit_pt.web.sse import event as sent
from caikit_pt.web.studio.pages import kept
from caikit_pt.web.studio.row import reached, row
from caikit_pt.web.studio.server import Server

# Whatever ends them: the page that comes next, or comes again, finds all of it there.
_SECONDS_KEPT = 15.0
# So many of one caller that nobody looks at: the server lets him have 25 in all.
_MOST_KEPT = 8
# So many different ones that he looks at.
_MOST_VIEWED = 50
_SECONDS_BETWEEN_LISTS = 2.0
_SECONDS_BETWEEN_PLACES, _SECONDS_BETWEEN_LOOKS = 3.0, 0.25
# A caller who may no longer see what he sees is found out by then.
_SECONDS_OF_A_WATCH = 300.0
_SECONDS_TO_SETTLE = 2.0
# No event for so long: it has told all that there is.
_SECONDS_QUIET = 0.15
_LONGEST_PAUSE = 5.0
_MOST_EVENTS, _MOST_TOLD, _MOST_SCORES = 4096, 500, 2000
# The server may answer later.
_PASSES = ("UNAVAILABLE", "CANCELLED", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "INTERNAL", "UNKNOWN")
_WAITS = ("QUEUED", "PAUSED")


class _Shared:
    """A task that asks the server as long as somebody looks at what it finds."""

    def __init__(self) -> None:
        self.error: ServerError | None = None
        self.away, self.is_over = "", False
        self._away_status = ""
        self.viewers = 0
        self._changed = asyncio.Event()
        self._task = asyncio.ensure_future(self._followed())

    def close(self) -> None:
        """Nobody looks any more."""
        self._task.cancel()

    async def _followed(self) -> None:
        pause = 1.0
        try:
            while not self.is_over:
                try:
                    await self._asked()
                    pause = 1.0
                except ServerError as error:
                    if error.status not in _PASSES:
                        self.error = error
                        return
                    self._away_status = error.status
                    self._is_away(_why(error))
                    await asyncio.sleep(pause)
                    pause = min(_LONGEST_PAUSE, pause * 2)
        finally:
            self.is_over = True
            self._tell()

    async def _asked(self) -> None:
        raise NotImplementedError

    def _is_away(self, text: str) -> None:
        if text != self.away:
            self.away = text
            self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class Watch(_Shared):
    """A training from its first event on."""

    def __init__(self, server: Server, id: str) -> None:
        self._server, self._id = server, id
        self._events: deque[tuple[int, bytes]] = deque(maxlen=_MOST_EVENTS)
        # For pages: all but progress, the scores of validations by name, and where it stands.
        self.told: deque[Event] = deque(maxlen=_MOST_TOLD)
        self.scores: dict[str, deque[tuple[int, float | None]]] = {}
        self.phase = ""
        self.last = 0
        self.standing: Mapping[str, Any] = {}
        self._state, self._is_quiet = "", False
        super().__init__()

    async def settled(self) -> None:
        """Returns when it has told what there is, after two seconds in any case. Raises ServerError."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_SECONDS_TO_SETTLE):
                while not (self.is_over or self._is_quiet or self.away):
                    seen, changed = self.last, self._changed
                    with suppress(TimeoutError):
                        await asyncio.wait_for(changed.wait(), _SECONDS_QUIET)
                    self._is_quiet = bool(seen) and seen == self.last
        if self.error:
            raise self.error
        if self.away and not self.last:
            raise ServerError(self._away_status, self.away)

    async def events(self, after: int) -> AsyncIterator[bytes]:
        """All behind number `after`, as they come, and between them what isn't numbered: away, back,
        standing; last, that it has ended."""
        away, standing = "", self.standing
        if standing:
            yield sent(standing, "standing")
        while True:
            changed, over = self._changed, self.is_over
            if self._events and after < self._events[0][0] - 1:
                async for number, text in self._earlier(after):
                    yield text
                    after = number
            for number, text in [one for one in self._events if one[0] > after]:
                yield text
                after = number
            if away != self.away:
                away = self.away
                yield sent({"text": away}, "away" if away else "back")
            if standing is not self.standing:
                standing = self.standing
                yield sent(standing, "standing")
            if over:
                yield sent({"text": str(self.error or "")}, "end")
                return
            await changed.wait()

    async def _earlier(self, after: int) -> AsyncIterator[tuple[int, bytes]]:
        """What isn't kept, up to what is."""
        async with aclosing(self._server.events(self._id, after)) as found:  # type: ignore[type-var]
            async for event in found:
                yield event.number, _numbered(event)
                if not self._events or event.number >= self._events[0][0] - 1:
                    return

    async def _asked(self) -> None:
        try:
            async with asyncio.timeout(_SECONDS_OF_A_WATCH), asyncio.TaskGroup() as group:
                places = group.create_task(self._places())
                async with aclosing(self._server.events(self._id, self.last)) as found:  # type: ignore[type-var]
                    async for event in found:
                        self._take(event)
                places.cancel()
            await self._stands()
            self.is_over = True
        except TimeoutError:
            return
        except BaseExceptionGroup as group_error:
            for error in group_error.exceptions:
                if isinstance(error, ServerError):
                    raise error from None
            raise

    def _take(self, event: Event) -> None:
        self.last, self.away = event.number, ""
        if event.kind == "validation":
            for name, value in event.data.get("scores", {}).items():
                self.scores.setdefault(name, deque(maxlen=_MOST_SCORES)).append((event.data["step"], value))
        if event.kind != "progress":
            self.told.append(event)
        if event.kind == "phase":
            self.phase = event.text
        if event.kind == "state":
            self._state, self.phase = event.state, ""
        self._events.append((event.number, _numbered(event)))
        self._tell()

    async def _places(self) -> None:
        """What no event tells: how many are before it, and what has become of it since."""
        seen: tuple[str, ...] = ()
        told, asked = 0, -_SECONDS_BETWEEN_PLACES
        while True:
            now = (self._state, self.phase)
            # Of a long training it is much that is asked for.
            is_old = time.monotonic() > asked + _SECONDS_BETWEEN_PLACES
            is_due = is_old and (self._state in _WAITS or len(self.told) != told)
            if self._state and (now != seen or is_due):
                seen, told, asked = now, len(self.told), time.monotonic()
                await self._stands()
            await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)

    async def _stands(self) -> None:
        training = await self._server.training(self._id)
        self._is_away("")
        standing = {**row(training), "phase": self.phase, "reasons": list(training.reasons)}
        if standing != self.standing:
            self.standing = standing
            self._tell()


class Listing(_Shared):
    """A page of the list of trainings."""

    def __init__(self, server: Server, states: Sequence[str], name: str, page: str) -> None:
        self._server, self._query = server, (states, name, page)
        self.rows: dict[str, Mapping[str, Any]] = {}
        self._is_known = False
        super().__init__()

    async def changes(self) -> AsyncIterator[bytes]:
        """Rows that a page doesn't have or has otherwise, and the ids of all where these changed."""
        had: dict[str, Mapping[str, Any]] = {}
        order: list[str] = []
        away, is_first = "", True
        while True:
            changed, over = self._changed, self.is_over
            if self._is_known:
                rows = [one for id, one in self.rows.items() if had.get(id) != one]
                told: dict[str, Any] = {"rows": rows} if rows or is_first else {}
                if is_first or list(self.rows) != order:
                    order = list(self.rows)
                    told["order"] = order
                if told:
                    yield sent(told, "trainings")
                had, is_first = dict(self.rows), False
            if away != self.away:
                away = self.away
                yield sent({"text": away}, "away" if away else "back")
            if over:
                yield sent({"text": str(self.error or "")}, "end")
                return
            await changed.wait()

    async def _asked(self) -> None:
        trainings: list[Training]
        trainings, _ = await self._server.trainings(*self._query)
        rows: dict[str, Mapping[str, Any]] = {training.training_id: row(training) for training in trainings}
        if rows != self.rows or self.away or not self._is_known:
            self.rows, self.away, self._is_known = rows, "", True
            self._tell()
        await asyncio.sleep(_SECONDS_BETWEEN_LISTS)


_One = TypeVar("_One", bound=_Shared)


class Hub:
    """All that is looked at, each by who looks and at what."""

    def __init__(self) -> None:
        self._shared: dict[tuple[Any, ...], _Shared] = {}

    @asynccontextmanager
    async def watching(self, server: Server, id: str) -> AsyncIterator[Watch]:
        """The Watch of a training."""
        async with self._viewed(_key(server, "watch", id), lambda: Watch(server, id)) as found:
            yield found

    @asynccontextmanager
    async def listing(
        self, server: Server, states: Sequence[str], name: str, page: str
    ) -> AsyncIterator[Listing]:
        """The Listing of a page."""
        key = _key(server, "list", *states, name, page)
        async with self._viewed(key, lambda: Listing(server, states, name, page)) as found:
            yield found

    @asynccontextmanager
    async def _viewed(self, key: tuple[Any, ...], made: Callable[[], _One]) -> AsyncIterator[_One]:
        found: Any = self._shared.get(key)
        if found is None or found.error or (found.is_over and found.viewers == 0 and found.away):
            self._make_room(key[0])
            if sum(known[0] == key[0] for known in self._shared) >= _MOST_VIEWED:
                told = f"{_MOST_VIEWED} trainings and lists are looked at already; close a page of them"
                raise Refused(told, status="RESOURCE_EXHAUSTED")
            found = self._shared[key] = made()
        found.viewers += 1
        try:
            yield found
        finally:
            found.viewers -= 1
            if not found.viewers:
                asyncio.get_running_loop().call_later(_SECONDS_KEPT, self._let_go, key, found)

    def _let_go(self, key: tuple[Any, ...], one: _Shared) -> None:
        if not one.viewers:
            one.close()
            if self._shared.get(key) is one:
                del self._shared[key]

    def _make_room(self, who: bytes) -> None:
        idle = [key for key, one in self._shared.items() if key[0] == who and not one.viewers]
        for key in idle[: max(0, len(idle) - _MOST_KEPT + 1)]:
            self._let_go(key, self._shared[key])


def _why(error: ServerError) -> str:
    """Why the server is away, as far as it says so."""
    return "no connection" if error.reason == "SERVER_AWAY" else str(error)


def hub_of(request: Request) -> Hub:
    """That of the application."""
    found: Hub = kept(request, "hub", Hub)
    return found


def _key(server: Server, *what: str) -> tuple[Any, ...]:
    return hashlib.sha256(server.token.encode()).digest(), *what


def _numbered(event: Event) -> bytes:
    told = {
        "number": event.number,
        "time": f"{event.time:%Y-%m-%d %H:%M:%S}",
        "kind": event.kind,
        "told": told_of(event),
        "state": event.state,
    }
    if event.kind == "progress":
        at = event.progress
        told["points"] = event.data.get("points", [])
        told["progress"] = {"step": at.step, "steps": at.steps, "where": reached(at)} if at else None
    if event.kind == "validation":
        told |= {"step": event.data["step"], "scores": event.data["scores"]}
    return sent(told, id=str(event.number))


def told_of(event: Event) -> str:
    """The event on a line; of an event of a server that is newer, whatever it tells."""
    try:
        return str(event)
    except (KeyError, TypeError):
        return event.text or event.kind
