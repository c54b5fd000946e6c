"""A stand-in for the server, and the pages in front of it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest

from tests.web.site import site
from tests.web.studio.standin import HOSTILE, OUTCOME_TEXT, VERDICT, StandIn, curve


@pytest.fixture
def standin() -> Iterator[StandIn]:
    """With a training that goes on, one that is done and one of hostile texts."""
    import caikit_pt  # noqa: F401

    made = StandIn()
    made.add("hostile", model_name=HOSTILE, base_model=HOSTILE, state="ERRORED", reasons=[HOSTILE])
    made.happens("hostile", "warning", text=HOSTILE)
    origins = {"num_epochs": "request", "learning_rate": "preset", "separator": "request", "seed": "default"}
    made.add(
        "done",
        state="COMPLETED",
        path="mood",
        reasons=["The course of the loss: settled."],
        verdict=VERDICT,
        outcome="better",
        outcome_text=OUTCOME_TEXT,
        parameters={
            "num_epochs": 7,
            "learning_rate": 0.25,
            "separator": "\n",
            "seed": 73,
            "origins": origins,
        },
    )
    made.points["done"] = {"loss": curve(2000), "validation_loss": curve(2000)[::200]}
    made.happens(
        "done",
        "validation",
        data={
            "step": 9,
            "epoch": 1,
            "best": True,
            "scores": {"loss": 1, "accuracy": 0.5},
            "answers": 32,
            "records": 60,
        },
    )
    made.add("running", reasons=["8 records are few to learn from"])
    made.points["running"] = {"loss": curve(10)}
    made.start()
    yield made
    made.stop()


@pytest.fixture
def web(standin: StandIn) -> Iterator[httpx2.Client]:
    """A browser without scripts."""
    with site(f"localhost:{standin.port}") as url, httpx2.Client(base_url=url, timeout=30) as client:
        yield client
