"""What each tenant and all together have used of their quotas, counted before a message is read."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from caikit_pt.errors import OverCapacity, QuotaExceeded
from caikit_pt.runtime.guard.bucket import Bucket
from caikit_pt.runtime.guard.door import GENERATE, STREAMS, WATCHES, Door
from caikit_pt.settings import QuotasOfAll, QuotasOfEach, Settings

# Of whom nothing is forgotten with his account, goes first; of these who hasn't asked for the longest time.
_MOST_REMEMBERED = 10_000
_MINUTE = 60.0
_SOON = 1.0


class _Account:
    """Of one tenant, or of all."""

    def __init__(self, quotas: QuotasOfEach | QuotasOfAll, section: str, now: float) -> None:
        self._quotas, self._section = quotas, section
        rate, tokens = quotas.requests_per_second, quotas.tokens_per_minute
        self._requests = Bucket(rate, 1.0, now) if rate else None
        of_many = isinstance(quotas, QuotasOfAll)
        self._tokens = Bucket(tokens / _MINUTE, _MINUTE, now, of_many) if tokens else None
        self.under_way = 0
        self.lanes: Counter[str] = Counter()

    def check(self, door: Door, now: float) -> None:
        """Raises QuotaExceeded where there is nothing left for one more request."""
        most = self._quotas.requests_under_way
        if most and self.under_way >= most:
            used = f"{self.under_way} requests are under way"
            raise QuotaExceeded(f"{self._section}.requests_under_way", used, f"{most:,}", _SOON)
        if door.action == GENERATE:
            self.check_tokens(now)
        if self._requests and (seconds := self._requests.wait(1, now)):
            quota, allowed = f"{self._section}.requests_per_second", f"{self._quotas.requests_per_second:,g}"
            raise QuotaExceeded(quota, "all requests of this second are used", allowed, seconds)

    def check_tokens(self, now: float) -> None:
        """Raises QuotaExceeded where there are none left."""
        if self._tokens and self._tokens.level(now) <= 0:
            quota, allowed = f"{self._section}.tokens_per_minute", f"{self._quotas.tokens_per_minute:,g}"
            used = f"all tokens of this minute are used, and {-self._tokens.level(now):,.0f} more"
            raise QuotaExceeded(quota, used, allowed, self._tokens.wait(1, now))

    def missing(self, now: float) -> float:
        """What a new account would have and this one hasn't: the largest share of a quota."""
        return max((one.missing(now) for one in (self._requests, self._tokens) if one), default=0.0)

    def begin(self, lane: str, now: float) -> None:
        """One more request."""
        if self._requests:
            self._requests.take(1, now)
        self.under_way += 1
        self.lanes[lane] += 1

    def end(self, lane: str) -> None:
        """One less."""
        self.under_way -= 1
        self.lanes[lane] -= 1

    def spend(self, tokens: int, now: float) -> None:
        """So many tokens were read or generated: how many is known afterwards, and more may be owed."""
        if self._tokens:
            self._tokens.take(tokens, now)


class Quotas:
    """Any thread may ask."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._each, self._clock = settings.quotas.each, clock
        # What one client may have of RPCs that hold a thread for long, and the setting that says so.
        self._most = {
            STREAMS: (min(settings.max_streams_per_client, settings.max_streams), "max_streams_per_client"),
            WATCHES: (min(settings.max_watches_per_client, settings.max_watches), "max_watches_per_client"),
        }
        self._all = _Account(settings.quotas.all, "quotas.all", clock())
        both = (settings.quotas.each, settings.quotas.all)
        self._counts_tokens = any(one.tokens_per_minute for one in both)
        self._counts_all = self._counts_tokens or any(
            one.requests_per_second or one.requests_under_way for one in both
        )
        self._accounts: OrderedDict[str, _Account] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, tenant: str, door: Door) -> Callable[[], None] | None:
        """Lets a request of `tenant` in; what is to be called once it has ended, None where none counts it.

        Raises QuotaExceeded, and OverCapacity where one client has as many streams or watches as he may.
        """
        if not self._counts_all and door.lane not in self._most:
            return None
        with self._locked(tenant) as (account, now):
            most, setting = self._most.get(door.lane, (math.inf, ""))
            if account.lanes[door.lane] >= most:
                raise OverCapacity(
                    f"{most} {door.lane} of this client are open, as many as {setting} allows. "
                    "Try again later"
                )
            # Nothing is taken of the one where there is nothing left of the other.
            for one in (account, self._all):
                one.check(door, now)
            for one in (account, self._all):
                one.begin(door.lane, now)
        ended = False

        def end() -> None:
            nonlocal ended
            with self._lock:
                if not ended:
                    ended = True
                    account.end(door.lane)
                    self._all.end(door.lane)

        return end

    def check_tokens(self, tenant: str) -> None:
        """Raises QuotaExceeded where `tenant`, or all together, have none left: one request may be many
        answers, and what they take is known only as they end."""
        if not self._counts_tokens:
            return
        with self._locked(tenant) as (account, now):
            for one in (account, self._all):
                one.check_tokens(now)

    def spend(self, tenant: str, tokens: int) -> None:
        """They were read or generated for `tenant`."""
        if not self._counts_tokens:
            return
        with self._locked(tenant) as (account, now):
            account.spend(tokens, now)
            self._all.spend(tokens, now)

    @contextmanager
    def _locked(self, tenant: str) -> Iterator[tuple[_Account, float]]:
        with self._lock:
            now = self._clock()
            account = self._accounts.get(tenant)
            if account is None:
                account = self._accounts[tenant] = _Account(self._each, "quotas.each", now)
                self._forget(tenant, now)
            self._accounts.move_to_end(tenant)
            yield account, now

    def _forget(self, besides: str, now: float) -> None:
        """An account that nothing is under way of: one that is as good as new, else the one that is nearest
        to it."""
        if len(self._accounts) <= _MOST_REMEMBERED:
            return
        # Most are, and then the first is one: no more are looked at.
        found, least = None, math.inf
        for name, one in self._accounts.items():
            if not one.under_way and name != besides and (missing := one.missing(now)) < least:
                found, least = name, missing
                if not missing:
                    break
        if found is not None:
            self._accounts.pop(found)
