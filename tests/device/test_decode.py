"""A step of answers on a simulated device: nobody waits but for its tokens, whatever the rows ask for."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaAttention

from tests.conftest import LLAMA, T5
from tests.numerics.families import Zoo

from .bases import embedded, on_device
from .captures import BrokenStep, RefusedStep, TapedStep, WrongStep
from .product import AnswerNotFinite, BaseModel, Engine, Limits, Request, Row
from .record import Cause, Kind
from .rules import tensors_in
from .simulated import SimulatedDevice
from .work import WAYS, confined, greedy, sampled, under_way

FAMILIES = (
    "llama",
    "gpt2",
    "opt",
    "bloom",
    "qwen3",
    "gemma3",
    "mistral",
    "phi3_longrope",
    "t5",
    "bart",
    "mt5",
)
TOLD: dict[str, Any] = {"generated_tokens": True, "token_logprobs": True, "token_ranks": True}
# That compute: of a layer, and of all that stands around the layers, tokens included.
OPERATIONS, BESIDES = 20, 80
LASTING: dict[str, Any] = {"max_new_tokens": 20, "min_new_tokens": 4}


@pytest.fixture(scope="module")
def there(zoo: Zoo) -> dict[str, BaseModel]:
    """Models on the device, by name."""
    small = {family: on_device(zoo.checkpoint(family)) for family in FAMILIES}
    return {**small, **{name: embedded(name) for name in (LLAMA, T5)}}


TAKEN_OVER = {LLAMA: True, T5: True, "mistral": True, "mt5": True, "qwen3": False, "gemma3": False}
every_model = pytest.mark.parametrize("name", [LLAMA, T5, *FAMILIES])


@every_model
def test_the_host_waits_once_a_step(there: dict[str, BaseModel], name: str) -> None:
    """Rows that want all that there is to want; some of them go on to other wishes, or are read again."""
    base = there[name]
    with SimulatedDevice() as device:
        engine = under_way(base, _everything(base), 2)
        for _ in range(4):
            _waits_for_tokens_alone(device, base, engine)


@every_model
def test_rows_that_join_take_one_copy_with_them(there: dict[str, BaseModel], name: str) -> None:
    """Whose prompts are known; keys and values of a new one are a pass of their own."""
    base = there[name]
    with SimulatedDevice() as device:
        engine = under_way(base, _everything(base), 2)
        for _ in range(2):
            for each in (greedy(base, 31), sampled(base, 32), confined(base, 33, **TOLD)):
                engine.submit(each)
            _waits_for_tokens_alone(device, base, engine)


# ---- few operations, the same in every step ----


@pytest.mark.parametrize("rows", [1, 5, 13])
@pytest.mark.parametrize("name", [LLAMA, T5, "llama", "t5", "gpt2", "opt", "bart", "mistral"])
def test_a_layer_takes_few_operations(there: dict[str, BaseModel], name: str, rows: int) -> None:
    """The first one makes what all share."""
    base = there[name]
    with SimulatedDevice() as device:
        engine = under_way(base, [greedy(base, number, **LASTING) for number in range(rows)], 2)
        begun: list[int] = []
        with device.counted() as record:
            hooks = [
                layer.register_forward_pre_hook(lambda *_: begun.append(len(record.computing)))
                for layer in _decoder_layers(base)
            ]
            engine.step()
        for hook in hooks:
            hook.remove()
    assert len(begun) == base.weights.layers > 1
    # Whatever the first one makes for all of them isn't the second one's.
    assert all(end - begin <= OPERATIONS for begin, end in itertools.pairwise(begun[1:]))
    assert len(record.computing) <= base.weights.layers * OPERATIONS + BESIDES


@every_model
def test_steps_are_the_same_within_a_bucket(there: dict[str, BaseModel], name: str) -> None:
    """Operators, shapes, and where those tensors lie that a step doesn't make itself."""
    base = there[name]
    with SimulatedDevice() as device:
        assert base.serving.steps_static
        prefill = base.serving.prefill([greedy(base, number).row for number in (0, 3, 6)])
        while prefill.columns:
            prefill.advance(40)
        batch = base.serving.new_batch()
        batch.join(prefill)
        steps = []
        for number in range(4):
            tokens = torch.tensor([20 + number, 30, 40]).to("sim:0")
            with device.counted() as record:
                batch.advance(tokens)
            steps.append(record)
        kept = _kept(base, batch)
        _, first, *others = steps
        for other in others:
            assert other.work == first.work
            assert [_of(kept, each) for each in other.addresses] == [
                _of(kept, each) for each in first.addresses
            ]
        assert any(_of(kept, each) for each in first.addresses)


