"""Strangers' connections leave descriptors for files, and those who are connected are answered."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest

from caikit_pt.client import TuningClient
from caikit_pt.errors import InvalidParameter
from caikit_pt.runtime.connections import DESCRIPTORS_BESIDE, doubts, most_connections, raise_limit
from tests.conftest import LLAMA
from tests.runtime.servers import QUICK, RECORDS, Server, wait_for

# HTTP/2 begins with it; then an empty frame of settings.
IDLE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"
SOFT, MOST = 1024, 20
LIMITS = resource.RLIMIT_NOFILE


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path, MAX_CONNECTIONS=MOST)
    yield server
    server.close()


def limited(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))


def is_open(connection: socket.socket) -> bool:
    """Whether the server hasn't closed it; what it has said is read."""
    with suppress(BlockingIOError):
        while connection.recv(4096):
            pass
        return False
    return True


def test_it_takes_the_descriptors_that_it_may_have(server: Server) -> None:
    soft, hard = resource.getrlimit(LIMITS)
    resource.setrlimit(LIMITS, (min(SOFT, hard), hard))
    try:
        server.start().close()
        assert psutil.Process(server.process.pid).rlimit(LIMITS) == (hard, hard)
    finally:
        resource.setrlimit(LIMITS, (soft, hard))
    assert "may open" not in server.log.read_text()


def test_more_connections_than_there_may_be_are_closed(server: Server) -> None:
    with server.start() as client, ExitStack() as stack:
        id = client.tune("known", base_model=LLAMA, records=RECORDS, **QUICK)
        idle = []
        for _ in range(2 * MOST):
            one = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            one.sendall(IDLE)
            one.setblocking(False)
            idle.append(one)
        wait_for(lambda: sum(map(is_open, idle)) <= MOST)
        # Whoever is connected already has all that he had.
        assert [event.state for event in client.watch(id)][-1] == "COMPLETED"
        assert client.generate("known", "the kettle") is not None
        for one in idle:
            one.close()
        with TuningClient(f"127.0.0.1:{server.port}") as another:
            assert another.generate("known", "the kettle") is not None


def test_as_many_as_there_are_descriptors_for(monkeypatch: pytest.MonkeyPatch) -> None:
    limited(monkeypatch, 2 * 100 + DESCRIPTORS_BESIDE)
    assert most_connections(100, 2) == 100
    assert not doubts(100, 2)
    assert most_connections(2000, 2) == 100
    needed = 2 * 2000 + DESCRIPTORS_BESIDE
    (told,) = doubts(2000, 2)
    assert told.startswith("max_connections: 100 instead of 2000; ")
    assert f"open {needed} files" in told
    limited(monkeypatch, resource.RLIM_INFINITY)
    assert most_connections(2000, 2) == 2000


def test_a_server_without_any_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    limited(monkeypatch, DESCRIPTORS_BESIDE)
    with pytest.raises(InvalidParameter, match=r"max_connections.*2000.*this process may open 2256 files"):
        most_connections(2000, 1)


def test_a_limit_that_cannot_be_raised_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 2**62))
    assert "may open 64 files" in raise_limit()[0]
