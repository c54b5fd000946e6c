"""However an RPC ends, nothing of it stays: no row, no place, no thread, no slot. Over real connections."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from caikit_pt.base_model.model import BaseModel
from caikit_pt.client import COMPLETED, ServerError, TuningClient
from caikit_pt.client.connection import Stubs
from tests.conftest import T5
from tests.runtime.open_server import STOPS
from tests.runtime.servers import QUICK, RECORDS, Server, signalled, wait_for
from tests.runtime.test_rolling import save

TEXT = "the kettle is dreadful"
# Places of each kind.
PLACES = 4
MODEL = [("mm-model-id", "first")]
CODES = grpc.StatusCode
KINDS = ("unary", "stream", "watch")
# A client that is killed: it knows nothing but bytes.
CLIENT = """
import sys, grpc
address, method, message, metadata = sys.argv[1:]
channel = grpc.insecure_channel(address)
call = channel.unary_stream(method)(bytes.fromhex(message), metadata=[("mm-model-id", metadata)])
for part in call:
    pass
"""


class OpenServer(Server):
    """One that tells what it holds."""

    program = "tests.runtime.open_server"

    def __init__(self, directory: Path) -> None:
        self._teller = directory / "teller"
        super().__init__(
            directory,
            TELLER=self._teller,
            MAX_STREAMS=PLACES,
            MAX_WATCHES=PLACES,
            # Answers and streams together, in front of the engine.
            MAX_WAITING_REQUESTS=PLACES * 2,
            # One caller has no more than three times those that are free.
            RUNTIME_SERVER_THREAD_POOL_SIZE=PLACES + 1,
            SLOTS=1,
        )

    def start_within(self, seconds: float) -> TuningClient:
        self._teller.unlink(missing_ok=True)
        return super().start_within(seconds)

    def told(self) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as asking, asking.makefile() as answer:
            asking.connect(str(self._teller))
            told: dict[str, Any] = json.load(answer)
            return told


class Calls:
    """Of one server: RPCs of every kind, begun and not waited for."""

    def __init__(self, server: OpenServer) -> None:
        self.server = server
        self.start()

    def start(self) -> None:
        """Also again. A training is under way that takes no processor, and one is done."""
        self.client = self.server.start()
        self.channel = grpc.insecure_channel(f"localhost:{self.server.port}")
        self.stubs = Stubs(self.channel)
        running = {**QUICK, "num_epochs": 10_000}
        self.client.tune("done", base_model=T5, records=RECORDS, training_id="done", **QUICK)
        self.client.tune("running", base_model=T5, records=RECORDS, training_id="running", **running)
        wait_for(lambda: self.client.training("running").state == "RUNNING", 120)
        wait_for(lambda: signalled(self.server.worker("running"), signal.SIGSTOP))
        assert self.client.training("done").state == COMPLETED
        for kind in KINDS:
            list(self.begin(kind, "done"))
        self.before = self.settled()

    def message(self, kind: str, end: str) -> Any:
        from caikit_pt.runtime.tuning_messages import WatchTrainingRequest

        tokens = {"done": 3, "shutdown": 80}.get(end, 3000)
        if kind == "watch":
            id = {"done": "done", "bad": "nobody's"}.get(end, "running")
            return WatchTrainingRequest(training_id=id).to_proto()
        asked: dict[str, Any] = {"text": TEXT, "max_new_tokens": tokens, "min_new_tokens": tokens}
        if end == "bad":
            asked["temperature"] = -1.0
        messages = self.stubs.messages
        if kind == "unary":
            return messages.TextGenerationTaskRequest(**asked)
        return messages.ServerStreamingTextGenerationTaskRequest(**asked)

    def begin(self, kind: str, end: str, timeout: float | None = None) -> Any:
        """What is iterated over."""
        message = self.message(kind, end)
        if kind == "unary":
            return _Unary(self.stubs.predict.future(message, metadata=MODEL, timeout=timeout))
        rpc = self.stubs.tuning.WatchTraining if kind == "watch" else self.stubs.stream
        return rpc(message, metadata=MODEL, timeout=timeout)

    def method(self, kind: str) -> str:
        if kind == "watch":
            return "/caikit_pt.TuningService/WatchTraining"
        prefix = "" if kind == "unary" else "ServerStreaming"
        return f"/caikit.runtime.Nlp.NlpService/{prefix}TextGenerationTaskPredict"

    def under_way(self) -> int:
        return int(self.server.told()["held"]["under way"])

    def check(self) -> None:
        """It holds what it held before."""
        deadline = time.monotonic() + 20
        while (told := self.server.told()) != self.before and time.monotonic() < deadline:
            time.sleep(0.1)
        assert told == self.before

    def settled(self) -> dict[str, Any]:
        """What it holds when it holds the same twice."""
        seen: list[dict[str, Any]] = [{}]

        def same() -> bool:
            time.sleep(0.3)
            seen.append(self.server.told())
            return seen[-1] == seen[-2] and not seen[-1]["held"]["places"]

        wait_for(same)
        return seen[-1]


class _Unary:
    """A future as a stream of one answer."""

    def __init__(self, future: Any) -> None:
        self._future = future
        self.cancel = future.cancel

    def __iter__(self) -> Iterator[Any]:
        yield self._future.result()


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory, llama: BaseModel) -> Iterator[Calls]:
    server = OpenServer(tmp_path_factory.mktemp("open"))
    save(llama, 0, server.models / "first")
    try:
        yield Calls(server)
    finally:
        server.close()


def code_of(call: Any) -> CODES | None:
    """How a call ends; all that it brings is read."""
    try:
        for _ in call:
            pass
    except grpc.FutureCancelledError:
        return CODES.CANCELLED
    except grpc.RpcError as error:
        return error.code()
    return None


# ---- how each ends ----


def done(calls: Calls, kind: str) -> None:
    assert code_of(calls.begin(kind, "done")) is None


def cancelled(calls: Calls, kind: str) -> None:
    made = [calls.begin(kind, "cancelled") for _ in range(PLACES)]
    wait_for(lambda: calls.under_way() == PLACES)
    for call in made:
        call.cancel()
    assert {code_of(call) for call in made} == {CODES.CANCELLED}


def deadline(calls: Calls, kind: str) -> None:
    made = [calls.begin(kind, "deadline", timeout=1.5) for _ in range(PLACES)]
    assert {code_of(call) for call in made} == {CODES.DEADLINE_EXCEEDED}


def killed(calls: Calls, kind: str) -> None:
    message = calls.message(kind, "killed").SerializeToString().hex()
    asked = [f"localhost:{calls.server.port}", calls.method(kind), message, "first"]
    client = subprocess.Popen([sys.executable, "-c", CLIENT, *asked])
    try:
        wait_for(lambda: calls.under_way() == 1)
    finally:
        client.kill()
        client.wait()


def bad(calls: Calls, kind: str) -> None:
    expected = CODES.NOT_FOUND if kind == "watch" else CODES.INVALID_ARGUMENT
    assert {code_of(calls.begin(kind, "bad")) for _ in range(PLACES * 3)} == {expected}


def overload(calls: Calls, kind: str) -> None:
    made = [calls.begin(kind, "overload") for _ in range(PLACES * 6)]
    with ThreadPoolExecutor(len(made)) as pool:
        codes = [pool.submit(code_of, call) for call in made]
        # Those that wait for a thread have a place, too.
        places = PLACES * 3 + 1 if kind == "unary" else PLACES
        wait_for(lambda: sum(code.done() for code in codes) == len(made) - places)
        assert {code.result() for code in codes if code.done()} == {CODES.RESOURCE_EXHAUSTED}
        for call in made:
            call.cancel()


def shutdown(calls: Calls) -> None:
    """With calls of every kind under way."""
    children = psutil.Process(calls.server.process.pid).children(recursive=True)
    made = [(kind, calls.begin(kind, "shutdown")) for kind in KINDS for _ in range(PLACES)]
    wait_for(lambda: calls.under_way() == len(made))
    with ThreadPoolExecutor(len(made)) as pool:
        codes = [(kind, pool.submit(code_of, call)) for kind, call in made]
        calls.server.stop()
        for kind, code in codes:
            assert code.result() is (CODES.UNAVAILABLE if kind == "watch" else None), kind
    assert calls.server.process.returncode == 0
    assert not psutil.wait_procs(children, 15)[1]
    calls.client.close()
    calls.channel.close()
    calls.start()


HOW: dict[str, Callable[[Calls, str], None]] = {
    each.__name__: each for each in (done, cancelled, deadline, killed, bad, overload)
}


@pytest.mark.parametrize("end", HOW)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_stays(calls: Calls, kind: str, end: str) -> None:
    HOW[end](calls, kind)
    check(calls)


def test_nothing_stays_of_what_a_server_ended_in(calls: Calls) -> None:
    shutdown(calls)
    check(calls)


def check(calls: Calls) -> None:
    calls.check()
    # All places are free: as many as there are get answers at once.
    with ThreadPoolExecutor(PLACES * len(KINDS)) as pool:
        burst = [pool.submit(code_of, calls.begin(one, "done")) for one in KINDS for _ in range(PLACES)]
        assert {each.result() for each in burst} == {None}


@pytest.mark.parametrize("stop", STOPS)
def test_what_ends_a_process_ends_a_request(calls: Calls, stop: str) -> None:
    """The engine's thread was gone then, and nobody was answered any more."""
    fields = {"max_new_tokens": 40, "min_new_tokens": 40}
    with ThreadPoolExecutor(3) as pool:
        others = [pool.submit(calls.client.generate, "first", TEXT, **fields) for _ in range(2)]
        asked = pool.submit(calls.client.generate, "first", TEXT, stop_sequences=[stop], **fields)
        error = asked.exception()
        assert isinstance(error, ServerError)
        assert error.status == "INTERNAL"
        assert "Something failed that nobody has foreseen" in str(error)
        assert len({other.result() for other in others}) == 1
    calls.check()
