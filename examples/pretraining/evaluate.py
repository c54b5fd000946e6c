"""What a soft prompt makes of the embedded models: `python -m examples.pretraining.evaluate [MODEL ...]`.

Tunes a prompt for each demo task through the product's own code and prints the share of test records
that are answered exactly, without a prompt and with it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence

from caikit_pt import GenerationTrainRecord, load_base_model
from caikit_pt.base_model.model import BaseModel
from caikit_pt.parameters.generation import GenerationParameters
from caikit_pt.serving.engine import generate
from caikit_pt.serving.request import Request
from caikit_pt.settings import Settings
from caikit_pt.soft_prompt.prompt import SoftPrompt
from caikit_pt.tuning.plan import make_plan
from caikit_pt.tuning.tuner import tune
from examples.local_server import ROOT

DATA = ROOT / "examples" / "data"
MODELS = ("tiny-llama", "tiny-t5")
# 320 records: 300 updates of 16.
REQUEST = {"num_virtual_tokens": 20, "num_epochs": 15, "batch_size": 16}


def main(models: Sequence[str]) -> None:
    """Prints a row for each model and task."""
    print("| model | task | base | tuned | CPU s |\n| --- | --- | --: | --: | --: |", flush=True)
    for model in models:
        base = load_base_model(str(ROOT / "examples" / "base_models" / model), "float32", "cpu")
        for directory in sorted(DATA.iterdir()):
            print(row(base, directory.name), flush=True)


def row(base: BaseModel, task: str) -> str:
    """A line of the table."""
    records = [GenerationTrainRecord(**record) for record in read(task, "train")]
    request = {**REQUEST, "base_model": base.checkpoint.name}
    started = time.process_time()
    tuned = tune(make_plan(request, records, None, Settings(), base), base)
    seconds = time.process_time() - started
    shares = [accuracy(base, prompt, task) for prompt in (SoftPrompt({}), tuned.prompt)]
    return f"| {base.checkpoint.name} | {task} | {shares[0]:.2f} | {shares[1]:.2f} | {seconds:.0f} |"


def accuracy(base: BaseModel, prompt: SoftPrompt, task: str) -> float:
    """The share of test records that are answered exactly, greedily, in up to 40 tokens."""
    test = read(task, "test")
    parameters = GenerationParameters(preserve_input_text=False, max_new_tokens=40)
    asked = [Request(base.text, prompt, base.text.source_ids(record["input"]), parameters) for record in test]
    for _ in generate(base, asked):
        pass
    right = [a.text.strip() == record["output"] for a, record in zip(asked, test, strict=True)]
    return sum(right) / len(right)


def read(task: str, split: str) -> list[dict[str, str]]:
    """The records of a task."""
    lines = (DATA / task / f"{split}.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


if __name__ == "__main__":
    main(sys.argv[1:] or MODELS)
