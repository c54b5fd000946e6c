"""From a form to an answer, with a real server behind the pages, and without a script."""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from examples.local_server import ROOT
from tests.runtime.servers import Server
from tests.web.site import site
from tests.web.studio.html import Page
from tests.web.studio.sse import events_of, heard

DATA = ROOT / "examples" / "data" / "ticket_sentiment"
FORM = {"base_model": "tiny-t5", "num_virtual_tokens": "4", "num_epochs": "2", "batch_size": "32"}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    server = Server(tmp_path_factory.mktemp("studio"))
    try:
        server.start().close()
        with site(f"localhost:{server.port}") as url, httpx2.Client(base_url=url, timeout=120) as client:
            yield client
    finally:
        server.close()


def submitted(real: httpx2.Client, name: str, **told: str) -> str:
    """Where the form leads to."""
    id = next(
        one["value"] for one in Page(real.get("/new").text).all("input") if one.get("name") == "training_id"
    )
    answer = real.post(
        "/new",
        data={**FORM, "model_name": name, "training_id": id, **told},
        files={"train_file": ("train.jsonl", (DATA / "train.jsonl").read_bytes())},
    )
    assert answer.status_code == 303, Page(answer.text).text
    return str(answer.headers["location"])


def until(real: httpx2.Client, path: str, state: str) -> Page:
    """The page of a training that is in `state`."""
    deadline = time.monotonic() + 120
    while True:
        page = Page(real.get(path).text)
        if page.by_id("state")["data-state"] == state:
            return page
        assert time.monotonic() < deadline, page.text
        time.sleep(0.2)


def test_journey(real: httpx2.Client) -> None:
    """It is checked, trained, watched, judged, asked, tested and downloaded."""
    lies = {"train_lies": "ticket_sentiment/train.jsonl"}
    refused = real.post("/new", data={**FORM, "model_name": "a/b", **lies})
    assert refused.status_code == 400
    assert "1 to 200 letters" in Page(refused.text).text
    checked = real.post("/studio/check", data={**FORM, **lies}).json()
    assert ["updates", "18"] in checked["tables"][0]["rows"]
    for field, value in (("num_epochs", "99999"), ("learning_rate", "0")):
        answer = real.post("/studio/check", data={**FORM, **lies, field: value})
        assert answer.json()["error"]["field"] == field

    path = submitted(real, "mood")
    with heard(real, f"/studio{path}/events") as events:
        kinds = [kind for kind, _, _ in events]
    assert kinds[-1] == "end"
    page = until(real, path, "COMPLETED")
    page.check()
    assert "32 validation records" in page.text
    assert len(page.all("polyline")) >= 3
    assert real.get(f"{path}/curve.csv").text.splitlines()[18].startswith("18,")

    asked = Page(
        real.post("/prompts/mood/try", data={"text": "My kettle broke.", "max_new_tokens": "4"}).text
    )
    asked.check()
    assert any(word in asked.text for word in ("positive", "negative"))
    with real.stream("POST", "/studio/prompts/mood/try", data={"text": "My kettle broke."}) as answer:
        told = list(events_of(answer.iter_lines()))
    assert {kind for kind, _, _ in told} == {"tuned", "untuned", "done"}
    files = {"test_file": ("t.jsonl", (DATA / "test.jsonl").read_bytes())}
    tested = Page(real.post("/prompts/mood/test", files=files).text)
    tested.check()
    assert "mood on 100 records, as classification" in tested.text
    with tarfile.open(fileobj=io.BytesIO(real.get("/prompts/mood/artifact.tar").content)) as archive:
        assert all(Path(name).parts[0] == "mood" for name in archive.getnames())


def test_pause_resume_cancel(real: httpx2.Client) -> None:
    """By the buttons of the page."""
    path = submitted(real, "long", num_epochs="500")
    until(real, path, "RUNNING")
    assert real.post(f"{path}/pause").status_code == 303
    until(real, path, "PAUSED")
    assert real.post(f"{path}/resume").status_code == 303
    page = until(real, path, "RUNNING")
    page.check()
    assert real.post(f"{path}/cancel").status_code == 303
    until(real, path, "CANCELED")
    again = Page(real.get(f"/new?from={path.rpartition('/')[2]}").text)
    assert again.by_id("f-num_epochs")["value"] == "500"
