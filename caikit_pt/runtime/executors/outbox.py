"""The node's end of a run whose server shares no directory with it: what the run writes is put up.

The files of the job lie in a private directory of this machine, which goes with the run, however that ends.
"""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import threading
import time
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp

from caikit_pt.runtime.executors.exchange import (
    ALIVE,
    ARTIFACT,
    CALLS,
    CLAIMED,
    END,
    GIVEN,
    KERNELS,
    KERNELS_FILE,
    LEAVE,
    LOG,
    REPORTS,
    SNAPSHOT,
    Exchange,
    files_in,
)
from caikit_pt.runtime.run_folder import RunFolder

_LOG = logging.getLogger(__name__)
_SECONDS_BETWEEN_ROUNDS = 2.0
# A sign of life costs as much as whatever else is put up.
_SECONDS_BETWEEN_BEATS = 5.0
_MOST_OF_A_LOG = 2**20
# Whoever has these is gone, or closes them.
_GUARD = 'cat > /dev/null; for n in 1 2 3 4 5 6 7 8 9; do rm -rf -- "$1"; [ -e "$1" ] || exit; sleep 2; done'


@contextmanager
def fetched(address: str, fence: int, stop: threading.Event) -> Iterator[Path | None]:
    """The folder of the job at `address`, for its run with number `fence`; None where nobody waits for that,
    or somebody else has it, or it is to `stop` before the store was there. What is written into it is put up,
    the last when this ends, as soon as the store takes it. Raises ImportError, ValueError."""
    exchange = Exchange(address).of_run(fence)
    with private_directory() as root:
        folder = job_folder(exchange, root, fence, stop, owner=uuid.uuid4().hex)
        if folder is None:
            yield None
            return
        outbox = Outbox(exchange, RunFolder(folder, fence), folder, root)
        outbox.start()
        try:
            yield folder
        except BaseException as error:
            with suppress(OSError):
                told = {"code": 1, "text": f"{type(error).__name__}: {error}"}
                RunFolder(folder, fence).end.write_text(json.dumps(told), "utf-8")
            raise
        finally:
            outbox.finish()


def job_folder(
    exchange: Exchange, root: Path, fence: int, stop: threading.Event, owner: str = ""
) -> Path | None:
    """That of the job, in the directory `root` from now on, for its run with number `fence`; of an `owner`
    the run is his alone. None where nobody waits for it, or somebody else has it, or it is to `stop` before
    the store was there."""
    told = False
    while not stop.is_set():
        try:
            if GIVEN not in exchange.names() or (owner and not exchange.claim(CLAIMED, owner)):
                return None
            shutil.rmtree(root / "job", ignore_errors=True)
            exchange.fetch(GIVEN, root)
            return _settled(root, fence)
        except OSError as error:
            if not told:
                _LOG.warning("the run waits for its files: %s", error)
            told = True
            stop.wait(_SECONDS_BETWEEN_ROUNDS)
    return None


def _settled(root: Path, fence: int) -> Path:
    """Its order speaks of this machine then."""
    order_file = RunFolder(root / "job", fence).order
    order = json.loads(order_file.read_text("utf-8"))
    folder = root / "jobs" / Path(order["job"]).name
    environment = {**order["environment"], "CACHE_DIR": str(root)}
    order_file.write_text(json.dumps({**order, "folder": str(folder), "environment": environment}), "utf-8")
    folder.parent.mkdir()
    (root / "job").rename(folder)
    return folder


@contextmanager
def private_directory() -> Iterator[Path]:
    """Records lie in it: it goes with this process, also where that is killed."""
    directory = Path(mkdtemp(prefix="caikit-pt-"))
    guard = subprocess.Popen(
        ["sh", "-c", _GUARD, "guard", str(directory)], stdin=subprocess.PIPE, start_new_session=True
    )
    try:
        yield directory
    finally:
        assert guard.stdin is not None
        guard.stdin.close()
        guard.wait()


