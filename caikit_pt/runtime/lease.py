"""That this server may have jobs: for as long as it shows in the store that it lives.

One that can't reach the store gives up what it has before the others take it for dead; one that stood still
in between finds that it was taken for dead, and comes again as a new one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from caikit_pt.errors import StateUnavailable
from caikit_pt.runtime.job import Job
from caikit_pt.runtime.job_store import JobStore
from caikit_pt.runtime.servers import GONE, Server

_LOG = logging.getLogger(__name__)
_SECONDS_BETWEEN_BEATS = 1.0
_SECONDS_BETWEEN_WISHES = 0.1
_SECONDS_TO_STOP = 2.0
# Without a beat for so long a server gives up what it has.
_SECONDS_TO_GIVE_UP = 6.0
# So many looks at a count that stands still, a second or more apart, are a death. Who doesn't look, since it
# stands still itself, holds nobody for dead.
_LOOKS = 15


class Heir(Protocol):
    """Who has jobs under a lease. Calls come one after the other, from one thread; `give_up` from any."""

    def give_up(self) -> None:
        """Whatever is under way here is another's from now on."""

    def inherit(self) -> None:
        """Sees to what is this server's and isn't under way here: another, which is no more, had it. Called
        with every beat."""

    def grant(self, wishes: Sequence[Job]) -> None:
        """Other servers were asked to put these into other states, and this one has them."""


@dataclass(slots=True)
class _Seen:
    beat: int
    looks: int = 0


class Lease:
    """That of the server that says of itself that it is `name`, in `store`."""

    def __init__(self, store: JobStore, name: str) -> None:
        """Raises StateUnavailable."""
        self._store, self._servers, self._name = store, store.servers, name
        self._heir: Heir | None = None
        self._seen: dict[str, _Seen] = {}
        self._lost = set[tuple[str, int]]()
        self._is_first = False
        self._lock, self._stopping = threading.Lock(), threading.Event()
        self._threads = list[threading.Thread]()
        self._last = time.monotonic()
        self._is_held = True
        self.id = self._servers.join(name)
        if not store.is_shared:
            self._lost.update(self._servers.bury_all_but(self.id))

    @property
    def is_held(self) -> bool:
        """Whether jobs may begin here."""
        return self._is_held

    @property
    def is_first(self) -> bool:
        """Whether no other server that lives has been there for longer: one of them does what is done
        once."""
        return not self._store.is_shared or (self._is_held and self._is_first)

    def is_lost(self, job: Job) -> bool:
        """Whether the run that a job was found in was at a server which has died and had not been told to
        end."""
        return (job.id, job.fence) in self._lost

    def start(self, heir: Heir) -> None:
        """From now on. What is this server's already is inherited at once."""
        self._heir = heir
        heir.inherit()
        if self._store.is_shared:
            for work in (self._live, self._watch):
                self._threads.append(threading.Thread(target=work, name="lease", daemon=True))
                self._threads[-1].start()

    def stop(self) -> None:
        """What is left here is for others, at once."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(_SECONDS_TO_STOP)
        try:
            self._servers.leave(self.id)
        except StateUnavailable as error:
            _LOG.warning("others will only find out that this server is gone: %s", error)

    # ---- beats ----

    def _live(self) -> None:
        told = False
        while not self._stopping.is_set():
            seen, began = self._store.changes, time.monotonic()
            try:
                self._beat(began)
                told = False
                self._wait(seen, began + _SECONDS_BETWEEN_BEATS)
            except StateUnavailable as error:
                if not told:
                    _LOG.warning("other servers can't be shown that this one lives: %s", error)
                told = True
            except Exception:  # whatever it is, the next beat is due
                _LOG.exception("a beat failed")
            self._stopping.wait(max(0.0, began + _SECONDS_BETWEEN_BEATS - time.monotonic()))

    def _wait(self, seen: int, until: float) -> None:
        """For the next beat. What is wished of jobs here meanwhile needn't wait for it."""
        while (left := until - time.monotonic()) > 0 and not self._stopping.is_set():
            now = self._store.wait_for_change(seen, left)
            if now != seen and self._is_held:
                seen = now
                self._grant()
                self._stopping.wait(_SECONDS_BETWEEN_WISHES)

    def _beat(self, began: float) -> None:
        if not self._servers.beat(self.id):
            self._lose("the other servers have taken this one for dead")
            # As a new one: whatever it had is theirs.
            self.id = self._servers.join(self._name)
        self._last = began
        if not self._is_held:
            self._is_held = True
            _LOG.warning("this server may have trainings again")
        self._look_at_others()
        assert self._heir is not None
        self._heir.inherit()
        self._grant()

    def _look_at_others(self) -> None:
        servers = self._servers.all()
        living = [one for one in servers if not self._is_dead(one)]
        self._is_first = bool(living) and living[0].id == self.id
        self._seen = {one.id: self._seen[one.id] for one in servers}
        for one in servers:
            ran = None if one in living else self._servers.bury(one, self.id)
            if ran is not None:
                _LOG.warning("server %s is gone, and its trainings are taken over", one.name)
                # Who has left hands on what it couldn't end in time.
                self._lost.update(ran if one.beat != GONE else ())
        if self._is_first:
            self._servers.adopt(self.id)

    def _is_dead(self, one: Server) -> bool:
        seen = self._seen.setdefault(one.id, _Seen(one.beat))
        seen.looks = seen.looks + 1 if one.beat == seen.beat else 0
        seen.beat = one.beat
        return one.id != self.id and (one.beat == GONE or seen.looks >= _LOOKS)

    def _grant(self) -> None:
        wishes = self._store.wishes(self.id)
        if wishes and self._heir is not None:
            self._heir.grant(wishes)

    def _watch(self) -> None:
        """In a thread of its own: a beat may hang."""
        while not self._stopping.wait(_SECONDS_BETWEEN_BEATS / 2):
            if time.monotonic() > self._last + _SECONDS_TO_GIVE_UP:
                self._lose(f"the store hasn't been reached for {_SECONDS_TO_GIVE_UP:.0f} seconds")

    def _lose(self, why: str) -> None:
        with self._lock:
            if not self._is_held:
                return
            self._is_held = False
        _LOG.error("this server gives up its trainings, for others to go on with: %s", why)
        assert self._heir is not None
        self._heir.give_up()
