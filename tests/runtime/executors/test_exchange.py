"""What a run writes on its node comes to the server's folder of it by a store, whatever is interrupted."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from caikit_pt.runtime.executors import inbox as inbox_file
from caikit_pt.runtime.executors import outbox as outbox_file
from caikit_pt.runtime.executors.exchange import CLAIMED, GIVEN, LEAVE, Exchange, files_in
from caikit_pt.runtime.executors.helper_files import lent
from caikit_pt.runtime.executors.inbox import Inbox
from caikit_pt.runtime.executors.outbox import Outbox, fetched
from caikit_pt.runtime.json_file import write_json
from caikit_pt.runtime.run_folder import RunFolder
from caikit_pt.tuning.snapshot import Snapshots
from examples.local_server import ROOT
from tests.runtime.executors.s3_server import s3_server
from tests.runtime.servers import wait_for
from tests.whole import WHOLE

JOB, FENCE = "a job: 1?*", 3


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    for file, name in (
        (inbox_file, "_SECONDS_BETWEEN_ROUNDS"),
        (inbox_file, "_SECONDS_BETWEEN_LOOKS"),
        (outbox_file, "_SECONDS_BETWEEN_ROUNDS"),
    ):
        monkeypatch.setattr(file, name, 0.01)
    # However fast it goes.
    monkeypatch.setattr(outbox_file, "_SECONDS_BETWEEN_BEATS", 0.0)


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    if find_spec("s3fs") is None or find_spec("moto") is None:
        pytest.skip("needs s3fs and moto")
    with s3_server() as made, pytest.MonkeyPatch.context() as patch:
        for name, value in made.environment.items():
            patch.setenv(name, value)
        yield made.address


@pytest.fixture(params=["file", "s3"])
def exchange(request: pytest.FixtureRequest, tmp_path: Path) -> Exchange:
    """Of one server."""
    address = f"file://{tmp_path}/store"
    if request.param == "s3":
        address = f"{request.getfixturevalue('s3')}/{request.node.name}"
    return Exchange(address).at("server")


class Server:
    """A job's folder with a run, and the link of that."""

    def __init__(self, exchange: Exchange, root: Path, fence: int = FENCE) -> None:
        self.job, self.cache = root / "server" / JOB, root / "server" / "cache"
        self.run = RunFolder(self.job, fence)
        self.exchange = exchange.at(JOB).of_run(fence)
        self.inbox = Inbox(self.exchange, self.run, self.job, self.cache)

    def give(self) -> str:
        """As a run in a cluster does."""
        (self.job / "tasks" / "0").mkdir(parents=True, exist_ok=True)
        for name in ("plan.json", "records.jsonl", "tasks/0/plan.json", "log.txt"):
            (self.job / name).write_text(name)
        self.run.directory.mkdir(parents=True, exist_ok=True)
        order = {"job": JOB, "folder": str(self.job), "environment": {"CACHE_DIR": "/nowhere", "A": "b"}}
        write_json(self.run.order, order)
        for file in (self.run.reports, self.run.alive, self.run.leave, self.run.end):
            file.touch()
        self.inbox.give()
        return self.inbox.place


class Node:
    """A run's folder on another machine, what the run writes there, and what puts it up."""

    def __init__(self, exchange: Exchange, folder: Path, cache: Path) -> None:
        self.run, self.log, self.cache = RunFolder(folder, FENCE), folder / "log.txt", cache
        self.outbox = Outbox(exchange.at(JOB).of_run(FENCE), self.run, folder, cache)

    def tell(self, *reports: object) -> None:
        with self.run.reports.open("a") as file:
            file.writelines(json.dumps(report) + "\n" for report in reports)

    def writes(self) -> Iterator[None]:
        """As a training does, step by step."""
        for step in self._steps():
            step()
            yield

    def _steps(self) -> Iterator[Callable[[], object]]:
        yield lambda: self.log.write_text("loading\n")
        yield lambda: self.run.alive.write_text("1")
        yield lambda: self.tell("loading", "ähnlich")
        yield lambda: (self.cache / "kernels.json").write_text('{"here": {"a": "torch"}}')
        for update in (10, 20):
            yield partial(self.keep, update)
            yield partial(self.say, f"kept {update}\n")
        yield self.make
        yield lambda: self.run.end.write_text('{"code": 0}')

    def keep(self, update: int) -> None:
        Snapshots(self.run.snapshots, 0.0)._write(update, {"update": update})
        self.tell({"snapshot": update})

    def say(self, text: str) -> None:
        with self.log.open("a") as log:
            log.write(text)

    def make(self) -> None:
        """It appears in one piece."""
        new = self.run.artifact.with_name("new")
        (new / "more").mkdir(parents=True)
        (new / "config.yml").write_text("made")
        (new / "more" / "weights").write_bytes(b"0" * 5000)
        new.rename(self.run.artifact)
        self.tell("finished")


