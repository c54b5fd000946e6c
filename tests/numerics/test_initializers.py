"""What a soft prompt starts from, at which size, and that only its seed decides."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import MultitaskPromptTuningConfig, PromptTuningConfig, TaskType
from peft.tuners.multitask_prompt_tuning import MultitaskPromptEmbedding, MultitaskPromptTuningInit
from peft.tuners.prompt_tuning import PromptEmbedding, PromptTuningInit

from caikit_pt.base_model.model import BaseModel
from caikit_pt.parameters.tuning import (
    AVERAGE_SOURCE,
    AVERAGE_SOURCE_TASKS,
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
from caikit_pt.settings import Settings
from caikit_pt.soft_prompt.artifact import write
from caikit_pt.soft_prompt.initializers import Start, initial_prompt
from caikit_pt.soft_prompt.tensor_file import read_tensors
from caikit_pt.soft_prompt.trainable import trainable
from caikit_pt.tuning.plan import TuningPlan
from caikit_pt.tuning.tuner import tune

from .answers import soft_prompt
from .families import FAMILIES, VOCABULARY, Zoo, make_tokenizer
from .tunings import VIRTUAL_TOKENS, small_plan, start_of, watched_optimizer, write_source

INIT_TEXT = "w3 w1 w4 w1 w5"
TASKS = 3
every_family = pytest.mark.parametrize("family", FAMILIES)


# ---- RANDOM ----


@every_family
def test_random_rows_are_spread_as_word_embeddings_are(zoo: Zoo, family: str) -> None:
    """Also where the embedding layer multiplies its weights (Gemma, some BARTs): by √H here."""
    base = zoo.model(family)
    rows = _initial(base, RANDOM, tokens=4096)
    words = base.weights.model.get_input_embeddings()(torch.arange(len(VOCABULARY)))
    assert rows.std(dim=0) == pytest.approx(words.std(dim=0), rel=0.06)
    assert rows.mean(dim=0) == pytest.approx(words.mean(dim=0), abs=0.1 * float(words.std()))


def test_some_families_scale_their_embeddings(zoo: Zoo) -> None:
    """So that the test above would notice a prompt of the size of the bare weights."""
    for family, scale in {"llama": 1, "gemma": 32**0.5, "gemma3": 32**0.5, "bart_scaled": 32**0.5}.items():
        embedding = zoo.model(family).weights.model.get_input_embeddings()
        ratio = embedding(torch.tensor([5])).norm() / embedding.weight[5].norm()
        assert float(ratio) == pytest.approx(scale, rel=1e-5)


# ---- TEXT ----


@every_family
@pytest.mark.parametrize("tokens", [2, 6, 20])
def test_text_is_cut_and_repeated_as_peft_does(zoo: Zoo, family: str, tokens: int) -> None:
    """The numbers of peft's own PromptEmbedding, to the last bit."""
    base = zoo.model(family)
    reference = PromptEmbedding(
        PromptTuningConfig(
            task_type=TaskType.CAUSAL_LM,
            prompt_tuning_init=PromptTuningInit.TEXT,
            prompt_tuning_init_text=INIT_TEXT,
            tokenizer_name_or_path=str(base.checkpoint.directory),
            num_virtual_tokens=tokens,
            num_transformer_submodules=1,
            token_dim=base.checkpoint.hidden_size,
        ),
        base.weights.model.get_input_embeddings(),
    )
    ours = _initial(base, TEXT, tokens, prompt_tuning_init_text=INIT_TEXT)
    assert torch.equal(ours, reference.embedding.weight.detach())


# ---- SAMPLE_VOCAB ----


@every_family
def test_sampled_rows_are_words_and_never_special_tokens(zoo: Zoo, family: str) -> None:
    """Nor one of the rows of the embedding that no token has. None twice while there are others."""
    base = zoo.model(family)
    ordinary = set(VOCABULARY.values()) - set(base.text.tokenizer.all_special_ids)
    picked = _ids_of(_initial(base, SAMPLE_VOCAB, tokens=len(ordinary)), base)
    assert sorted(picked) == sorted(ordinary)
    assert set(_ids_of(_initial(base, SAMPLE_VOCAB, tokens=1000), base)) == ordinary


def test_reserved_tokens_are_special_too(zoo: Zoo) -> None:
    """Llama 3 has 256 tokens that are special and have no role: `all_special_ids` leaves them out.

    Nobody has trained their embeddings.
    """
    base, tokenizer = zoo.model("gpt2"), make_tokenizer("$A")
    tokenizer.backend_tokenizer.add_special_tokens(["<|reserved_special_token_0|>"])
    reserved = len(tokenizer) - 1
    assert tokenizer.added_tokens_decoder[reserved].special
    other = BaseModel(base.checkpoint, base.weights, tokenizer)
    assert reserved not in _ids_of(_initial(other, SAMPLE_VOCAB, tokens=1000), other)


