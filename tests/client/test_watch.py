"""When a watch comes again, and from where."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from caikit_pt.client import ServerError
from caikit_pt.client.connection import Connection
from caikit_pt.client.watch import Watch
from caikit_pt.runtime.tuning_messages import TrainingEvent


class Server(Connection):
    """Sends what it is given, a list for each time that it is asked, and raises what stands last in one."""

    def __init__(self, *answers: list[Any]) -> None:
        self._answers = list(answers)
        self.stubs: Any = SimpleNamespace(tuning=SimpleNamespace(WatchTraining=None))
        self.asked: list[int] = []

    def stream(self, rpc: Any, request: Any, model_name: str = "") -> Iterator[Any]:
        self.asked.append(request.from_event)
        for one in self._answers.pop(0):
            if isinstance(one, Exception):
                raise one
            yield TrainingEvent(number=one, kind="phase", text="training").to_proto()


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("caikit_pt.client.watch._SECONDS_TO_RECONNECT", 0.0)


def gone() -> ServerError:
    return ServerError("UNAVAILABLE", "The jobs in state_dir can't be read or written now: locked")


def test_it_goes_on_behind_the_last_event_when_the_server_is_back() -> None:
    server = Server([1, 2, gone()], [gone()], [3, gone()], [4])
    lost: list[str] = []
    events = Watch(server, "one", 0).events(lambda error: lost.append(error.status))
    assert [event.number for event in events] == [1, 2, 3, 4]
    assert server.asked == [0, 2, 2, 3]
    # Once for each time that it waits.
    assert lost == ["UNAVAILABLE"] * 2


@pytest.mark.parametrize("answers", [[gone()], [1, ServerError("UNKNOWN", "a bug")]])
def test_what_never_began_or_fails_otherwise_is_not_waited_for(answers: list[Any]) -> None:
    server = Server(answers)
    with pytest.raises(ServerError):
        list(Watch(server, "one", 0).events(None))
    assert server.asked == [0]
