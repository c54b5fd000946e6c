"""Jobs that survive: real servers, real kills, full disks.

`make survive` kills more often (KILLS), and queues more (QUEUED).
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
import torch
from safetensors.torch import load_file

from caikit_pt.base_model.model import BaseModel
from caikit_pt.client import (
    CANCELED,
    COMPLETED,
    ERRORED,
    PAUSED,
    QUEUED,
    RUNNING,
    ServerError,
    TuningClient,
)
from caikit_pt.tuning.plan import make_plan
from caikit_pt.tuning.tuner import tune
from tests.conftest import LLAMA, SETTINGS, T5
from tests.perturbation import SEED
from tests.runtime.servers import QUICK, RECORDS, Server, Servers, signalled, wait_for

KILLS = int(os.environ.get("KILLS", "2"))
MANY = int(os.environ.get("QUEUED", "20"))
LONG: dict[str, Any] = {**QUICK, "num_epochs": 10_000}
MINUTES = 120.0


def state(client: TuningClient, id: str) -> str:
    return client.training(id).state


def step(client: TuningClient, id: str) -> int:
    progress = client.training(id).progress
    return progress.step if progress else 0


def ended(client: TuningClient, id: str, seconds: float = MINUTES) -> str:
    wait_for(lambda: state(client, id) in (COMPLETED, CANCELED, ERRORED), seconds)
    return state(client, id)


def tuned(models: Path, name: str) -> tuple[torch.Tensor, list[float]]:
    """The prompt and the loss curve that were published."""
    (file,) = (models / name).glob("*coder.safetensors")
    lines = (models / name / "training_logs.jsonl").read_text().splitlines()
    curve = [json.loads(line)["data"] for line in lines if json.loads(line)["name"] == "loss"]
    return load_file(file)["prompt"], [point["value"] for point in curve]


def tracked(directory: Path) -> list[float]:
    """The loss curve that TensorBoard has when it has been told of the end."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(directory), size_guidance={"scalars": 0})
    wait_for(lambda: "state/text_summary" in events.Reload().Tags()["tensors"])
    return [point.value for point in events.Scalars("train/loss")]


# ---- kills ----


