"""Servers that share a database: one queue and one truth, whoever is asked, whatever becomes of one of them.

`make share` does all of it.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
import torch

from caikit_pt.base_model.model import BaseModel
from caikit_pt.client import CANCELED, COMPLETED, ERRORED, PAUSED, RUNNING, ServerError, TuningClient
from caikit_pt.tuning.plan import make_plan
from caikit_pt.tuning.tuner import tune
from examples.local_server import free_port
from tests.conftest import LLAMA, SETTINGS, T5

from .partition import Partition
from .postgres import Postgres
from .servers import QUICK, RECORDS, Server, wait_for
from .test_jobs import LONG, ended, state, step, tuned

# Long enough to be found at work.
_SOME: dict[str, Any] = {**QUICK, "num_epochs": 400}
_SECONDS = 240.0


class Group:
    """Servers over one database and the same disks."""

    def __init__(self, directory: Path, postgres: Postgres) -> None:
        self._directory, self.database = directory, postgres.database()
        self._postgres, self._partitions = postgres, list[Partition]()
        self.servers, self.clients = list[Server](), list[TuningClient]()
        self.models, self.state = directory / "models", directory / "state"
        self.models.mkdir()

    def add(self, behind: Partition | None = None, **settings: object) -> TuningClient:
        """One more, behind what can be cut."""
        address = self.database
        if behind is not None:
            self._partitions.append(behind)
            address = self._postgres.address(address.rpartition("/")[2], behind.port)
        own = self._directory / f"server-{len(self.servers)}"
        own.mkdir()
        settings = {"CHECKPOINT_SECONDS": 0.3, "MAX_ATTEMPTS": 100, **settings}
        server = Server(own, DATABASE=address, **settings)
        server.models, server.state = self.models, self.state
        self.servers.append(server)
        self.clients.append(server.start())
        return self.clients[-1]

    def row(self, id: str) -> tuple[str, str, int]:
        """The state of a job, who has it, and the number of its last run."""
        query = "SELECT state, owner, fence FROM caikit_pt.jobs WHERE id = %s"
        with psycopg.connect(self.database) as connection:
            found = connection.execute(query, (id,)).fetchone()
        assert found is not None
        return found

    def has(self, number: int, id: str) -> bool:
        """Whether a server is at a job: by the process that writes the job's log."""
        return any(_writes(worker, self.state / "jobs" / id) for worker in self.servers[number].workers())

    def at(self, id: str) -> int:
        """Which server is at a job that has made some updates."""
        wait_for(lambda: step(self.clients[-1], id) >= 5, _SECONDS)
        found = list[int]()

        def is_seen() -> bool:
            found[:] = (number for number in range(len(self.servers)) if self.has(number, id))
            return bool(found)

        wait_for(is_seen)
        return found[0]

    def check_bits(self, name: str, base: BaseModel, request: dict[str, Any]) -> None:
        """As it is where nothing happens to it."""
        plan = make_plan({**request, "base_model": base.checkpoint.name}, RECORDS, None, SETTINGS)
        (expected,) = tune(plan, base).prompt.tensors.values()
        prompt, _ = tuned(self.models, name)
        assert torch.equal(prompt.view(torch.int32), expected.view(torch.int32))

    def close(self) -> None:
        """Whatever stands still goes on, and ends."""
        for partition in self._partitions:
            partition.close()
        for server in self.servers:
            if server.process.poll() is None:
                everybody(server, signal.SIGCONT)
            server.close()


def _writes(process: psutil.Process, folder: Path) -> bool:
    with suppress(psutil.Error):
        return any(Path(one.path) == folder / "log.txt" for one in process.open_files())
    return False


def everybody(server: Server, number: signal.Signals) -> None:
    """The server and the processes of its trainings get a signal, the server first."""
    process = psutil.Process(server.process.pid)
    for one in (process, *process.children(recursive=True)):
        with suppress(psutil.Error):
            one.send_signal(number)


@pytest.fixture
def group(tmp_path: Path, postgres: Postgres) -> Iterator[Group]:
    made = Group(tmp_path, postgres)
    yield made
    made.close()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> Iterator[Group]:
    """Two, to which nothing happens. The second trains nothing."""
    made = Group(tmp_path_factory.mktemp("pair"), postgres)
    made.add()
    made.add(SLOTS=1)
    yield made
    made.close()


