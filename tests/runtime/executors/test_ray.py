"""Trainings on a real Ray cluster of this machine, whose nodes, head and server are killed and frozen.

`make cluster` does all of it; `make test` has what takes no minutes.
"""

from __future__ import annotations

import random
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from caikit_pt.base_model.model import BaseModel
from caikit_pt.client import CANCELED, COMPLETED, ERRORED, PAUSED, QUEUED, RUNNING, TuningClient
from caikit_pt.runtime.executors.node import GIB, MIB
from tests.conftest import T5
from tests.runtime.executors.kernels import check_bits, know_what_is_known_here
from tests.runtime.executors.ray_nodes import RayNode, RayNodes, ray_nodes
from tests.runtime.servers import QUICK, RECORDS, Server, processes_of, wait_for
from tests.runtime.test_jobs import LONG, ended, state, step

pytest.importorskip("ray", reason="needs the extra ray")
_JOBS = 20
_FEW: dict[str, Any] = {**QUICK, "num_epochs": 300}
_SECONDS = 240.0


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    with ray_nodes(2) as made:
        yield made


def server_of(nodes: RayNodes, directory: Path, **settings: object) -> Server:
    more = {"CHECKPOINT_SECONDS": 0.3, "MAX_ATTEMPTS": 100, **settings}
    made = Server(directory, EXECUTOR_KIND="ray", EXECUTOR_ADDRESS=nodes.address, **more)
    know_what_is_known_here(made)
    return made


@pytest.fixture
def server(nodes: RayNodes, tmp_path: Path) -> Iterator[Server]:
    made = server_of(nodes, tmp_path)
    yield made
    made.close()


def running(client: TuningClient, id: str, updates: int = 5) -> psutil.Process:
    """Its process, when it has made some updates."""
    wait_for(lambda: step(client, id) >= updates, _SECONDS)
    (found,) = processes_of(id)
    return found


def fence(server: Server, id: str) -> int:
    """How many runs it has had."""
    with sqlite3.connect(server.state / "jobs.sqlite3") as database:
        return int(database.execute("SELECT fence FROM jobs WHERE id = ?", (id,)).fetchone()[0])


def told_once(client: TuningClient, id: str) -> list[int]:
    """The updates that were told of, each once and in their order."""
    told = [event.progress.step for event in client.watch(id) if event.kind == "progress" and event.progress]
    assert told == sorted(set(told))
    return told


def goes_on_elsewhere(server: Server, client: TuningClient, id: str, frozen: RayNode) -> None:
    """While the node that it was on stands still, which lives on for a while then, and writes."""
    frozen.signal(signal.SIGSTOP)
    try:
        wait_for(lambda: fence(server, id) == 2 and len(processes_of(id)) == 2, _SECONDS)
    finally:
        frozen.signal(signal.SIGCONT)
    assert ended(client, id, _SECONDS) == COMPLETED
    assert fence(server, id) == 2


def pauses_and_is_cancelled(client: TuningClient, id: str, paused: Callable[[], object]) -> None:
    """It is resumed where it was; `paused` is done before."""
    process = running(client, id)
    assert client.pause(id).state == PAUSED
    process.wait(10)
    paused()
    reached = step(client, id)
    client.resume(id)
    process = running(client, id, reached + 1)
    assert client.cancel(id) == CANCELED
    process.wait(10)


def test_it_ends_with_the_bits_of_a_training_here(server: Server, nodes: RayNodes, llama: BaseModel) -> None:
    client = server.start()
    request = {**_FEW, "num_epochs": 30}
    id = client.tune("one", base_model=llama.checkpoint.name, records=RECORDS, **request)
    assert ended(client, id, _SECONDS) == COMPLETED
    assert [event.state for event in client.watch(id) if event.state][:2] == [QUEUED, RUNNING]
    check_bits(server, "one", llama, request)
    found = client.nodes()
    assert (found.executor, found.problem) == ("ray", "")
    assert sorted(one.cpus for one in found.nodes if one.lives) == [0.0, 1.0, 1.0]
    # Records aren't kept where nobody needs them any more.
    wait_for(lambda: not (server.state / "jobs" / id / "runs").exists())