# ---- source prompts ----


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("family", ["llama", "t5"])
def test_source_prompts(zoo: Zoo, tmp_path: Path, family: str, rank: int) -> None:
    base = zoo.model(family)
    shared, columns, rows = _source(base, rank)
    settings = write_source(tmp_path, "source", shared, columns, rows)
    matrices = torch.stack([column @ row for column, row in zip(columns, rows, strict=True)])
    expected = {
        ONLY_SOURCE_SHARED: shared,
        AVERAGE_SOURCE: shared * matrices.mean(dim=0),
        AVERAGE_SOURCE_TASKS: shared * matrices.mean(dim=0),
        EXACT_SOURCE_TASK: shared * matrices[2],
    }
    for method, prompt in expected.items():
        initial = _from_source(base, settings, method)
        torch.testing.assert_close(initial, prompt, rtol=1e-6, atol=1e-6)
        assert initial.dtype is torch.float32


def test_an_exact_source_task_is_the_prompt_that_peft_makes_of_it(zoo: Zoo, tmp_path: Path) -> None:
    base = zoo.model("llama")
    settings = write_source(tmp_path, "source", *_source(base, rank=2))
    reference = MultitaskPromptEmbedding(
        MultitaskPromptTuningConfig(
            task_type=TaskType.CAUSAL_LM,
            prompt_tuning_init=MultitaskPromptTuningInit.EXACT_SOURCE_TASK,
            prompt_tuning_init_task=2,
            prompt_tuning_init_state_dict_path=str(tmp_path / "source" / "adapter_model.safetensors"),
            num_virtual_tokens=VIRTUAL_TOKENS,
            num_transformer_submodules=1,
            num_tasks=1,
            num_ranks=2,
            token_dim=base.checkpoint.hidden_size,
        ),
        base.weights.model.get_input_embeddings(),
    )
    with torch.no_grad():
        expected = reference(torch.arange(VIRTUAL_TOKENS)[None], torch.tensor([0]))[0]
    torch.testing.assert_close(_from_source(base, settings, EXACT_SOURCE_TASK), expected)


@pytest.mark.parametrize("submodules", [1, 2])
def test_each_side_starts_from_its_own_rows_of_a_source(zoo: Zoo, tmp_path: Path, submodules: int) -> None:
    """peft makes sources of two sides for encoder-decoder models. From one of one side both take that."""
    base = zoo.model("t5")
    shared, columns, rows = _source(base, rank=2)
    sides = [(shared, columns), (-2 * shared, 3 * columns)][:submodules]
    both = torch.cat([side[0] for side in sides]), torch.cat([side[1] for side in sides], dim=1)
    settings = write_source(tmp_path, "source", *both, rows)
    told = {"num_transformer_submodules": submodules, "num_virtual_tokens": VIRTUAL_TOKENS}
    (tmp_path / "source" / "adapter_config.json").write_text(json.dumps(told))
    plan = _source_plan(base, settings, EXACT_SOURCE_TASK, output_model_types=(ENCODER, DECODER))
    tensors = initial_prompt(start_of(plan, base)).tensors
    for part, (own, task_columns) in zip((ENCODER, DECODER), (sides[0], sides[-1]), strict=True):
        torch.testing.assert_close(tensors[part], own * (task_columns[2] @ rows[2]))


# ---- seeds and sides ----


@pytest.mark.parametrize("method", [RANDOM, SAMPLE_VOCAB])
def test_the_seed_alone_decides(zoo: Zoo, method: str) -> None:
    """Nobody else's random numbers are used up, and nobody else's change the prompt."""
    base = zoo.model("llama")
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = _initial(base, method, seed=11)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(_initial(base, method, seed=11), one)
    assert not torch.equal(_initial(base, method, seed=12), one)