def within(seconds: float, seen: Callable[[], object]) -> None:
    """By now, or a little later."""
    wait_for(seen, seconds)


# ---- any of them answers ----


def test_any_server_answers_for_any_training(pair: Group) -> None:
    one, other = pair.clients
    ids = [one.tune(f"any-{number}", base_model=T5, records=RECORDS, **QUICK) for number in range(4)]
    # Whoever submits it again submits the same, wherever.
    assert other.tune("any-0", base_model=T5, records=RECORDS, training_id=ids[0], **QUICK) == ids[0]
    for id in ids:
        assert [event.state for event in other.watch(id) if event.state][-1] == COMPLETED
        assert one.training(id) == other.training(id)
    assert list(one.trainings()) == list(other.trainings())


def test_a_client_of_several_submits_where_it_is_answered(pair: Group) -> None:
    """The first of its list isn't there."""
    living = [f"localhost:{server.port}" for server in pair.servers]
    with TuningClient([f"localhost:{free_port()}", *living]) as client:
        id = client.tune("anywhere", base_model=T5, records=RECORDS, **QUICK)
        assert [event.state for event in client.watch(id) if event.state][-1] == COMPLETED
    assert pair.clients[1].training(id).state == COMPLETED


def test_what_another_server_trains_is_paused_resumed_and_cancelled(pair: Group) -> None:
    id = pair.clients[0].tune("wished", base_model=LLAMA, records=RECORDS, **LONG)
    far = pair.clients[1 - pair.at(id)]
    assert far.pause(id).state == PAUSED
    assert pair.row(id)[1] == ""
    assert far.resume(id).state in ("QUEUED", RUNNING)
    far = pair.clients[1 - pair.at(id)]
    far.cancel(id)
    within(10, lambda: state(far, id) == CANCELED)
    assert pair.row(id)[:2] == (CANCELED, "")


def test_what_one_publishes_the_others_serve_at_once(pair: Group) -> None:
    """A new one, one in its place, and none."""
    told = list[str]()
    for good, bad in (("good", "bad"), ("yes", "no")):
        records = [{**one, "output": good if one["output"] == "good" else bad} for one in RECORDS]
        id = pair.clients[0].tune("served", base_model=LLAMA, records=records, **QUICK)
        assert ended(pair.clients[1], id) == COMPLETED
        answers = [client.generate("served", "The lamp is great") for client in pair.clients]
        assert answers[0] == answers[1]
        told += answers[:1]
    assert told[0] in ("good", "bad")
    assert told[1] in ("yes", "no")
    pair.clients[0].remove("served")
    with pytest.raises(ServerError) as error:
        pair.clients[1].generate("served", "The lamp is")
    assert error.value.status == "NOT_FOUND"


# ---- whatever becomes of one of them ----


def test_what_a_killed_server_had_another_goes_on_with(group: Group, t5: BaseModel) -> None:
    for _ in range(2):
        group.add()
    id = group.clients[0].tune("killed", base_model=T5, records=RECORDS, **_SOME)
    dead = group.at(id)
    everybody(group.servers[dead], signal.SIGKILL)
    group.servers[dead].process.wait()
    left = group.clients[1 - dead]
    assert ended(left, id, _SECONDS) == COMPLETED
    assert group.row(id)[2] == 2
    group.check_bits("killed", t5, _SOME)


def test_a_training_that_takes_each_server_along_ends(group: Group) -> None:
    """It went from one to the next for ever."""
    for _ in range(3):
        group.add(CHECKPOINT_SECONDS=100_000, MAX_ATTEMPTS=2)
    id = group.clients[0].tune("deadly", base_model=T5, records=RECORDS, **LONG)
    for _ in range(2):
        dead = group.at(id)
        everybody(group.servers[dead], signal.SIGSTOP)
        everybody(group.servers[dead], signal.SIGKILL)
        group.servers[dead].process.wait()
        del group.servers[dead], group.clients[dead]
    assert ended(group.clients[0], id, _SECONDS) == ERRORED
    reasons = group.clients[0].training(id).reasons
    assert len(reasons) == 2
    assert all("The server that it ran on was lost with it" in reason for reason in reasons)


