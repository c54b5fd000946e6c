"""bench/serving asks everybody the same, and counts right."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from bench.serving.alone import alone, bytes_of_a_step, decode
from bench.serving.checkpoint import Models, make_models, text_of
from bench.serving.contenders import CONTINUOUS, contenders, requests_of
from bench.serving.engines import engines, many_prompts
from bench.serving.load import Load
from bench.serving.measured import Cost, equal_answers, interleaved, middle, percentile
from bench.serving.memory import soak
from bench.serving.prompt_cache import prompt_cache
from bench.serving.table import milliseconds, number, table
from bench.training.shapes import Shape
from caikit_pt.base_model.family import CAUSAL, SEQ2SEQ
from caikit_pt.base_model.pool import load

LLAMA = Shape("toy-llama", CAUSAL.name, 2, 32, 48, 4, 8, 200, kv_heads=2)
T5 = Shape("toy-t5", SEQ2SEQ.name, 2, 32, 48, 4, 8, 200, kv_heads=4)


@pytest.fixture(scope="module", params=[LLAMA, T5], ids=lambda shape: shape.name)
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Models:
    """The model as it is served, and transformers' own."""
    shape: Shape = request.param
    return make_models(shape, tmp_path_factory.mktemp("models") / shape.name, "float32", "cpu")


def load_of(models: Models, requests: int, prompts: int = 1) -> Load:
    words = models.base.weights.model.get_input_embeddings().weight
    return Load(words, requests, shortest=3, longest=9, new=4, virtual_tokens=3, prompts=prompts)


@pytest.mark.filterwarnings("ignore:.*:FutureWarning")
def test_everybody_answers_the_same(models: Models) -> None:
    asked = load_of(models, 9, prompts=2)
    answers = {name: answer(asked) for name, answer in contenders(models).items()}
    (first, *others) = answers.values()
    assert (CONTINUOUS in answers) == models.base.text.continues_text
    assert all(len(answer) == asked.new for answer in first)
    assert all(equal_answers(first, other) == asked.requests for other in others)


def test_both_models_have_the_same_weights_in_memory(models: Models) -> None:
    pairs = zip(models.base.weights.model.parameters(), models.network.parameters(), strict=True)
    assert all(mine.data_ptr() == theirs.data_ptr() for mine, theirs in pairs)
    assert type(models.network.get_output_embeddings()) is torch.nn.Linear  # transformers' own, not ours


def test_the_checkpoint_on_disk_has_them_too(models: Models) -> None:
    loaded = load(models.base.checkpoint, "float32", "cpu")
    pairs = zip(loaded.weights.model.parameters(), models.network.parameters(), strict=True)
    assert all(torch.equal(mine, theirs) for mine, theirs in pairs)


def test_the_tokenizer_gives_back_the_ids(models: Models) -> None:
    ids = load_of(models, 1).texts[0]
    assert models.base.text.source_ids(text_of(ids)) == ids


@pytest.mark.filterwarnings("ignore:.*:FutureWarning")
def test_the_tables_have_a_row_for_everybody(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.serving.alone._COPIED", 2**20)
    loads = [load_of(models, 3), load_of(models, 3, prompts=3)]
    known = contenders(models)
    shown = engines(models, loads, 1, None)
    assert all(shown.count(f"| {name} |") == 2 for name in known)
    assert shown.count("3 of 3") == 2 * len(known)
    assert shown.count("| vLLM | not installed |") == 2 * models.base.text.continues_text
    assert {line.count("|") for line in shown.splitlines()} == {8}
    assert re.fullmatch(r"3 prompts of 3 against one: [+-]\d.*", many_prompts(models.base, loads, 1))
    assert "| caikit_pt |" in alone(models, loads[0], 1)
    assert decode(models.base, loads[0]).count("\n") == 3


def test_prompts_are_kept_within_the_budget(models: Models) -> None:
    base, asked = models.base, load_of(models, 4, prompts=4)
    own = base.serving.prompts
    assert prompt_cache(models, asked, 1).count("\n") == 7
    assert soak(base, asked, 20, 64).count("\n") == 3
    assert base.serving.prompts is own


def test_a_step_reads_neither_embeddings_nor_an_encoder(models: Models) -> None:
    shape = LLAMA if models.base.text.continues_text else T5
    width, inner, heads = shape.width, shape.inner, shape.heads * shape.head_width
    narrow = shape.kv_heads * shape.head_width
    if shape.causal:
        numbers = 2 * width * heads + 2 * width * narrow + 3 * width * inner + 2 * width
    else:  # own attention, and query and output of the encoder's
        numbers = 6 * width * heads + 3 * width * inner + 3 * width
    biases = 0 if shape.causal else 32 * shape.heads
    every = shape.layers * numbers + biases + width + shape.vocabulary * width
    assert bytes_of_a_step(models.network) == 4 * every


def test_requests_are_those_of_the_load(models: Models) -> None:
    asked, again = (load_of(models, 40, prompts=3) for _ in range(2))
    assert {len(text) for text in asked.texts} == set(range(3, 10))
    assert asked == again
    assert asked.texts == again.texts
    rounds = [asked.of_round(number).texts for number in range(-1, 3)]
    assert all(one is other or one != other for one in rounds for other in rounds)
    assert asked.prompt_ids == asked.of_round(1).prompt_ids
    assert asked.prompt(4, "DECODER").tensors["DECODER"] is asked.tensors[1]


def test_every_request_has_its_prompt(models: Models) -> None:
    asked = load_of(models, 5, prompts=2)
    part = models.base.checkpoint.prompt_parts[0]
    tensors = [request.prompt.tensors[part] for request in requests_of(models.base, asked)]
    assert [tensor is asked.tensors[number % 2] for number, tensor in enumerate(tensors)] == [True] * 5


def test_rounds_take_turns_and_the_first_does_not_count() -> None:
    order: list[str] = []

    def make(name: str, number: int) -> Callable[[], None]:
        order.append(f"{number}")
        return partial(order.append, name)

    found = interleaved({"a": partial(make, "a"), "b": partial(make, "b")}, 2)
    assert " ".join(order) == "-1 a -1 b 0 a 0 b 1 a 1 b"
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


def test_numbers_are_short() -> None:
    assert [number(value) for value in (1234.5, 99.94, 9.994)] == ["1,234", "99.9", "9.99"]
    assert milliseconds(0.0123) == "12.3 ms"
    assert table(("a", "b"), [("1", "2")]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_the_weights_are_the_same_each_time(tmp_path: Path) -> None:
    for name in ("one", "other"):
        make_models(LLAMA, tmp_path / name, "float32", "cpu")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "other")]
    assert weights[0] == weights[1]
