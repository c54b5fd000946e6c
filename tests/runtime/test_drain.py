"""Health, and how a server ends: over real connections, with real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from caikit_pt.base_model.model import BaseModel
from caikit_pt.cli import main
from caikit_pt.client import ServerError, TuningClient
from examples.grpc_client import Client
from examples.local_server import ROOT, free_port
from tests.conftest import LLAMA, T5
from tests.runtime.servers import QUICK, RECORDS, Server, wait_for
from tests.runtime.test_launcher import environment
from tests.runtime.test_rolling import save

SERVING, NOT_SERVING = 1, 2
READY = ("", "ready", "caikit_pt.TuningService", "caikit.runtime.Nlp.NlpService", "grpc.health.v1.Health")
TEXT = "the kettle is dreadful"


@pytest.fixture
def server(tmp_path: Path, llama: BaseModel) -> Iterator[Server]:
    """One with a prompt, not started yet."""
    server = Server(tmp_path)
    save(llama, 0, server.models / "first")
    yield server
    server.close()


def configured(server: Server, **settings: Any) -> Server:
    server._settings.update({name: str(value) for name, value in settings.items()})
    return server


def with_file(server: Server, content: str) -> Server:
    """With settings that only a file can hold."""
    file = server.models.parent / "settings.yml"
    file.write_text(content)
    return configured(server, CONFIG_FILES=f"{ROOT / 'runtime_config.yaml'},{file}")


def status(channel: grpc.Channel, name: str) -> int:
    stub = health_pb2_grpc.HealthStub(channel)
    return int(stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=10).status)


def long(tokens: int) -> dict[str, int]:
    return {"max_new_tokens": tokens, "min_new_tokens": tokens}


def streaming(port: int, tokens: int) -> tuple[int, grpc.StatusCode | None, str]:
    """What comes of a stream: its parts, and how it ended."""
    parts = 0
    try:
        for _ in Client(port).stream("first", TEXT, **long(tokens)):
            parts += 1
    except grpc.RpcError as error:
        return parts, error.code(), error.details() or ""
    return parts, None, ""


def warm(port: int) -> None:
    Client(port).predict("first", TEXT, max_new_tokens=2)


# ---- health ----


def test_every_service_is_ready_when_the_server_is(server: Server) -> None:
    server.start().close()
    with grpc.insecure_channel(f"localhost:{server.port}") as channel:
        assert {name: status(channel, name) for name in (*READY, "live")} == dict.fromkeys(
            (*READY, "live"), SERVING
        )
        with pytest.raises(grpc.RpcError) as error:
            status(channel, "nobody's")
        assert error.value.code() is grpc.StatusCode.NOT_FOUND


def test_the_server_is_ready_when_its_base_models_are_loaded(server: Server) -> None:
    with_file(server, f"preload: [{LLAMA}, {T5}]\n").start().close()
    log = server.log.read_text()
    assert f"{LLAMA} is loaded" in log
    assert f"{T5} is loaded" in log
    # The one that is there is what the first request gets.
    warm(server.port)
    assert server.log.read_text().count("Products of tiny-llama") == 1


def test_a_base_model_that_is_not_there_ends_the_start(tmp_path: Path) -> None:
    file = tmp_path / "settings.yml"
    file.write_text("preload: [nowhere]\n")
    ports = {"RUNTIME_GRPC_PORT": str(free_port()), "RUNTIME_METRICS_PORT": str(free_port())}
    ended = subprocess.run(
        [sys.executable, "-m", "caikit_pt.runtime"],
        cwd=tmp_path,
        env=environment(CONFIG_FILES=str(file), BASE_MODELS_DIR=str(ROOT / "examples/base_models"), **ports),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("caikit_pt: preload: 'nowhere' is not allowed. Allowed: a directory under")


def test_a_base_model_that_can_not_be_read_leaves_the_server_live_and_not_ready(
    server: Server, base_models: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its files may be mended: it is tried again."""
    with_file(configured(server, BASE_MODELS_DIR=base_models), "preload: [cut-short]\n")
    with pytest.raises(SystemExit):
        server.start_within(0)
    wait_for(lambda: "cut-short can't be loaded, and the server isn't ready" in server.log.read_text())
    with grpc.insecure_channel(f"localhost:{server.port}") as channel:
        assert status(channel, "live") == SERVING
        assert {status(channel, name) for name in READY} == {NOT_SERVING}
        address = ["--server", f"localhost:{server.port}"]
        assert main(["health", *address]) == 1
        assert main(["health", "--live", *address]) == 0
        assert capfd.readouterr().out == "NOT_SERVING\nSERVING\n"
        # It answers nevertheless, whoever asks.
        warm(server.port)


