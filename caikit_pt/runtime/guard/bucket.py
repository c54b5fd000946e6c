"""What comes in at a steady rate, and is used as it is wanted."""

from __future__ import annotations

from math import inf


class Bucket:
    """Holds what comes in within `seconds`, at `rate` a second, and at least one. It may owe what was taken
    too much of it, however much that is; or, of one that many take of, as much as it holds and no more: they
    don't wait for all that another one took."""

    def __init__(self, rate: float, seconds: float, now: float, of_many: bool = False) -> None:
        self._rate, self._most = rate, max(1.0, rate * seconds)
        self._least = -self._most if of_many else -inf
        self._level, self._at = self._most, now

    def level(self, now: float) -> float:
        """What is in it."""
        self._level = min(self._most, self._level + max(0.0, now - self._at) * self._rate)
        self._at = now
        return self._level

    def missing(self, now: float) -> float:
        """The share of what it may hold that isn't in it: 0 of a full one, above 1 where it owes."""
        return 1.0 - self.level(now) / self._most

    def wait(self, amount: float, now: float) -> float:
        """Seconds until it holds so much; none where it does."""
        return max(0.0, (min(amount, self._most) - self.level(now)) / self._rate)

    def take(self, amount: float, now: float) -> None:
        """Whether it holds so much or not."""
        self._level = max(self._least, self.level(now) - amount)
