"""Every attack comes to nothing, and the server is what it was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from attacks.attack import Attack, attempt
from attacks.every import ATTACKS
from attacks.target import Target, target


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with target(tmp_path_factory.mktemp("attacked")) as one:
        yield one


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_an_attack_comes_to_nothing(attacked: Target, attack: Attack) -> None:
    outcome = attempt(attack, attacked)
    assert not outcome.faults, f"{outcome.status}: {outcome.text}"


def test_the_server_has_lost_nothing(attacked: Target) -> None:
    assert attacked.process.is_running()
    assert attacked.answers_others()
