"""Processes of trainings, copies of one that is ready: how they begin and end, and who hears of it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest

from caikit_pt.runtime.executors import fork_server
from caikit_pt.runtime.executors.child import Child
from caikit_pt.runtime.executors.fork_server import ForkServer
from tests.runtime.servers import wait_for

# A process that has asked CUDA for its GPUs, as far as torch says.
TOUCHED = """
import torch
torch.cuda._is_in_bad_fork = lambda: True
from caikit_pt.runtime.executors import fork_server
fork_server.main()
"""
# One that a limit keeps from another process, twice.
FULL = """
import os
from caikit_pt.runtime.executors import fork_server
fork, tries = os.fork, []
def full():
    tries.append(1)
    if len(tries) <= 2:
        raise BlockingIOError(11, "Resource temporarily unavailable")
    return fork()
os.fork = full
fork_server.main()
"""


@pytest.fixture(scope="module")
def made() -> Iterator[ForkServer]:
    server = ForkServer()
    yield server
    server.close()


@pytest.fixture
def forks(made: ForkServer) -> ForkServer:
    """One that is ready, whatever tests before have done to it."""
    made.wait_until_ready()
    return made


def ended(child: Child) -> str:
    """What it died of; all that it has told is read."""
    assert list(child.reports()) == []
    assert not child.lives
    return child.cause_of_death()


def name(child: Child) -> str:
    return psutil.Process(child._process.pid).name()


def test_a_copy_is_there_at_once_and_ends_when_it_is_told_to(forks: ForkServer) -> None:
    began = time.monotonic()
    children = [Child(forks) for _ in range(3)]
    assert time.monotonic() - began < 2
    wait_for(lambda: {name(child) for child in children} == {"training"})
    for child in children:
        assert child.lives
        child.stop()
        assert ended(child).startswith("Its process ended with exit code 0 before the training was done.")
    with pytest.raises(BrokenPipeError):
        children[0].leave("nothing")
    assert len({child._process.pid for child in children}) == 3


def test_its_end_is_told_whatever_it_was(forks: ForkServer) -> None:
    child, other = Child(forks), Child(forks)
    wait_for(lambda: name(child) == "training")
    psutil.Process(child._process.pid).send_signal(signal.SIGSEGV)
    assert ended(child).startswith("Its process was ended by SIGSEGV.")
    other.kill()
    assert ended(other).startswith("Its process was ended by SIGKILL, as it is where memory runs out.")
    other.kill()


def test_copies_live_on_without_it_and_it_is_started_again(forks: ForkServer) -> None:
    child = Child(forks)
    process = forks._process
    assert process is not None
    process.kill()
    process.wait()
    wait_for(lambda: name(child) == "training")
    forks.wait_until_ready()
    another = Child(forks)
    for one in (child, another):
        assert one.lives
        one.stop()
        assert "exit code 0" in ended(one)


def test_nobody_of_it_is_left() -> None:
    forks = ForkServer()
    forks.wait_until_ready()
    child = Child(forks)
    assert forks._process is not None
    left = psutil.Process(forks._process.pid).children(recursive=True)
    assert len(left) == 2
    child.stop()
    ended(child)
    assert not psutil.wait_procs(left, 10)[1]
    forks.close()
    with pytest.raises(OSError, match="this server ends"):
        forks.wait_until_ready()
    with pytest.raises(OSError, match="isn't ready"):
        forks.copy()


def test_one_that_says_nothing_any_more_is_given_up(
    forks: ForkServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fork_server, "_SECONDS_TO_COPY", 0.3)
    assert forks._process is not None
    forks._process.send_signal(signal.SIGSTOP)
    with pytest.raises(OSError, match="ended with -9: timed out"):
        forks.copy()
    makes_copies(forks)


def test_where_there_can_be_no_process_it_lives_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(monkeypatch, FULL) as forks:
        for _ in range(2):
            forks.wait_until_ready()
            with pytest.raises(OSError, match="there can't be another process now"):
                forks.copy()
        makes_copies(forks)


def test_one_that_can_not_begin_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        running(monkeypatch, "raise SystemExit(1)") as forks,
        pytest.raises(OSError, match="ended with 1 as it began"),
    ):
        forks.wait_until_ready()


def test_where_a_copy_is_not_safe_it_begins_from_the_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(monkeypatch, TOUCHED) as forks:
        forks.wait_until_ready()
        child = Child(forks)
        wait_for(lambda: "caikit_pt.runtime.job_process" in psutil.Process(child._process.pid).cmdline())
        child.stop()
        assert "exit code 0" in ended(child)


def makes_copies(forks: ForkServer) -> None:
    forks.wait_until_ready()
    child = Child(forks)
    child.kill()
    assert "SIGKILL" in ended(child)


@contextmanager
def running(monkeypatch: pytest.MonkeyPatch, code: str) -> Iterator[ForkServer]:
    """One whose program is another."""
    start = subprocess.Popen

    def popen(_: list[str], **keywords: Any) -> subprocess.Popen[bytes]:
        return start([sys.executable, "-c", code], **keywords)

    monkeypatch.setattr(f"{fork_server.__name__}.subprocess.Popen", popen)
    forks = ForkServer()
    yield forks
    forks.close()
