"""What comes in at a steady rate, and is used as it is wanted."""

from __future__ import annotations


class Bucket:
    """Holds what comes in within `seconds`, at `rate` a second, and at least one. It may owe as much as it
    holds, and no more: whoever has taken too much waits for so long, and not for all that he took."""

    def __init__(self, rate: float, seconds: float, now: float) -> None:
        self._rate, self._most = rate, max(1.0, rate * seconds)
        self._level, self._at = self._most, now

    def level(self, now: float) -> float:
        """What is in it."""
        self._level = min(self._most, self._level + max(0.0, now - self._at) * self._rate)
        self._at = now
        return self._level

    def missing(self, now: float) -> float:
        """The share of what it may hold that isn't in it: 0 of a full one, 2 where it can't owe more."""
        return 1.0 - self.level(now) / self._most

    def wait(self, amount: float, now: float) -> float:
        """Seconds until it holds so much; none where it does."""
        return max(0.0, (min(amount, self._most) - self.level(now)) / self._rate)

    def take(self, amount: float, now: float) -> None:
        """Whether it holds so much or not."""
        self._level = max(-self._most, self.level(now) - amount)