# ---- captured ----


@pytest.fixture
def captured(there: dict[str, BaseModel], monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Any], BaseModel]:
    """A model whose steps are captured in some way from now on."""

    def capture(name: str, way: Any) -> BaseModel:
        way.made = way.played = 0
        monkeypatch.setattr(there[name].serving.capturing, "capture", way)
        monkeypatch.setattr(there[name].serving, "_idle", [])
        return there[name]

    return capture


@pytest.mark.parametrize("name", FAMILIES)
def test_answers_of_families_are_those_of_a_cpu(zoo: Zoo, there: dict[str, BaseModel], name: str) -> None:
    """What is taken over and rearranged there changes no token, and nothing that is told of one."""
    expected = _answers(zoo.model(name))
    with SimulatedDevice():
        seen = _answers(there[name])
    assert [ids for ids, _ in seen] == [ids for ids, _ in expected]
    for (_, some), (_, others) in zip(seen, expected, strict=True):
        assert [token.rank for token in some] == [token.rank for token in others]
        logprobs = [token.logprob for token in others]
        assert [token.logprob for token in some] == pytest.approx(logprobs, abs=1e-3)


@pytest.mark.parametrize("name", [LLAMA, T5])
def test_a_row_of_no_number_leaves_nothing_behind(there: dict[str, BaseModel], name: str) -> None:
    """What a batch was kept in is used again by the next one, where its nan would be hidden by a mask."""
    base = there[name]
    with SimulatedDevice():
        lone = [greedy(base, number, **LASTING) for number in range(4)]
        for each in lone:
            _finish(under_way(base, [each], 1))
        engine = under_way(base, [greedy(base, number, **LASTING) for number in range(4)], 3)
        (running,) = engine._running
        bad = running.generations[1]
        others = [each for each in running.generations if each is not bad]
        expected = [lone[number].generated for number in _numbers(others, lone)]
        with torch.inference_mode():
            for keys in running.batch._store.parts[0].keys:  # type: ignore[attr-defined]
                keys[1] = math.nan
        bad.request.row = Row({part: each * math.nan for part, each in bad.request.row.prompt.items()}, [20])
        _finish(engine)
        assert isinstance(bad.error, AnswerNotFinite)
        assert [each.result().generated for each in others] == expected
        again = [greedy(base, number, **LASTING) for number in range(4)]
        _finish(under_way(base, again, 1))
        assert [each.generated for each in again] == [each.generated for each in lone]


@pytest.mark.parametrize(("name", "taken"), TAKEN_OVER.items())
def test_attention_is_taken_over_where_it_is_the_same(
    there: dict[str, BaseModel], name: str, taken: bool
) -> None:
    """Norms of queries and keys are nothing that a turn knows of."""
    layers = [each for each in there[name].weights.model.modules() if hasattr(each, "joined")]
    assert len(layers) == (there[name].weights.layers if taken else 0)


def test_attention_that_is_not_what_it_seems_is_left(zoo: Zoo) -> None:
    """Planted: a layer that scores with another factor than it says."""
    checkpoint = zoo.checkpoint("llama")
    with pytest.MonkeyPatch.context() as patch:
        forward = LlamaAttention.forward

        def other(self: Any, hidden_states: torch.Tensor, **keywords: Any) -> Any:
            return forward(self, 1.01 * hidden_states, **keywords)

        patch.setattr(LlamaAttention, "forward", other)
        base = on_device(checkpoint)
    assert not [each for each in base.weights.model.modules() if hasattr(each, "joined")]


