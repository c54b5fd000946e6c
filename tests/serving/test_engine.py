"""The engine: who comes and goes changes nobody's answer, and what fails is one's own affair."""

from __future__ import annotations

import contextvars
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch

from caikit_pt import call as calls
from caikit_pt.base_model.layers import timeline
from caikit_pt.base_model.loading.checkpoint import locate
from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.pool import POOL
from caikit_pt.base_model.row import Row
from caikit_pt.base_model.serving.batch import Batch, Prefill
from caikit_pt.call import Call
from caikit_pt.errors import (
    AnswerNotFinite,
    InvalidParameter,
    OutOfMemory,
    QuotaExceeded,
    TooManyRequests,
    WaitedTooLong,
)
from caikit_pt.parameters.generation import GenerationParameters
from caikit_pt.principal import Principal
from caikit_pt.serving.engine import Engine, generate
from caikit_pt.serving.generation import Generation
from caikit_pt.serving.labels import Labels
from caikit_pt.serving.request import FinishReason, Request
from caikit_pt.serving.scheduler import Limits, Scheduler
from caikit_pt.soft_prompt.prompt import SoftPrompt

from ..conftest import LLAMA, SETTINGS, T5
from .picking import pick

WORDS = ["the", "kettle", "from", "your", "shop", "is", "dreadful", "and", "I", "want", "money", "back"]


def request(base: BaseModel, seed: int, **fields: Any) -> Request:
    """A request with a prompt, a text and parameters of its own, decided by `seed`."""
    rng = random.Random(seed)
    part = base.checkpoint.prompt_parts[0]
    ids = [rng.randrange(20, 400) for _ in range(rng.randrange(1, 9))]
    prompt = SoftPrompt({part: base.weights.embed(ids).float().cpu()})
    asked: dict[str, Any] = {
        "max_new_tokens": rng.randrange(1, 14),
        "decoding_method": rng.choice(["GREEDY", "SAMPLING"]),
        "repetition_penalty": rng.choice([1.0, 1.2]),
        "seed": seed,
    }
    text = " ".join(rng.choice(WORDS) for _ in range(rng.randrange(1, 24)))
    parameters = GenerationParameters.from_request({**asked, **fields}, None, {})
    return Request(base.text, prompt, base.text.source_ids(text), parameters)


def alone(base: BaseModel, seed: int, **fields: Any) -> list[int]:
    """Its answer, when there is nobody else."""
    one = request(base, seed, **fields)
    for _ in generate(base, [one]):
        pass
    return one.generated


def finish(engine: Engine) -> None:
    while engine.busy:
        engine.step()


@pytest.mark.parametrize("seed", range(4))
def test_answers_are_the_same_in_any_company(base: BaseModel, seed: int) -> None:
    """30 requests that come at random while others are answered, with room for five at a time."""
    rng = random.Random(seed)
    engine = Engine(base, Limits(rows=5, read_positions=rng.choice([8, 40, 512])))
    generations: list[Generation] = []
    for number in range(30):
        generations.append(engine.submit(request(base, 100 * seed + number)))
        for _ in range(rng.choice([0, 0, 1, 4])):
            engine.step()
    finish(engine)
    for number, generation in enumerate(generations):
        assert generation.result().generated == alone(base, 100 * seed + number)


def test_a_lone_greedy_answer_is_the_plain_one(base: BaseModel) -> None:
    one = request(base, 3, decoding_method="GREEDY", repetition_penalty=1.0, max_new_tokens=12)
    with torch.inference_mode():
        decoding = base.serving.start([one.row])
        expected = [int(decoding.logits[0].argmax())]
        while len(expected) < 12 and expected[-1] not in base.text.end_ids:
            decoding.advance(torch.tensor(expected[-1:]))
            expected.append(int(decoding.logits[0].argmax()))
    for _ in generate(base, [one]):
        pass
    assert one.generated == expected


