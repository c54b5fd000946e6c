"""Nine defects of prompt tuning put together the obvious way, D1 to D9, and why none is in here.

All were seen with peft 0.21.2, transformers 5.23 and accelerate, or stand in peft's tracker. Each
test tells the story of one of them and fails where it comes back.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.row import Row
from caikit_pt.base_model.serving.batch import Prefill
from caikit_pt.errors import InvalidSourcePrompt
from caikit_pt.module import PeftPromptTuning
from caikit_pt.parameters.generation import GenerationParameters
from caikit_pt.parameters.tuning import (
    AVERAGE_SOURCE,
    DECODER,
    ENCODER,
    EXACT_SOURCE_TASK,
    MULTITASK_PROMPT_TUNING,
    ONLY_SOURCE_SHARED,
    PROMPT_TUNING,
    RANDOM,
    SAMPLE_VOCAB,
    TEXT,
)
from caikit_pt.serving.engine import generate
from caikit_pt.serving.request import Request
from caikit_pt.settings import Settings
from caikit_pt.soft_prompt.artifact import TunedPrompt
from caikit_pt.soft_prompt.initializers import initial_prompt
from caikit_pt.soft_prompt.prompt import SoftPrompt
from caikit_pt.soft_prompt.tensor_file import read_tensors
from caikit_pt.soft_prompt.trainable import trainable
from caikit_pt.tuning.plan import TuningPlan, make_plan
from caikit_pt.tuning.tuner import tune

from ..numerics.answers import greedy, sample_rows, soft_prompt, words
from ..numerics.families import Zoo
from ..numerics.tunings import (
    VIRTUAL_TOKENS,
    records,
    small_plan,
    start_of,
    watched_optimizer,
    write_source,
)

MPT: dict[str, Any] = {"tuning_type": MULTITASK_PROMPT_TUNING}
FROM_SOURCE: dict[str, Any] = {**MPT, "prompt_tuning_init_source_model": "source"}
NEW_TOKENS = 14


# ---- D1: a batch changes answers ----


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_d1_a_short_text_beside_a_long_one_gets_its_own_answer(zoo: Zoo, family: str) -> None:
    """peft put its prompt in front of the padding of a causal batch and dropped the positions.

    So `[prompt][pad][text]`, with positions that count the padding: a short row in a batch was a
    prompt far away from its text. Its logits were off by 7.8 (GPT-2) and 11.7 (Llama), and other
    tokens came out; on a real classification task accuracy fell from 0.925 one by one to 0.805 in
    batches of 64. Nobody saw an error (peft#54, #1093). Here the padding stands in front of the
    prompt and positions count what the mask says. `tests/numerics/test_mixed_batches.py` holds this
    for every family, and shows that it would notice peft's way.
    """
    base = zoo.model(family)
    prompt = SoftPrompt({DECODER: soft_prompt(base, VIRTUAL_TOKENS, seed=1)})
    short, long = words(2, seed=2), words(60, seed=3)
    alone = _answers(base, [(prompt, short)])
    together = _answers(base, [(prompt, short), (prompt, long)])
    assert together[0].generated == alone[0].generated
    row = Row(prompt.tensors, base.text.source_ids(short))
    beside = greedy(base, [row, Row(prompt.tensors, base.text.source_ids(long))])[0]
    assert (beside.logits - greedy(base, [row])[0].logits).abs().max() <= 1e-4


# ---- D2: multitask prompt tuning erases what it starts from ----


@pytest.mark.parametrize("method", [RANDOM, TEXT, SAMPLE_VOCAB, ONLY_SOURCE_SHARED])
def test_d2_multitask_prompt_tuning_starts_from_its_initialisation(
    zoo: Zoo, tmp_path: Path, method: str
) -> None:
    """peft drew the task's columns and rows from N(0, 0.02), so their product was almost zero.

    Multiplied by it, every initialisation was erased: rows of a norm of 0.002 where a word has 5.6,
    whatever TEXT or source had been asked for. Here u and v start as ones. The end of a tuning that
    hardly moves is its initialisation, at the size of words.
    """
    base = zoo.model("llama")
    settings = _source(base, tmp_path)
    plan = small_plan(
        base,
        settings,
        **FROM_SOURCE,
        prompt_tuning_init_method=method,
        prompt_tuning_init_text="w1 w2 w3",
        learning_rate=1e-9,
    )
    initial = initial_prompt(start_of(plan, base)).tensors[DECODER]
    tuned = tune(plan, base).prompt.tensors[DECODER]
    torch.testing.assert_close(tuned, initial, rtol=0, atol=1e-6)
    word = float(base.weights.embed(range(len(base.text.tokenizer))).norm(dim=-1).mean())
    assert 0.5 * word < float(tuned.norm(dim=-1).mean()) < 2 * word


# ---- D3: a decoder half that nobody uses ----


@pytest.mark.parametrize("tuning_type", [PROMPT_TUNING, MULTITASK_PROMPT_TUNING])
@pytest.mark.parametrize("parts", [(DECODER,), (ENCODER, DECODER)])
@pytest.mark.parametrize("family", ["t5", "bart"])
def test_d3_each_half_that_is_tuned_learns_and_is_used(
    zoo: Zoo, family: str, parts: tuple[str, ...], tuning_type: str
) -> None:
    """peft's seq2seq prompt had a decoder half by default, and no answer ever depended on it.

    Under multitask prompt tuning it was trained and generate() left it out; under plain prompt
    tuning it didn't even get a gradient, and was saved and shipped all the same. Here each half is
    asked for, trained for itself, and served.
    """
    base = zoo.model(family)
    plan = small_plan(base, tuning_type=tuning_type, output_model_types=parts)
    initial = initial_prompt(start_of(plan, base)).tensors
    with watched_optimizer() as watched:
        tuned = tune(plan, base).prompt.tensors
    assert len(watched.gradients[0]) == sum(map(len, watched.groups))
    assert all(gradient.any() for step in watched.gradients for gradient in step)
    assert set(tuned) == set(parts)
    text = base.text.source_ids(words(5, seed=1))
    answer = greedy(base, [Row(tuned, text)])[0]
    for part in parts:
        assert (tuned[part] - initial[part]).abs().amax(dim=-1).min() > 0, "every row has moved"
        other = {**tuned, part: soft_prompt(base, VIRTUAL_TOKENS, seed=9)}
        assert not torch.allclose(greedy(base, [Row(other, text)])[0].logits, answer.logits, atol=0.1)


@pytest.mark.parametrize("tuning_type", [PROMPT_TUNING, MULTITASK_PROMPT_TUNING])
@pytest.mark.parametrize("family", ["t5", "bart"])
def test_d3_by_default_there_is_no_decoder_half(zoo: Zoo, family: str, tuning_type: str) -> None:
    """The other side of D3: nobody pays for a half that wasn't asked for."""
    base = zoo.model(family)
    tuned = tune(small_plan(base, tuning_type=tuning_type), base)
    assert set(tuned.prompt.tensors) == {ENCODER}


# ---- D4: a tuned prompt that needs its source ----


def test_d4_a_tuned_prompt_outlives_its_source(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """peft read the source prompt again, from an absolute path, whenever it loaded what came of it.

    A multitask prompt worked on the machine that had tuned it and nowhere else, and stopped working
    there when someone tidied up. Here the source is read once, by the tuning.
    """
    base = zoo.model("llama")
    sources = tmp_path / "sources"
    plan = small_plan(base, _source(base, sources), **FROM_SOURCE, prompt_tuning_init_method=AVERAGE_SOURCE)
    tuned = PeftPromptTuning(tune(plan, base), base)
    expected = tuned.run(words(4, seed=1), max_new_tokens=NEW_TOKENS).generated_text
    tuned.save(str(tmp_path / "model"))
    shutil.rmtree(sources)
    (tmp_path / "model").rename(tmp_path / "moved")
    monkeypatch.setattr("caikit_pt.settings.current", lambda: zoo.settings)
    loaded = PeftPromptTuning.load(str(tmp_path / "moved"))
    for part, tensor in tuned.tuned.prompt.tensors.items():
        assert torch.equal(loaded.tuned.prompt.tensors[part], tensor)
    assert loaded.run(words(4, seed=1), max_new_tokens=NEW_TOKENS).generated_text == expected
    for file in (tmp_path / "moved").iterdir():
        assert str(sources).encode() not in file.read_bytes()


# ---- D5: a source that doesn't fit ----


def _tokens(tensors: dict[str, torch.Tensor]) -> None:
    tensors["prompt_embeddings"] = tensors["prompt_embeddings"][:-2]
    tensors["prefix_task_cols"] = tensors["prefix_task_cols"][:, :-2]


def _width(tensors: dict[str, torch.Tensor]) -> None:
    tensors["prompt_embeddings"] = tensors["prompt_embeddings"][:, :-8]
    tensors["prefix_task_rows"] = tensors["prefix_task_rows"][:, :, :-8]


def _ranks(tensors: dict[str, torch.Tensor]) -> None:
    tensors["prefix_task_cols"] = tensors["prefix_task_cols"].repeat(1, 1, 3)


def _tasks(tensors: dict[str, torch.Tensor]) -> None:
    tensors["prefix_task_rows"] = tensors["prefix_task_rows"][:-1]


def _task_tokens(tensors: dict[str, torch.Tensor]) -> None:
    tensors["prefix_task_cols"] = tensors["prefix_task_cols"][:, :-2]


def _half(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["prefix_task_rows"]


@pytest.mark.parametrize(
    ("spoil", "numbers"),
    [
        (_tokens, (VIRTUAL_TOKENS, VIRTUAL_TOKENS - 2)),
        (_width, (32, 24)),
        (_ranks, (VIRTUAL_TOKENS, 32)),
        (_tasks, (VIRTUAL_TOKENS, 32)),
        (_task_tokens, (VIRTUAL_TOKENS, 32)),
        (_half, (VIRTUAL_TOKENS, 32)),
    ],
)
def test_d5_a_source_that_does_not_fit_is_refused_in_words(
    zoo: Zoo,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[dict[str, torch.Tensor]], None],
    numbers: tuple[int, int],
) -> None:
    """A source of another shape came up as torch's "size mismatch for prompt_embeddings ...".

    That was after the base model had been loaded, from inside a constructor, without a word on
    which file or parameter to change. Here the request is refused while it is planned, with the
    field, what it holds and the numbers that would fit.
    """
    with pytest.raises(InvalidSourcePrompt) as refusal:
        _plan_by_name(zoo, monkeypatch, _source(zoo.model("llama"), tmp_path, spoil), AVERAGE_SOURCE)
    text = str(refusal.value)
    assert refusal.value.field.startswith("tuning_config.")
    assert "size mismatch" not in text
    for expected in ("source", *map(str, numbers)):
        assert expected in text


def test_d5_a_task_that_the_source_has_not_got_is_refused_in_words(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same for the number of tasks: peft's answer was an IndexError."""
    settings = _source(zoo.model("llama"), tmp_path)
    with pytest.raises(InvalidSourcePrompt, match="one of the 2 tasks of source"):
        _plan_by_name(zoo, monkeypatch, settings, EXACT_SOURCE_TASK)


# ---- D6: a schedule that counts the wrong steps ----


@pytest.mark.parametrize("tuning_type", [PROMPT_TUNING, MULTITASK_PROMPT_TUNING])
def test_d6_the_learning_rate_ends_at_zero(zoo: Zoo, tuning_type: str) -> None:
    """accelerate's schedule was made for micro-batches and stepped once an update.

    With accumulate_steps 32 it had come down to 0.29 of 0.3 when the training was over: the end of
    the schedule, where a prompt settles, never happened. Here a step of the schedule is an update,
    the last window of an epoch counts although it is smaller, and the rate after the last update
    is exactly zero.
    """
    base = zoo.model("gpt2")
    examples, epochs, updates = 40, 3, 6
    plan = small_plan(
        base,
        examples=examples,
        tuning_type=tuning_type,
        num_epochs=epochs,
        batch_size=1,
        accumulate_steps=32,
        learning_rate=0.3,
    )
    with watched_optimizer() as watched:
        tuned = tune(plan, base)
    assert len(watched.learning_rates) == updates == epochs * math.ceil(examples / 32)
    for group, first in enumerate((0.3, 0.01)[: len(watched.groups)]):
        rates = [rate[group] for rate in watched.learning_rates]
        assert rates == pytest.approx([first * (1 - step / updates) for step in range(updates)])
        assert watched.optimizer.param_groups[group]["lr"] == 0.0
    losses = [entry for entry in tuned.training_logs if entry["name"] == "loss"]
    assert [entry["data"]["step"] for entry in losses] == list(range(1, updates + 1))


def test_d6_an_update_is_the_same_however_it_is_accumulated(zoo: Zoo) -> None:
    """The mean over the target tokens of a window: a smaller last batch weighs what it holds."""
    base = zoo.model("gpt2")
    gradients, losses = [], []
    for batch_size, accumulate_steps in ((5, 1), (1, 32), (2, 32)):
        plan = small_plan(base, num_epochs=1, batch_size=batch_size, accumulate_steps=accumulate_steps)
        with watched_optimizer() as watched:
            tuned = tune(plan, base)
        ((gradient,),) = watched.gradients
        gradients.append(gradient)
        losses.append(tuned.training_logs[-1]["data"]["value"])
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0], rtol=1e-4, atol=1e-6)
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)


