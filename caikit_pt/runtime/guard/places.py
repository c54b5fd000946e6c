"""How many RPCs of one kind a client has under way: whoever comes first doesn't take all the threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from caikit_pt.errors import OverCapacity


class Places:
    """So many for each client; without a bound where `most` is 0. Who has none is forgotten.

    One more is refused, or `give_way`: what a client has begun first is cancelled for it. That is for what is
    over at once, unless its message doesn't come.
    """

    def __init__(self, most: int, give_way: bool = False) -> None:
        self._most, self._give_way = most, give_way
        # In the order in which they came.
        self._taken: dict[str, dict[Any, None]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Clients that have one."""
        return len(self._taken)

    @contextmanager
    def one(self, client: str, context: Any) -> Iterator[None]:
        """For one more RPC of `client`. Raises OverCapacity."""
        late = None
        with self._lock:
            theirs = self._taken.get(client, {})
            if self._most and len(theirs) >= self._most:
                if not self._give_way:
                    raise OverCapacity(
                        f"{self._most} RPCs like this one of this client are under way, as many as may be. "
                        "Try again later"
                    )
                late = next(iter(theirs))
                del theirs[late]
            theirs[context] = None
            self._taken[client] = theirs
        if late:
            late.cancel()
        try:
            yield
        finally:
            with self._lock:
                theirs.pop(context, None)
                if not theirs:
                    self._taken.pop(client, None)
