"""What comes in at a steady rate, and is used as it is wanted."""

from __future__ import annotations


class Bucket:
    """Holds what comes in within `seconds`, at `rate` a second, and at least one. It may owe something."""

    def __init__(self, rate: float, seconds: float, now: float) -> None:
        self._rate, self._most = rate, max(1.0, rate * seconds)
        self._level, self._at = self._most, now

    def level(self, now: float) -> float:
        """What is in it."""
        self._level = min(self._most, self._level + max(0.0, now - self._at) * self._rate)
        self._at = now
        return self._level

    def wait(self, amount: float, now: float) -> float:
        """Seconds until it holds so much; none where it does."""
        return max(0.0, (min(amount, self._most) - self.level(now)) / self._rate)

    def take(self, amount: float, now: float) -> None:
        """Whether it holds so much or not."""
        self._level = self.level(now) - amount
