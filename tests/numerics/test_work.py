"""What a step computes: every real token once, what rows share once, and nothing that nobody reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch
from torch.nn import Linear, Module
from transformers.pytorch_utils import Conv1D

from caikit_pt.base_model.budget import Budget
from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.row import TrainingBatch
from caikit_pt.parameters.tuning import DECODER
from caikit_pt.tuning.losses import backward

from .answers import soft_prompt
from .families import CAUSAL_FAMILIES, MORE_CAUSAL_FAMILIES, PADDED_FAMILIES, SEQ2SEQ_FAMILIES, Zoo

COMMON = [7, 8]
SOURCES = ([9], [10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21], [22, 23, 24], [25, 26])
TARGETS = ([30, 2], [31, 2], [32, 33, 34, 35, 36, 37, 38, 2], [2])
LENGTHS = (7, 3)
OWNERS = (0, 1, 1, 0)

every_packed_causal_family = pytest.mark.parametrize(
    "family", sorted({*CAUSAL_FAMILIES, *MORE_CAUSAL_FAMILIES} - PADDED_FAMILIES)
)


@every_packed_causal_family
def test_every_token_is_computed_once_and_nothing_is_padded(zoo: Zoo, family: str) -> None:
    base = _packed(zoo, family)
    first = _layers(base)[0]
    with _watched(_products(first)) as seen:
        _run(base, _batch())
    prompt, *texts = (set(passes) for passes in zip(*seen.values(), strict=True))
    assert prompt == {sum(LENGTHS) + len(LENGTHS) * len(COMMON)}, "the common beginning, behind each prompt"
    assert texts == [{_tokens(_batch())}]


@every_packed_causal_family
def test_the_last_layer_is_computed_only_where_targets_are_predicted(zoo: Zoo, family: str) -> None:
    """Keys and values are needed of every position; all else of that layer, and the logits, of a few."""
    base, read = _packed(zoo, family), sum(map(len, TARGETS))
    products = _products(_layers(base)[-1])
    behind = {name: module for name, module in products.items() if not _asks(name)}
    with _watched({**behind, "output": base.weights.model.get_output_embeddings()}) as seen:
        _run(base, _batch())
    assert set(map(tuple, seen.values())) == {(read,)}, seen
    assert behind or family == "mixtral", "its experts are no linear layers"


@every_packed_causal_family
def test_what_rows_share_is_computed_once_whatever_the_number_of_forward_passes(
    zoo: Zoo, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = _packed(zoo, family)
    monkeypatch.setattr(base.training.memory, "budget", Budget(1, 2**24))
    with _watched(_products(_layers(base)[0])) as seen:
        _run(base, _batch())
    for prompt, *texts in seen.values():
        assert prompt == sum(LENGTHS) + len(LENGTHS) * len(COMMON)
        assert len(texts) == len(SOURCES)
        assert sum(texts) == _tokens(_batch())


@pytest.mark.parametrize("family", SEQ2SEQ_FAMILIES)
def test_either_side_of_an_encoder_decoder_computes_its_own_rows_without_padding(
    zoo: Zoo, family: str
) -> None:
    base = _packed(zoo, family)
    encoder, decoder = base.weights.model.get_encoder(), base.weights.model.get_decoder()
    output = base.weights.model.get_output_embeddings()
    with _watched(
        {"encoder": _first_product(encoder), "decoder": _first_product(decoder), "output": output}
    ) as seen:
        _run(base, _batch())
    prompts = sum(LENGTHS[owner] for owner in OWNERS)
    sources = sum(len(COMMON) + len(source) for source in SOURCES)
    targets = sum(map(len, TARGETS))
    assert seen == {"encoder": [prompts + sources], "decoder": [prompts + targets], "output": [targets]}


@every_packed_causal_family
def test_gradients_go_through_the_prompt_once_at_the_end_of_a_step(zoo: Zoo, family: str) -> None:
    base = _packed(zoo, family)
    prompts, came = _prompts(base), [0, 0]
    for index, prompt in enumerate(prompts):
        prompt[DECODER].register_hook(_counter(came, index))  # type: ignore[no-untyped-call]
    step = base.training.step(prompts, COMMON)
    for _ in range(3):
        step.target_losses(_batch()).sum().backward()  # type: ignore[no-untyped-call]
    assert came == [0, 0]
    step.finish()
    assert came == [1, 1]
    gradients = [prompt[DECODER].grad for prompt in prompts]
    once = _prompts(base)
    backward(base, once, _batch(), [3.0] * len(SOURCES))
    for gradient, prompt in zip(gradients, once, strict=True):
        torch.testing.assert_close(gradient, prompt[DECODER].grad, rtol=1e-3, atol=1e-5)


def test_what_a_prompt_is_made_of_gets_its_gradient(zoo: Zoo) -> None:
    """Also where two prompts are made of one tensor."""
    base = zoo.model("llama")
    (leaf, _), (plain, _) = ([prompt[DECODER] for prompt in _prompts(base)] for _ in range(2))
    backward(base, [{DECODER: leaf * 2.0}, {DECODER: leaf[:3] * 2.0}], _batch(), [1.0] * 4)
    doubled = (plain.detach() * 2.0).requires_grad_()
    cut = (plain.detach()[:3] * 2.0).requires_grad_()
    backward(base, [{DECODER: doubled}, {DECODER: cut}], _batch(), [1.0] * 4)
    assert leaf.grad is not None
    assert doubled.grad is not None
    assert cut.grad is not None
    expected = 2 * doubled.grad
    expected[:3] += 2 * cut.grad
    torch.testing.assert_close(leaf.grad, expected, rtol=1e-4, atol=1e-6)


# ---- helpers ----


def _packed(zoo: Zoo, family: str) -> BaseModel:
    base = zoo.model(family)
    assert base.training.trains_packed, "tried before anything is counted"
    return base


def _batch() -> TrainingBatch:
    return TrainingBatch([[*COMMON, *source] for source in SOURCES], TARGETS, OWNERS)


def _prompts(base: BaseModel) -> list[dict[str, torch.Tensor]]:
    parts = base.checkpoint.prompt_parts
    return [
        {part: soft_prompt(base, length, seed=length).requires_grad_() for part in parts}
        for length in LENGTHS
    ]


def _run(base: BaseModel, batch: TrainingBatch) -> None:
    backward(base, _prompts(base), batch, [1.0] * len(batch.sources))


def _tokens(batch: TrainingBatch) -> int:
    """Real tokens that a model reads behind what the rows share."""
    pairs = zip(batch.sources, batch.targets, strict=True)
    return sum(len(source) + len(target) - 1 - len(COMMON) for source, target in pairs)


def _layers(base: BaseModel) -> Sequence[Module]:
    count = base.checkpoint.config.get_text_config().num_hidden_layers
    (layers,) = (
        module
        for module in base.weights.model.modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == count
    )
    return list(layers)


def _products(layer: Module) -> dict[str, Module]:
    """The linear layers of `layer` by name."""
    return {name: module for name, module in layer.named_modules() if isinstance(module, Linear | Conv1D)}


def _first_product(side: Module) -> Module:
    return next(iter(_products(side).values()))


def _asks(name: str) -> bool:
    """Whether a linear layer makes queries, keys or values."""
    last = name.split(".")[-1]
    return last in ("q_proj", "k_proj", "v_proj", "qkv_proj", "c_attn", "query_key_value")


@contextmanager
def _watched(modules: dict[str, Module]) -> Iterator[dict[str, list[int]]]:
    """The positions that each of `modules` is given, call by call."""
    seen: dict[str, list[int]] = {name: [] for name in modules}

    def watcher(name: str) -> Callable[..., None]:
        def watch(_: Module, arguments: tuple[torch.Tensor, ...]) -> None:
            seen[name].append(arguments[0].shape[:-1].numel())

        return watch

    handles = [module.register_forward_pre_hook(watcher(name)) for name, module in modules.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _counter(counts: list[int], index: int) -> Callable[[torch.Tensor], None]:
    def count(_: torch.Tensor) -> None:
        counts[index] += 1

    return count
