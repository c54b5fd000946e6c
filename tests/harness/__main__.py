"""lm-evaluation-harness, unmodified, over the web door: its accuracies are those of our own evaluation.

    python -m tests.harness

Tunes a prompt, and has the harness evaluate it by likelihoods (token ids, echoed with their
log-probabilities) and by answers. Exits with 1 where an accuracy is another than that of the server's
Evaluate, or where that is no better than the base model's.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from caikit_pt.client import COMPLETED, TuningClient
from examples.local_server import ROOT, server, web_door
from tests.interop.environment import Environment, prepare

HERE = Path(__file__).parent
RECORDS = ROOT / "examples" / "data" / "guestbook_sentiment"
NAME, BASE = "guestbook-sentiment", "tiny-llama"
TASKS = ("guestbook_sentiment_by_likelihoods", "guestbook_sentiment_by_answers")


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.harness")
    parser.add_argument("--environment", type=Path, default=ROOT / ".venv-harness")
    harness = prepare(parser.parse_args().environment, HERE / "requirements.txt")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        with server(work / "models") as port, TuningClient(f"localhost:{port}") as client:
            own, untuned = _accuracies(client)
            with web_door(port, work) as address:
                found = _measured(harness, f"{address}/models/{NAME}/v1/completions", work)
    for task in TASKS:
        print(f"{task:34} {found[task]:.4f}, by Evaluate {own:.4f}")
    print(f"{'the base model':34} {untuned:.4f}")
    return 0 if own > untuned and all(found[task] == own for task in TASKS) else 1


def _accuracies(client: TuningClient) -> tuple[float, float]:
    """That of a prompt that is there now, and that of its base model."""
    request = {"base_model": BASE, "num_virtual_tokens": 20, "num_epochs": 5}
    training = client.wait(client.tune(NAME, records=RECORDS / "train.jsonl", **request))
    assert training.state == COMPLETED, training.reasons
    report = client.evaluate(NAME, RECORDS / "test.jsonl")
    return tuple(report["scores"][who]["accuracy"]["value"] for who in ("tuned", "untuned"))


def _measured(harness: Environment, address: str, work: Path) -> Mapping[str, float]:
    """Of each task, what the harness says. Its data are read here alone."""
    tasks = work / "tasks"
    tasks.mkdir()
    for task in (HERE / "tasks").glob("*.yaml"):
        text = task.read_text().replace("DATA", json.dumps(str(RECORDS / "test.jsonl")))
        (tasks / task.name).write_text(text)
    arguments = ("--model", "local-completions", "--tasks", ",".join(TASKS), "--include_path", tasks)
    model = f"model={NAME},base_url={address},num_concurrent=8"
    told = harness.run(
        *("-m", "lm_eval", "run", *arguments, "--model_args", model, "--output_path", work / "results"),
        cwd=work,
        HF_HOME=str(work / "hub"),
        HF_HUB_OFFLINE="1",
        HF_DATASETS_OFFLINE="1",
    )
    files = list((work / "results").rglob("results_*.json"))
    assert len(files) == 1, told
    results = json.loads(files[0].read_text())["results"]
    return {
        task: next(v for k, v in results[task].items() if k.endswith(",none") and "stderr" not in k)
        for task in TASKS
    }


if __name__ == "__main__":
    sys.exit(main())
