"""`make demo`: the product doing its job, from a train request to an answer, in front of you.

Starts the real server, tunes four soft prompts through the train RPC (both tuning types, both
families of models), asks the tuned models over gRPC, and compares them with their untuned base on
records that they weren't trained on. Exits non-zero where a tuned prompt isn't clearly better.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from examples.grpc_client import Client
from examples.local_server import ROOT, server, web_door

DATA = ROOT / "examples" / "data"
CLEARLY_BETTER = 0.2
TEST_RECORDS = 100
VIRTUAL_TOKENS = 20


@dataclass(frozen=True)
class Run:
    """One tuned prompt of the demo."""

    task: str
    base_model: str
    tuning_type: str
    init_method: str
    epochs: int

    @property
    def name(self) -> str:
        """The name that the prompt is trained and served under."""
        return f"{self.task}-{self.base_model}-{self.tuning_type.lower().replace('_', '-')}"


RUNS = (
    Run("ticket_sentiment", "tiny-llama", "PROMPT_TUNING", "RANDOM", 12),
    Run("tweet_complaint", "tiny-llama", "MULTITASK_PROMPT_TUNING", "AVERAGE_SOURCE", 12),
    Run("ticket_politeness", "tiny-t5", "PROMPT_TUNING", "TEXT", 12),
    Run("guestbook_sentiment", "tiny-t5", "MULTITASK_PROMPT_TUNING", "AVERAGE_SOURCE", 12),
)


def main() -> int:
    """Runs the demo; 0 where every tuned prompt is clearly better than its base."""
    logging.disable(logging.WARNING)
    folder = Path(tempfile.mkdtemp(prefix="caikit-pt-demo-"))
    with server(folder / "models") as port:
        client = Client(port)
        rows = [run_one(client, run) for run in RUNS]
        with web_door(port, folder) as address:
            ask_over_http(address, RUNS[0])
    # Where anything failed its log is still there.
    shutil.rmtree(folder)
    print_table(rows)
    worse = [row["task"] for row in rows if row["tuned"] - row["base"] < CLEARLY_BETTER]
    if worse:
        print(f"\nNot clearly better than the base: {', '.join(worse)}")
    return 1 if worse else 0


def run_one(client: Client, run: Run) -> dict[str, Any]:
    """Tunes, asks and compares: a row of the table."""
    print(f"\n{run.name}: training on {DATA.name}/{run.task}/train.jsonl", flush=True)
    started = time.monotonic()
    client.train(
        run.name,
        {
            "base_model": run.base_model,
            "train_stream": {"file": {"filename": f"{run.task}/train.jsonl"}},
            "tuning_type": run.tuning_type,
            "num_epochs": run.epochs,
            "batch_size": 16,
            "tuning_config": {
                "num_virtual_tokens": VIRTUAL_TOKENS,
                "prompt_tuning_init_method": run.init_method,
                "prompt_tuning_init_text": "Say how polite the customer is: polite or rude.",
            },
        },
        on_state=lambda state: print(f"  {time.monotonic() - started:5.1f} s  {state}", flush=True),
    )
    seconds = time.monotonic() - started
    test = records(run.task)[:TEST_RECORDS]
    texts = [record["input"] for record in test]
    tuned = client.predict_all(run.name, texts)
    base = untuned(run.base_model, texts)
    print(f"  asked    {texts[0]}")
    parts = client.stream(run.name, texts[0], preserve_input_text=False)
    print(f"  streamed {' | '.join(part.generated_text for part in parts if part.generated_text)}")
    print(f"  base     {base[0]!r}, expected {test[0]['output']!r}", flush=True)
    return {
        "task": run.task,
        "base model": run.base_model,
        "tuning type": run.tuning_type,
        "base": accuracy(base, test),
        "tuned": accuracy(tuned, test),
        "seconds": seconds,
    }


def ask_over_http(address: str, run: Run) -> None:
    """The same prompt by OpenAI's API, beside which the studio page is."""
    text = records(run.task)[0]["input"]
    body = json.dumps({"model": run.name, "prompt": text}).encode()
    request = Request(f"{address}/v1/completions", body, {"content-type": "application/json"})
    with urlopen(request, timeout=60) as answer:
        (choice,) = json.load(answer)["choices"]
    print(f"\nThe web door at {address} (`make web`), asked by OpenAI's API: {choice['text']!r}", flush=True)


def records(task: str) -> list[dict[str, str]]:
    """The test records of a task; none of them is among its training records."""
    lines = (DATA / task / "test.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def accuracy(answers: Sequence[str], test: Sequence[dict[str, str]]) -> float:
    """The share of answers that are exactly the expected output."""
    right = [answer.strip() == record["output"] for answer, record in zip(answers, test, strict=True)]
    return sum(right) / len(right)


def untuned(base_model: str, texts: Sequence[str]) -> list[str]:
    """Answers of the base model without a soft prompt, through the code that serves."""
    from caikit_pt import load_base_model
    from caikit_pt.parameters.generation import GenerationParameters
    from caikit_pt.serving.engine import generate
    from caikit_pt.serving.request import Request
    from caikit_pt.soft_prompt.prompt import SoftPrompt

    base = load_base_model(str(ROOT / "examples" / "base_models" / base_model))
    parameters = GenerationParameters(preserve_input_text=False)
    asked = [Request(base.text, SoftPrompt({}), base.text.source_ids(text), parameters) for text in texts]
    for _ in generate(base, asked):
        pass
    return [request.text for request in asked]


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """What was measured, a line a run."""
    line = "{:<20} {:<11} {:<24} {:>9} {:>9} {:>8}"
    print()
    print(line.format("task", "base model", "tuning type", "base", "tuned", "seconds"))
    for row in rows:
        print(
            line.format(
                row["task"],
                row["base model"],
                row["tuning type"],
                f"{row['base']:.2f}",
                f"{row['tuned']:.2f}",
                f"{row['seconds']:.1f}",
            )
        )
    print(f"\nAccuracy: exact answers to {TEST_RECORDS} records that weren't trained on.")


if __name__ == "__main__":
    raise SystemExit(main())
