"""Trainings that go over several processes, on real servers: kills, ends and pauses, and the same bits."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from caikit_pt.base_model.model import BaseModel
from caikit_pt.client import CANCELED, COMPLETED, PAUSED, TuningClient
from caikit_pt.runtime.executors import helper_keeper
from caikit_pt.runtime.helper import READY
from caikit_pt.runtime.helper_calls import call
from caikit_pt.runtime.helper_processes import HelperProcesses, neighbour
from caikit_pt.runtime.json_file import write_json
from caikit_pt.runtime.plan_files import write_plan
from caikit_pt.runtime.run_folder import RunFolder
from caikit_pt.tuning.crew import Crew
from caikit_pt.tuning.plan import make_plan
from caikit_pt.tuning.progress import Progress
from examples.grpc_client import Client
from examples.local_server import ROOT
from tests.conftest import LLAMA, SETTINGS
from tests.runtime.servers import QUICK, RECORDS, Server, signalled, wait_for
from tests.tuning.crews import tuned_by

WORKERS = 2
MINUTES = 300.0
MANY = [(number, record) for number in range(12) for record in RECORDS]
LONG: dict[str, Any] = {**QUICK, "base_model": LLAMA, "num_epochs": 10_000}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, TuningClient]]:
    settings = {"EXECUTOR_WORKERS": WORKERS, "CHECKPOINT_SECONDS": 1, "OMP_NUM_THREADS": 1}
    server = Server(tmp_path_factory.mktemp("shared"), **settings)
    yield server, server.start()
    server.close()


def helpers(server: Server) -> list[psutil.Process]:
    """Those that are there, once they have found to their name."""
    made = psutil.Process(server.process.pid).children(recursive=True)
    return [one for one in made if one.is_running() and _name(one) == "helper"]


def _name(process: psutil.Process) -> str:
    try:
        return process.name() if process.status() != psutil.STATUS_ZOMBIE else ""
    except psutil.Error:
        return ""


def _log(server: Server, id: str) -> str:
    """Empty before there is any, and where the job has ended."""
    try:
        return (server.state / "jobs" / id / "log.txt").read_text()
    except OSError:
        return ""


def _compute_together(server: Server, id: str, times: int = 1) -> bool:
    return _log(server, id).count(f"{WORKERS} of {WORKERS} workers compute together") >= times


def _step(client: TuningClient, id: str) -> int:
    progress = client.training(id).progress
    return progress.step if progress else 0


def _ended(client: TuningClient, id: str) -> str:
    wait_for(lambda: client.training(id).state in (COMPLETED, "ERRORED", CANCELED), MINUTES)
    return str(client.training(id).state)


def _published(server: Server, name: str) -> tuple[torch.Tensor, list[float]]:
    (file,) = (server.models / name).glob("*coder.safetensors")
    lines = map(json.loads, (server.models / name / "training_logs.jsonl").read_text().splitlines())
    return load_file(file)["prompt"], [one["data"]["value"] for one in lines if one["name"] == "loss"]


def test_a_helper_that_is_killed_and_who_leads_change_no_bit(
    shared: tuple[Server, TuningClient], llama: BaseModel
) -> None:
    """And the tuned prompt answers."""
    server, client = shared
    request = {**LONG, "num_epochs": 60, "batch_size": 16, "seed": 5}
    records = [{**record, "input": f"{number} {record['input']} " * 12} for number, record in MANY]
    id = client.tune("killed", records=records, **request)
    wait_for(lambda: _compute_together(server, id), MINUTES)
    (helper,) = helpers(server)
    assert signalled(helper, signal.SIGKILL)
    wait_for(lambda: _compute_together(server, id, 2), MINUTES)
    assert "worker 2 ended with -9" in _log(server, id)
    (lead,) = server.workers()
    assert signalled(lead, signal.SIGKILL)
    assert _ended(client, id) == COMPLETED
    wait_for(lambda: not helpers(server))
    prompt, curve = _published(server, "killed")
    alone = tuned_by(Crew(WORKERS), make_plan(request, records, None, SETTINGS), llama)
    assert torch.equal(prompt, next(iter(alone.prompt.tensors.values())))
    assert curve == [one["data"]["value"] for one in alone.training_logs if one["name"] == "loss"]
    assert Client(server.port).predict("killed", "The desk is awful").generated_tokens > 0


def test_one_from_elsewhere_that_is_killed_changes_no_bit(tmp_path: Path, llama: BaseModel) -> None:
    """It calls from where nothing else than its files are known; and ends when who leads does."""
    plan = make_plan({**QUICK, "base_model": LLAMA, "num_epochs": 20}, RECORDS, None, SETTINGS)
    write_plan(tmp_path, plan)
    run = RunFolder(tmp_path, 1)
    run.directory.mkdir(parents=True)
    write_json(
        run.order,
        {"device": "cpu", "elsewhere": 1, "environment": {"CACHE_DIR": str(SETTINGS.cache_directory)}},
    )
    helpers = HelperProcesses(0, tmp_path, "cpu", run.directory, elsewhere=1, calls=run.calls)
    command = [sys.executable, "-m", helper_keeper.__name__, str(tmp_path), "1", "1"]
    with subprocess.Popen(command, cwd=ROOT) as keeper:
        sizes = list[int]()

        def updated(progress: Progress) -> None:
            """Slowly enough for one to come."""
            wait_for(lambda: len(sizes) % 8 or helpers.group().size == 2, MINUTES)
            sizes.append(helpers.group().size)
            if progress.step == 4:
                (helper,) = psutil.Process(keeper.pid).children()
                helper.kill()

        made = tuned_by(Crew(WORKERS, helpers), plan, llama, updated)
        helpers.close()
        assert keeper.wait(30) == 0
    assert (sizes[0], min(sizes), sizes[-1]) == (2, 1, 2)
    alone = tuned_by(Crew(WORKERS), plan, llama)
    assert torch.equal(*(next(iter(one.prompt.tensors.values())) for one in (made, alone)))


def test_one_that_can_not_be_met_holds_up_nobody_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It calls, and says that it waits, and doesn't come."""
    monkeypatch.setattr("caikit_pt.tuning.group._SECONDS_TO_FORM", 0.5)
    helpers = HelperProcesses(0, tmp_path, "cpu", tmp_path, elsewhere=1, calls=tmp_path / "calls.json")
    line = call(tmp_path / "calls.json")
    told = list[str]()

    def answers() -> None:
        for command in line.reads:
            told.append(command)
            line.writes.write(f"{READY}\n")
            line.writes.flush()

    thread = threading.Thread(target=answers)
    thread.start()
    wait_for(lambda: helpers.group().size == 1 and len(told) == 2)
    for _ in range(100):
        assert helpers.group().size == 1
    assert len(told) == 2
    helpers.close()
    thread.join(5)
    assert (json.loads(told[-1]), thread.is_alive()) == ({"end": True}, False)
    line.close()
    line.reads.close()


