"""Trainings on a real Ray cluster of this machine whose nodes see nothing of the server's directories: an
object store is all that both have."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest

from caikit_pt.base_model.model import BaseModel
from caikit_pt.client import COMPLETED, QUEUED, RUNNING
from caikit_pt.runtime.executors.exchange import Exchange
from tests.runtime.executors.kernels import check_bits
from tests.runtime.executors.ray_nodes import RayNodes, ray_nodes
from tests.runtime.executors.s3_server import S3Server, s3_server
from tests.runtime.executors.test_ray import (
    fence,
    goes_on_elsewhere,
    pauses_and_is_cancelled,
    server_of,
    told_once,
)
from tests.runtime.servers import QUICK, RECORDS, Server, processes_of, wait_for
from tests.runtime.test_jobs import LONG, ended

pytest.importorskip("ray", reason="needs the extra ray")
_FEW: dict[str, Any] = {**QUICK, "num_epochs": 300}
_SECONDS = 240.0
_CAN_HIDE = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0
pytestmark = pytest.mark.skipif(not _CAN_HIDE, reason="needs the right to mount")


class Store:
    """What server and nodes share."""

    def __init__(self, address: str, s3: S3Server | None) -> None:
        self.address, self.s3 = address, s3

    @property
    def names(self) -> list[str]:
        """Of all objects in it."""
        return list(Exchange(self.address).names())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """S3, or, where nobody speaks it here, a directory."""
    if find_spec("s3fs") is None or find_spec("moto") is None:
        yield Store(f"file://{tmp_path_factory.mktemp('store')}", None)
        return
    with s3_server() as made, pytest.MonkeyPatch.context() as patch:
        for name, value in made.environment.items():
            patch.setenv(name, value)
        yield Store(f"{made.address}/a prefix", made)


@pytest.fixture(scope="module")
def own(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server has its directories; nodes have others in their place."""
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def nodes(store: Store, own: Path) -> Iterator[RayNodes]:
    with tempfile.TemporaryDirectory(prefix="nodes-") as directory, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", directory)
        with ray_nodes(2, hidden=own) as made:
            yield made


@pytest.fixture
def server(nodes: RayNodes, store: Store, own: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    directory = own / request.node.name
    directory.mkdir()
    made = server_of(nodes, directory, EXECUTOR_EXCHANGE=store.address)
    yield made
    # Nothing of a job that has ended is left.
    wait_for(lambda: not store.names, 60)
    made.close()
    for node in nodes.nodes:
        for process in node.processes:
            assert list(Path(f"/proc/{process.pid}/root{own}").iterdir()) == []


def test_it_ends_with_the_bits_of_a_training_here(server: Server, llama: BaseModel) -> None:
    client = server.start()
    request = {**QUICK, "num_epochs": 30}
    id = client.tune("one", base_model=llama.checkpoint.name, records=RECORDS, **request)
    assert ended(client, id, _SECONDS) == COMPLETED
    assert [event.state for event in client.watch(id) if event.state][:2] == [QUEUED, RUNNING]
    check_bits(server, "one", llama, request)
    folder = server.state / "jobs" / id
    assert "INFO" in (folder / "log.txt").read_text()
    wait_for(lambda: not (folder / "runs").exists())


def kept(server: Server, id: str) -> list[Path]:
    """The snapshots of a job that have come to the server."""
    return list(server.state.glob(f"jobs/{id}/runs/*/snapshots/*.json"))


def held(server: Server, id: str) -> psutil.Process:
    """The process of a job, which stands still behind a snapshot that has come to the server."""
    wait_for(lambda: processes_of(id), _SECONDS)
    (process,) = processes_of(id)
    (log,) = (Path(one.path) for one in process.open_files() if one.path.endswith("log.txt"))
    wait_for(lambda: list(log.parent.glob("runs/*/snapshots/*.json")), _SECONDS)
    process.suspend()
    wait_for(lambda: kept(server, id), _SECONDS)
    return process


def test_it_goes_on_elsewhere_when_its_node_dies(server: Server, nodes: RayNodes, t5: BaseModel) -> None:
    client = server.start()
    id = client.tune("moved", base_model=t5.checkpoint.name, records=RECORDS, **_FEW)
    nodes.replace(nodes.of(held(server, id)))
    assert ended(client, id, _SECONDS) == COMPLETED
    assert fence(server, id) == 2
    check_bits(server, "moved", t5, _FEW)
    told_once(client, id)
    assert "goes on from update" in (server.state / "jobs" / id / "log.txt").read_text()


def test_it_goes_on_without_its_server(server: Server, llama: BaseModel) -> None:
    """The next one takes what nobody has taken."""
    client = server.start()
    id = client.tune("alone", base_model=llama.checkpoint.name, records=RECORDS, **_FEW)
    process = held(server, id)
    server.kill()
    process.resume()
    process.wait(_SECONDS)
    client = server.start()
    assert ended(client, id, _SECONDS) == COMPLETED
    assert fence(server, id) == 1
    assert told_once(client, id)[-1] == _FEW["num_epochs"]
    check_bits(server, "alone", llama, _FEW)


def test_a_store_that_is_away_ends_nothing(server: Server, store: Store, t5: BaseModel) -> None:
    if store.s3 is None:
        pytest.skip("a directory is always there")
    client = server.start()
    id = client.tune("away", base_model=t5.checkpoint.name, records=RECORDS, **_FEW)
    process = held(server, id)
    store.s3.freeze()
    try:
        second = client.tune("second", base_model=t5.checkpoint.name, records=RECORDS, **QUICK)
        # It is trained, and can't tell so.
        process.resume()
        process.wait(_SECONDS)
        time.sleep(5)
        assert client.training(id).state == RUNNING
        assert client.training(second).state == QUEUED
    finally:
        store.s3.thaw()
    assert ended(client, id, _SECONDS) == COMPLETED
    assert ended(client, second, _SECONDS) == COMPLETED
    assert fence(server, id) == 1
    check_bits(server, "away", t5, _FEW)


def test_what_a_frozen_node_does_later_counts_for_nothing(
    server: Server, nodes: RayNodes, t5: BaseModel
) -> None:
    client = server.start()
    id = client.tune("frozen", base_model=t5.checkpoint.name, records=RECORDS, **_FEW)
    node = nodes.of(held(server, id))
    goes_on_elsewhere(server, client, id, node)
    check_bits(server, "frozen", t5, _FEW)
    nodes.replace(node)


def test_it_is_paused_resumed_and_cancelled(server: Server, store: Store, t5: BaseModel) -> None:
    client = server.start()
    id = client.tune("paused", base_model=t5.checkpoint.name, records=RECORDS, **LONG)
    # Records aren't in the store while nobody needs them there.
    pauses_and_is_cancelled(client, id, lambda: wait_for(lambda: not store.names))