def test_it_goes_on_elsewhere_when_its_node_dies(server: Server, nodes: RayNodes, t5: BaseModel) -> None:
    client = server.start()
    id = client.tune("moved", base_model=t5.checkpoint.name, records=RECORDS, **_FEW)
    nodes.replace(nodes.of(running(client, id, 20)))
    assert ended(client, id, _SECONDS) == COMPLETED
    assert fence(server, id) == 2
    check_bits(server, "moved", t5, _FEW)


def test_nodes_share_a_training_and_one_that_dies_changes_no_bit(
    nodes: RayNodes, tmp_path: Path, llama: BaseModel
) -> None:
    """The helper's; another has it on the node that comes."""
    server = server_of(nodes, tmp_path, EXECUTOR_WORKERS=2, EXECUTOR_WORKERS_PER_NODE=1)
    client = server.start()
    request = {**_FEW, "num_epochs": 1500}
    id = client.tune("shared", base_model=llama.checkpoint.name, records=RECORDS, **request)
    wait_for(lambda: computes_together(server, id, 1), _SECONDS)
    (helper,), (lead,) = helpers_of(id), processes_of(id)
    assert nodes.of(helper) != nodes.of(lead)
    nodes.replace(nodes.of(helper))
    wait_for(lambda: computes_together(server, id, 2), _SECONDS)
    assert ended(client, id, _SECONDS) == COMPLETED
    assert fence(server, id) == 1
    check_bits(server, "shared", llama, request, workers=2)
    wait_for(lambda: not helpers_of(id))
    server.close()


def computes_together(server: Server, id: str, times: int) -> bool:
    """Two, as often as they have met."""
    with suppress(OSError):
        log = (server.state / "jobs" / id / "log.txt").read_text()
        return log.count("2 of 2 workers compute together") >= times
    return False


def helpers_of(id: str) -> list[psutil.Process]:
    """Of a training, on whatever node."""
    found = psutil.process_iter(["cmdline"])
    named = [one for one in found if "caikit_pt.runtime.helper_process" in (one.info["cmdline"] or ())]
    return [one for one in named if any(id in part for part in one.info["cmdline"])]


def test_it_goes_on_without_its_server(server: Server, llama: BaseModel) -> None:
    """The next one tells what nobody heard."""
    client = server.start()
    id = client.tune("alone", base_model=llama.checkpoint.name, records=RECORDS, **_FEW)
    process = running(client, id)
    server.kill()
    process.wait(_SECONDS)
    client = server.start()
    assert ended(client, id, _SECONDS) == COMPLETED
    assert fence(server, id) == 1
    assert told_once(client, id)[-1] == _FEW["num_epochs"]
    check_bits(server, "alone", llama, _FEW)


def test_what_a_frozen_node_does_later_counts_for_nothing(
    server: Server, nodes: RayNodes, t5: BaseModel
) -> None:
    client = server.start()
    request = {**_FEW, "num_epochs": 1500}
    id = client.tune("frozen", base_model=t5.checkpoint.name, records=RECORDS, **request)
    process = running(client, id, 20)
    node = nodes.of(process)
    goes_on_elsewhere(server, client, id, node)
    check_bits(server, "frozen", t5, request)
    nodes.replace(node)


def test_it_is_paused_resumed_and_cancelled(server: Server, t5: BaseModel) -> None:
    client = server.start()
    id = client.tune("paused", base_model=t5.checkpoint.name, records=RECORDS, **LONG)
    pauses_and_is_cancelled(client, id, lambda: None)


def test_what_has_no_room_says_what_it_needs(nodes: RayNodes, tmp_path: Path, t5: BaseModel) -> None:
    server = server_of(nodes, tmp_path, EXECUTOR_CPUS=64, EXECUTOR_LABELS="zone=a")
    try:
        client = server.start()
        id = client.tune("large", base_model=t5.checkpoint.name, records=RECORDS, **QUICK)
        wait_for(lambda: "64 CPUs" in client.training(id).reasons[0])
        training = client.training(id)
        assert training.state == QUEUED
        assert training.reasons[0].endswith("on a node with zone=a, and the Ray cluster has no such node.")
        assert client.cancel(id) == CANCELED
    finally:
        server.close()