# ---- D7: an average that cancels out ----


def test_d7_the_average_of_a_task_and_its_mirror_image_is_the_task(zoo: Zoo, tmp_path: Path) -> None:
    """peft averaged the columns of the source tasks, and their rows, each for themselves.

    u vᵀ is the same matrix as (-u)(-v)ᵀ, and which of the two a training ends with is chance. Two
    tasks that had learned the same could so average to columns and rows of zero, and the target
    started from nothing. Here the tasks' matrices are averaged.
    """
    base = zoo.model("llama")
    generator = torch.Generator().manual_seed(1)
    column = torch.randn(1, VIRTUAL_TOKENS, 1, generator=generator)
    row = torch.randn(1, 1, base.checkpoint.hidden_size, generator=generator)
    shared = soft_prompt(base, VIRTUAL_TOKENS, seed=2)
    settings = write_source(tmp_path, "source", shared, torch.cat([column, -column]), torch.cat([row, -row]))
    plan = small_plan(base, settings, **FROM_SOURCE, prompt_tuning_init_method=AVERAGE_SOURCE)
    initial = initial_prompt(start_of(plan, base))
    expected = shared * (column[0] @ row[0])
    torch.testing.assert_close(initial.tensors[DECODER], expected)
    started = trainable(initial, plan.parameters, torch.Generator()).tensors()[DECODER]
    torch.testing.assert_close(started.detach(), expected)
    assert expected.abs().mean() > 0.05, "and that isn't zero"


