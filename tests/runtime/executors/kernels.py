"""Trainings in a cluster and here compared bit for bit: kernels are found by trials, in each place apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from caikit_pt.base_model.layers.fastest import learn
from caikit_pt.base_model.model import BaseModel
from caikit_pt.runtime.executors.exchange import KERNELS_FILE
from caikit_pt.tuning.crew import Crew
from caikit_pt.tuning.plan import make_plan
from caikit_pt.tuning.tuner import tune
from tests.conftest import SETTINGS
from tests.runtime.servers import RECORDS, Server
from tests.runtime.test_jobs import tuned
from tests.tuning.crews import tuned_by

# The caches that this process has taken its own choices from, before those of everybody.
_HERE: list[Path] = []


def know_what_is_known_here(server: Server) -> None:
    """Before it starts: its trainings compute as this process does, as far as that has chosen."""
    for directory in (*_HERE, SETTINGS.cache_directory):
        with suppress(FileNotFoundError):
            learn(_cache(server) / KERNELS_FILE, (directory / KERNELS_FILE).read_bytes())


def check_bits(
    server: Server, name: str, base: BaseModel, request: Mapping[str, Any], workers: int = 1
) -> None:
    """Its prompt and its curve are those of a training that nothing has happened to, of so many shares."""
    plan = make_plan({**request, "base_model": base.checkpoint.name}, RECORDS, None, SETTINGS)
    with _as_computed_by(server):
        alone = tune(plan, base) if workers == 1 else tuned_by(Crew(workers), plan, base)
    prompt, curve = tuned(server.models, name)
    (expected,) = alone.prompt.tensors.values()
    assert torch.equal(prompt.view(torch.int32), expected.view(torch.int32))
    assert curve == [one["data"]["value"] for one in alone.training_logs if one["name"] == "loss"]


@contextmanager
def _as_computed_by(server: Server) -> Iterator[None]:
    """Inside, this process chooses what the trainings of `server` have."""
    _HERE.append(_cache(server))
    now = replace(SETTINGS, cache_dir=str(_cache(server)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("caikit_pt.base_model.layers.fastest._settings", lambda: now)
        yield


def _cache(server: Server) -> Path:
    return server.state / "cache"
