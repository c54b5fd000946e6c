"""The server's end of a run whose node shares no directory with it: what it puts up comes into its folder."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp

from caikit_pt.errors import StateUnavailable
from caikit_pt.runtime.executors.exchange import (
    ALIVE,
    ARTIFACT,
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
    pieces,
)
from caikit_pt.runtime.executors.link import Link
from caikit_pt.runtime.run_folder import RunFolder
from caikit_pt.soft_prompt.publication import sync, to_disk

_LOG = logging.getLogger(__name__)
_SECONDS_BETWEEN_ROUNDS, _SECONDS_BETWEEN_LOOKS = 2.0, 0.2
_SNAPSHOTS_KEPT = 2
# Of a job's folder no run needs them.
_LEFT_OUT = ("log.txt", "outcome.json", "lock")


class Inbox(Link):
    """Of the run with `files` of the `job`. `exchange` has the objects of this run, `cache` is where the
    server keeps what was found to be fastest on its nodes.

    Rounds may stop anywhere, and be made by several servers at once: what is done again comes to the same.
    """

    advice = " It has told nothing: has its node the package and the credentials of executor.exchange?"

    def __init__(self, exchange: Exchange, files: RunFolder, job: Path, cache: Path) -> None:
        self._exchange, self._files, self._job, self._cache = exchange, files, job, cache
        self._changed = threading.Condition()
        self._begun = self._done = 0
        self._is_away = self._is_closed = self._is_over = self._hurries = False
        self._has_asked_to_leave = False

    @property
    def is_away(self) -> bool:
        """See Link."""
        return self._is_away

    @property
    def place(self) -> str:
        """See Link."""
        return self._exchange.address.rpartition("/")[0]

    def give(self) -> None:
        """See Link. What the run before has kept is in the folder of this one then, and nowhere else."""
        try:
            self._files.begin()
        except StateUnavailable as error:
            raise OSError(str(error)) from error
        own, job = self._files.directory, self._job
        others = job / own.parent.name

        def is_left_out(path: Path) -> bool:
            is_of_another = path.is_relative_to(others) and not path.is_relative_to(own)
            return is_of_another or (path.parent == job and path.name in _LEFT_OUT)

        files = {f"job/{name}": file for name, file in files_in(job, is_left_out).items()}
        kernels = self._cache / KERNELS_FILE
        beside = {KERNELS_FILE: kernels} if kernels.exists() else {}
        self._exchange.put(GIVEN, {**files, **beside}, own)

    def take_back(self) -> None:
        """See Link. Its folder stays: it has what the run before had kept."""
        self._is_over = True
        with suppress(OSError):
            self._exchange.clear()

    def open(self) -> None:
        """See Link."""
        threading.Thread(target=self._work, name=f"inbox {self._job.name}", daemon=True).start()

    def hurry(self) -> None:
        """See Link."""
        with self._changed:
            self._hurries = True
            self._changed.notify_all()

    def catch_up(self, is_enough: Callable[[], bool]) -> None:
        """See Link. A store that is away is waited for."""
        wanted = self._begun + 1
        self.hurry()
        while self._done < wanted and not is_enough():
            with self._changed:
                self._changed.wait(_SECONDS_BETWEEN_LOOKS)

    def close(self, is_over: bool) -> None:
        """See Link."""
        self._is_closed, self._is_over = True, self._is_over or is_over
        self.hurry()

    def _work(self) -> None:
        while not self._is_closed:
            self._begun += 1
            if self._tried(self.take):
                self._done = self._begun
            self._wait()
        while self._is_over and not self._tried(self._exchange.clear):
            self._wait()

    def _wait(self) -> None:
        with self._changed:
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._hurries, _SECONDS_BETWEEN_ROUNDS)
            self._hurries = False

    def _tried(self, what: Callable[[], object]) -> bool:
        """A store that is away, or a disk that is full, is a reason to try again."""
        was_away = self._is_away
        try:
            what()
            self._is_away = False
        except FileNotFoundError:
            # Something newer has taken its place meanwhile; or the run is over, and its folder is gone.
            return False
        except OSError as error:
            self._is_away = True
            if not was_away:
                _LOG.warning("what %s has put up can't be had now: %s", self._job.name, error)
        return not self._is_away

    def take(self) -> None:
        """One round. What is told comes last: whatever it speaks of is here then. Raises OSError."""
        files, seen = self._files, self._exchange.names()
        if not files.directory.is_dir():
            return
        # It never began, or another server has seen to its end.
        if GIVEN not in seen:
            return
        if not self._has_asked_to_leave and files.leave.read_bytes():
            self._exchange.write(LEAVE, b"leave")
            self._has_asked_to_leave = True
        told = [(begin, self._piece(begin, end, name), name) for begin, end, name in pieces(seen, REPORTS)]
        if KERNELS in seen:
            self._take_kernels()
        for name in seen:
            if name.startswith(f"{SNAPSHOT}-"):
                self._take_snapshot(name)
        if ARTIFACT in seen:
            self._take_artifact()
        for begin, end, name in pieces(seen, LOG):
            with (self._job / "log.txt").open("ab") as log:
                log.write(self._piece(begin, end, name))
            self._exchange.remove([name])
        if ALIVE in seen:
            files.alive.write_bytes(self._exchange.read(ALIVE))
        taken = self._note(told)
        if END in seen:
            files.end.write_bytes(self._exchange.read(END))
        self._exchange.remove(taken)

    def _piece(self, begin: int, end: int, name: str) -> bytes:
        data = self._exchange.read(name)
        if len(data) != end - begin:
            raise OSError(f"{name} isn't whole")
        return data

    def _note(self, told: Collection[tuple[int, bytes, str]]) -> list[str]:
        """At their places in the file, however often; the names of those that are in there."""
        taken = []
        with self._files.reports.open("r+b") as reports:
            for begin, data, name in told:
                # The one before isn't seen yet.
                if begin > os.fstat(reports.fileno()).st_size:
                    break
                os.pwrite(reports.fileno(), data, begin)
                taken.append(name)
            os.fsync(reports.fileno())
        return taken

    def _take_kernels(self) -> None:
        from caikit_pt.base_model.layers.fastest import learn

        learn(self._cache / KERNELS_FILE, self._exchange.read(KERNELS))
        self._exchange.remove([KERNELS])

    def _take_snapshot(self, name: str) -> None:
        """Its manifest last, as who keeps one does."""
        fresh, kept = self._fetched(name), self._files.snapshots
        for file in sorted(fresh.iterdir(), key=lambda file: file.suffix == ".json"):
            os.replace(file, kept / file.name)
        sync(kept)
        fresh.rmdir()
        newest = sorted((file.stem for file in kept.glob("[0-9]*.json")), reverse=True)[:_SNAPSHOTS_KEPT]
        for file in kept.iterdir():
            if file.name.split(".")[0] not in newest:
                file.unlink(missing_ok=True)
        self._exchange.remove([name])

    def _take_artifact(self) -> None:
        fresh = self._fetched(ARTIFACT)
        if self._files.artifact.is_dir():
            shutil.rmtree(fresh)
        else:
            os.replace(fresh, self._files.artifact)
            sync(self._files.directory)
        self._exchange.remove([ARTIFACT])

    def _fetched(self, name: str) -> Path:
        """Its files, in a directory beside their place, and on disk."""
        fresh = Path(mkdtemp(prefix=f".{name}.", dir=self._files.directory))
        try:
            self._exchange.fetch(name, fresh)
            to_disk(fresh)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        return fresh
