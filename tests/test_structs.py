"""docs/structs.md against what a server really sends."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from caikit_pt.base_model.model import BaseModel
from caikit_pt.client import TuningClient
from examples.local_server import ROOT
from tests.conftest import LLAMA
from tests.perturbation import SEED
from tests.runtime.servers import QUICK, RECORDS, Server

PAGE = (ROOT / "docs" / "structs.md").read_text("utf-8")
OPERATIONS = (ROOT / "docs" / "operations.md").read_text("utf-8")


def documented(heading: str) -> tuple[set[str], set[str]]:
    """The fields of a section that are always there, and those that are sometimes."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (\w*) ?\|", section, re.MULTILINE)
    return {name for name, when in rows if not when}, {name for name, when in rows if when}


def is_as_documented(found: dict[str, Any], heading: str) -> None:
    always, sometimes = documented(heading)
    assert always
    assert always <= set(found) <= always | sometimes, heading


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("structs"))
    made.start().close()
    yield made
    made.close()


@pytest.mark.parametrize("validates", [True, False])
def test_a_training(server: Server, validates: bool) -> None:
    with TuningClient(f"localhost:{server.port}") as client:
        validation = {"validation_records": RECORDS} if validates else {}
        request = {"base_model": LLAMA, "records": RECORDS, "seed": SEED, **QUICK, **validation}
        id = client.tune(f"told-{validates}", **request)
        events = list(client.watch(id))
        training = client.training(id)
        prompt = client.prompt(f"told-{validates}")
    assert training.verdict == prompt.verdict == next(one.data for one in events if one.kind == "verdict")
    assert ("validation" in training.verdict) == validates
    is_as_documented(dict(training.verdict), "`verdict` of a tuned prompt")
    is_as_documented(dict(training.verdict["outcome"]), "`outcome`")
    is_as_documented(dict(training.points), "`points`")
    origins = training.parameters["origins"]
    assert set(origins) <= set(training.parameters)
    rows = dict(re.findall(r"^\| `(\w+)` \| (`.*) \|$", PAGE.partition("\n## `data`")[2], re.MULTILINE))
    for kind in ("progress", "checkpoint", "artifact", *(["validation"] if validates else [])):
        data = [one.data for one in events if one.kind == kind]
        named = set(re.findall(r"`(\w+)`", rows[kind]))
        assert all(set(one) == named for one in data), kind


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_a_source(server: Server, share: float) -> None:
    with TuningClient(f"localhost:{server.port}") as client:
        tasks = {"first": RECORDS, "second": RECORDS}
        parameters: dict[str, Any] = {**QUICK, "validation_share": share}
        training = client.wait(client.train_source(f"told-{share}", LLAMA, tasks, **parameters))
    assert training.state == "COMPLETED"
    assert ("validation_loss" in training.verdict) == bool(share)
    is_as_documented(dict(training.verdict), "`verdict` of a source prompt")
    assert {"tasks", "default", "origins"} <= set(training.parameters)
    assert training.outcome == training.outcome_text == ""


def test_a_copy_of_the_state_is_made_while_it_is_written(tmp_path: Path) -> None:
    """By the lines of docs/operations.md: what the log of the database has is in the copy."""
    state, backup = tmp_path / "state", tmp_path / "backup"
    state.mkdir()
    backup.mkdir()
    with closing(sqlite3.connect(state / "jobs.sqlite3")) as live:
        live.execute("PRAGMA journal_mode=WAL")
        live.execute("CREATE TABLE some (id INTEGER)")
        live.executemany("INSERT INTO some VALUES (?)", [(number,) for number in range(1000)])
        live.commit()
        live.execute("INSERT INTO some VALUES (-1)")  # under way
        (code,) = re.findall(r"```python\n(.*?)```", OPERATIONS, re.DOTALL)
        exec(code, {"state_dir": state, "backup": backup})
    with closing(sqlite3.connect(backup / "jobs.sqlite3")) as copy:
        assert copy.execute("SELECT count(*), min(id) FROM some").fetchone() == (1000, 0)


def test_what_a_machine_holds(llama: BaseModel) -> None:
    """The formulas of docs/operations.md, on a model that is there, and the numbers of its example."""
    config = llama.weights.model.config
    head = config.hidden_size // config.num_attention_heads
    position = 2 * config.num_hidden_layers * config.num_key_value_heads * head * 4
    assert llama.serving.position_bytes == position
    of_example = 2 * 32 * 8 * 128 * 2
    assert f"{of_example:,} bytes, a request of 500 tokens with an answer of 100 then" in OPERATIONS
    assert f"{600 * of_example / 1e6:.1f} MB" in OPERATIONS
    assert f"A prompt of 100 virtual tokens is {100 * 4096 * 4 / 1e6:.2f} MB" in OPERATIONS
    assert f"its keys and values {100 * of_example / 1e6:.1f} MB" in OPERATIONS