def test_a_server_that_stood_still_spoils_nothing(group: Group, llama: BaseModel) -> None:
    for _ in range(3):
        group.add()
    request = {**_SOME, "num_epochs": 1500}
    id = group.clients[0].tune("frozen", base_model=LLAMA, records=RECORDS, **request)
    still = group.at(id)
    everybody(group.servers[still], signal.SIGSTOP)
    others = [number for number in range(3) if number != still]
    wait_for(lambda: any(group.has(number, id) for number in others), _SECONDS)
    everybody(group.servers[still], signal.SIGCONT)
    # Two are at it now, and one of them counts.
    wait_for(lambda: not group.has(still, id), 30)
    assert ended(group.clients[others[0]], id, _SECONDS) == COMPLETED
    assert group.row(id)[2] == 2
    group.check_bits("frozen", llama, request)
    # And it is one of them again.
    again = group.clients[still].tune("again", base_model=T5, records=RECORDS, **QUICK)
    assert ended(group.clients[still], again) == COMPLETED


def test_a_server_that_is_cut_off_gives_up_and_comes_again(
    group: Group, postgres: Postgres, t5: BaseModel
) -> None:
    partition = Partition(postgres.port)
    group.add(behind=partition)
    request = {**_SOME, "num_epochs": 2500}
    id = group.clients[0].tune("cut", base_model=T5, records=RECORDS, **request)
    assert group.at(id) == 0
    group.add()
    partition.cut()
    began = time.monotonic()
    wait_for(lambda: not group.has(0, id), 30)
    assert group.row(id)[1] != ""
    gave_up = time.monotonic() - began
    wait_for(lambda: group.has(1, id), 60)
    assert gave_up < time.monotonic() - began
    partition.heal()
    assert ended(group.clients[1], id, _SECONDS) == COMPLETED
    group.check_bits("cut", t5, request)
    wait_for(lambda: _answers(group.clients[0]), 60)
    again = group.clients[0].tune("again", base_model=T5, records=RECORDS, **QUICK)
    assert ended(group.clients[0], again) == COMPLETED


def _answers(client: TuningClient) -> bool:
    with suppress(ServerError):
        list(client.trainings())
        return True
    return False


def test_all_wait_for_a_database_that_is_away(group: Group, postgres: Postgres, t5: BaseModel) -> None:
    for _ in range(2):
        group.add()
    request = {**_SOME, "num_epochs": 1500}
    id = group.clients[0].tune("away", base_model=T5, records=RECORDS, **request)
    group.at(id)
    postgres.stop()
    with pytest.raises(ServerError) as error:
        list(group.clients[0].trainings())
    assert error.value.status == "UNAVAILABLE"
    postgres.start()
    wait_for(lambda: all(_answers(client) for client in group.clients), 60)
    assert ended(group.clients[1], id, _SECONDS) == COMPLETED
    group.check_bits("away", t5, request)


def test_no_job_is_lost_whatever_becomes_of_whom(
    group: Group, postgres: Postgres, llama: BaseModel, t5: BaseModel
) -> None:
    """Twelve jobs over three servers: one is killed and comes again, one stands still for a while, one is cut
    off, and the database goes away and comes back."""
    partition = Partition(postgres.port)
    for behind in (None, None, partition):
        group.add(behind)
    bases, jobs = (llama, t5), dict[str, int]()
    for number in range(12):
        base = bases[number % 2].checkpoint.name
        request = {**_SOME, "seed": number}
        id = group.clients[number % 3].tune(f"job-{number}", base_model=base, records=RECORDS, **request)
        jobs[id] = number
    time.sleep(5)
    everybody(group.servers[0], signal.SIGKILL)
    group.servers[0].process.wait()
    everybody(group.servers[1], signal.SIGSTOP)
    time.sleep(20)
    group.clients[0] = group.servers[0].start()
    everybody(group.servers[1], signal.SIGCONT)
    partition.cut()
    time.sleep(20)
    partition.heal()
    postgres.stop()
    time.sleep(3)
    postgres.start()
    wait_for(lambda: _answers(group.clients[0]), 60)
    assert {ended(group.clients[0], id, 2 * _SECONDS) for id in jobs} == {COMPLETED}
    runs = {number: group.row(id)[2] for id, number in jobs.items()}
    print(f"runs of each job: {runs}")
    for number in jobs.values():
        request = {**_SOME, "seed": number}
        group.check_bits(f"job-{number}", bases[number % 2], request)