# ---- D8: a prompt in half precision ----


@pytest.mark.parametrize("tuning_type", [PROMPT_TUNING, MULTITASK_PROMPT_TUNING])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_d8_a_prompt_over_a_half_precision_model_is_float32(
    zoo: Zoo, dtype: str, tuning_type: str, tmp_path: Path
) -> None:
    """A soft prompt made in the data type of its model diverged, or didn't learn (peft#68).

    bfloat16 has eight bits: an update smaller than a 256th of a number is rounded away, and Adam's
    squared moments lose their small gradients, in float16 to zero, by which it then divides. Here
    prompt, gradients and moments are float32 whatever the model is. The updates of this training
    are so small that the model's own data type hardly sees them in the end; every one is kept.
    """
    base = zoo.model("llama", dtype)
    half = getattr(torch, dtype)
    plan = small_plan(base, tuning_type=tuning_type, learning_rate=2e-6)
    initial = initial_prompt(start_of(plan, base)).tensors[DECODER]
    with watched_optimizer() as watched:
        tuned = PeftPromptTuning(tune(plan, base), base)
    seen = [
        *(tensor for group in watched.groups for tensor in group),
        *(gradient for step in watched.gradients for gradient in step),
        *(moment for moments in watched.moments for moment in moments.values()),
    ]
    assert {tensor.dtype for tensor in seen} == {torch.float32}
    prompt = tuned.tuned.prompt.tensors[DECODER]
    assert prompt.dtype is torch.float32
    assert (prompt != initial).float().mean() > 0.95, "small updates aren't lost"
    assert (prompt.to(half) == initial.to(half)).float().mean() > 0.8, "the model's type would lose them"
    tuned.save(str(tmp_path / "model"))
    assert torch.equal(read_tensors(tmp_path / "model" / "decoder.safetensors")["prompt"], prompt)