@pytest.mark.parametrize("name", [LLAMA, T5, "gpt2", "bloom", "gemma3", "phi3_longrope", "bart"])
def test_captured_steps_give_the_same_answers(
    there: dict[str, BaseModel], captured: Callable[[str, Any], BaseModel], name: str, caplog: Any
) -> None:
    """Rows come and go, and buckets with them; a second batch goes on with what the first has captured."""
    with SimulatedDevice():
        expected = _answers(there[name])
        base = captured(name, TapedStep)
        assert _answers(base) == expected
        assert TapedStep.played > 2 * TapedStep.made > 0
        # What was captured before the tensors grew is captured once more.
        assert _answers(base) == expected
        made = TapedStep.made
        assert _answers(base) == expected
        if base.serving.rows_join:
            assert TapedStep.made == made
    assert caplog.messages == []


@pytest.mark.parametrize("way", [WrongStep, RefusedStep, BrokenStep])
@pytest.mark.parametrize("name", [LLAMA, T5])
def test_what_is_captured_wrong_is_taken_plainly(
    there: dict[str, BaseModel],
    captured: Callable[[str, Any], BaseModel],
    name: str,
    way: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with SimulatedDevice(), caplog.at_level(logging.WARNING):
        expected = _answers(there[name])
        assert _answers(captured(name, way)) == expected
    (message,) = caplog.messages
    assert f"Steps of {name} aren't captured" in message


def test_on_a_cpu_nothing_is_captured(llama: BaseModel) -> None:
    llama.serving.capture_steps()
    assert llama.serving.capturing.capture is None
    assert not llama.serving.steps_static


# ---- helpers ----


def _finish(engine: Engine) -> None:
    while engine.busy:
        engine.step()


def _numbers(generations: Sequence[Any], requests: Sequence[Request]) -> list[int]:
    """Which of `requests` each asks the same as."""
    seeds = [each.parameters.seed for each in requests]
    return [seeds.index(each.request.parameters.seed) for each in generations]


def _everything(base: BaseModel) -> list[Request]:
    """Rows of every kind."""
    rows: list[Request] = []
    for number in range(len(WAYS)):
        told = TOLD if number % 2 else {}
        rows += [
            sampled(base, number, **LASTING),
            greedy(base, 7 + number, **{"max_new_tokens": 20, **told, **WAYS[number]}),
        ]
    return [*rows, confined(base, 21, **TOLD), confined(base, 22, decoding_method="SAMPLING", **TOLD)]


def _answers(base: BaseModel) -> list[tuple[list[int], list[Any]]]:
    engine = Engine(base, Limits(rows=5))
    requests = [make(base, number) for number in range(4) for make in (greedy, sampled, confined)]
    requests.append(greedy(base, 40, max_new_tokens=70, min_new_tokens=70))
    for each in requests:
        engine.submit(each)
    while engine.busy:
        engine.step()
    return [(each.generated, each.tokens) for each in requests]


def _waits_for_tokens_alone(device: SimulatedDevice, base: BaseModel, engine: Engine) -> None:
    """In a step of the engine, once a pass; and a pass takes one copy there."""
    passes: list[None] = []
    hook = base.weights.model.register_forward_hook(lambda *_: passes.append(None))
    with device.counted() as record:
        engine.step()
    hook.remove()
    assert set(record.causes) == {Cause.TO_HOST}, record.waits
    assert record.causes[Cause.TO_HOST] <= len(passes)
    copies = sum(each.kind is Kind.COPY for each in record.operations)
    assert copies - record.causes[Cause.TO_HOST] <= len(passes)


def _decoder_layers(base: BaseModel) -> list[torch.nn.Module]:
    lists = [each for each in base.weights.model.modules() if isinstance(each, torch.nn.ModuleList)]
    return list([each for each in lists if len(each) == base.weights.layers][-1])


def _kept(base: BaseModel, batch: Any) -> set[int]:
    """Memory that lives longer than a step."""
    kept: list[torch.Tensor] = [*base.weights.model.parameters()]
    for part in batch._store.parts:
        for value in vars(part).values():
            kept += tensors_in([value])
    return {each.data_ptr() for each in kept}


def _of(kept: set[int], addresses: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(each for each in addresses if each in kept)
