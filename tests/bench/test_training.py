"""bench/training compares what computes the same, and counts no operation too many."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.training import models, peak, sources, whole
from bench.training.case import Case
from bench.training.flops import needed
from bench.training.ladder import ladder
from bench.training.peer import PeerLoop, PeerOptions
from bench.training.plain import (
    PlainCausal,
    PlainCausalRight,
    PlainCausalShared,
    PlainLoop,
    PlainSeq2Seq,
)
from bench.training.product import ProductLoop
from bench.training.records import MAX_SOURCE, Record, make_records
from bench.training.results import measure
from bench.training.shapes import Shape
from bench.training.suite import Suite
from bench.training.table import render
from caikit_pt.base_model.family import CAUSAL, SEQ2SEQ
from caikit_pt.base_model.model import BaseModel
from tests.numerics.precision import everything_in_float64

LLAMA = Shape("toy-llama", CAUSAL.name, 2, 32, 48, 4, 8, 100, kv_heads=2)
T5 = Shape("toy-t5", SEQ2SEQ.name, 2, 32, 48, 4, 8, 100, kv_heads=4)
SHAPES = pytest.mark.parametrize("shape", [LLAMA, T5], ids=lambda shape: shape.name)
# The peer's loop and peft call transformers by names that it is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")


def case_of(shape: Shape, dtype: str = "float32") -> Case:
    return Case(shape, dtype, prompt=3, batch=4, accumulate=1)


def equally_long(records: list[Record]) -> list[Record]:
    """peft pads between prompt and text and counts the padding as positions, which changes losses."""
    return [Record((record.source * 20)[: 20 - len(record.target)], record.target) for record in records]


def product_of(case: Case, records: list[Record]) -> tuple[ProductLoop, torch.Tensor, torch.Tensor]:
    """caikit_pt's loop, and the mean loss and the prompt's gradient that it computes of `records`."""
    loop = ProductLoop(models.base(case), records, case.window, case.prompt)
    losses = loop.backward([records])
    gradient = prompt_of(loop).grad
    assert gradient is not None
    return loop, losses.sum() / sum(len(record.target) for record in records), gradient


def prompt_of(loop: ProductLoop) -> torch.Tensor:
    (prompt,) = loop.prompts[0].values()
    return prompt


@SHAPES
def test_the_peers_loop_and_ours_compute_the_same(shape: Shape) -> None:
    case = case_of(shape)
    records = equally_long(case.records())
    product, loss, gradient = product_of(case, records)
    network: Any = models.model(case)
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):  # T5's attention
            module.dropout = 0.0
    peer = PeerLoop(case, network, records, PeerOptions(pad_to_limits=shape is T5))
    with torch.no_grad():
        peer.prompt.copy_(prompt_of(product))
    (batch,) = peer.loader
    torch.testing.assert_close(peer.backward(batch), float(loss), rtol=1e-3, atol=0.0)
    torch.testing.assert_close(peer.prompt.grad, gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "kind"),
    [(LLAMA, PlainCausal), (LLAMA, PlainCausalRight), (LLAMA, PlainCausalShared), (T5, PlainSeq2Seq)],
)
def test_the_steps_between_compute_the_same(shape: Shape, kind: type[PlainLoop]) -> None:
    case = case_of(shape, "float64")
    records = case.records()
    plain = kind(case, models.model(case), records)
    models.base(case)
    # What transformers rounds to float32 in a model of float64, such as the size of a norm, isn't.
    with everything_in_float64():
        product, _, gradient = product_of(case, records)
        with torch.no_grad():
            plain.prompt.copy_(prompt_of(product))
        plain.backward(records)
    torch.testing.assert_close(plain.prompt.grad, gradient, rtol=1e-5, atol=1e-7)


@SHAPES
def test_every_step_trains_and_is_shown(shape: Shape, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak, "_SIZES", {"cpu": (256,)})
    case = case_of(shape)
    results = measure(Suite([case], [case], [], rounds=1), "cpu")
    assert list(results.cases[case]) == [step.name for step in ladder(case)]
    assert all(0 < figures.peak_share < 1 for figures in results.cases[case].values())
    assert all(f"| {step.name} |" in render(results) for step in ladder(case))


@SHAPES
def test_no_operation_is_counted_that_caikit_pt_does_without(shape: Shape) -> None:
    """It does a little more: in attention, above all, which is small where a model is wide."""
    shape = replace(shape, inner=2000, vocabulary=2000)
    case = case_of(shape, "float64")  # whose products are torch's own, which the counter knows
    records = case.records()
    product_of(case, records)  # whether the model can be packed is tried once, and not counted
    with FlopCounterMode(display=False) as counter:
        product_of(case, records)
    count = needed(shape, case.prompt, records)
    assert count <= counter.get_total_flops() <= 1.15 * count


def test_the_count_of_one_layer_by_hand() -> None:
    shape = Shape(
        "one-layer", CAUSAL.name, layers=1, width=2, inner=3, heads=1, head_width=2, vocabulary=5, kv_heads=1
    )
    prompts_keys_values = 2 * (2 * 2 * 4)  # forward and backward of one token
    keys_values = 2 * (2 * 2 * 4)  # forward of two text tokens, which come from no prompt
    query = 2 * 4  # of the token that is read, forward
    output_and_feed_forward = 2 * (2 * 4 + 3 * 2 * 6)
    # It sees three tokens: scores, values, and the gradient of the weights; the prompt's keys and values.
    attention = 3 * (3 * 4) + 2 * 4
    logits = 2 * (2 * 2 * 5)
    assert needed(shape, 1, [Record([11, 12], [13])]) == (
        prompts_keys_values + keys_values + query + output_and_feed_forward + attention + logits
    )


def test_a_whole_training_is_measured_from_records_to_verdict(llama: BaseModel) -> None:
    records = [{"input": f"the lamp is number {number}", "output": "good"} for number in range(16)]
    spent = whole.train(llama, records, epochs=1)
    assert spent.updates == 2
    assert spent.seconds > 0


@pytest.mark.parametrize("shape", [LLAMA, T5], ids=lambda shape: shape.name)
def test_a_case_is_the_same_in_the_process_that_measures_its_memory(shape: Shape) -> None:
    case = case_of(shape)
    assert Case.from_json(case.to_json()) == case
    assert hash(Case.from_json(case.to_json())) == hash(case)


def test_records_are_what_the_documentation_says() -> None:
    for long, low, high in ((False, 1, 8), (True, 30, 127)):
        records = make_records(64, long, 100)
        assert max(len(record.source) for record in records) <= MAX_SOURCE
        assert sorted(len(record.source) for record in records)[32] == pytest.approx(40, abs=2)
        assert all(low <= len(record.target) <= high for record in records)
        assert records == make_records(64, long, 100)


def test_sources_are_measured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in (("MODELS", ("tiny-t5",)), ("CASES", ((3, 4),)), ("UPDATES", 1), ("ROUNDS", 1)):
        monkeypatch.setattr(sources, name, value)
    sources.main()
    *_, line = capsys.readouterr().out.splitlines()
    assert line.startswith("| tiny-t5 | 3 | 4 | ")
    assert line.count("%") == 2