def test_caikits_own_probe_is_answered(server: Server) -> None:
    server.start().close()
    probe = [sys.executable, "-m", "caikit_health_probe"]
    settings = {
        "CONFIG_FILES": str(ROOT / "runtime_config.yaml"),
        "RUNTIME_GRPC_PORT": str(server.port),
    }
    # It looks for a process by its name, and for one of caikit's own where it is told none.
    for kind in (["readiness"], ["liveness", "caikit_pt.runtime"]):
        subprocess.run([*probe, *kind], env={**os.environ, **settings}, check=True, timeout=60)
    server.stop()
    assert subprocess.run([*probe, "readiness"], env={**os.environ, **settings}, timeout=60).returncode == 1


def test_health_is_told_of_under_overload(server: Server) -> None:
    """Every place for a stream and for an answer is taken, and others are refused."""
    configured(
        server, MAX_STREAMS=8, MAX_WAITING_REQUESTS=4, RUNTIME_SERVER_THREAD_POOL_SIZE=4
    ).start().close()
    warm(server.port)
    with ThreadPoolExecutor(60) as pool:
        streams = [pool.submit(streaming, server.port, 400) for _ in range(30)]
        answers = [
            pool.submit(lambda: Client(server.port).predict("first", TEXT, **long(400))) for _ in range(30)
        ]
        refused = grpc.StatusCode.RESOURCE_EXHAUSTED
        wait_for(lambda: any(each.done() and each.exception() for each in answers))
        with grpc.insecure_channel(f"localhost:{server.port}") as channel:
            began = time.monotonic()
            for name in ("live", "ready", ""):
                assert status(channel, name) == SERVING
            assert time.monotonic() - began < 10
        assert [each.result()[1] for each in streams].count(refused) >= 30 - 8
        codes = {getattr(each.exception(), "code", lambda: None)() for each in answers}
        assert codes == {None, refused}


def test_a_connection_that_is_old_goes_and_its_streams_do_not(server: Server) -> None:
    """Each connection of a test's client would be 0.3 seconds old, which gRPC varies by a tenth."""
    age = "runtime: {grpc: {options: {grpc.max_connection_age_ms: 300}}}\n"
    with_file(server, age).start().close()
    warm(server.port)
    began = time.monotonic()
    assert streaming(server.port, 900) == (900, None, "")
    assert time.monotonic() - began > 0.4
    # What is asked on it meanwhile goes over a new one.
    with grpc.insecure_channel(f"localhost:{server.port}") as channel:
        for _ in range(15):
            assert status(channel, "ready") == SERVING
            time.sleep(0.2)


# ---- the end ----