def moved(server: Server, exchange: Exchange, root: Path) -> Node:
    """The files of the job are on the node."""
    own = root / "node"
    own.mkdir()
    folder = outbox_file.job_folder(exchange.at(JOB).of_run(FENCE), own, FENCE, threading.Event(), "me")
    assert folder is not None
    return Node(exchange, folder, own)


def check(server: Server, node: Node) -> None:
    """What the server has is what the node wrote, as if both had one directory."""
    assert server.run.reports.read_bytes() == node.run.reports.read_bytes()
    assert server.run.end.read_bytes() == node.run.end.read_bytes()
    assert server.run.alive.read_bytes() == node.run.alive.read_bytes()
    assert _contents(server.run.artifact) == _contents(node.run.artifact)
    assert Snapshots(server.run.snapshots, 0.0).newest() == Snapshots(node.run.snapshots, 0.0).newest()
    assert (server.cache / "kernels.json").read_bytes()
    own = (server.job / "log.txt").read_text().removeprefix("log.txt")
    # What was taken twice is there twice.
    assert "".join(dict.fromkeys(own.splitlines(keepends=True))) == node.log.read_text()


def check_told(server: Server) -> None:
    """Whatever is spoken of is there."""
    told = [json.loads(line) for line in server.run.reports.read_text().splitlines()]
    kept = Snapshots(server.run.snapshots, 0.0).newest() or {"update": 0}
    assert kept["update"] >= max((one["snapshot"] for one in told if isinstance(one, dict)), default=0)
    assert "finished" not in told or server.run.artifact.is_dir()


def _contents(directory: Path) -> dict[str, bytes]:
    return {name: file.read_bytes() for name, file in files_in(directory).items()}


class Interrupted(Exception):
    """Where a process is killed, or a store is away."""


