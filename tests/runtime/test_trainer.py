"""What caikit is told of jobs where the store can't be read. Nothing is trained."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aconfig
import pytest
from caikit.core.exceptions.caikit_core_exception import CaikitCoreException, CaikitCoreStatusCode

from caikit_pt.errors import InvalidParameter, InvalidSourcePrompt, StateUnavailable
from caikit_pt.runtime.job import PAUSED, PROMPT, QUEUED, SOURCE
from caikit_pt.runtime.job_store import JobStore
from caikit_pt.runtime.trainer import PromptTuningTrainer
from caikit_pt.settings import Settings

from .jobs import job


def test_a_poll_that_the_store_fails_is_to_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """caikit makes UNAVAILABLE of it, and INTERNAL without a reason of any other error."""
    store, trainer = JobStore(tmp_path), PromptTuningTrainer(aconfig.Config({}), "default")
    store.add(job("one"))
    supervisor = SimpleNamespace(cancel=None, executor=SimpleNamespace(why_not=lambda: ""))
    state: Any = SimpleNamespace(store=store, supervisor=supervisor, stop=lambda: None)
    trainer._state = state
    future = trainer.get_model_future("one")
    assert future.get_info().status.name == "QUEUED"

    def locked(*_: object) -> None:
        raise StateUnavailable("The jobs in state_dir can't be read or written now: locked")

    monkeypatch.setattr(store, "find", locked)
    calls: list[Callable[[], object]] = [
        lambda: trainer.get_model_future("one"),
        future.get_info,
        future.cancel,
    ]
    for call in calls:
        with pytest.raises(CaikitCoreException, match="locked") as error:
            call()
        assert error.value.status_code is CaikitCoreStatusCode.CONNECTION_ERROR


def test_what_nothing_can_be_published_in_place_of_is_refused_when_a_training_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As at its submission, and not when it is trained."""
    store, trainer = JobStore(tmp_path / "state"), PromptTuningTrainer(aconfig.Config({}), "default")
    monkeypatch.setattr("caikit_pt.settings.current", lambda: Settings(source_prompt_base=str(tmp_path)))
    for name, makes in (("prompt", PROMPT), ("source", SOURCE)):
        store.add(replace(job(name), path=str(tmp_path / name), makes=makes))
        store.move(name, PAUSED)
    supervisor = SimpleNamespace(resume=lambda job: store.move(job.id, QUEUED))
    state: Any = SimpleNamespace(store=store, supervisor=supervisor, stop=lambda: None)
    trainer._state = state
    for name, file, error in (
        ("prompt", "prompt/notes.txt", InvalidParameter),
        ("source", "source.safetensors", InvalidSourcePrompt),
    ):
        in_the_way = tmp_path / file
        in_the_way.parent.mkdir(exist_ok=True)
        in_the_way.write_text("somebody's")
        with pytest.raises(error, match=name):
            trainer.resume(name)
        assert (store.find(name) or job("none")).state == PAUSED
        in_the_way.unlink()
        assert trainer.resume(name).state == QUEUED


def test_a_server_of_caikits_own_says_what_is_not_guarded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(PromptTuningTrainer, "start", lambda self: None)
    PromptTuningTrainer(aconfig.Config({}), "default")
    assert not caplog.text
    monkeypatch.setattr("caikit_pt.runtime.trainer._serves", lambda: True)
    PromptTuningTrainer(aconfig.Config({}), "default")
    assert "what caikit_pt guards isn't guarded here" in caplog.text
    told = re.findall(r"settings (.*) and the quotas", caplog.text)[0].split(", ")
    assert set(told) <= {one.name for one in fields(Settings)}