# ---- D9: one prompt at a time ----


def test_d9_one_batch_answers_with_several_prompts(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    """peft refuses a batch that mixes prompts, so a server with ten prompts had ten queues or models.

    (peft#759: adapter_names doesn't go with prompt learning.) Here a prompt belongs to a row: two
    tuned models and a text without a prompt are read in one call of one base model.
    """
    base = zoo.model("llama")
    batches: list[int] = []
    prefill = base.serving.prefill

    def spy(rows: list[Row]) -> Prefill:
        batches.append(len(rows))
        return prefill(rows)

    requests = [
        (SoftPrompt(row.prompt), words(3 + index, seed=index))
        for index, row in enumerate(sample_rows(base, (DECODER,)))
    ]
    alone = [_answers(base, [request])[0] for request in requests]
    monkeypatch.setattr(base.serving, "prefill", spy)
    together = _answers(base, requests)
    assert batches == [len(requests)]
    assert [answer.generated for answer in together] == [answer.generated for answer in alone]
    same_text = _answers(base, [(prompt, "w1 w2 w3") for prompt, _ in requests])
    assert len({tuple(answer.generated) for answer in same_text}) == len(requests)


def test_d9_concurrent_requests_keep_their_own_prompts(zoo: Zoo) -> None:
    """peft's active adapter is a field of the one model that all threads share (peft#804, #973).

    A request that came while another was answered went on with the other's prompt. Here nothing of
    a prompt is ever stored in the model.
    """
    base = zoo.model("llama")
    models = [_served(base, seed) for seed in range(4)]
    texts = [words(3 + index, seed=index) for index in range(len(models))]

    def answer(model: PeftPromptTuning, text: str) -> str:
        return str(model.run(text, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS).generated_text)

    alone = [answer(model, text) for model, text in zip(models, texts, strict=True)]
    barrier = Barrier(len(models))

    def at_once(model: PeftPromptTuning, text: str) -> list[str]:
        barrier.wait(timeout=60)
        return [answer(model, text) for _ in range(5)]

    with ThreadPoolExecutor(len(models)) as pool:
        together = list(pool.map(at_once, models, texts))
    assert together == [[text] * 5 for text in alone]
    assert len({answer(model, texts[0]) for model in models}) == len(models)


# ---- helpers ----


def _answers(base: BaseModel, requests: list[tuple[SoftPrompt, str]]) -> list[Request]:
    """The greedy answers to `requests`, all in one call."""
    parameters = GenerationParameters(max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS)
    asked = [Request(base.text, prompt, base.text.source_ids(text), parameters) for prompt, text in requests]
    for _ in generate(base, asked):
        pass
    return asked


def _served(base: BaseModel, seed: int) -> PeftPromptTuning:
    prompt = SoftPrompt({DECODER: soft_prompt(base, 5 + seed, seed)})
    checkpoint = base.checkpoint
    tuned = TunedPrompt(
        prompt=prompt,
        base_model_name=checkpoint.name,
        base_model_fingerprint=checkpoint.fingerprint,
        verbalizer="{{input}}",
    )
    return PeftPromptTuning(tuned, base)


def _source(
    base: BaseModel, root: Path, spoil: Callable[[dict[str, torch.Tensor]], None] | None = None
) -> Settings:
    """A source prompt of two tasks of rank 2, perhaps spoilt."""
    generator = torch.Generator().manual_seed(3)
    tensors = {
        "prompt_embeddings": soft_prompt(base, VIRTUAL_TOKENS, seed=4),
        "prefix_task_cols": torch.randn(2, VIRTUAL_TOKENS, 2, generator=generator),
        "prefix_task_rows": torch.randn(2, 2, base.checkpoint.hidden_size, generator=generator),
    }
    if spoil:
        spoil(tensors)
    root.mkdir(exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, root / "source.safetensors")
    return Settings(source_prompt_base=str(root))


def _plan_by_name(zoo: Zoo, monkeypatch: pytest.MonkeyPatch, settings: Settings, method: str) -> TuningPlan:
    """Plans as a server does, and fails where a weight of the base model is read for it."""

    def load(*_: object) -> BaseModel:
        raise AssertionError("the base model is loaded before the source has been checked")

    monkeypatch.setattr("caikit_pt.base_model.pool.load", load)
    request = {
        **FROM_SOURCE,
        "base_model": zoo.checkpoint("llama").name,
        "num_virtual_tokens": VIRTUAL_TOKENS,
        "prompt_tuning_init_method": method,
        "prompt_tuning_init_task": 2,
    }
    settings = replace(settings, base_models_dir=zoo.settings.base_models_dir)
    return make_plan(request, records(1), None, settings)
