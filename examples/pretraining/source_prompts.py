"""Makes examples/source_prompts: for each embedded model one source prompt of several tasks.

    python -m examples.pretraining.source_prompts

The source side of multitask prompt tuning (Wang et al. 2023): the tasks share the rows P [P, H], and
each has a rank-one matrix u vᵀ of its own; all are trained together. What is saved has peft's names,
with a manifest beside it. Seeded: the same machine makes the same files.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence

import torch
from safetensors.torch import save as to_bytes

from caikit_pt import GenerationTrainRecord, load_base_model
from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.row import TrainingBatch
from caikit_pt.settings import Settings
from caikit_pt.soft_prompt.initializers import Start, initial_prompt
from caikit_pt.tuning.examples import Examples, make_examples
from caikit_pt.tuning.losses import backward
from caikit_pt.tuning.plan import TuningPlan, make_plan
from examples.local_server import ROOT

BASE_MODELS = ROOT / "examples" / "base_models"
DATA = ROOT / "examples" / "data"
OUT = ROOT / "examples" / "source_prompts"

TASKS = ("ticket_sentiment", "ticket_urgency", "film_subjectivity", "tweet_irony", "device_points")
VIRTUAL_TOKENS = 20
UPDATES = 250
BATCH_SIZE = 16
SHARED_LEARNING_RATE = 0.3
TASK_LEARNING_RATE = 0.04
SEED = 73


def main() -> None:
    """One source prompt for each embedded model."""
    OUT.mkdir(exist_ok=True)
    for directory in sorted(BASE_MODELS.iterdir()):
        base = load_base_model(str(directory), torch_dtype="float32", device="cpu")
        save(base, *train(base))


def train(base: BaseModel) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The shared rows [P, H], the columns [N, P, 1] and the rows [N, 1, H] of the N tasks."""
    generator = torch.Generator().manual_seed(SEED)
    planned = plan(base, TASKS[0])
    part = base.checkpoint.prompt_parts[0]
    start = Start(base, planned.parameters, generator, None)
    shared = initial_prompt(start).tensors[part].clone().requires_grad_()
    columns = torch.ones(len(TASKS), VIRTUAL_TOKENS, 1, requires_grad=True)
    rows = torch.ones(len(TASKS), 1, base.checkpoint.hidden_size, requires_grad=True)
    groups = [
        {"params": [shared], "lr": SHARED_LEARNING_RATE},
        {"params": [columns, rows], "lr": TASK_LEARNING_RATE},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / UPDATES)
    batches = [endless(examples(base, task), generator) for task in TASKS]
    started = time.monotonic()
    for update in range(1, UPDATES + 1):
        optimizer.zero_grad()
        mean = 0.0
        for task, stream in enumerate(batches):
            batch = next(stream)
            prompt = {part: shared * (columns[task] * rows[task])}
            share = 1 / batch.target_tokens / len(TASKS)
            losses = backward(base, [prompt], batch, [share] * len(batch.sources))
            mean += share * losses.sum().item()
        optimizer.step()
        schedule.step()
        if update % 50 == 0:
            left = (time.monotonic() - started) / update * (UPDATES - update)
            print(
                f"{base.checkpoint.name}: {update}/{UPDATES} loss {mean:.3f}, {left:.0f} s to go",
                flush=True,
            )
    return shared.detach(), columns.detach(), rows.detach()


def save(base: BaseModel, shared: torch.Tensor, columns: torch.Tensor, rows: torch.Tensor) -> None:
    """The source prompt of `base`, with its manifest."""
    name = f"{base.checkpoint.name}-messages"
    tensors = {"prompt_embeddings": shared, "prefix_task_cols": columns, "prefix_task_rows": rows}
    (OUT / f"{name}.safetensors").write_bytes(to_bytes(tensors))
    manifest = {
        "base_model": base.checkpoint.name,
        "fingerprint": base.checkpoint.fingerprint,
        "tasks": list(TASKS),
        "default": True,
        "recipe": f"{UPDATES} updates of {BATCH_SIZE} records a task, seed {SEED}",
    }
    (OUT / f"{name}.json").write_text(json.dumps(manifest, indent=2) + "\n")


def plan(base: BaseModel, task: str) -> TuningPlan:
    """What a train request for `task` would resolve to."""
    lines = (DATA / task / "train.jsonl").read_text("utf-8").splitlines()
    records = [GenerationTrainRecord(**json.loads(line)) for line in lines]
    request = {
        "base_model": base.checkpoint.name,
        "num_virtual_tokens": VIRTUAL_TOKENS,
        "prompt_tuning_init_method": "SAMPLE_VOCAB",
        "validation_share": 0.0,
    }
    return make_plan(request, records, None, Settings(base_models_dir=str(BASE_MODELS)), base)


def examples(base: BaseModel, task: str) -> Examples:
    """The training examples of `task`."""
    planned = plan(base, task)
    return make_examples(planned.records, base.text, planned.parameters)


def endless(of: Examples, generator: torch.Generator) -> Iterator[TrainingBatch]:
    """Batches in a new random order each time round."""
    while True:
        order: Sequence[int] = torch.randperm(len(of), generator=generator).tolist()
        for at in range(0, len(order) - BATCH_SIZE + 1, BATCH_SIZE):
            yield of.batch(list(order[at : at + BATCH_SIZE]))


if __name__ == "__main__":
    main()