class Outbox:
    """Puts up what is new in the folder of `job`, whose run has the files `run`, as objects of this run;
    `cache` is where its process keeps what it found to be fastest.

    A run that isn't wanted any more has no folder then, as where it shares a directory with the server.
    """

    def __init__(self, exchange: Exchange, run: RunFolder, job: Path, cache: Path) -> None:
        self._exchange, self._run, self._log = exchange, run, job / "log.txt"
        self._kernels_file = cache / KERNELS_FILE
        self._told = self._logged = 0
        self._beat = -_SECONDS_BETWEEN_BEATS
        # What the server has given it needn't have again.
        self._kernels = _content(self._kernels_file)
        self._called = b""
        self._kept, self._has_artifact = _newest(run.snapshots), run.artifact.is_dir()
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._work, name="outbox", daemon=True)

    def start(self) -> None:
        """In a thread of its own: a store may be slow to answer."""
        self._thread.start()

    def finish(self) -> None:
        """Returns when all is put up, and how the process has ended, or when nobody waits for it."""
        self._ends.set()
        self._thread.join()

    def _work(self) -> None:
        is_done = was_away = False
        while not is_done:
            is_last = self._ends.is_set()
            try:
                is_done = not self.put() or is_last
                was_away = False
            except OSError as error:
                if not was_away:
                    _LOG.warning("what the run has written can't be put up now: %s", error)
                was_away = True
                if is_last:
                    time.sleep(_SECONDS_BETWEEN_ROUNDS)
            if not is_done:
                self._ends.wait(_SECONDS_BETWEEN_ROUNDS)
        # Who has seen to its end meanwhile didn't see what came last.
        with suppress(OSError):
            if GIVEN not in self._exchange.names():
                self._exchange.clear()

    def put(self) -> bool:
        """One round; whether the run is wanted. What is told comes last: whatever it speaks of is there then.
        Raises OSError."""
        run, seen = self._run, self._exchange.names()
        if GIVEN not in seen:
            shutil.rmtree(run.directory, ignore_errors=True)
            return False
        if LEAVE in seen:
            run.leave.write_text("leave", "utf-8")
        end, told = _content(run.end), _content(run.reports, self._told)
        told = told[: told.rfind(b"\n") + 1]
        self._put_kernels()
        self._put_snapshot(seen)
        self._put_artifact()
        self._put_calls()
        while logged := _content(self._log, self._logged, _MOST_OF_A_LOG):
            self._logged = self._put_piece(LOG, self._logged, logged)
        self._put_beat()
        if told:
            self._told = self._put_piece(REPORTS, self._told, told)
        if end:
            self._exchange.write(END, end)
        return True

    def _put_piece(self, kind: str, begin: int, data: bytes) -> int:
        """Where the next one begins. Its name says what is in it, so that it may be put up again."""
        end = begin + len(data)
        self._exchange.write(f"{kind}-{begin}-{end}", data)
        return end

    def _put_kernels(self) -> None:
        found = _content(self._kernels_file)
        if found != self._kernels:
            self._exchange.write(KERNELS, found)
            self._kernels = found

    def _put_snapshot(self, seen: Collection[str]) -> None:
        """The newest, in the place of one that nobody has taken."""
        newest = _newest(self._run.snapshots)
        if newest == self._kept:
            return
        name = f"{SNAPSHOT}-{newest}"
        files = {file.name: file for file in self._run.snapshots.glob(f"{newest}.*") if file.suffix != ".new"}
        self._exchange.put(name, files, self._run.directory)
        self._exchange.remove([one for one in seen if one.startswith(f"{SNAPSHOT}-") and one != name])
        self._kept = newest

    def _put_artifact(self) -> None:
        if not self._has_artifact and self._run.artifact.is_dir():
            self._exchange.put(ARTIFACT, files_in(self._run.artifact), self._run.directory)
            self._has_artifact = True

    def _put_calls(self) -> None:
        found = _content(self._run.calls)
        if found != self._called:
            self._exchange.write(CALLS, found)
            self._called = found

    def _put_beat(self) -> None:
        now = time.monotonic()
        if now >= self._beat + _SECONDS_BETWEEN_BEATS:
            self._exchange.write(ALIVE, _content(self._run.alive))
            self._beat = now


def _newest(snapshots: Path) -> str:
    """The update of the last that is whole; empty without one (tuning/snapshot.py)."""
    return max((file.stem for file in snapshots.glob("[0-9]*.json")), default="")


def _content(file: Path, begin: int = 0, most: int = -1) -> bytes:
    """Empty where there is none."""
    try:
        with file.open("rb") as opened:
            opened.seek(begin)
            return opened.read(most)
    except FileNotFoundError:
        return b""