@pytest.mark.parametrize("tuning_type", [PROMPT_TUNING, MULTITASK_PROMPT_TUNING])
def test_a_tuning_is_repeated_by_its_seed(zoo: Zoo, tuning_type: str) -> None:
    base = zoo.model("t5")
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one, again, other = (
        tune(small_plan(base, tuning_type=tuning_type, seed=seed), base).prompt.tensors[ENCODER]
        for seed in (11, 11, 12)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_each_side_starts_from_rows_of_its_own(zoo: Zoo) -> None:
    base = zoo.model("t5")
    for method in (RANDOM, SAMPLE_VOCAB):
        plan = small_plan(base, prompt_tuning_init_method=method, output_model_types=(ENCODER, DECODER))
        tensors = initial_prompt(start_of(plan, base)).tensors
        assert not torch.equal(tensors[ENCODER], tensors[DECODER])


# ---- multitask prompt tuning ----


@pytest.mark.parametrize("family", ["llama", "bart"])
def test_a_product_starts_as_its_initialisation(zoo: Zoo, family: str, tmp_path: Path) -> None:
    for plan in _multitask_plans(zoo.model(family), tmp_path):
        initial = initial_prompt(start_of(plan, zoo.model(family)))
        product = trainable(initial, plan.parameters, torch.Generator()).tensors()
        assert product.keys() == initial.tensors.keys()
        for part, tensor in initial.tensors.items():
            assert torch.equal(product[part], tensor), plan.parameters.prompt_tuning_init_method


@pytest.mark.parametrize(("asked", "expected"), [({}, 0.001), ({"task_learning_rate": 0.04}, 0.04)])
def test_task_vectors_have_a_learning_rate_of_their_own(
    zoo: Zoo, asked: dict[str, Any], expected: float
) -> None:
    """Adam's first step is as long as the learning rate, so that it can be read off the numbers."""
    base = zoo.model("llama")
    plan = small_plan(
        base, tuning_type=MULTITASK_PROMPT_TUNING, learning_rate=0.03, num_epochs=1, batch_size=5, **asked
    )
    with watched_optimizer() as watched:
        tune(plan, base)
    assert watched.learning_rates == [[0.03, pytest.approx(expected)]]
    assert watched.distances() == pytest.approx([0.03, expected], rel=1e-3)


def test_while_it_trains_it_is_rows_times_u_v_and_then_a_plain_prompt(zoo: Zoo, tmp_path: Path) -> None:
    base = zoo.model("t5")
    plan = small_plan(
        base, tuning_type=MULTITASK_PROMPT_TUNING, output_model_types=(ENCODER, DECODER), num_epochs=3
    )
    with watched_optimizer() as watched:
        tuned = tune(plan, base)
    (encoder, decoder), task = watched.groups
    width = base.checkpoint.hidden_size
    assert [tuple(tensor.shape) for tensor in task] == [(VIRTUAL_TOKENS, 1)] * 2 + [(1, width)] * 2
    products = {ENCODER: encoder * (task[0] @ task[2]), DECODER: decoder * (task[1] @ task[3])}
    for part, product in products.items():
        tensor = tuned.prompt.tensors[part]
        torch.testing.assert_close(tensor, product.detach(), rtol=1e-6, atol=0)
        assert not tensor.requires_grad
    assert all(distance > 0 for distance in watched.distances())
    written = write(tuned, tmp_path)
    for part in products:
        (name,) = read_tensors(tmp_path / written[part])
        assert name == "prompt"


# ---- helpers ----


def _initial(base: BaseModel, method: str, tokens: int = VIRTUAL_TOKENS, **request: Any) -> torch.Tensor:
    """The rows that `method` starts from; `tokens` may be more than the context holds."""
    plan = small_plan(base, prompt_tuning_init_method=method, **request)
    start = start_of(plan, base)
    return _only(replace(start, parameters=replace(plan.parameters, num_virtual_tokens=tokens)))


def _from_source(base: BaseModel, settings: Settings, method: str) -> torch.Tensor:
    return _only(start_of(_source_plan(base, settings, method), base))


def _source_plan(base: BaseModel, settings: Settings, method: str, **request: Any) -> TuningPlan:
    return small_plan(
        base,
        settings,
        tuning_type=MULTITASK_PROMPT_TUNING,
        prompt_tuning_init_method=method,
        prompt_tuning_init_source_model="source",
        prompt_tuning_init_task=2,
        **request,
    )


def _only(start: Start) -> torch.Tensor:
    (tensor,) = initial_prompt(start).tensors.values()
    return tensor


def _source(base: BaseModel, rank: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A shared prompt, and columns and rows of TASKS tasks."""
    generator = torch.Generator().manual_seed(3)
    columns = torch.randn(TASKS, VIRTUAL_TOKENS, rank, generator=generator)
    rows = torch.randn(TASKS, rank, base.checkpoint.hidden_size, generator=generator)
    return soft_prompt(base, VIRTUAL_TOKENS, seed=4), columns, rows


def _multitask_plans(base: BaseModel, root: Path) -> Iterator[TuningPlan]:
    """A plan of multitask prompt tuning for each way to start."""
    for method in (RANDOM, SAMPLE_VOCAB, TEXT):
        yield small_plan(
            base,
            tuning_type=MULTITASK_PROMPT_TUNING,
            prompt_tuning_init_method=method,
            prompt_tuning_init_text=INIT_TEXT,
            output_model_types=base.checkpoint.prompt_parts,
        )
    settings = write_source(root, "source", *_source(base, rank=1))
    for method in (ONLY_SOURCE_SHARED, AVERAGE_SOURCE, EXACT_SOURCE_TASK):
        yield _source_plan(base, settings, method)


def _ids_of(rows: torch.Tensor, base: BaseModel) -> list[int]:
    """The token that each row is the embedding of."""
    embedded = base.weights.model.get_input_embeddings()(torch.arange(base.weights.model.config.vocab_size))
    matches = (rows[:, None, :] == embedded[None]).all(dim=-1)
    assert matches.any(dim=-1).all(), "a row that is no token's embedding"
    return matches.int().argmax(dim=-1).tolist()  # type: ignore[no-any-return]