def test_none_is_left_of_a_training_that_is_cancelled_or_paused(
    shared: tuple[Server, TuningClient],
) -> None:
    server, client = shared
    id = client.tune("left", records=RECORDS, **LONG)
    wait_for(lambda: _compute_together(server, id), MINUTES)
    client.pause(id)
    assert client.training(id).state == PAUSED
    wait_for(lambda: not helpers(server), 10)
    reached = _step(client, id)
    client.resume(id)
    wait_for(lambda: _step(client, id) > reached, MINUTES)
    wait_for(lambda: len(helpers(server)) == WORKERS - 1, MINUTES)
    client.cancel(id)
    assert client.training(id).state == CANCELED
    wait_for(lambda: not helpers(server), 10)


def test_none_is_left_of_a_server_that_was_killed(tmp_path: Path) -> None:
    server = Server(tmp_path, EXECUTOR_WORKERS=2, OMP_NUM_THREADS=1)
    client = server.start()
    id = client.tune("left", records=RECORDS, **LONG)
    wait_for(lambda: "2 of 2 workers compute together" in _log(server, id), MINUTES)
    left = [*helpers(server), *server.workers()]
    assert len(left) == 2
    server.kill()
    wait_for(lambda: not any(map(_name, left)), 30)


def test_each_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    assert [neighbour("cuda:0", number) for number in (1, 2)] == ["cuda:1", "cuda:2"]
    assert [neighbour("cuda:2", number) for number in (1, 2)] == ["cuda:0", "cuda:1"]
    assert (neighbour("cuda", 1), neighbour("cpu", 1)) == ("cuda:1", "cpu")