class Interruptions:
    """The operation of the store with the number `at`, of whichever end, fails: before it has done anything,
    or when it `is_done` and nobody hears so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fs: Any, at: int, is_done: bool) -> None:
        self.count, self._at, self._is_done = 0, at, is_done
        for name in ("find", "cat_file", "pipe_file", "put_file", "get_file", "rm_file"):
            monkeypatch.setattr(fs, name, self._failing(getattr(fs, name)))

    def _failing(self, what: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            self.count += 1
            fails = self.count == self._at
            if fails and not self._is_done:
                raise Interrupted
            found = what(*args, **more)
            if fails:
                raise Interrupted
            return found

        return call


def test_the_node_has_what_the_job_needs_and_the_server_what_it_wrote(
    exchange: Exchange, tmp_path: Path
) -> None:
    server = Server(exchange, tmp_path)
    (tmp_path / "server" / "cache").mkdir(parents=True)
    (server.cache / "kernels.json").write_text('{"there": {}}')
    assert server.give() == exchange.at(JOB).address
    node = moved(server, exchange, tmp_path)
    folder = tmp_path / "node" / "jobs" / JOB
    assert {name for name in files_in(folder) if not name.startswith("runs/")} == {
        "plan.json", "records.jsonl", "tasks/0/plan.json",
    }  # fmt: skip
    order = json.loads(node.run.order.read_text())
    assert order["folder"] == str(folder)
    assert order["environment"] == {"CACHE_DIR": str(tmp_path / "node"), "A": "b"}
    assert node.run.is_last
    for _ in node.writes():
        assert node.outbox.put()
        server.inbox.take()
    check(server, node)
    assert json.loads((server.cache / "kernels.json").read_text()) == {"there": {}, "here": {"a": "torch"}}
    # What was taken doesn't lie there, and in the end nothing does.
    assert list(exchange.at(JOB).of_run(FENCE).names()) == ["alive", "claimed", "end", "given"]
    server.inbox.open()
    server.inbox.close(is_over=True)
    wait_for(lambda: not exchange.names(), 20)
    assert not node.outbox.put()
    assert not node.run.is_last


@pytest.mark.parametrize("is_done", [False, True])
def test_whatever_is_interrupted_all_of_it_comes(
    exchange: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_done: bool
) -> None:
    """Both ends, at each of their operations in turn, while the run goes on."""
    some = 3 if exchange.address.startswith("file:") else 17
    for at in count(1 + is_done, 1 if WHOLE else some):
        root = tmp_path / str(at)
        root.mkdir()
        below = exchange.at(f"{at} {is_done}")
        server = Server(below, root)
        server.give()
        node = moved(server, below, root)
        with monkeypatch.context() as patch:
            interruptions = Interruptions(patch, exchange._fs, at, is_done)
            for _ in node.writes():
                for end in (node.outbox.put, server.inbox.take):
                    _tried(end)
                check_told(server)
            for _ in range(2):
                _tried(node.outbox.put)
                _tried(server.inbox.take)
        check(server, node)
        if interruptions.count < at:
            break
    assert interruptions.count > 50


def _tried(end: Callable[[], object]) -> None:
    try:
        end()
    except OSError as error:
        # Nothing else goes wrong because of it.
        if "Interrupted" not in str(error):
            raise


def test_a_server_that_comes_late_and_another_have_all_of_it(exchange: Exchange, tmp_path: Path) -> None:
    """They share the folder, and the second takes what the first has taken and not removed yet."""
    server = Server(exchange, tmp_path)
    server.give()
    node = moved(server, exchange, tmp_path)
    for _ in node.writes():
        node.outbox.put()
    other = Server(exchange, tmp_path)
    both = [threading.Thread(target=_insist, args=(one.inbox.take,)) for one in (server, other)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    check(server, node)


def _insist(take: Callable[[], object]) -> None:
    for _ in range(20):
        try:
            take()
        except OSError:
            continue
        return


def test_a_later_run_begins_with_what_the_one_before_has_kept(exchange: Exchange, tmp_path: Path) -> None:
    first = Server(exchange, tmp_path)
    first.give()
    node = moved(first, exchange, tmp_path)
    Snapshots(node.run.snapshots, 0.0)._write(10, {"update": 10})
    node.outbox.put()
    first.inbox.take()
    second = Server(exchange, tmp_path, FENCE + 1)
    second.give()
    # What the first, which lives on, writes now counts for nothing.
    Snapshots(node.run.snapshots, 0.0)._write(20, {"update": 20})
    node.outbox.put()
    first.inbox.take()
    (tmp_path / "other").mkdir()
    folder = outbox_file.job_folder(second.exchange, tmp_path / "other", FENCE + 1, threading.Event(), "me")
    assert folder is not None
    run = RunFolder(folder, FENCE + 1)
    run.begin()
    assert Snapshots(run.snapshots, 0.0).newest() == {"update": 10}
    assert Snapshots(second.run.snapshots, 0.0).newest() == {"update": 10}
    with pytest.raises(OSError, match="a later run"):
        first.give()


def test_it_is_asked_to_leave(exchange: Exchange, tmp_path: Path) -> None:
    server = Server(exchange, tmp_path)
    server.give()
    node = moved(server, exchange, tmp_path)
    server.run.leave.write_text("leave")
    for _ in range(2):
        server.inbox.take()
        node.outbox.put()
    assert node.run.leave.read_bytes()
    assert LEAVE in server.exchange.names()


def test_a_run_is_kept_once(exchange: Exchange, tmp_path: Path) -> None:
    server = Server(exchange, tmp_path)
    stop = threading.Event()
    with fetched(exchange.at(JOB).address, FENCE, stop) as folder:
        assert folder is None
    address = server.give()
    with fetched(address, FENCE, stop) as folder:
        assert folder is not None
        with fetched(address, FENCE, stop) as again:
            assert again is None
        RunFolder(folder, FENCE).end.write_text('{"code": 7}')
    assert not folder.parent.parent.exists()
    server.inbox.take()
    assert server.run.end.read_text() == '{"code": 7}'
    # Whoever asks again, since nobody answered, has it.
    run = exchange.at("b").of_run(1)
    assert [run.claim(CLAIMED, owner) for owner in ("me", "me", "you")] == [True, True, False]


def test_records_go_with_a_keeper_that_is_killed(tmp_path: Path) -> None:
    exchange = Exchange(f"file://{tmp_path}/store").at("server")
    address = Server(exchange, tmp_path).give()
    code = (
        "import sys, threading\n"
        "from caikit_pt.runtime.executors.outbox import fetched\n"
        "with fetched(sys.argv[1], int(sys.argv[2]), threading.Event()) as folder:\n"
        "    print(folder, flush=True)\n"
        "    threading.Event().wait()\n"
    )
    command = [sys.executable, "-c", code, address, str(FENCE)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as keeper:
        assert keeper.stdout is not None
        folder = Path(keeper.stdout.readline().strip())
        assert (folder / "records.jsonl").exists()
        keeper.kill()
    wait_for(lambda: not folder.parent.parent.exists(), 20)


def test_what_goes_wrong_on_the_node_is_told(exchange: Exchange, tmp_path: Path) -> None:
    server = Server(exchange, tmp_path)
    with pytest.raises(ValueError, match="wrong"), fetched(server.give(), FENCE, threading.Event()):
        raise ValueError("wrong")
    server.inbox.take()
    assert json.loads(server.run.end.read_text()) == {"code": 1, "text": "ValueError: wrong"}


def test_a_run_that_nobody_waits_for_leaves_nothing(exchange: Exchange, tmp_path: Path) -> None:
    server = Server(exchange, tmp_path)
    with fetched(server.give(), FENCE, threading.Event()) as folder:
        assert folder is not None
        server.exchange.clear()
        # As who was frozen meanwhile does.
        server.exchange.write("reports-0-5", b"late\n")
        wait_for(lambda: not RunFolder(folder, FENCE).is_last, 20)
    assert list(exchange.names()) == []


def test_helpers_have_the_files_and_hear_where_to_call(
    exchange: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the node that has the run, until nobody waits for that."""
    monkeypatch.setattr("caikit_pt.runtime.executors.helper_files._SECONDS_BETWEEN_ROUNDS", 0.05)
    server, never = Server(exchange, tmp_path), threading.Event()
    address = server.give()
    with fetched(address, FENCE, never) as leads, lent(address, FENCE, never) as helps:
        assert leads is not None
        assert helps is not None
        run = RunFolder(helps, FENCE)
        assert (helps / "plan.json").read_text() == "plan.json"
        assert json.loads(run.order.read_text())["folder"] == str(helps)
        RunFolder(leads, FENCE).calls.write_text("here")
        wait_for(lambda: run.calls.exists(), 20)
        assert (run.calls.read_text(), run.is_last) == ("here", True)
        server.exchange.clear()
        wait_for(lambda: not run.is_last, 20)
    assert not helps.exists()
    assert list(exchange.names()) == []
    with lent(address, FENCE, never) as none:
        assert none is None


