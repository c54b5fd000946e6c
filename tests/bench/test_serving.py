"""bench/serving asks everybody the same, and counts right."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from bench.serving.alone import alone
from bench.serving.checkpoint import text_of, write_checkpoint
from bench.serving.contenders import CONTINUOUS, contenders, sequences_of
from bench.serving.engines import engines
from bench.serving.load import Load
from bench.serving.measured import Cost, equal_answers, interleaved, middle, percentile
from bench.serving.memory import soak
from bench.serving.prompt_cache import prompt_cache
from bench.training.shapes import Shape
from caikit_pt.base_model.checkpoint import CAUSAL, SEQ2SEQ, locate
from caikit_pt.base_model.frozen import BaseModel
from caikit_pt.base_model.pool import load
from caikit_pt.settings import Settings

LLAMA = Shape("toy-llama", CAUSAL, 2, 32, 48, 4, 8, 200, kv_heads=2)
T5 = Shape("toy-t5", SEQ2SEQ, 2, 32, 48, 4, 8, 200, kv_heads=4)


@pytest.fixture(scope="module", params=[LLAMA, T5], ids=lambda shape: shape.name)
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The shape, the model as it is served, and transformers' own."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    shape: Shape = request.param
    directory = tmp_path_factory.mktemp("models") / shape.name
    write_checkpoint(shape, directory, "float32")
    auto: Any = AutoModelForCausalLM if shape.causal else AutoModelForSeq2SeqLM
    base = load(locate(shape.name, Settings(base_models_dir=str(directory.parent))), "float32", "cpu")
    return shape, base, auto.from_pretrained(directory).eval()


@pytest.mark.filterwarnings("ignore:.*:FutureWarning")
def test_everybody_answers_the_same(models: tuple[Shape, BaseModel, Any]) -> None:
    shape, base, network = models
    asked = Load(shape, requests=9, shortest=3, longest=9, new=4, virtual_tokens=3, prompts=2)
    known = contenders(base, network)
    answers = {name: answer(asked) for name, answer in known.items() if name != CONTINUOUS}
    (first, *others) = answers.values()
    assert all(len(answer) == asked.new for answer in first)
    assert all(equal_answers(first, other) == asked.requests for other in others)


def test_the_tokenizer_gives_back_the_ids(models: tuple[Shape, BaseModel, Any]) -> None:
    shape, base, _ = models
    ids = Load(shape, requests=1).texts[0]
    assert base.source_ids(text_of(ids)) == ids


@pytest.mark.filterwarnings("ignore:.*:FutureWarning")
def test_the_tables_have_a_row_for_everybody(models: tuple[Shape, BaseModel, Any]) -> None:
    shape, base, network = models
    asked = Load(shape, requests=3, shortest=3, longest=9, new=4, virtual_tokens=3)
    shown = engines(base, network, [asked, Load(shape, 3, 3, 9, 4, 3, prompts=3)], 1, None)
    assert all(shown.count(f"| {name} |") == 2 for name in contenders(base, network))
    assert shown.count("3 of 3") == 2 * len(contenders(base, network)) - 2 * shape.causal
    assert re.search(r"3 prompts of 3 against one: [+-]\d", shown)
    assert "caikit_pt" in alone(base, network, asked, 1)


def test_prompts_are_kept_within_the_budget(models: tuple[Shape, BaseModel, Any]) -> None:
    shape, base, network = models
    asked = Load(shape, requests=2, shortest=3, longest=9, new=4, virtual_tokens=3)
    budget = base.prompts.budget
    assert prompt_cache(base, network, asked, 1).count("\n") == 4
    assert soak(base, asked, 20, 64).count("\n") == 3
    assert (base.prompts.budget, len(base.prompts)) == (budget, 0)


def test_requests_are_those_of_the_load() -> None:
    asked = Load(LLAMA, requests=40, prompts=3)
    assert {len(text) for text in asked.texts} <= set(range(30, 61))
    assert asked.texts == Load(LLAMA, requests=40, prompts=3).texts
    assert asked.prompt(4, "DECODER").tensors["DECODER"] is asked.tensors[1]


def test_every_request_has_its_prompt(models: tuple[Shape, BaseModel, Any]) -> None:
    shape, base, _ = models
    asked = Load(shape, requests=5, prompts=2)
    part = base.checkpoint.prompt_parts[0]
    tensors = [sequence.prompt.tensors[part] for sequence in sequences_of(base, asked)]
    assert [tensor is asked.tensors[number % 2] for number, tensor in enumerate(tensors)] == [True] * 5


def test_rounds_take_turns_and_the_first_does_not_count() -> None:
    order: list[str] = []
    found = interleaved({"a": lambda _: order.append("a"), "b": lambda _: order.append("b")}, 2)
    assert "".join(order) == "ababab"
    assert {name: len(costs) for name, costs in found.items()} == {"a": 2, "b": 2}


def test_medians_and_percentiles() -> None:
    assert middle([Cost(1, 5, "x"), Cost(3, 4, "y"), Cost(2, 6, "z")]) == Cost(2, 5, "z")
    assert [percentile([4.0, 1.0, 3.0, 2.0], share) for share in (0.25, 0.5, 0.51, 0.9, 1.0)] == [
        1,
        2,
        3,
        4,
        4,
    ]
    assert equal_answers([[1, 2], [3]], [(1, 2), (4,)]) == 1


def test_the_checkpoint_is_the_same_each_time(tmp_path: Path) -> None:
    for name in ("one", "other"):
        write_checkpoint(LLAMA, tmp_path / name, "float32")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "other")]
    assert weights[0] == weights[1]
