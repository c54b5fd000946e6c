"""Who is read next: tenants in turns, each in the order of arrival, as many as there is room for, of like
length together."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import nsmallest

from caikit_pt.base_model.model import BaseModel
from caikit_pt.errors import InvalidParameter, TooManyRequests, WaitedTooLong
from caikit_pt.serving.generation import Generation
from caikit_pt.serving.request import Request
from caikit_pt.settings import Settings

# Behind the oldest request, so many are looked through for texts of about its length.
_LOOK_AHEAD = 32
_BETWEEN_LOOKS = 0.05  # seconds
# Pairs of positions that are read together, by the square of positions: soft prompts are read, too.
_SQUARES = 4
_MOST_REMEMBERED = 10_000  # tenants
# Of all rows, where neither a setting nor the device says.
KV_BYTES_ON_A_CPU = 2**32
_DEFAULTS = Settings()


@dataclass(frozen=True, slots=True)
class Limits:
    """What an engine may take on."""

    rows: int = _DEFAULTS.max_batch_size
    waiting: int = _DEFAULTS.max_waiting_requests
    wait_seconds: float = _DEFAULTS.max_wait_seconds
    # Keys and values of all rows together.
    kv_bytes: int = KV_BYTES_ON_A_CPU
    # Positions that are read between two steps of the rows that are running.
    read_positions: int = _DEFAULTS.max_prefill_tokens
    # Keys and values of the soft prompts that were used last.
    prompt_bytes: int = _DEFAULTS.prompt_cache_mib * 2**20
    # Whether steps are captured, on devices where they can be.
    cuda_graphs: bool = _DEFAULTS.cuda_graphs
    # Scores of attention of one text that can't be read in pieces.
    attention_bytes: float = KV_BYTES_ON_A_CPU


class Scheduler:
    """The requests that wait, and the room that those which run leave them."""

    def __init__(self, base: BaseModel, limits: Limits) -> None:
        self.rows = limits.rows
        self.read_positions = limits.read_positions
        self._base, self._limits = base, limits
        self._most_positions = (
            limits.kv_bytes // base.serving.position_bytes if base.serving.position_bytes else 0
        )
        self._waiting: deque[Generation] = deque()
        self._lock = threading.Lock()
        self._looked = self._shared = 0.0
        # When each tenant had his last turn, counted in turns.
        self._turns_taken, self._last_turn = 0, dict[str, int]()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, generation: Generation) -> None:
        """Takes a request on. Raises InvalidParameter where it can never run, TooManyRequests."""
        self._check_attention(generation.request)
        needed = generation.request.most_positions
        if self._most_positions and needed > self._most_positions:
            labelled = generation.request.labels is not None
            raise InvalidParameter(
                "text" if labelled else "max_new_tokens",
                f"{len(generation.request.row.ids)} tokens"
                if labelled
                else generation.request.parameters.max_new_tokens,
                f"at most {self._most_positions} positions of soft prompt, text and answer together "
                f"(here {needed}); the setting kv_cache_mib holds no more",
            )
        with self._lock:
            if len(self._waiting) >= self._limits.waiting and not self._has_given_way(generation.tenant):
                raise TooManyRequests(
                    f"{len(self._waiting)} requests are waiting, as many as max_waiting_requests allows. "
                    "Try again later"
                )
            self._waiting.append(generation)

    def _check_attention(self, request: Request) -> None:
        """Raises InvalidParameter where reading its text takes more memory than there may be."""
        serving = self._base.serving
        most = math.isqrt(int(min(self._limits.attention_bytes, 2**62)) // serving.square_bytes)
        positions = serving.read_at_once(request.row)
        if positions > most:
            length = len(request.row.ids)
            raise InvalidParameter(
                "text",
                f"{length} tokens",
                f"at most {max(0, most - (positions - length))} tokens beside this soft prompt: "
                f"{self._base.checkpoint.name} reads a text at once, in memory that grows with the square of "
                "its length; truncate_input_tokens cuts it",
            )

    def _has_given_way(self, tenant: str) -> bool:
        """Whether the last of who has most waiting has left his place to `tenant`, who has fewer by two."""
        waiting = Counter(each.tenant for each in self._waiting)
        most = max(waiting, key=lambda one: waiting[one], default=tenant)
        if waiting[most] < waiting[tenant] + 2:
            return False
        last = next(
            (each for each in reversed(self._waiting) if each.tenant == most and not each.has_run), None
        )
        if last is None:
            return False
        self._waiting.remove(last)
        last.fail(
            TooManyRequests(
                f"{waiting[most]} requests of yours are waiting, and as many as max_waiting_requests allows "
                "in all: the last made room for somebody who has fewer. Try again later"
            )
        )
        return True

    def put_back(self, generations: Sequence[Generation]) -> None:
        """They were running, and are the first to do so again."""
        with self._lock:
            self._waiting.extendleft(reversed(generations))

    def put_last(self, generation: Generation) -> None:
        """It goes on elsewhere than behind what was read of it: behind whoever waits already."""
        with self._lock:
            self._waiting.append(generation)

    def those_late(self, running: Sequence[Generation]) -> list[Generation]:
        """Of those `running`, who leave their rows for tenants that have fewer by two, and find no room: of
        the tenant who has most each time, whoever has the least to be read again."""
        now = time.monotonic()
        if now - self._shared < _BETWEEN_LOOKS or len({each.tenant for each in running}) == len(running):
            return []
        self._shared = now
        with self._lock:
            if not self._waiting or self._room_for(running):
                return []
            has, left, late = Counter(each.tenant for each in running), list(running), list[Generation]()
            for each in self._turns(running):
                most = max(has, key=lambda tenant: has[tenant])
                if has[most] < has[each.tenant] + 2:
                    break
                late.append(min((one for one in left if one.tenant == most), key=_length))
                left.remove(late[-1])
                has.update({most: -1, each.tenant: 1})
            return late

    @property
    def oldest(self) -> float | None:
        """When the one that has waited the longest arrived (time.monotonic()); None where nobody waits."""
        with self._lock:
            return min((each.arrived for each in self._waiting), default=None)

    def usage(self, running: Sequence[Generation]) -> float:
        """The share of the room for keys and values that is promised to those `running`, from 0 to 1."""
        longest = max((each.request.most_positions for each in running), default=0)
        return len(running) * longest / self._most_positions if self._most_positions else 0.0

    def clear(self) -> list[Generation]:
        """Takes all out."""
        with self._lock:
            waiting, self._waiting = list(self._waiting), deque()
        return waiting

    def shrink(self, rows: int) -> None:
        """Only so many rows fit, and half as many positions at once."""
        self.rows = min(self.rows, rows)
        self.read_positions = max(1, self.read_positions // 2)

    def drop(self) -> None:
        """Ends those that nobody waits for any more, or that have waited too long."""
        now = time.monotonic()
        if now - self._looked < _BETWEEN_LOOKS:
            return
        self._looked = now
        with self._lock:
            waiting, self._waiting = self._waiting, deque()
            for generation in waiting:
                generation.request.end_in_time()
                if generation.cancelled:
                    generation.fail()
                elif generation.request.finished:
                    generation.tell()
                elif now - generation.arrived > self._limits.wait_seconds and not generation.has_run:
                    waited = f"{self._limits.wait_seconds:g} seconds"
                    generation.fail(WaitedTooLong(f"No turn came within max_wait_seconds ({waited})"))
                else:
                    self._waiting.append(generation)

    def take(self, running: Sequence[Generation]) -> list[Generation]:
        """The next requests to be read together, beside those `running`; none where there is no room."""
        with self._lock:
            ready = self._room_for(running)
            if not ready:
                return []
            oldest = ready[0]
            length = _length(oldest)
            if oldest.alone or not self._base.serving.serves_batched:
                taken = [oldest]
            else:
                cohort = self._base.serving.cohort(oldest.request.so_far)
                alike = [
                    each
                    for each in ready
                    if not each.alone and self._base.serving.cohort(each.request.so_far) == cohort
                ]
                alike.sort(key=lambda each: abs(_length(each) - length))
                taken = [oldest]
                for each in alike:
                    if each is not oldest and self._may_be_read([*taken, each]):
                        taken.append(each)
            self._waiting = deque(each for each in self._waiting if each not in taken)
            now = time.monotonic()
            for each in taken:
                if each.taken is None:
                    each.taken = now
                each.gave_way = False
                self._turns_taken += 1
                self._last_turn[each.tenant] = self._turns_taken
            return taken

    def _may_be_read(self, together: Sequence[Generation]) -> bool:
        """Whether these make no larger pass than one may be, all as wide as the widest: by their positions,
        and where each of these looks at all others by its square."""
        rows = len(together)
        if rows * max(map(_length, together)) > self.read_positions:
            return False
        widest = max(self._base.serving.read_at_once(each.request.so_far) for each in together)
        return rows * widest**2 <= _SQUARES * self.read_positions**2

    def _room_for(self, running: Sequence[Generation]) -> list[Generation]:
        """The first of those that wait, as many as may run beside `running`."""
        ready: list[Generation] = []
        longest = max((each.request.most_positions for each in running), default=0)
        if len(running) >= self.rows:
            return ready
        for each in self._turns(running):
            rows = len(running) + len(ready) + 1
            longest = max(longest, each.request.most_positions)
            # All rows of a batch have room for as many positions as the longest.
            if rows > self.rows or (self._most_positions and rows * longest > self._most_positions):
                break
            ready.append(each)
        return ready

    def _turns(self, running: Sequence[Generation]) -> list[Generation]:
        """The next of those that wait: who was put back, then whose tenant has fewest running or before them,
        of these whose tenant has waited longest for a turn, of these in the order of arrival."""
        # Whom nobody waits for costs nothing more, and is dropped at the next look.
        waiting = [each for each in self._waiting if not each.cancelled]
        tenants = {each.tenant for each in waiting}
        if len(tenants) < 2:
            return waiting[:_LOOK_AHEAD]
        # Who isn't here any more begins anew.
        if len(self._last_turn) > _MOST_REMEMBERED:
            self._last_turn = {one: turn for one, turn in self._last_turn.items() if one in tenants}
        before = Counter(each.tenant for each in running)
        turns, put_back = [], True
        for number, each in enumerate(waiting):
            put_back = put_back and each.has_run and not each.gave_way
            theirs = (before[each.tenant], self._last_turn.get(each.tenant, 0))
            turns.append((not put_back, *((0, 0) if put_back else theirs), number))
            before[each.tenant] += 1
        return [waiting[number] for *_, number in nsmallest(_LOOK_AHEAD, turns)]


def _length(generation: Generation) -> int:
    return len(generation.request.row.ids) + len(generation.request.generated)
