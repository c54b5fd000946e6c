"""Which kernel computes a product fastest on this processor: tried, and remembered.

A trial takes milliseconds for each shape of weight and class of rows, once on a processor: what it found is
kept in a file, so that all processes compute alike and a training that goes on in a new one ends with the
same bits.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from caikit_pt import settings
from caikit_pt.base_model.layers import kernels
from caikit_pt.base_model.layers.kernels import ONEDNN, PACKED, TORCH, Kernel
from caikit_pt.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

_LOG = logging.getLogger(__name__)

FORWARD, BACKWARD, ANSWER = "forward", "backward", "answer"
# What each use can choose from; of those as fast as one another the first.
CANDIDATES: dict[str, Sequence[Kernel]] = {
    FORWARD: (TORCH, ONEDNN),
    BACKWARD: (TORCH, ONEDNN),
    # Without a gradient, from weights that may be packed.
    ANSWER: (TORCH, ONEDNN, PACKED),
}
# Rows from which a class begins, and rows that stand for it: one, a few as in steps of an answer, many as in
# texts that are read and in training.
CLASSES = {1: 1, 2: 4, 8: 16, 32: 64, 128: 384}

_FASTER = 0.98  # of the time of the one before it in the list, or it isn't worth the change
_ROUNDS = 9
_LEAST_SECONDS = 1e-4  # that a clock can tell apart
_MOST_PRODUCTS = 2**28  # of a trial; of a larger weight the first rows stand for it
_LEAST_OUT = 256


@dataclass(frozen=True, slots=True)
class Case:
    """What a kernel is chosen for: products of `rows` rows (the first of a class) with W [out, width]."""

    use: str
    rows: int
    dtype: torch.dtype
    out: int
    width: int

    def __str__(self) -> str:
        return f"{self.use} {str(self.dtype).removeprefix('torch.')} {self.out}x{self.width} {self.rows}"


_CHOSEN: dict[Case, Kernel] = {}


def fastest(use: str, weight: Tensor, rows: int) -> Kernel:
    """The kernel for products of `rows` rows with `weight` [O, K]."""
    case = Case(use, class_of(rows), weight.dtype, *weight.shape)
    if case not in _CHOSEN:
        choose({case: weight})
    return _CHOSEN[case]


def class_of(rows: int) -> int:
    """The first number of rows of the class that `rows` is in."""
    return 128 if rows >= 128 else 32 if rows >= 32 else 8 if rows >= 8 else 2 if rows >= 2 else 1


def settle(weights: Iterable[Tensor], uses: Sequence[str], name: str) -> None:
    """Chooses for all products of the model `name` with `weights`, and logs what was chosen."""
    cases = {
        Case(use, rows, weight.dtype, *weight.shape): weight
        for weight in weights
        for use in uses
        for rows in CLASSES
    }
    if cases:
        choose(cases)
        _LOG.info("Products of %s on %s: %s", name, processor(), _told(cases))


def choose(cases: dict[Case, Tensor]) -> None:
    """Chooses for those of `cases` that nothing was chosen for: by the setting, by memory, or by a trial."""
    open_cases = {case: weight for case, weight in cases.items() if case not in _CHOSEN}
    if not open_cases:
        return
    fixed = _settings().linear_kernel
    if fixed:
        # Of oneDNN's two the one that it is better at.
        last = {case: CANDIDATES[case.use][-1] for case in open_cases}
        _CHOSEN.update({case: TORCH if fixed == TORCH else last[case] for case in open_cases})
        return
    with _remembered() as known:
        for case, weight in open_cases.items():
            if known.get(str(case)) not in CANDIDATES[case.use]:
                known[str(case)] = trial(case, weight)
            # Whoever was first in this process is right: a kernel that changes changes the last digits.
            _CHOSEN.setdefault(case, known[str(case)])


def _settings() -> Settings:
    """Those of caikit; without it, where another server uses this room, the defaults."""
    try:
        return settings.current()
    except ModuleNotFoundError:
        return Settings()


def forget() -> None:
    """Nothing has been chosen yet: for tests, and after a change of settings."""
    _CHOSEN.clear()


def trial(case: Case, weight: Tensor) -> Kernel:
    """The fastest kernel by the shortest of some rounds, in which all take turns."""
    seconds = dict.fromkeys(CANDIDATES[case.use], float("inf"))
    with torch.no_grad():
        products = {kernel: _product(case, weight, kernel) for kernel in seconds}
        repeats = {kernel: _repeats(product) for kernel, product in products.items()}
        for _ in range(_ROUNDS):
            for kernel, product in products.items():
                spent = _seconds(product, repeats[kernel]) / repeats[kernel]
                seconds[kernel] = min(seconds[kernel], spent)
    best, *others = seconds
    for kernel in others:
        if seconds[kernel] < _FASTER * seconds[best]:
            best = kernel
    _LOG.debug(
        "%s: %s of %s", case, best, {kernel: f"{1e6 * each:.0f} us" for kernel, each in seconds.items()}
    )
    return best


@cache
def processor() -> str:
    """What tells this processor from others: its name and model."""
    fields = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines():
            name, _, value = line.partition(":")
            fields[name.strip()] = value.strip()
    except OSError:
        pass
    name = fields.get("model name") or platform.processor() or platform.machine()
    numbers = [fields[field] for field in ("cpu family", "model", "stepping") if field in fields]
    return f"{name} {'.'.join(numbers)}".strip()


# ---- helpers ----


def _product(case: Case, weight: Tensor, kernel: Kernel) -> Callable[[], Tensor]:
    rows = CLASSES[case.rows]
    out = min(case.out, max(_LEAST_OUT, _MOST_PRODUCTS // (rows * case.width)))
    part = weight.detach()[:out]
    x = torch.ones(rows, out if case.use == BACKWARD else case.width, dtype=case.dtype)
    if case.use == BACKWARD:
        return lambda: kernels.backward(x, part, kernel)
    laid_out = kernels.pack(part) if kernel == PACKED else part
    return lambda: kernels.forward(x, laid_out, None, kernel)


def _repeats(product: Callable[[], Tensor]) -> int:
    product()  # code is built, memory is taken
    return max(1, round(_LEAST_SECONDS / max(_seconds(product, 1), 1e-9)))


def _seconds(product: Callable[[], Tensor], repeats: int) -> float:
    began = time.perf_counter()
    for _ in range(repeats):
        product()
    return time.perf_counter() - began


def _told(cases: Iterable[Case]) -> str:
    """By use and rows how many shapes have each kernel: `forward torch 4; answer torch 4 (1-7 rows), ...`."""
    counts: dict[str, dict[int, Counter[Kernel]]] = {}
    for case in cases:
        counts.setdefault(case.use, {}).setdefault(case.rows, Counter())[_CHOSEN[case]] += 1
    return "; ".join(f"{use} {_told_by_rows(counted)}" for use, counted in counts.items())


def _told_by_rows(counted: dict[int, Counter[Kernel]]) -> str:
    parts = [
        (" ".join(f"{kernel} {count}" for kernel, count in sorted(counted[rows].items())), rows)
        for rows in sorted(counted)
    ]
    changes = [part for part, before in zip(parts, [("", 0), *parts], strict=False) if part[0] != before[0]]
    if len(changes) == 1:
        return changes[0][0]
    ends = [f"{rows - 1}" for _, rows in changes[1:]] + [""]
    return ", ".join(f"{told} ({rows}-{end} rows)" for (told, rows), end in zip(changes, ends, strict=True))


def _file() -> Path:
    return _settings().cache_directory / "kernels.json"


def _here() -> str:
    return f"{processor()}, torch {torch.__version__}, {torch.get_num_threads()} threads"


@contextmanager
def _remembered() -> Iterator[dict[str, Kernel]]:
    """What is known of this processor, to be read and added to by one process at a time.

    Where the file can't be kept, what is found is for this process alone.
    """
    try:
        file = _file()
        lock = _locked(file)
    # No right to write, a network disk without locks, a user without a home.
    except (OSError, RuntimeError) as error:
        _warn(f"cache_dir can't be written ({error}): each process tries its kernels anew")
        yield {}
        return
    try:
        everything = _read(file)
        known = everything.setdefault(_here(), {})
        before = dict(known)
        yield known
        if known != before:
            _write(file, everything)
    finally:
        os.close(lock)


def kernels_here() -> str:
    """What is known of processors like this one, for `learn_from` on another machine; empty: nothing."""
    try:
        everything = _read(_file())
    except (OSError, RuntimeError):
        return ""
    known = everything.get(_here())
    return json.dumps({_here(): known}) if known else ""


def learn_from(told: str) -> None:
    """What another machine knew (`kernels_here`); what is known here stays. Where nothing can be kept it is
    forgotten."""
    if told:
        try:
            learn(_file(), told.encode())
        except (OSError, RuntimeError) as error:
            _warn(f"cache_dir can't be written ({error}): each process tries its kernels anew")


def learn(file: Path, found: bytes) -> None:
    """Adds what another machine has `found`, as its file holds it, to what `file` has; what is known here
    stays. Raises OSError."""
    lock = _locked(file)
    try:
        everything = _read(file)
        for where, known in _parsed(found).items():
            everything[where] = {**known, **everything.get(where, {})}
        _write(file, everything)
    finally:
        os.close(lock)


def _locked(file: Path) -> int:
    """Until it is closed. Raises OSError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(file.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


@cache
def _warn(text: str) -> None:
    """Once is enough."""
    _LOG.warning(text)


def _read(file: Path) -> dict[str, dict[str, Kernel]]:
    try:
        return _parsed(file.read_bytes())
    except OSError:  # there is none
        return {}


def _parsed(content: bytes) -> dict[str, dict[str, Kernel]]:
    """Nothing where somebody spoiled it: what it knew is tried again."""
    try:
        read = json.loads(content)
    except ValueError:
        return {}
    whole = isinstance(read, dict) and all(isinstance(known, dict) for known in read.values())
    return read if whole else {}


def _write(file: Path, everything: dict[str, dict[str, Kernel]]) -> None:
    fresh = file.with_suffix(f".{os.getpid()}")
    try:
        fresh.write_text(json.dumps(everything, indent=1, sort_keys=True))
        fresh.replace(file)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        _LOG.warning(
            "%s can't be written (%s): the next process tries its kernels anew", file, error.strerror
        )
