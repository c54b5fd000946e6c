"""Whatever a request holds, it ends with a status that docs/errors.md knows, and the server lives on."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attacks.fuzz import ALLOWED, CASES, TOY, Sender, cases, methods
from attacks.target import GOOD, Target, target


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    # Whatever would train is refused once a few wait.
    with target(tmp_path_factory.mktemp("fuzzed"), MAX_QUEUED="3", SLOTS="1") as one:
        shutil.copytree(one.models / GOOD, one.models / TOY)
        yield one


def test_no_request_is_unforeseen(attacked: Target) -> None:
    known, sender, seen = methods(attacked), Sender(attacked), Counter[str]()
    requests = cases(known)
    assert len({method.containing_service.full_name for method in known}) >= 8

    @settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.data())
    def fuzz(data: st.DataObject) -> None:
        case = data.draw(requests)
        status, text = sender.send(case)
        seen[status] += 1
        assert status in ALLOWED, text
        assert str(attacked.directory) not in text
        assert len(text) <= 2000

    try:
        fuzz()
    finally:
        sender.close()
        print(f"{seen.total()} requests to {len(known)} RPCs: {dict(seen)}")
    assert attacked.answers_others()
    assert not attacked.was_touched()
