"""Kernels are found by trials, in a cluster and here apart: made the same, so that bits can be compared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from caikit_pt.base_model.layers.fastest import learn
from caikit_pt.runtime.executors.exchange import KERNELS_FILE
from tests.conftest import SETTINGS
from tests.runtime.servers import Server

# The caches that this process has taken its own choices from, before those of everybody.
_HERE: list[Path] = []


def know_what_is_known_here(server: Server) -> None:
    """Before it starts: its trainings compute as this process does, as far as that has chosen."""
    for directory in (*_HERE, SETTINGS.cache_directory):
        with suppress(FileNotFoundError):
            learn(_cache(server) / KERNELS_FILE, (directory / KERNELS_FILE).read_bytes())


@contextmanager
def as_computed_by(server: Server) -> Iterator[None]:
    """Inside, this process chooses what the trainings of `server` have."""
    _HERE.append(_cache(server))
    now = replace(SETTINGS, cache_dir=str(_cache(server)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("caikit_pt.base_model.layers.fastest._settings", lambda: now)
        yield


def _cache(server: Server) -> Path:
    return server.state / "cache"
