"""An object store between the server and the nodes of a cluster, where they share no directory (link.py).

    SERVER/JOB/000003/   of each run, by its number
        given            the job's folder with the order of the run; it is wanted for as long as this is there
        leave            there when it is to end behind a snapshot
        claimed          who keeps it
        kernels          what was found to be fastest on its node
        snapshot-N       its last, of update N
        artifact         what was made
        log-A-B          bytes A to B of what its process wrote
        reports-A-B      bytes A to B of what it tells, in whole lines
        alive, end, calls    as the files of a run are called (run_folder.py)

The server (inbox.py) puts up the first two and removes what it has taken, so that there is never more than
what nobody has taken yet, and where helpers call; a node (outbox.py) puts up the rest. An object is there
whole or not at all, or is seen not to be whole.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote, unquote

GIVEN, LEAVE, CLAIMED, KERNELS, ARTIFACT = "given", "leave", "claimed", "kernels", "artifact"
CALLS = "calls"
SNAPSHOT, LOG, REPORTS, ALIVE, END = "snapshot", "log", "reports", "alive", "end"
# In a directory of caches, and beside the job's folder in what is given (base_model/layers/fastest.py).
KERNELS_FILE = "kernels.json"
# Of fsspec's file systems: a directory appears with what is in it; who is silent is given up soon.
_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "file": {"auto_mkdir": True},
    "s3": {"config_kwargs": {"connect_timeout": 5, "read_timeout": 30, "retries": {"max_attempts": 2}}},
}
_LONGEST_REASON = 300


@dataclass(slots=True)
class _Health:
    trouble: str = ""


class Exchange:
    """The objects below `address`, as fsspec takes it: `s3://BUCKET/PREFIX`. Credentials are those that the
    store's own library finds. Any thread may call.

    Methods raise OSError where the store can't be reached or won't have it; FileNotFoundError, too, where an
    object isn't there.
    """

    def __init__(self, address: str) -> None:
        """Nothing is asked yet. Raises ValueError for what is no address of a store that other machines see,
        ImportError where the store's package isn't there."""
        protocol, _, place = address.partition("://")
        if not place or "::" in address or protocol == "memory":
            raise ValueError("PROTOCOL://PLACE, an object store that all machines see, as s3://BUCKET/PREFIX")
        if "@" in place.partition("/")[0]:
            raise ValueError("an address without credentials, which the store's library finds in its own way")
        from fsspec.core import url_to_fs

        self.address, self._health = address.rstrip("/"), _Health()
        made = url_to_fs(self.address, use_listings_cache=False, **_OPTIONS.get(protocol, {}))
        self._fs: Any = made[0]
        self._root = str(made[1]).rstrip("/")

    @property
    def trouble(self) -> str:
        """Why the store didn't do what it was asked for last, wherever; empty where it did."""
        return self._health.trouble

    def at(self, *names: str) -> Exchange:
        """Those whose names begin with `names`, whatever is in these."""
        below = object.__new__(Exchange)
        below._fs, below._health = self._fs, self._health
        tail = "/".join(quote(name, safe="") for name in names)
        below.address, below._root = f"{self.address}/{tail}", f"{self._root}/{tail}"
        return below

    def of_run(self, fence: int) -> Exchange:
        """Those of one run, below those of its job."""
        return self.at(f"{fence:06}")

    def runs(self) -> set[tuple[str, int]]:
        """The jobs and numbers of the runs that have any, below those of a server."""
        parts = (name.split("/") for name in self.names())
        return {(unquote(one[0]), int(one[1])) for one in parts if len(one) > 2 and one[1].isdecimal()}

    def names(self) -> Collection[str]:
        """Of all that are there, sorted."""
        with self._errors():
            found = self._fs.find(self._root)
        return sorted(str(name)[len(self._root) :].lstrip("/") for name in found)

    def read(self, name: str) -> bytes:
        """What an object holds."""
        with self._errors(FileNotFoundError):
            return bytes(self._fs.cat_file(self._path(name)))

    def write(self, name: str, data: bytes) -> None:
        """An object, in the place of one that is there."""
        with self._errors():
            self._fs.pipe_file(self._path(name), data)

    def claim(self, name: str, owner: str) -> bool:
        """Whether the object is `owner`'s, who is the first or has asked before."""
        with suppress(FileExistsError), self._errors(FileExistsError):
            self._fs.pipe_file(self._path(name), owner.encode(), mode="create")
        return self.read(name) == owner.encode()

    def put(self, name: str, files: Mapping[str, Path], place: Path) -> None:
        """One object of all `files`, by their names in there; it is made in `place`, which is as private."""
        with TemporaryDirectory(prefix=".packed-", dir=place) as directory:
            packed = Path(directory, name)
            with zipfile.ZipFile(packed, "w", strict_timestamps=False) as archive:
                for inside, file in files.items():
                    archive.write(file, inside)
            with self._errors():
                self._fs.put_file(str(packed), self._path(name))

    def fetch(self, name: str, directory: Path) -> None:
        """The files that were put, into `directory`."""
        with TemporaryDirectory(prefix=".packed-", dir=directory) as place:
            packed = Path(place, name)
            with self._errors(FileNotFoundError):
                self._fs.get_file(self._path(name), str(packed))
            try:
                # It says itself whether it is whole, and leads nowhere else.
                with zipfile.ZipFile(packed) as archive:
                    archive.extractall(directory)
            except zipfile.BadZipFile as error:
                raise OSError(f"{name} isn't whole: {error}") from None

    def remove(self, names: Sequence[str]) -> None:
        """Those that are there."""
        for name in names:
            with suppress(FileNotFoundError), self._errors(FileNotFoundError):
                self._fs.rm_file(self._path(name))

    def clear(self) -> None:
        """All of a run. Who puts something up behind that sees that it isn't wanted."""
        self.remove([GIVEN])
        self.remove(list(self.names()))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextmanager
    def _errors(self, *answers: type[OSError]) -> Iterator[None]:
        """Each library has errors of its own. Raises OSError for them; some are `answers`, too."""
        try:
            yield
        except answers:
            raise
        except Exception as error:
            told = f"{type(error).__name__}: {error}".partition("\n")[0]
            self._health.trouble = told[:_LONGEST_REASON]
            raise OSError(self._health.trouble) from error
        self._health.trouble = ""


def pieces(names: Collection[str], kind: str) -> list[tuple[int, int, str]]:
    """Those of a file, by where they begin; and where they end."""
    found = filter(None, (re.fullmatch(rf"{kind}-(\d+)-(\d+)", name) for name in names))
    return sorted((int(piece[1]), int(piece[2]), piece[0]) for piece in found)


def files_in(directory: Path, is_left_out: Callable[[Path], bool] = lambda _: False) -> dict[str, Path]:
    """All below it, by their place in there."""
    found = (path for path in sorted(directory.rglob("*")) if path.is_file() and not is_left_out(path))
    return {path.relative_to(directory).as_posix(): path for path in found}
