"""Signals reach a server that waits for them, whichever of its threads the system gives them to."""

from __future__ import annotations

import subprocess
import sys

import pytest

from examples.local_server import ROOT

# `pthread_kill` to a thread of its own: what the system does when it likes.
WAITING = """
import signal, threading, time
from caikit_pt.runtime.signals import Signals, leave
signals = Signals()
signals.serve()
other = threading.Thread(target=time.sleep, args=(30,), daemon=True)
other.start()
def send():
    time.sleep(0.5)
    signal.pthread_kill(other.ident, signal.SIG)
    if TWICE:
        time.sleep(0.5)
        signal.pthread_kill(other.ident, signal.SIG)
threading.Thread(target=send, daemon=True).start()
signals.wait()
print("told", flush=True)
time.sleep(2)
leave(0)
"""


@pytest.mark.parametrize(
    ("name", "twice", "code"), [("SIGTERM", False, 0), ("SIGTERM", True, 143), ("SIGINT", True, 130)]
)
def test_a_signal_that_another_thread_gets(name: str, twice: bool, code: int) -> None:
    """It was never heard: the main thread slept on."""
    text = WAITING.replace("signal.SIG)", f"signal.{name})").replace("TWICE", str(twice))
    ended = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )
    assert (ended.stdout, ended.returncode) == ("told\n", code), ended.stderr