def test_whoever_looks_sees_that_it_ends_and_is_answered_for_a_while(server: Server) -> None:
    configured(server, DRAIN_SECONDS=4).start().close()
    warm(server.port)
    with grpc.insecure_channel(f"localhost:{server.port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watched = stub.Watch(health_pb2.HealthCheckRequest(service="ready"))
        assert next(watched).status == SERVING
        server.process.terminate()
        assert next(watched).status == NOT_SERVING
        # New work is done, on new connections, too.
        warm(server.port)
        assert {name: status(channel, name) for name in READY} == dict.fromkeys(READY, NOT_SERVING)
        assert status(channel, "live") == SERVING
        with TuningClient(channel=channel) as client, pytest.raises(ServerError) as error:
            client.tune("late", base_model=T5, records=RECORDS, **QUICK)
        assert error.value.status == "UNAVAILABLE"
        assert "This server is ending" in str(error.value)
    assert server.process.wait(30) == 0


def test_what_is_refused_says_when_to_come_again(server: Server) -> None:
    configured(server, DRAIN_SECONDS=4).start().close()
    from caikit_pt.runtime.tuning_rpcs import service

    with grpc.insecure_channel(f"localhost:{server.port}") as channel:
        tuning: Any = service().client_stub_class(channel)
        assert status(channel, "ready") == SERVING
        server.process.terminate()
        wait_for(lambda: status(channel, "ready") == NOT_SERVING)
        from caikit_pt.runtime.tuning_messages import WatchTrainingRequest

        with pytest.raises(grpc.RpcError) as error:
            list(tuning.WatchTraining(WatchTrainingRequest(training_id="any").to_proto()))
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
        told = status_pb2.Status()
        trailing: dict[str, Any] = {one.key: one.value for one in error.value.trailing_metadata()}
        told.ParseFromString(trailing["grpc-status-details-bin"])
        retry, reason = error_details_pb2.RetryInfo(), error_details_pb2.ErrorInfo()
        assert any(detail.Unpack(retry) for detail in told.details)
        assert any(detail.Unpack(reason) for detail in told.details)
        assert retry.retry_delay.ToSeconds() == 1
        assert reason.reason == "SERVER_STOPPING"
    assert server.process.wait(30) == 0


def test_answers_under_way_are_finished_and_no_longer_is_waited(server: Server) -> None:
    server.start().close()
    warm(server.port)
    with ThreadPoolExecutor(24) as pool, grpc.insecure_channel(f"localhost:{server.port}") as channel:
        # Somebody who watches health and one who has nothing to ask hold up nobody.
        watched = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="live"))
        assert next(watched).status == SERVING
        streams = [pool.submit(streaming, server.port, 150) for _ in range(20)]
        whole = [pool.submit(Client(server.port).predict, "first", TEXT, **long(150)) for _ in range(4)]
        time.sleep(1.5)
        server.process.terminate()
        ended = [each.result() for each in streams]
        assert ended == [(150, None, "")] * 20
        assert all(each.result().generated_tokens == 150 for each in whole)
        began = time.monotonic()
        assert server.process.wait(30) == 0
        assert time.monotonic() - began < 10
        assert list(watched) == []


def test_the_end_of_the_grace_period_is_told_and_exits_with_0(server: Server) -> None:
    """It was cut off without a word, and the process aborted: a thread of torch came back too late."""
    configured(server, RUNTIME_GRPC_SERVER_SHUTDOWN_GRACE_PERIOD_SECONDS=2).start().close()
    warm(server.port)
    with ThreadPoolExecutor(40) as pool:
        streams = [pool.submit(streaming, server.port, 900) for _ in range(32)]
        whole = [pool.submit(Client(server.port).predict, "first", TEXT, **long(900)) for _ in range(8)]
        time.sleep(2)
        seconds = server.stop()
        assert server.process.returncode == 0
        assert seconds < 15
        for each in streams:
            parts, code, text = each.result()
            assert parts < 900
            assert code is grpc.StatusCode.UNAVAILABLE
            assert text == "The server ends, and the 2 seconds are over that answers under way had for it"
        for one in whole:
            error: Any = one.exception()
            assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "terminate called" not in server.log.read_text()


def evaluating(port: int, records: int) -> dict[str, Any]:
    with TuningClient(f"localhost:{port}") as client:
        test = [{"input": f"{TEXT} {number}", "output": "bad"} for number in range(records)]
        return client.evaluate("first", test, max_new_tokens=100)