def test_every_job_survives_kills_bit_for_bit(
    servers: Servers, tmp_path: Path, llama: BaseModel, t5: BaseModel
) -> None:
    """kill -9 of the worker, of the server, or of both, at random moments."""
    runs = tmp_path / "runs"
    settings = {"CHECKPOINT_SECONDS": 0.3, "MAX_ATTEMPTS": 1_000, "TRACKING_TENSORBOARD_DIRECTORY": runs}
    server, client = servers.start(tmp_path, **settings)
    rng = random.Random(KILLS)
    jobs = {}
    for number in range(max(2, KILLS // 4)):
        base = (llama, t5)[number % 2]
        request = {
            **QUICK,
            "num_epochs": 50 * (KILLS + 1),
            "seed": number,
            "base_model": base.checkpoint.name,
        }
        jobs[client.tune(f"job-{number}", records=RECORDS, **request)] = (number, base, request)
    killed = {"worker": 0, "server": 0, "both": 0}
    for _ in range(KILLS):
        if all(state(client, id) == COMPLETED for id in jobs):
            break
        time.sleep(rng.uniform(0.1, 5.0))
        who = rng.choice(sorted(killed))
        workers = server.workers()
        if who != "worker":
            server.kill()
        if who != "server":
            for worker in workers:
                signalled(worker, signal.SIGKILL)
        killed[who] += 1
        if who != "worker":
            client = server.start()
    assert {ended(client, id, 10 * MINUTES) for id in jobs} == {COMPLETED}
    print(f"kills: {killed}; {len(jobs)} jobs, 0 lost")
    for id, (number, base, request) in jobs.items():
        alone = tune(make_plan(request, RECORDS, None, SETTINGS), base)
        prompt, curve = tuned(server.models, f"job-{number}")
        assert torch.equal(prompt, next(iter(alone.prompt.tensors.values())))
        losses = [one["data"]["value"] for one in alone.training_logs if one["name"] == "loss"]
        assert curve == losses
        assert tracked(runs / f"job-{number}" / id) == pytest.approx(losses)
    assert not list((server.state / "jobs").glob("*/runs"))


def test_sigterm_keeps_a_snapshot_and_queues_the_job_again(servers: Servers, tmp_path: Path) -> None:
    server, client = servers.start(tmp_path, CHECKPOINT_SECONDS=100_000)
    id = client.tune("long", base_model=T5, records=RECORDS, **{**LONG, "num_epochs": 200})
    behind = client.tune("behind", base_model=T5, records=RECORDS, **QUICK)
    wait_for(lambda: step(client, id) > 20)
    assert server.stop() < 10
    rows = sqlite3.connect(server.state / "jobs.sqlite3").execute("SELECT state FROM jobs").fetchall()
    assert rows == [("QUEUED",), ("QUEUED",)]
    reached = json.loads(
        next((server.state / "jobs" / id / "runs").glob("*/snapshots/*.json")).stem.lstrip("0")
    )
    assert reached > 20
    client = server.start()
    assert ended(client, id) == COMPLETED
    assert ended(client, behind) == COMPLETED
    points = [point[0] for point in client.training(id).points["loss"]]
    assert points == sorted(set(points))


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
def test_a_crash_is_a_reason_on_its_job_and_on_nothing_else(
    servers: Servers, tmp_path: Path, number: signal.Signals
) -> None:
    server, client = servers.start(tmp_path, CHECKPOINT_SECONDS=100_000, MAX_ATTEMPTS=2)
    id = client.tune("doomed", base_model=T5, records=RECORDS, **LONG)
    after = client.tune("after", base_model=T5, records=RECORDS, **QUICK)
    killed: set[int] = set()
    wait_for(lambda: _killed_anew(server.worker(id), number, killed))
    assert ended(client, id) == ERRORED
    reasons = client.training(id).reasons
    assert len(reasons) == 2
    assert all(number.name in reason for reason in reasons)
    assert ended(client, after) == COMPLETED
    assert server.process.poll() is None


def _killed_anew(worker: psutil.Process | None, number: signal.Signals, killed: set[int]) -> bool:
    """Whether these are two processes now."""
    if worker is not None and worker.pid not in killed and signalled(worker, number):
        killed.add(worker.pid)
    return len(killed) == 2


def test_a_training_that_takes_its_server_along_ends_and_one_that_lost_it_goes_on(
    servers: Servers, tmp_path: Path
) -> None:
    """It was begun again by each next server, for ever. To end a server is another matter."""
    server, client = servers.start(tmp_path, CHECKPOINT_SECONDS=100_000, MAX_ATTEMPTS=1)
    id = client.tune("deadly", base_model=T5, records=RECORDS, **LONG)

    def begin(fence: int) -> None:
        wait_for(lambda: (server.state / "jobs" / id / "runs" / f"{fence:06}" / "begun").exists(), MINUTES)
        wait_for(lambda: step(client, id) > 5 and server.worker(id))

    begin(1)
    server.stop()
    client = server.start()
    begin(2)
    workers = server.workers()
    server.process.send_signal(signal.SIGSTOP)
    for worker in workers:
        signalled(worker, signal.SIGKILL)
    server.kill()
    client = server.start()
    found = client.training(id)
    assert found.state == ERRORED
    assert [reason.partition(",")[0] for reason in found.reasons] == [
        "The server that it ran on was lost with it"
    ]


# ---- cancel ----


def test_a_queued_and_a_running_job_are_cancelled(shared: tuple[Server, TuningClient]) -> None:
    server, client = shared
    running = client.tune("running", base_model=T5, records=RECORDS, **LONG)
    queued = client.tune("queued", base_model=T5, records=RECORDS, **LONG)
    assert client.cancel(queued) == CANCELED
    wait_for(lambda: step(client, running) > 5)
    worker = server.worker(running)
    began = time.monotonic()
    assert client.cancel(running) == CANCELED
    assert time.monotonic() - began < 5
    assert worker is not None
    assert not worker.is_running() or worker.status() == "zombie"
    assert [client.cancel(id) for id in (running, queued)] == [CANCELED, CANCELED]
    assert not (server.models / "running").exists()
    assert not list(server.models.glob(".*"))
    left = {path.name for path in (server.state / "jobs" / running).iterdir()}
    assert left == {"job.json", "log.txt", "outcome.json"}


def test_a_job_is_cancelled_at_any_moment(shared: tuple[Server, TuningClient]) -> None:
    """Queued, loaded, trained, kept, published: it is cancelled or complete, and never in between."""
    server, client = shared
    rng = random.Random(5)
    for number in range(KILLS + 3):
        name = f"sometime-{number}"
        id = client.tune(name, base_model=T5, records=RECORDS, **{**QUICK, "num_epochs": 10})
        time.sleep(rng.uniform(0.0, 2.5))
        answered = client.cancel(id)
        assert answered in (CANCELED, COMPLETED)
        assert state(client, id) == answered
        assert (server.models / name / "config.yml").is_file() == (answered == COMPLETED)
    assert not list(server.models.glob(".*"))


# ---- pause ----


def test_a_training_that_is_paused_ends_with_the_same_bits(
    shared: tuple[Server, TuningClient], llama: BaseModel
) -> None:
    """Others run meanwhile, and cancelling it works as ever."""
    server, client = shared
    request = {**QUICK, "num_epochs": 120, "seed": SEED, "base_model": LLAMA}
    id = client.tune("paused", records=RECORDS, **request)
    for least in (1, 60):
        wait_for(lambda least=least: step(client, id) > least)  # type: ignore[misc]
        worker = server.worker(id)
        paused = client.pause(id)
        assert paused.state == PAUSED
        assert "It is paused, at update" in paused.reasons[0]
        assert worker is not None
        wait_for(lambda worker=worker: not worker.is_running() or worker.status() == "zombie")  # type: ignore[misc]
        assert [one.training_id for one in client.trainings((PAUSED,))] == [id]
        other = client.tune("meanwhile", base_model=LLAMA, records=RECORDS, **QUICK)
        assert ended(client, other) == COMPLETED
        assert client.resume(id).state in (QUEUED, RUNNING)
    assert ended(client, id) == COMPLETED
    assert client.pause(id).state == client.resume(id).state == COMPLETED
    alone = tune(make_plan(request, RECORDS, None, SETTINGS), llama)
    prompt, curve = tuned(server.models, "paused")
    assert torch.equal(prompt, next(iter(alone.prompt.tensors.values())))
    assert curve == [one["data"]["value"] for one in alone.training_logs if one["name"] == "loss"]


def test_a_paused_training_outlives_the_server(servers: Servers, tmp_path: Path) -> None:
    server, client = servers.start(tmp_path, MAX_QUEUED=1)
    id = client.tune("paused", base_model=T5, records=RECORDS, **LONG)
    wait_for(lambda: step(client, id) > 5)
    assert client.pause(id).state == PAUSED
    server.kill()
    client = server.start()
    assert state(client, id) == PAUSED
    # Others aren't kept waiting, but no more may be paused.
    other = client.tune("paused", base_model=T5, records=RECORDS, **{**LONG, "num_epochs": 100})
    with pytest.raises(ServerError, match="1 trainings are paused, as many as max_queued"):
        client.pause(other)
    assert ended(client, other) == COMPLETED
    client.resume(id)
    assert any("trained again since" in reason for reason in client.training(id).reasons)
    wait_for(lambda: state(client, id) == RUNNING)
    assert client.pause(id).state == PAUSED
    assert client.cancel(id) == CANCELED
    assert not list((server.state / "jobs").glob("*/runs"))


# ---- publication ----


def test_training_a_name_again_replaces_it_while_it_is_asked(shared: tuple[Server, TuningClient]) -> None:
    _, client = shared
    enough = {**QUICK, "num_epochs": 30, "seed": SEED}
    first = client.tune("again", base_model=LLAMA, records=RECORDS, **enough)
    assert ended(client, first) == COMPLETED
    failures: list[ServerError] = []
    answers: set[str] = set()
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            try:
                answers.add(client.generate("again", "The sofa is awful", max_new_tokens=3))
            except ServerError as error:
                failures.append(error)

    flipped = [{**record, "output": {"good": "bad", "bad": "good"}[record["output"]]} for record in RECORDS]
    with ThreadPoolExecutor(3) as pool, ExitStack() as stack:
        stack.callback(done.set)
        for _ in range(3):
            pool.submit(ask)
        second = client.tune("again", base_model=LLAMA, records=flipped, **enough)
        assert ended(client, second) == COMPLETED
        published = client.generate("again", "The sofa is awful", max_new_tokens=3)
    assert not failures
    assert published in answers | {published}
    assert client.generate("again", "The lamp is awful", max_new_tokens=3).startswith("good")


def test_a_job_is_served_as_soon_as_it_is_complete(shared: tuple[Server, TuningClient]) -> None:
    _, client = shared
    id = client.tune("at-once", base_model=T5, records=RECORDS, **QUICK)
    for event in client.watch(id):
        if event.kind == "artifact":
            client.generate("at-once", "The lamp is great", max_new_tokens=2)
            seconds = time.time() - event.time.timestamp()
            print(f"from the end of a job to its first answer: {seconds:.2f} s")
            assert seconds < 20


# ---- events, lists ----


def test_events_are_replayed_from_any_point(shared: tuple[Server, TuningClient]) -> None:
    _, client = shared
    request = {**QUICK, "num_epochs": 40, "validation_share": 0.25}
    id = client.tune("watched", base_model=T5, records=RECORDS, **request)
    live = list(client.watch(id))
    assert [event.number for event in live] == list(range(1, len(live) + 1))
    assert [event.state for event in live if event.kind == "state"] == ["QUEUED", "RUNNING", COMPLETED]
    kinds = {event.kind for event in live}
    assert {"phase", "progress", "validation", "verdict", "artifact", "warning", "checkpoint"} <= kinds
    assert list(client.watch(id)) == live
    assert list(client.watch(id, from_event=3)) == live[3:]
    progress = [event.progress for event in live if event.progress]
    assert progress[-1].step == progress[-1].steps == 40
    assert all(one.samples_per_second > 0 and one.tokens_per_second > 0 for one in progress)
    curves = client.training(id).points
    assert [point[0] for point in curves["loss"]] == list(range(1, 41))
    validated = [event.data for event in live if event.kind == "validation"]
    assert curves["validation_loss"] == [[one["step"], one["scores"]["loss"]] for one in validated]
    assert [one["step"] for one in validated] == list(range(1, 41))
    best = [one["scores"]["loss"] for one in validated if one["best"]]
    assert best == sorted(best, reverse=True)
    # It was the best before the last validation, in the events and in the training alike.
    last = client.training(id).progress
    assert last is not None
    assert progress[-1].validation_loss == last.validation_loss == best[-1]
    assert all(one["answers"] == one["records"] == 2 for one in validated)


def test_a_slow_and_a_vanished_watcher_cost_nothing(shared: tuple[Server, TuningClient]) -> None:
    _, client = shared
    id = client.tune("unwatched", base_model=T5, records=RECORDS, **{**QUICK, "num_epochs": 60})
    slow, gone = client.watch(id), client.watch(id)
    next(slow), next(gone)
    gone.close()  # type: ignore[attr-defined]
    assert ended(client, id) == COMPLETED
    assert [event.number for event in slow][-1] == list(client.watch(id))[-1].number


def test_watchers_leave_threads_to_others(servers: Servers, tmp_path: Path) -> None:
    _, client = servers.start(tmp_path, MAX_WATCHES=2)
    id = client.tune("watched", base_model=T5, records=RECORDS, **LONG)
    watching = [client.watch(id) for _ in range(2)]
    assert [next(watch).number for watch in watching] == [1, 1]
    with pytest.raises(ServerError, match="2 RPCs like this one are under way") as error:
        next(client.watch(id))
    assert error.value.status == "RESOURCE_EXHAUSTED"
    watching.pop().close()  # type: ignore[attr-defined]
    wait_for(lambda: _watches(client, id))
    client.cancel(id)
    # Where the machine has much to do, the RPC doesn't wait for the end.
    wait_for(lambda: client.training(id).state == CANCELED)


def _watches(client: TuningClient, id: str) -> bool:
    try:
        next(client.watch(id))
    except ServerError:
        return False
    return True


def test_lists_are_filtered_and_paged(shared: tuple[Server, TuningClient]) -> None:
    _, client = shared
    ids = [client.tune("listed", base_model=T5, records=RECORDS, **LONG) for _ in range(3)]
    for id in ids:
        client.cancel(id)
    assert [one.training_id for one in client.trainings(model_name="listed")] == ids[::-1]
    assert {one.state for one in client.trainings(states=[CANCELED])} == {CANCELED}
    found = client.training(ids[0])
    assert found.parameters["origins"]["num_epochs"] == "request"
    assert found.parameters["learning_rate"] == pytest.approx(0.3)
    for wrong in ({"states": ["WHAT"]}, {"model_name": "listed", "states": ["x"]}):
        with pytest.raises(ServerError, match="Allowed: QUEUED") as error:
            list(client.trainings(**wrong))
        assert error.value.status == "INVALID_ARGUMENT"
    with pytest.raises(ServerError) as error:
        client.training("never")
    assert error.value.status == "NOT_FOUND"
    with pytest.raises(ServerError) as error:
        list(client.watch("never"))
    assert error.value.status == "NOT_FOUND"


def test_one_id_is_one_job(shared: tuple[Server, TuningClient]) -> None:
    _, client = shared
    request = {"base_model": T5, "records": RECORDS, **QUICK}
    with ThreadPoolExecutor(4) as pool:
        ids = list(pool.map(lambda _: client.tune("once", training_id="mine.1", **request), range(4)))
    assert set(ids) == {"mine.1"}
    assert len(list(client.trainings(model_name="once"))) == 1
    for changed in ({"num_epochs": 3}, {"records": RECORDS[1:]}):
        with pytest.raises(ServerError, match="a training with other contents"):
            client.tune("once", training_id="mine.1", **{**request, **changed})
    for wrong in ("../up", "a b", ".hidden", "x" * 300):
        with pytest.raises(ServerError, match="training_id"):
            client.tune("once", training_id=wrong, **request)


def test_a_dry_run_trains_nothing(shared: tuple[Server, TuningClient]) -> None:
    server, client = shared
    before = len(list(client.trainings()))
    report = client.check("dry", base_model=T5, records=[*RECORDS, RECORDS[0]], **QUICK)
    assert (report["records"], report["updates"]) == (9, 4)
    assert "1 records are there before, word for word (record 9)" in report["warnings"]
    assert report["parameters"]["origins"]["learning_rate"] == "default"
    with pytest.raises(ServerError, match=r"train_stream: record 2, input: “” .* text that is not empty"):
        client.check("dry", base_model=T5, records=[RECORDS[0], {"input": "", "output": "x"}])
    assert len(list(client.trainings())) == before
    assert not (server.models / "dry").exists()


# ---- the queue ----


def test_many_jobs_are_queued_and_remembered(servers: Servers, tmp_path: Path) -> None:
    server, client = servers.start(tmp_path, MAX_QUEUED=MANY)
    first = client.tune("first", base_model=T5, records=RECORDS, **LONG)
    wait_for(lambda: state(client, first) == "RUNNING")
    ids = [client.tune(f"n{number}", base_model=T5, records=RECORDS, **QUICK) for number in range(MANY)]
    with pytest.raises(ServerError, match="max_queued") as error:
        client.tune("too-many", base_model=T5, records=RECORDS, **QUICK)
    assert error.value.status == "RESOURCE_EXHAUSTED"
    assert client.training(ids[-1]).queued_before == MANY - 1
    server.kill()
    client = server.start()
    assert sum(1 for _ in client.trainings()) == MANY + 1
    assert {state(client, id) for id in ids} == {QUEUED}
    client.cancel(ids[0])
    wait_for(lambda: state(client, first) == "RUNNING")
    client.cancel(first)
    assert ended(client, ids[1]) == COMPLETED


# ---- disks and databases ----


def test_a_full_disk_refuses_jobs_and_loses_none(servers: Servers, tmp_path: Path, small_disk: Path) -> None:
    _, client = servers.start(tmp_path, STATE_DIR=small_disk / "state")
    filler = small_disk / "filler"
    filler.write_bytes(bytes(3 << 19))
    large = [{"input": f"{number} " * 1000, "output": "x"} for number in range(100, 250)]
    with pytest.raises(ServerError, match="No space left on device") as error:
        client.tune("large", base_model=T5, records=large, **QUICK)
    assert error.value.status == "UNAVAILABLE"
    assert not list(client.trainings())
    filler.unlink()
    id = client.tune("small", base_model=T5, records=RECORDS, **QUICK)
    assert ended(client, id) == COMPLETED


def test_a_full_disk_delays_a_publication(servers: Servers, tmp_path: Path, small_disk: Path) -> None:
    models = small_disk / "models"
    models.mkdir()
    settings = {"RUNTIME_LOCAL_MODELS_DIR": models}
    _, client = servers.start(tmp_path, **settings)
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space left"):
        filler.write_bytes(bytes(4 << 20))
    id = client.tune("late", base_model=T5, records=RECORDS, **QUICK)
    text = "Waiting to be published: No space left on device"
    wait_for(lambda: text in client.training(id).reasons)
    assert state(client, id) == "RUNNING"
    filler.unlink()
    assert ended(client, id) == COMPLETED
    assert text in client.training(id).reasons
    client.generate("late", "The lamp is great", max_new_tokens=2)


def test_a_database_that_is_locked_for_a_while_harms_no_job(shared: tuple[Server, TuningClient]) -> None:
    server, client = shared
    id = client.tune("locked", base_model=T5, records=RECORDS, **{**QUICK, "num_epochs": 60})
    other = sqlite3.connect(server.state / "jobs.sqlite3", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    time.sleep(3)
    other.execute("ROLLBACK")
    other.close()
    assert ended(client, id) == COMPLETED


def test_without_its_database_a_server_has_its_jobs_from_their_folders(
    servers: Servers, tmp_path: Path
) -> None:
    server, client = servers.start(tmp_path)
    done = client.tune("done", base_model=T5, records=RECORDS, **QUICK)
    assert ended(client, done) == COMPLETED
    running = client.tune("running", base_model=T5, records=RECORDS, **{**LONG, "num_epochs": 100})
    wait_for(lambda: state(client, running) == "RUNNING")
    server.kill()
    (server.state / "jobs.sqlite3").write_bytes(b"no database at all" * 1000)
    for ending in ("-wal", "-shm"):
        (server.state / f"jobs.sqlite3{ending}").unlink(missing_ok=True)
    client = server.start()
    assert state(client, done) == COMPLETED
    assert any("The course of the loss" in reason for reason in client.training(done).reasons)
    assert ended(client, running) == COMPLETED


def test_two_servers_need_two_state_dirs(servers: Servers, shared: tuple[Server, TuningClient]) -> None:
    first, client = shared
    before = len(list(client.trainings()))
    other = servers.add(first.models.parent)
    other.log = other.log.with_name("other.log")
    with pytest.raises(SystemExit):
        other.start()
    told = other.log.read_text()
    assert "in use by another server: waiting up to 15 seconds for its end" in told
    assert "in use by another server. Give each server one of its own, or one database to all" in told
    assert "Traceback" not in told
    assert len(list(client.trainings())) == before


# ---- what caikit asks ----


def test_a_status_tells_where_a_job_stands(shared: tuple[Server, TuningClient]) -> None:
    from caikit.interfaces.runtime.data_model import TrainingInfoRequest
    from caikit.runtime.service_factory import ServicePackageFactory as Factory

    server, client = shared
    running = client.tune("told", base_model=T5, records=RECORDS, **LONG)
    queued = client.tune("told-next", base_model=T5, records=RECORDS, **LONG)
    wait_for(lambda: step(client, running) > 0)
    with grpc.insecure_channel(f"localhost:{server.port}") as channel:
        stub = Factory.get_service_package(Factory.ServiceType.TRAINING_MANAGEMENT).stub_class(channel)
        asked = [
            stub.GetTrainingStatus(TrainingInfoRequest(training_id=id).to_proto()) for id in (running, queued)
        ]
    assert asked[0].reasons[0].startswith("Epoch ")
    assert asked[1].reasons[0] == "0 queued trainings are before it."
    assert asked[0].submission_timestamp.ToSeconds() > 0
    assert not asked[0].HasField("completion_timestamp")
    for id in (running, queued):
        client.cancel(id)
