"""Several servers of the same prompts: which of them is asked first, and which then.

A prompt prefers one of them, by rendezvous hashing (highest random weight): its keys and values are computed
there, and stay there. Whoever knows the same addresses prefers the same one, and where one more or less is
known, only the prompts of that one go elsewhere.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from math import ceil
from typing import TYPE_CHECKING

from caikit_pt.errors import InvalidParameter

if TYPE_CHECKING:
    import grpc

# One that is gone, or about to end, is asked last for so long.
_SECONDS_TO_REST = 1.0
# What one may have of all requests under way, in shares of what each would have if all had the same
# (consistent hashing with bounded loads): less, and chance alone sends prompts to where they aren't. So many
# at once cost an engine little more than one.
_MOST_OF_FAIR, _FEW = 2.0, 16
# What stands in front of an address that gRPC reads by itself, commas and all.
_SCHEMES = ("ipv4:", "ipv6:", "dns:", "unix:", "unix-abstract:")


def addresses(given: str | Sequence[str]) -> list[str]:
    """Of one server or several: a list, or HOST:PORT,HOST:PORT. Raises InvalidParameter."""
    names = [given] if isinstance(given, str) else list(given)
    if isinstance(given, str) and not given.startswith(_SCHEMES):
        names = [name.strip() for name in given.split(",")]
    if not names or not all(isinstance(name, str) and name for name in names) or len(set(names)) < len(names):
        raise InvalidParameter("address", given, "HOST:PORT, or several of them, each once")
    return names


@dataclass(slots=True, eq=False)
class Replica:
    """A server that serves what the others do."""

    address: str
    channel: grpc.Channel
    under_way: int = 0
    rests_until: float = 0.0

    def weight(self, prompt: str) -> int:
        """How much `prompt` prefers it."""
        return int.from_bytes(blake2b(f"{self.address}\n{prompt}".encode(), digest_size=8).digest())


class Replicas:
    """Those that this process knows, and how many of its requests each has."""

    def __init__(self, all: Sequence[Replica], clock: Callable[[], float] = time.monotonic) -> None:
        self.all = all
        self._clock = clock
        self._lock = threading.Lock()

    def order(self, prompt: str = "") -> list[Replica]:
        """Whom to ask for `prompt`, one after the other, those behind who rest or have more than their share;
        for what is about no prompt, as they are listed."""
        now, bound = self._clock(), self._bound

        def place(replica: Replica) -> tuple[bool, bool, int]:
            weight = replica.weight(prompt) if prompt else 0
            return replica.rests_until > now, bool(prompt) and replica.under_way >= bound, -weight

        return sorted(self.all, key=place)

    @contextmanager
    def asking(self, replica: Replica) -> Iterator[None]:
        """Meanwhile it has one more request under way."""
        self.began(replica)
        try:
            yield
        finally:
            self.ended(replica)

    def began(self, replica: Replica) -> None:
        """It has one more request under way."""
        with self._lock:
            replica.under_way += 1

    def ended(self, replica: Replica) -> None:
        """It has one less."""
        with self._lock:
            replica.under_way -= 1

    def lost(self, replica: Replica) -> None:
        """It is gone or about to be: it rests for a moment."""
        replica.rests_until = self._clock() + _SECONDS_TO_REST

    @property
    def _bound(self) -> int:
        """Requests that one may have when one more is asked."""
        fair = (sum(replica.under_way for replica in self.all) + 1) / len(self.all)
        return max(_FEW, ceil(_MOST_OF_FAIR * fair))
