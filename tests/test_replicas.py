"""Which of several servers a prompt asks: its own, unless that rests or has too much to do."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from caikit_pt.replicas import Replica, Replicas

PROMPTS = [f"prompt-{number}" for number in range(3000)]
NAMES = ("a:1", "b:1", "c:1")


def replicas(*names: str, clock: Any = time.monotonic) -> Replicas[Replica]:
    return Replicas([Replica(name) for name in names], clock)


def preferred(*names: str) -> dict[str, str]:
    known = replicas(*names)
    return {prompt: known.order(prompt)[0].address for prompt in PROMPTS}


def test_prompts_are_spread_evenly() -> None:
    counted = Counter(preferred(*NAMES).values())
    assert set(counted) == set(NAMES)
    assert all(abs(count - 1000) < 150 for count in counted.values())


def test_every_client_has_the_same_order_however_it_lists_them() -> None:
    first, second = replicas(*NAMES), replicas(*reversed(NAMES))
    for prompt in PROMPTS[:100]:
        assert [one.address for one in first.order(prompt)] == [one.address for one in second.order(prompt)]
    # Clients of several releases have to agree.
    chosen = preferred(*NAMES)
    assert [chosen[prompt][0] for prompt in PROMPTS[:12]] == [*"babaacaaaaca"]


def test_a_replica_more_or_less_moves_only_its_own_prompts() -> None:
    three, four = preferred(*NAMES), preferred(*NAMES, "d:1")
    moved = {prompt for prompt in PROMPTS if three[prompt] != four[prompt]}
    assert {four[prompt] for prompt in moved} == {"d:1"}
    assert 0.2 < len(moved) / len(PROMPTS) < 0.3
    two = preferred("a:1", "c:1")
    assert {three[prompt] for prompt in PROMPTS if two[prompt] != three[prompt]} == {"b:1"}


def test_one_that_rests_is_asked_last_and_after_that_as_before() -> None:
    now = [0.0]
    known = replicas(*NAMES, clock=lambda: now[0])
    before = known.order("mood")
    known.lost(before[0])
    assert known.order("mood") == [*before[1:], before[0]]
    now[0] = 1.5
    assert known.order("mood") == before


def test_a_hot_prompt_goes_on_to_the_next_when_its_first_has_more_than_its_share() -> None:
    known = replicas(*NAMES)
    order = known.order("hot")
    for _ in range(64):
        known.began(known.order("hot")[0])
    assert [one.under_way for one in order] == [43, 21, 0]
    for _ in range(30):
        known.ended(order[0])
    assert known.order("hot")[0] is order[0]


def test_a_few_requests_stay_together() -> None:
    known = replicas(*NAMES)
    for _ in range(16):
        known.began(known.order("mood")[0])
    assert sorted(one.under_way for one in known.all) == [0, 0, 16]


def test_what_is_about_no_prompt_goes_to_the_first_that_answers() -> None:
    known = replicas(*NAMES)
    assert [one.address for one in known.order()] == [*NAMES]
    known.lost(known.all[0])
    assert [one.address for one in known.order()] == ["b:1", "c:1", "a:1"]