def test_what_waits_for_room_is_seen_by_the_autoscaler(server: Server, nodes: RayNodes) -> None:
    """With what it needs, as long as it waits."""
    client = server.start()
    ids = [client.tune(f"job-{n}", base_model=T5, records=RECORDS, **LONG) for n in range(4)]
    wait_for(lambda: [count for _, count in nodes.demands] == [2], _SECONDS)
    ((needs, _),) = nodes.demands
    assert needs["CPU"] == 1
    # As predicted, and a GiB for libraries.
    assert GIB < needs["memory"] < 2 * GIB
    wait_for(lambda: sum(state(client, id) == RUNNING for id in ids) == 2, _SECONDS)
    for id in ids:
        assert client.cancel(id) == CANCELED
    wait_for(lambda: nodes.demands == [])


def test_a_gpu_has_to_have_the_memory(nodes: RayNodes, tmp_path: Path) -> None:
    """Two GPUs that have it together haven't; a node of another kind that comes has."""
    small = nodes.add("--num-gpus=2", '--resources={"gpu_memory_mib": 800}')
    server = server_of(nodes, tmp_path, EXECUTOR_GPUS=1, MAX_ATTEMPTS=1)
    try:
        client = server.start()
        wait_for(lambda: any(node.gpus for node in client.nodes().nodes))
        assert {node.gpu_memory_bytes / MIB for node in client.nodes().nodes} == {0, 400}
        id = client.tune("large", base_model=T5, records=RECORDS, **QUICK)
        wait_for(lambda: "GPU" in client.training(id).reasons[0])
        training = client.training(id)
        assert training.state == QUEUED
        assert training.reasons[0].startswith("It needs 1 GPU with 0.5 GiB, 1 CPU, 1.0 GiB; ")
        assert "the largest node of the Ray cluster has 2 GPUs with 0.4 GiB each" in training.reasons[0]
        ((needs, count),) = nodes.demands
        assert (needs["GPU"], count) == (1, 1)
        assert 512 < needs["gpu_memory_mib"] < 600
        large = nodes.add("--num-gpus=1", '--resources={"gpu_memory_mib": 1000}')
        # No device of this machine is one: it ends as soon as it has begun.
        assert ended(client, id, _SECONDS) == ERRORED
        assert "CUDA" in client.training(id).reasons[0]
        large.kill()
    finally:
        server.close()
        small.kill()


def test_no_job_is_lost_whatever_dies(tmp_path: Path, llama: BaseModel, t5: BaseModel) -> None:
    """20 jobs; a node is killed, then the head, then the server."""
    with ray_nodes(2) as nodes:
        server = server_of(nodes, tmp_path)
        try:
            client = server.start()
            jobs = {}
            for number in range(_JOBS):
                base = (llama, t5)[number % 2]
                request = {**_FEW, "seed": number}
                id = client.tune(f"job-{number}", base_model=base.checkpoint.name, records=RECORDS, **request)
                jobs[id] = f"job-{number}", base, request
            began = time.monotonic()
            wait_for(lambda: any(step(client, id) for id in jobs), _SECONDS)
            nodes.replace(random.Random(1).choice(nodes.nodes))
            _some_more(client, jobs)
            nodes.restart_head()
            _some_more(client, jobs)
            server.kill()
            time.sleep(2)
            client = server.start()
            for id in jobs:
                assert ended(client, id, 900) == COMPLETED, client.training(id).reasons
            seconds = time.monotonic() - began
            runs = [fence(server, id) for id in jobs]
            print(f"{_JOBS} jobs in {seconds:.0f} s, with {sum(runs)} runs, at most {max(runs)} of one")
            for name, base, request in jobs.values():
                check_bits(server, name, base, request)
            assert sum(runs) > _JOBS
        finally:
            server.close()


def _some_more(client: TuningClient, jobs: dict[str, Any]) -> None:
    """Until two more of them are done."""
    done = sum(state(client, id) == COMPLETED for id in jobs)
    wait_for(lambda: sum(state(client, id) == COMPLETED for id in jobs) >= done + 2, _SECONDS)
