"""How helpers find who leads them from other machines, and who isn't one."""

from __future__ import annotations

import json
import queue
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from caikit_pt.runtime import helper_calls
from caikit_pt.runtime.helper import READY, Helper
from caikit_pt.runtime.helper_calls import HelperCalls, Line, Refused, call
from tests.runtime.servers import wait_for


class Answered:
    """The lines of those that were believed, each once."""

    def __init__(self) -> None:
        self._lines = queue.Queue[Line]()
        self._heard = list[Line]()
        self.put = self._lines.put

    def next(self) -> Line:
        self._heard.append(self._lines.get(timeout=5))
        return self._heard[-1]

    @property
    def are_heard(self) -> bool:
        return self._lines.empty()

    def close(self) -> None:
        closed(*self._heard)


def closed(*lines: Line) -> None:
    for line in lines:
        for one in (line, line.reads, line.writes):
            with suppress(OSError):
                one.close()


@pytest.fixture
def answered() -> Iterator[Answered]:
    made = Answered()
    yield made
    made.close()


@pytest.fixture
def calls(tmp_path: Path, answered: Answered, monkeypatch: pytest.MonkeyPatch) -> Iterator[HelperCalls]:
    monkeypatch.setattr(helper_calls, "_SECONDS_TO_GREET", 0.5)
    made = HelperCalls(tmp_path / "calls.json", answered.put)
    yield made
    made.close()


def told(file: Path, **other: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text()) | other
    file.write_text(json.dumps(found))
    return found


def test_who_has_read_the_file_is_heard(calls: HelperCalls, answered: Answered, tmp_path: Path) -> None:
    line = call(tmp_path / "calls.json")
    helper, other = line, answered.next()
    assert helper.host == other.host
    helper.writes.write("ready\n")
    helper.writes.flush()
    assert other.reads.readline() == "ready\n"
    other.writes.write("{}\n")
    other.writes.flush()
    assert helper.reads.readline() == "{}\n"
    other.close()
    assert helper.reads.readline() == ""
    closed(helper)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2"])
def test_it_is_heard_at_whatever_address_is_its(
    host: str, calls: HelperCalls, answered: Answered, tmp_path: Path
) -> None:
    told(tmp_path / "calls.json", hosts=["127.0.0.3:nowhere", host])
    closed(call(tmp_path / "calls.json"))
    assert answered.next().host == host


def test_who_has_another_token_is_not(
    calls: HelperCalls, answered: Answered, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "calls.json"
    own = told(file)
    told(file, token="00" * 32, hosts=["127.0.0.1"])
    with pytest.raises(Refused):
        call(file)
    file.write_text(json.dumps(own))
    closed(call(file))
    answered.next()
    assert answered.are_heard
    assert "isn't a helper's: it doesn't have the token" in caplog.text


def silent(_: socket.socket) -> None:
    pass


def chatters(connection: socket.socket) -> None:
    connection.sendall(b"GET / HTTP/1.1\r\nHost: somewhere\r\n\r\n" + b"x" * 10_000)


def repeats(connection: socket.socket) -> None:
    """What it is told: the proof is another one for each side."""
    with connection.makefile("rb") as reads:
        drawn = reads.readline()
        connection.sendall(drawn)
        connection.sendall(reads.readline())


@pytest.mark.parametrize("stranger", [silent, chatters, repeats])
def test_a_stranger_is_let_go_and_others_are_heard(
    stranger: Callable[[socket.socket], None],
    calls: HelperCalls,
    answered: Answered,
    tmp_path: Path,
) -> None:
    port = told(tmp_path / "calls.json")["port"]
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        stranger(connection)
        # As soon as the time to greet is over.
        closed(call(tmp_path / "calls.json"))
        answered.next()
        # It is reset where something is left to be read.
        with suppress(ConnectionError):
            while connection.recv(1000):
                pass
    assert answered.are_heard


def test_who_has_closed_answers_nobody(calls: HelperCalls, tmp_path: Path) -> None:
    calls.close()
    with pytest.raises(OSError, match="refused"):
        call(tmp_path / "calls.json")


@pytest.mark.parametrize("content", ["", '{"hosts": ['])
def test_a_file_that_is_not_whole_is_read_again(content: str, tmp_path: Path) -> None:
    (tmp_path / "calls.json").write_text(content)
    with pytest.raises(json.JSONDecodeError):
        call(tmp_path / "calls.json")


def test_a_helper_is_free_when_it_has_said_so_and_gone_when_it_is_silent(
    calls: HelperCalls, answered: Answered, tmp_path: Path
) -> None:
    other = call(tmp_path / "calls.json")
    line = answered.next()
    helper = Helper(line.writes, line.reads, line.close, "10.0.0.1")
    helper.load()
    helper.load()
    assert (json.loads(other.reads.readline()), helper.is_free) == ({"kernels": ""}, False)
    _says(other, READY)
    wait_for(lambda: helper.is_free, 5)
    helper.join(rank=1, size=2)
    assert json.loads(other.reads.readline()) == {"rank": 1, "size": 2}
    helper.part()
    assert (helper.is_free, helper.lives, helper.is_late) == (False, True, False)
    other.close()
    wait_for(lambda: not helper.lives, 5)
    helper.join(rank=1, size=2)
    closed(other)


def _says(line: Line, what: str) -> None:
    line.writes.write(f"{what}\n")
    line.writes.flush()
