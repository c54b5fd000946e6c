"""What a caller takes with him."""

from __future__ import annotations

import csv
import json
import threading

import httpx2

from tests.web.studio.standin import HOSTILE, StandIn


def test_archive(web: httpx2.Client) -> None:
    """As it comes, under a name."""
    answer = web.get("/prompts/mood/artifact.tar")
    assert answer.content == b"first second"
    assert 'filename="mood.tar"' in answer.headers["content-disposition"]


def test_curves(web: httpx2.Client) -> None:
    """All points of both losses as CSV, and a picture."""
    rows = list(csv.DictReader(web.get("/trainings/done/curve.csv").text.splitlines()))
    assert len(rows) == 2000
    assert float(rows[0]["loss"]) == float(rows[0]["validation_loss"])
    assert rows[1]["validation_loss"] == ""
    assert web.get("/trainings/done/curve.png").content.startswith(b"\x89PNG")


def test_hostile_names(web: httpx2.Client, standin: StandIn) -> None:
    """No name leaves its header, and none is taken for mathematics."""
    for name in (HOSTILE, 'a"\r\nset-cookie: x', "$\\frac{", "ein Brötchen"):
        standin.add(f"id-{len(standin.trainings)}", model_name=name, state="ERRORED")
        id = standin.trainings[0]["training_id"]
        for kind in ("curve.csv", "log.jsonl", *(["curve.png"] if name.isprintable() else [])):
            answer = web.get(f"/trainings/{id}/{kind}")
            assert answer.status_code == 200
            assert "set-cookie" not in answer.headers
            assert answer.headers["content-disposition"].isascii()


def test_the_log_of_one_that_always_tells_ends(web: httpx2.Client, standin: StandIn) -> None:
    """With the event that was the last when it was asked for."""
    done = threading.Event()

    def tell() -> None:
        while not done.wait(0.02):
            standin.happens("running", "warning", text="more")

    telling = threading.Thread(target=tell)
    telling.start()
    try:
        lines = web.get("/trainings/running/log.jsonl", timeout=20).text.splitlines()
    finally:
        done.set()
        telling.join()
    assert len(lines) > 2


def test_log(web: httpx2.Client) -> None:
    """Of a training that is done, and of one that goes on, what there is."""
    for id, count in (("done", 3), ("running", 2)):
        lines = web.get(f"/trainings/{id}/log.jsonl").text.splitlines()
        assert [json.loads(line)["number"] for line in lines] == list(range(1, count + 1))