def test_a_store_that_is_away_is_waited_for(
    exchange: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(exchange, tmp_path)
    server.give()
    server.inbox.open()
    caught_up = threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(exchange._fs, "find", _away)
        wait_for(lambda: server.inbox.is_away, 20)
        assert exchange.trouble == "Interrupted: no route"

        def wait() -> None:
            server.inbox.catch_up(lambda: False)
            caught_up.set()

        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not caught_up.wait(0.3)
    assert caught_up.wait(10)
    waiting.join()
    assert not server.inbox.is_away
    assert exchange.trouble == ""
    assert caplog.text.count("can't be had now") == 1
    with monkeypatch.context() as patch:
        patch.setattr(exchange._fs, "find", _away)
        server.inbox.catch_up(lambda: True)
        server.inbox.close(is_over=True)
        wait_for(lambda: exchange.trouble, 20)
    wait_for(lambda: not exchange.names(), 20)


def _away(*_: Any) -> None:
    raise Interrupted("no route\nand more of it")


def test_what_is_not_whole_is_waited_for(exchange: Exchange, tmp_path: Path) -> None:
    """As in a directory whose files aren't there at once."""
    server = Server(exchange, tmp_path)
    server.give()
    whole = server.exchange.read(GIVEN)
    server.exchange.write(GIVEN, whole[:-1])
    with pytest.raises(OSError, match="isn't whole"):
        server.exchange.fetch(GIVEN, tmp_path)
    server.exchange.write("reports-0-9", b"torn")
    with pytest.raises(OSError, match="isn't whole"):
        server.inbox.take()
    # Somebody else's, in the same place.
    server.exchange.write("reports-of-mine", b"")
    server.exchange.write("reports-0-9", b"not torn\n")
    # What comes before isn't seen yet.
    server.exchange.write("reports-20-25", b"late\n")
    server.inbox.take()
    assert server.run.reports.read_bytes() == b"not torn\n"
    assert "reports-20-25" in server.exchange.names()


def test_which_runs_have_left_something(exchange: Exchange) -> None:
    assert exchange.runs() == set()
    for job, fence in ((JOB, 3), (JOB, 4), ("b/../c", 12)):
        exchange.at(job).of_run(fence).write("alive", b"1")
    assert exchange.runs() == {(JOB, 3), (JOB, 4), ("b/../c", 12)}
    exchange.at(JOB).of_run(3).clear()
    assert exchange.runs() == {(JOB, 4), ("b/../c", 12)}
