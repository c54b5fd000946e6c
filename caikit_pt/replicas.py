"""Several servers that answer the same: which of them is asked for a prompt first, and which then.

A prompt prefers one of them, by rendezvous hashing (highest random weight): its keys and values are computed
there, and stay there. Whoever knows the same addresses prefers the same one, and where one more or less is
known, only the prompts of that one go elsewhere.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from math import ceil
from typing import Generic, TypeVar

# One that is gone, or about to end, is asked last for so long where nobody knows better.
_SECONDS_TO_REST = 1.0
# What one may have of all requests under way, in shares of what each would have if all had the same
# (consistent hashing with bounded loads): less, and chance alone sends prompts to where they aren't. So many
# at once cost an engine little more than one.
_MOST_OF_FAIR, _FEW = 2.0, 16


@dataclass(slots=True, eq=False)
class Replica:
    """A server that serves what the others do."""

    address: str
    under_way: int = field(default=0, kw_only=True)
    rests_until: float = field(default=0.0, kw_only=True)

    def weight(self, prompt: str) -> int:
        """How much `prompt` prefers it."""
        return int.from_bytes(blake2b(f"{self.address}\n{prompt}".encode(), digest_size=8).digest())


Known = TypeVar("Known", bound=Replica)


class Replicas(Generic[Known]):
    """Those that this process knows, and how many of its requests each has."""

    def __init__(self, all: Sequence[Known], clock: Callable[[], float] = time.monotonic) -> None:
        self.all = all
        self._clock = clock
        self._lock = threading.Lock()

    def order(self, prompt: str = "") -> list[Known]:
        """Whom to ask for `prompt`, one after the other, those behind who rest or have more than their share;
        for what is about no prompt, as they are listed."""
        bound = self._bound

        def place(replica: Known) -> tuple[bool, bool, int]:
            weight = replica.weight(prompt) if prompt else 0
            return self.rests(replica), bool(prompt) and replica.under_way >= bound, -weight

        return sorted(self.all, key=place)

    @contextmanager
    def asking(self, replica: Known) -> Iterator[None]:
        """Meanwhile it has one more request under way."""
        self.began(replica)
        try:
            yield
        finally:
            self.ended(replica)

    def began(self, replica: Known) -> None:
        """It has one more request under way."""
        with self._lock:
            replica.under_way += 1

    def ended(self, replica: Known) -> None:
        """It has one less."""
        with self._lock:
            replica.under_way -= 1

    def lost(self, replica: Known, seconds: float = _SECONDS_TO_REST) -> None:
        """It is gone or about to be: it rests for so long."""
        replica.rests_until = self._clock() + seconds

    def found(self, replica: Known) -> None:
        """It is there again."""
        replica.rests_until = 0.0

    def rests(self, replica: Known) -> bool:
        """Whether it is asked last."""
        return replica.rests_until > self._clock()

    @property
    def _bound(self) -> int:
        """Requests that one may have when one more is asked."""
        fair = (sum(replica.under_way for replica in self.all) + 1) / len(self.all)
        return max(_FEW, ceil(_MOST_OF_FAIR * fair))