def test_an_evaluation_under_way_is_finished(server: Server) -> None:
    """It was ended without a word of when to come again, at the first moment of the end."""
    server.start().close()
    warm(server.port)
    with ThreadPoolExecutor(1) as pool:
        report = pool.submit(evaluating, server.port, 3000)
        time.sleep(1.0)
        assert not report.done()
        server.process.terminate()
        assert report.result(60)["records"] == 3000
    assert server.process.wait(30) == 0


def test_an_evaluation_is_cut_off_at_the_end_of_the_grace_period(server: Server) -> None:
    configured(server, RUNTIME_GRPC_SERVER_SHUTDOWN_GRACE_PERIOD_SECONDS=1).start().close()
    warm(server.port)
    report: Future[dict[str, Any]] = Future()

    def evaluate() -> None:
        try:
            report.set_result(evaluating(server.port, 5000))
        except Exception as error:
            report.set_exception(error)

    threading.Thread(target=evaluate, daemon=True).start()
    time.sleep(1.5)
    assert server.stop() < 15
    assert server.process.returncode == 0
    # Where the client is never told, this ends all the same (docs/log.md).
    error: Any = report.exception(60)
    assert (error.status, error.reason, error.retry_seconds) == ("UNAVAILABLE", "SERVER_STOPPING", 1.0)
    assert "the 1 seconds are over" in str(error)


def test_whoever_watches_a_training_hears_at_once_that_the_server_ends(server: Server) -> None:
    """He heard when trainings had kept their snapshots, up to ten seconds later, and not when to come."""
    client = configured(server, DRAIN_SECONDS=4).start()
    id = client.tune("goes-on", base_model=T5, records=RECORDS, **{**QUICK, "num_epochs": 150})
    wait_for(lambda: client.training(id).state == "RUNNING")

    def lost(error: ServerError) -> None:
        raise error

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(lambda: list(client.watch(id, on_lost=lost)))
        time.sleep(0.5)
        server.process.terminate()
        # As long as the server answers whoever comes, it has not ended.
        error: Any = watching.exception(4)
        assert server.process.poll() is None
    assert (error.reason, error.retry_seconds) == ("SERVER_STOPPING", 1.0)
    assert server.process.wait(30) == 0
    client.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(server: Server, number: signal.Signals) -> None:
    server.start().close()
    warm(server.port)
    with ThreadPoolExecutor(8) as pool:
        # Together they take longer than one.
        streams = [pool.submit(streaming, server.port, 4000) for _ in range(8)]
        time.sleep(0.3)
        server.process.send_signal(number)
        time.sleep(0.3)
        assert server.process.poll() is None
        began = time.monotonic()
        server.process.send_signal(number)
        assert server.process.wait(10) == 128 + number
        assert time.monotonic() - began < 5
        assert {stream.result()[1] for stream in streams} == {grpc.StatusCode.UNAVAILABLE}


def test_a_signal_while_it_starts_ends_it_with_0(server: Server) -> None:
    with pytest.raises(SystemExit):
        server.start_within(0)
    wait_for(lambda: "SERVR-GRPC" in server.log.read_text())
    server.process.terminate()
    assert server.process.wait(20) == 0


def test_a_training_goes_on_after_the_end_and_its_watchers_are_told(server: Server) -> None:
    client = server.start()
    id = client.tune("goes-on", base_model=T5, records=RECORDS, **{**QUICK, "num_epochs": 150})
    wait_for(lambda: client.training(id).state == "RUNNING")
    with ThreadPoolExecutor(1) as pool:
        lost: list[ServerError] = []
        watching = pool.submit(lambda: [event.state for event in client.watch(id, on_lost=lost.append)])
        wait_for(lambda: any(event for event in [client.training(id).progress]))
        assert server.stop() < 15
        assert server.process.returncode == 0
        server.start().close()
        assert watching.result(120)[-1] == "COMPLETED"
        assert [error.status for error in lost] == ["UNAVAILABLE"]
    client.close()
