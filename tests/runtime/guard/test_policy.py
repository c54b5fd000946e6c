"""What a policy allows: to do what, with which models."""

from __future__ import annotations

import sqlite3

import pytest

from caikit_pt.errors import NotAllowed, UnknownModel
from caikit_pt.principal import glob
from caikit_pt.runtime.guard.door import door_of
from caikit_pt.runtime.guard.policy import Policy
from caikit_pt.settings import ACTIONS, Access, Rule


def rule(principals: str, may: str, models: str) -> Rule:
    return Rule(principals=tuple(principals.split()), may=tuple(may.split()), models=tuple(models.split()))


POLICY = Policy(
    Access(
        policy=(
            rule("*", "generate tune watch cancel", "{principal}-*"),
            rule("ada bob*", "generate", "shared-*"),
            rule("root", "generate tune watch cancel deploy", "*"),
            rule("ops", "watch", "*"),
        )
    )
)


def test_without_an_identity_everybody_may_everything() -> None:
    anybody = Policy(Access()).principal("")
    assert all(anybody.may(action, "any") and anybody.may_everywhere(action) for action in ACTIONS)


def test_without_a_policy_who_is_known_may_all_but_deploy() -> None:
    ada = Policy(Access()).principal("ada")
    assert [action for action in ACTIONS if not ada.may(action, "any")] == ["deploy"]


def test_a_name_space_of_ones_own() -> None:
    ada, bob = POLICY.principal("ada"), POLICY.principal("bob")
    assert ada.may("tune", "ada-x")
    assert not ada.may("tune", "bob-x")
    assert not ada.may("tune", "adax")
    assert not ada.sees("bob-x")
    assert not ada.may("deploy", "ada-x")
    assert bob.may("generate", "shared-a")
    assert not bob.may("tune", "shared-a")
    assert POLICY.principal("root").may_everywhere("deploy")
    assert not ada.may_everywhere("watch")


def test_what_may_not_be_seen_is_not_there() -> None:
    ada = POLICY.principal("ada")
    ada.check("tune", "ada-x")
    with pytest.raises(NotAllowed, match="ada may not tune 'shared-a'"):
        ada.check("tune", "shared-a")
    with pytest.raises(UnknownModel, match=r"^Model 'bob-x' not found$"):
        ada.check("tune", "bob-x")


@pytest.mark.parametrize("name", ["*", "a*", "?", "[a-z]", "{principal}"])
def test_a_name_is_no_pattern(name: str) -> None:
    """Who names himself by a token's claim would have everybody's models else."""
    somebody = POLICY.principal(name)
    assert not somebody.may("tune", "ada-x")
    assert not somebody.may("tune", "a-x")


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("a-*", "a-b", True),
        ("a-*", "A-b", False),
        ("a?", "ab", False),
        ("[ab]", "a", False),
        ("[ab]", "[ab]", True),
        ("*.1", "x.1", True),
        ("*.1", "xa1", False),
        ("*", "", True),
        ("a*b*c", "aXbYc", True),
        ("[!a]*", "b", False),
        ("[^a]*", "b", False),
    ],
)
def test_the_store_matches_as_the_policy_does(pattern: str, name: str, matches: bool) -> None:
    from fnmatch import fnmatchcase

    made = glob(pattern)
    assert fnmatchcase(name, made) is matches
    found = sqlite3.connect(":memory:").execute("SELECT ? GLOB ?", (name, made)).fetchone()[0]
    assert bool(found) is matches


@pytest.mark.parametrize(
    "method",
    [
        "mmesh.ModelRuntime/loadModel",
        "caikit.runtime.info.InfoService/GetModelsInfo",
        "caikit.runtime.Nlp.NlpJobService/GetTextGenerationTaskPredictJobResult",
    ],
)
def test_what_names_no_model_of_its_own_is_for_who_may_have_all(method: str) -> None:
    door = door_of(f"/{method}")
    assert door is not None
    assert door.of_all
    assert not POLICY.principal("ada").may_everywhere(door.action)
    assert POLICY.principal("root").may_everywhere(door.action)