def test_a_model_that_fails_the_trial_of_batches_is_served_one_by_one(
    base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [alone(base, seed) for seed in range(4)]
    monkeypatch.setitem(base.serving.__dict__, "serves_batched", False)
    read = spy_on_reading(base, monkeypatch)
    requests = [request(base, seed) for seed in range(4)]
    for _ in generate(base, requests):
        pass
    assert [each.generated for each in requests] == expected
    assert read == [1, 1, 1, 1]


# ---- what fails ----


def test_one_that_fails_fails_alone(base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading any micro-batch with the bad row fails: the others are answered nevertheless."""
    expected = [alone(base, seed) for seed in range(6)]
    requests = [request(base, seed) for seed in range(6)]
    prefill = base.serving.prefill

    def failing(rows: Sequence[Row]) -> Prefill:
        if any(row.prompt is requests[2].row.prompt for row in rows):
            raise RuntimeError("bad row")
        return prefill(rows)

    monkeypatch.setattr(base.serving, "prefill", failing)
    engine = Engine(base, Limits())
    generations = [engine.submit(each) for each in requests]
    finish(engine)
    with pytest.raises(RuntimeError, match="bad row"):
        generations.pop(2).result()
    expected.pop(2)
    assert [each.result().generated for each in generations] == expected


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), RuntimeError("odd")])
@pytest.mark.parametrize("steps", [1, 3])
def test_a_step_that_fails_is_made_up_for(
    base: BaseModel, monkeypatch: pytest.MonkeyPatch, error: Exception, steps: int
) -> None:
    """Rows are read again with what they had been given: no answer is lost, and none changes."""
    fields = {"max_new_tokens": 9, "min_new_tokens": 9}
    expected = [alone(base, seed, **fields) for seed in range(6)]
    fail_once_after(base, steps, error, monkeypatch)
    engine = Engine(base, Limits())
    generations = [engine.submit(request(base, seed, **fields)) for seed in range(6)]
    finish(engine)
    assert [each.result().generated for each in generations] == expected


def test_out_of_memory_means_fewer_rows_from_then_on(
    base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(base, Limits())
    for seed in range(8):
        engine.submit(request(base, seed, max_new_tokens=9, min_new_tokens=9))
    fail_once_after(base, 2, torch.OutOfMemoryError("full"), monkeypatch)
    read = spy_on_reading(base, monkeypatch)
    finish(engine)
    assert read[0] == 8
    assert max(read[1:]) <= 4


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), RuntimeError("DefaultCPUAllocator: no")])
@pytest.mark.parametrize("place", [1, 2, 5])
def test_memory_that_ends_while_a_row_joins_changes_nobodys_answer(
    base: BaseModel, place: int, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that ran were moved half-way, and went on over what was left of them."""
    fields = {"max_new_tokens": 30, "min_new_tokens": 30}
    expected = [alone(base, seed, **fields) for seed in range(3)]
    engine = Engine(base, Limits())
    generations = [engine.submit(request(base, seed, **fields)) for seed in range(2)]
    for _ in range(3):
        engine.step()
    real, left = timeline._zeros, [place]

    def short(size: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
        left[0] -= 1
        if left[0] == 0:
            raise error
        return real(size, like)

    monkeypatch.setattr(timeline, "_zeros", short)
    monkeypatch.setattr(timeline, "_HEADROOM", 1)
    generations.append(engine.submit(request(base, 2, **fields)))
    finish(engine)
    assert left[0] <= 0
    assert [each.result().generated for each in generations] == expected


def test_a_draw_from_no_number_is_a_token_that_there_is(base: BaseModel) -> None:
    """It was one beyond the vocabulary, which ends a GPU's context for everybody."""
    one = request(base, 3, decoding_method="SAMPLING")
    (picked,) = pick(torch.full((1, base.weights.vocabulary), math.nan), [one.sampler])
    assert 0 <= int(picked) < base.weights.vocabulary


def test_one_row_that_does_not_fit_is_told_so(base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(rows: Sequence[Row]) -> Prefill:
        raise torch.OutOfMemoryError("full")

    engine = Engine(base, Limits())
    generations = [engine.submit(request(base, seed)) for seed in range(3)]
    with monkeypatch.context() as patch:
        patch.setattr(base.serving, "prefill", full)
        finish(engine)
    for generation in generations:
        with pytest.raises(OutOfMemory, match="not even alone"):
            generation.result()
    after = engine.submit(request(base, 7))
    finish(engine)
    assert after.result().generated == alone(base, 7)


def test_a_text_that_cannot_be_decoded_fails_its_own_request(
    base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(base, Limits())
    bad, good = (engine.submit(request(base, seed)) for seed in (1, 2))
    monkeypatch.setattr(bad.request, "take", broken)
    finish(engine)
    with pytest.raises(UnicodeError):
        bad.result()
    assert good.result().generated == alone(base, 2)


# ---- what isn't finite ----


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("worth", [math.nan, math.inf])
def test_an_answer_that_is_no_number_fails_alone(base: BaseModel, worth: float, steps: int) -> None:
    """A row of nan was answered with tokens of nothing, and whoever had its place next with it."""
    fields = {"max_new_tokens": 12, "min_new_tokens": 12}
    expected = [alone(base, seed, **fields) for seed in range(8)]
    engine = Engine(base, Limits(rows=5))
    generations = [engine.submit(request(base, seed, **fields)) for seed in range(4)]
    for _ in range(steps):
        engine.step()
    bad = engine.submit(not_finite(request(base, 99, **fields), worth))
    generations += [engine.submit(request(base, seed, **fields)) for seed in range(4, 8)]
    finish(engine)
    with pytest.raises(AnswerNotFinite, match=r"float32 .* torch_dtype"):
        bad.result()
    assert bad.request.steps == []
    assert [each.result().generated for each in generations] == expected


def test_what_turns_into_no_number_on_the_way_fails_alone(
    base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row whose keys and values are nan from its third token on, among others that stay."""
    fields = {"max_new_tokens": 12, "min_new_tokens": 12}
    expected = [alone(base, seed, **fields) for seed in range(4)]
    engine = Engine(base, Limits())
    generations = [engine.submit(request(base, seed, **fields)) for seed in range(4)]
    for _ in range(3):
        engine.step()
    (running,) = engine._running
    bad = running.generations[1]
    expected.pop(generations.index(bad))
    generations.remove(bad)
    # All that is held of it, where the others' hidden positions will be when it has left.
    with torch.inference_mode():
        for layer in running.batch._timeline._layers:  # type: ignore[attr-defined]
            layer.keys[1], layer.values[1] = math.nan, math.nan
    not_finite(bad.request)
    read = spy_on_reading(base, monkeypatch)
    finish(engine)
    with pytest.raises(AnswerNotFinite):
        bad.result()
    assert [each.result().generated for each in generations] == expected
    assert sorted(read) == [1, 3], "the others are read again once, together"


def test_whoever_has_it_from_another_is_answered(base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """All logits of a step are nan, once: nobody's answer is lost, nor any room for rows."""
    fields = {"max_new_tokens": 9, "min_new_tokens": 9}
    expected = [alone(base, seed, **fields) for seed in range(4)]
    engine = Engine(base, Limits())
    generations = [engine.submit(request(base, seed, **fields)) for seed in range(4)]
    for _ in range(2):
        engine.step()
    (running,) = engine._running
    advance = running.batch.advance
    monkeypatch.setattr(running.batch, "advance", lambda tokens: advance(tokens) * math.nan)
    finish(engine)
    assert [each.result().generated for each in generations] == expected
    again = [engine.submit(request(base, seed, **fields)) for seed in range(4)]
    read = spy_on_reading(base, monkeypatch)
    finish(engine)
    assert read == [4]
    assert [each.result().generated for each in again] == expected


@pytest.mark.parametrize("name", [LLAMA, T5])
def test_a_prompt_beyond_float16_is_refused_with_what_helps(name: str) -> None:
    """Its numbers are finite in float32, which prompts are kept in."""
    half = POOL.get(locate(name, SETTINGS), "float16", "cpu")
    expected = alone(half, 1)
    good = request(half, 1)
    large = request(half, 2)
    large.row = Row(
        {part: torch.full_like(each, 1e5) for part, each in large.row.prompt.items()}, large.row.ids
    )
    engine = Engine(half, Limits())
    generations = [engine.submit(each) for each in (large, good)]
    finish(engine)
    with pytest.raises(AnswerNotFinite, match=r"float16 .* bfloat16 or float32"):
        generations[0].result()
    assert generations[1].result().generated == expected


def test_a_label_of_no_number_is_none(base: BaseModel) -> None:
    labels = Labels(base.text, ["positive", "negative", "neutral"], " ", 9)
    made = [request(base, seed) for seed in range(3)]
    asked = [Request(base.text, one.prompt, list(one.row.ids), one.parameters, labels=labels) for one in made]
    engine = Engine(base, Limits())
    generations = [engine.submit(each) for each in (asked[0], not_finite(asked[1]), asked[2])]
    finish(engine)
    with pytest.raises(AnswerNotFinite):
        generations[1].result()
    assert all(generations[number].result().text.strip() in labels.texts for number in (0, 2))


def test_to_a_training_such_an_answer_is_an_empty_one(base: BaseModel) -> None:
    requests = [request(base, 1), not_finite(request(base, 2)), request(base, 3)]
    for _ in generate(base, requests):
        pass
    assert [each.generated for each in requests] == [alone(base, 1), [], alone(base, 3)]
    assert requests[1].text == ""


def not_finite(of: Request, worth: float = math.nan) -> Request:
    """With a soft prompt whose last row is no number."""
    for part, tensor in of.prompt.tensors.items():
        spoilt = tensor.clone()
        spoilt[-1] = worth
        of.row = Row({part: spoilt}, of.row.ids)
    return of


# ---- who waits ----


def test_a_cancelled_row_leaves_before_the_next_step(base: BaseModel) -> None:
    engine = Engine(base, Limits())
    fields = {"max_new_tokens": 60, "min_new_tokens": 60}
    gone, stays = (engine.submit(request(base, seed, **fields)) for seed in (1, 2))
    for _ in range(3):
        engine.step()
    before = len(gone.request.generated)
    gone.cancel()
    engine.step()
    assert gone.ended
    assert len(gone.request.generated) == before > 0
    finish(engine)
    assert stays.result().generated == alone(base, 2, **fields)


def test_a_row_that_is_cancelled_while_others_read_is_gone_after_one_step(base: BaseModel) -> None:
    """Also where a long text is under way, and where there is nobody else."""
    engine = Engine(base, Limits(read_positions=16))
    fields = {"max_new_tokens": 60, "min_new_tokens": 60}
    gone = engine.submit(request(base, 1, **fields))
    while not gone.request.generated:
        engine.step()
    long = request(base, 2)
    other = engine.submit(Request(base.text, long.prompt, [40] * 300, long.parameters))
    gone.cancel()
    engine.step()
    assert gone.ended
    assert gone not in engine._running_now()
    finish(engine)
    other.result()
    last = engine.submit(request(base, 3, **fields))
    engine.step()
    last.cancel()
    engine.step()
    assert last.ended
    assert not engine.busy


def test_whoever_is_one_too_many_is_refused(base: BaseModel) -> None:
    engine = Engine(base, Limits(waiting=2))
    for seed in range(2):
        engine.submit(request(base, seed))
    with pytest.raises(TooManyRequests, match="max_waiting_requests"):
        engine.submit(request(base, 3))
    finish(engine)
    engine.submit(request(base, 3))


def test_whoever_waits_too_long_is_told_so(base: BaseModel) -> None:
    engine = Engine(base, Limits(rows=1, wait_seconds=0.2))
    first, second = (
        engine.submit(request(base, seed, max_new_tokens=400, min_new_tokens=400)) for seed in (1, 2)
    )
    finish(engine)
    assert len(first.result().generated) == 400
    with pytest.raises(WaitedTooLong, match="max_wait_seconds"):
        second.result()


def test_time_that_is_over_before_the_turn_ends_the_answer(base: BaseModel) -> None:
    engine = Engine(base, Limits(rows=1))
    engine.submit(request(base, 1, max_new_tokens=400, min_new_tokens=400))
    late = engine.submit(request(base, 2, max_time=0.01))
    finish(engine)
    assert late.result().finish_reason is FinishReason.TIME_LIMIT
    assert late.request.generated == []


def test_what_can_never_fit_is_refused_at_once(base: BaseModel) -> None:
    engine = Engine(base, Limits(kv_bytes=100 * base.serving.position_bytes))
    with pytest.raises(InvalidParameter, match=r"max_new_tokens: 500 .* at most 100 positions"):
        engine.submit(request(base, 1, max_new_tokens=500))
    assert engine.submit(request(base, 1, max_new_tokens=40)).request.most_positions <= 100


def test_a_text_whose_attention_has_no_room_is_refused_at_once(base: BaseModel) -> None:
    """An encoder reads at once, in memory that grows with the square: nobody asked whether there is any."""
    prompt = request(base, 1).prompt
    length = 60 - base.text.served_positions(Row(prompt.tensors, ()), 0)
    fits, larger = (
        Request(base.text, prompt, [40] * size, GenerationParameters(max_new_tokens=3))
        for size in (length, length + 1)
    )
    engine = Engine(base, Limits(attention_bytes=60**2 * base.serving.square_bytes))
    engine.submit(fits)
    if base.checkpoint.config.is_encoder_decoder:
        with pytest.raises(
            InvalidParameter, match=rf"text: '{length + 1} tokens' .* at most {length} tokens"
        ):
            engine.submit(larger)
    else:
        engine.submit(larger)
    finish(engine)


def test_memory_for_attention_is_counted_as_what_it_is(t5: BaseModel) -> None:
    """At the default length: what torch takes at its peak is at most what is asked for."""
    length = 1500
    one = Request(t5.text, request(t5, 1).prompt, [40] * length, GenerationParameters(max_new_tokens=1))
    engine = Engine(t5, Limits())
    engine.submit(one)
    with torch.profiler.profile(profile_memory=True) as profile:
        finish(engine)
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    asked = t5.serving.square_bytes * t5.serving.read_at_once(one.row) ** 2
    assert asked / 4 < peak < asked * 1.3


def test_what_is_read_together_is_bounded_by_its_square(
    t5: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few tokens behind a long soft prompt are as wide as it is: 32 such rows asked for gigabytes."""
    ids = [40 + number % 300 for number in range(400)]
    prompt = SoftPrompt({"ENCODER": t5.weights.embed(ids).float().cpu()})
    parameters = GenerationParameters(max_new_tokens=3)
    made = [Request(t5.text, prompt, [50 + n, 60], parameters) for n in range(12)]
    engine = Engine(t5, Limits())
    read = spy_on_reading(t5, monkeypatch)
    generations = [engine.submit(each) for each in made]
    finish(engine)
    assert sum(read) == 12
    assert max(read) * 403**2 <= 4 * 512**2 < (max(read) + 1) * 404**2
    monkeypatch.undo()
    for generation, number in zip(generations, range(12), strict=True):
        one = Request(t5.text, prompt, [50 + number, 60], parameters)
        for _ in generate(t5, [one]):
            pass
        assert generation.result().generated == one.generated


def test_keys_and_values_stay_within_their_room(base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """All rows of a batch have room for as many positions as the longest may need."""
    room = 200
    engine = Engine(base, Limits(kv_bytes=room * base.serving.position_bytes))
    generations = [engine.submit(request(base, seed, max_new_tokens=20)) for seed in range(12)]
    while engine.busy:
        engine.step()
        present = engine._running_now()
        longest = max((each.request.most_positions for each in present), default=0)
        assert len(present) * longest <= room
    assert [each.result().generated for each in generations] == [
        alone(base, seed, max_new_tokens=20) for seed in range(12)
    ]


def test_reading_never_holds_running_rows_up_for_longer_than_allowed(
    llama: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text of 600 tokens comes while an answer runs: between two of its tokens at most 64 are read."""
    engine = Engine(llama, Limits(read_positions=64))
    engine.submit(request(llama, 1, max_new_tokens=60, min_new_tokens=60))
    engine.step()
    parameters = GenerationParameters(max_new_tokens=3)
    long = Request(
        llama.text, request(llama, 2).prompt, [30 + number % 300 for number in range(600)], parameters
    )
    generation = engine.submit(long)
    read: list[int] = []
    forward = llama.weights.model.forward

    def spy(*arguments: Any, **fields: Any) -> Any:
        read.append(fields["inputs_embeds"].shape[1])
        return forward(*arguments, **fields)

    monkeypatch.setattr(llama.weights.model, "forward", spy)
    finish(engine)
    assert max(read) <= 64
    pieces = [number for number, count in enumerate(read) if count > 1]
    assert len(pieces) >= 600 // 64
    assert all(later - earlier >= 2 for earlier, later in pairwise(pieces))
    monkeypatch.undo()
    whole = Request(llama.text, long.prompt, list(long.row.ids), parameters)
    for _ in generate(llama, [whole]):
        pass
    assert generation.result().generated == whole.generated


def test_texts_of_like_length_are_read_together(llama: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest first, with those nearest to it: no short text is padded to a long one's length."""
    engine = Engine(llama, Limits(read_positions=64))
    for length in (30, 5, 31, 6, 5, 7):
        one = request(llama, length)
        engine.submit(Request(llama.text, one.prompt, [40] * length, one.parameters))
    lengths: list[list[int]] = []
    prefill = llama.serving.prefill

    def spy(rows: Sequence[Row]) -> Prefill:
        lengths.append(sorted(len(row.ids) for row in rows))
        return prefill(rows)

    monkeypatch.setattr(llama.serving, "prefill", spy)
    finish(engine)
    assert lengths == [[30, 31], [5, 5, 6, 7]]


# ---- helpers ----


def broken(*_: Any) -> None:
    raise UnicodeError("no such character")


def spy_on_reading(base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of rows of each micro-batch that is read from now on."""
    read: list[int] = []
    prefill: Callable[[Sequence[Row]], Prefill] = base.serving.prefill

    def spy(rows: Sequence[Row]) -> Prefill:
        read.append(len(rows))
        return prefill(rows)

    monkeypatch.setattr(base.serving, "prefill", spy)
    return read


def fail_once_after(base: BaseModel, steps: int, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of batches that are made from now on fail once, in the middle of the model."""
    new_batch = base.serving.new_batch
    left = [steps]

    def made() -> Batch:
        batch = new_batch()
        advance = batch.advance

        def failing(tokens: torch.Tensor) -> torch.Tensor:
            left[0] -= 1
            logits = advance(tokens)
            if left[0] == 0:
                raise error
            return logits

        monkeypatch.setattr(batch, "advance", failing)
        return batch

    monkeypatch.setattr(base.serving, "new_batch", made)


def of_tenant(generation: Generation, tenant: str) -> Generation:
    generation.tenant = tenant
    return generation


def waiting(base: BaseModel, tenants: str, **limits: Any) -> tuple[Scheduler, list[Generation]]:
    """A request for each letter, which is whose it is."""
    scheduler = Scheduler(base, Limits(**limits))
    made = [of_tenant(Generation(request(base, number)), tenant) for number, tenant in enumerate(tenants)]
    for generation in made:
        scheduler.add(generation)
    return scheduler, made


def test_tenants_take_turns(base: BaseModel) -> None:
    """Who sends forty requests is behind nobody who sends one."""
    scheduler, made = waiting(base, "a" * 40 + "b" + "c" * 3, rows=4, read_positions=1)
    running: list[Generation] = []
    for _ in range(4):
        (taken,) = scheduler.take(running)
        running.append(taken)
    assert "".join(each.tenant for each in running) == "abca"
    assert running[0] is made[0]
    assert running[3] is made[1]
    # Where a row is free, it is for who has fewest.
    assert scheduler.take(running) == []
    assert [each.tenant for each in scheduler.take(running[1:3])] == ["a"]
    assert [each.tenant for each in scheduler.take([made[0], *running[1:2]])] == ["c"]


def test_rows_leave_for_who_has_none_and_come_back(base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """64 long answers of one client kept everybody else waiting until the first of them ended."""
    monkeypatch.setattr("caikit_pt.serving.scheduler._BETWEEN_LOOKS", 0.0)
    engine, long = Engine(base, Limits(rows=4)), {"max_new_tokens": 30, "min_new_tokens": 30}
    many = [of_tenant(engine.submit(request(base, seed, **long)), "many") for seed in range(6)]
    while len(engine._running_now()) < 4:
        engine.step()
    engine.step()
    few = [
        of_tenant(engine.submit(request(base, seed, max_new_tokens=5)), name)
        for seed, name in ((10, "one"), (11, "one"), (12, "two"))
    ]
    engine.step()
    assert Counter(each.tenant for each in engine._running_now())["many"] == 2, "each has its share"
    late = [each for each in many if each.has_run and each not in engine._running_now()]
    assert len(late) == 2
    finish(engine)
    assert max(each.ended_at or math.inf for each in few) < min(each.ended_at or 0 for each in late)
    for seed, each in enumerate(many):
        assert each.request.generated == alone(base, seed, **long)
    for seed, each in zip((10, 11, 12), few, strict=True):
        assert each.request.generated == alone(base, seed, max_new_tokens=5)


@pytest.mark.parametrize("seed", range(3))
def test_whoever_gives_way_has_the_same_answer(
    base: BaseModel, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("caikit_pt.serving.scheduler._BETWEEN_LOOKS", 0.0)
    rng, engine = random.Random(seed), Engine(base, Limits(rows=4))
    made = []
    for number in range(24):
        made.append(of_tenant(engine.submit(request(base, number)), rng.choice("aaaabc")))
        for _ in range(rng.randrange(3)):
            engine.step()
    finish(engine)
    for number, each in enumerate(made):
        assert each.request.generated == alone(base, number)


def test_tenants_take_turns_for_the_only_row(base: BaseModel) -> None:
    scheduler, _ = waiting(base, "a" * 40 + "bb", rows=1, read_positions=1)
    assert "".join(scheduler.take([])[0].tenant for _ in range(6)) == "ababaa"


def test_one_tenant_is_first_in_first_out(base: BaseModel) -> None:
    scheduler, made = waiting(base, "a" * 5, rows=9, read_positions=1)
    assert [scheduler.take(made[:number])[0] for number in range(5)] == made


def test_who_was_put_back_is_first_whoever_waits(base: BaseModel) -> None:
    scheduler, _ = waiting(base, "aabb", rows=4, read_positions=1)
    (first,) = scheduler.take([])
    (second,) = scheduler.take([first])
    scheduler.put_back([second, first])
    assert scheduler.take([]) == [second]


def test_a_full_queue_has_room_for_who_has_fewer(base: BaseModel) -> None:
    scheduler, made = waiting(base, "aaaa", waiting=4)
    scheduler.add(of_tenant(Generation(request(base, 9)), "b"))
    assert isinstance(made[3].error, TooManyRequests)
    assert not made[2].ended
    scheduler.add(of_tenant(Generation(request(base, 10)), "b"))
    # They have as many as one another now.
    for tenant in "ab":
        with pytest.raises(TooManyRequests):
            scheduler.add(of_tenant(Generation(request(base, 11)), tenant))
    assert isinstance(made[2].error, TooManyRequests)
    assert not made[1].ended


def test_whose_request_it_is_and_what_it_cost(base: BaseModel) -> None:
    spent: list[int] = []
    anybody = Principal("ada", ())
    engine = Engine(base, Limits())

    def ask() -> Generation:
        calls.begin(Call("id", "method", "host", lambda _: True, anybody, spent.append))
        return engine.submit(request(base, 1, max_new_tokens=3))

    generation = contextvars.copy_context().run(ask)
    assert generation.tenant == "ada"
    finish(engine)
    assert spent == [len(generation.request.row.ids) + len(generation.request.generated)]
    generation.fail()
    assert len(spent) == 1
    assert engine.submit(request(base, 1)).tenant == ""


def test_each_answer_wants_tokens_that_are_left(base: BaseModel) -> None:
    """A call that asks for many, as an evaluation does, is refused the next one when there are none."""
    left = [2]
    engine = Engine(base, Limits())

    def check_tokens() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise QuotaExceeded("quotas.each.tokens_per_minute", "all", "some", 1.0)

    def ask() -> None:
        spend = list[int]().append
        calls.begin(Call("id", "method", "host", lambda _: True, Principal("", ()), spend, check_tokens))
        for seed in range(2):
            engine.submit(request(base, seed))
        with pytest.raises(QuotaExceeded):
            engine.submit(request(base, 2))

    contextvars.copy_context().run(ask)
    assert engine.waiting == 2
