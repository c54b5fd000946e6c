"""A row's answer depends on its own prompt and text, and on nothing else in its batch.

Every family reads rows with other prompts, other prompt lengths and other text lengths in one
batch. Each row must equal its single run, plain transformers and peft's own model run alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.row import Row
from caikit_pt.base_model.serving.batch import Prefill
from caikit_pt.base_model.serving.causal import CausalServing
from caikit_pt.base_model.serving.prompt_cache import PromptCache
from caikit_pt.parameters.generation import GenerationParameters
from caikit_pt.parameters.tuning import DECODER, ENCODER
from caikit_pt.serving.engine import generate
from caikit_pt.serving.request import Request
from caikit_pt.soft_prompt.prompt import SoftPrompt

from .answers import (
    BOTH,
    DECODER_ONLY,
    ENCODER_ONLY,
    LENGTHS,
    ROUNDING,
    STEPS,
    TOLERANCE,
    assert_same,
    greedy,
    greedy_by_cohort,
    sample_rows,
    soft_prompt,
    words,
)
from .cases import every_case, peft_cases
from .families import CAUSAL_FAMILIES, SEQ2SEQ_FAMILIES, SLIDING_WINDOW, Zoo
from .precision import everything_in_float64
from .references import (
    peft_answer,
    peft_batch,
    peft_generate,
    peft_prompt_tuning,
    peft_two_sided,
    peft_two_sided_answer,
    plain_answer,
    uses_peft,
)


@every_case
def test_a_mixed_batch_equals_its_single_runs(zoo: Zoo, family: str, parts: tuple[str, ...]) -> None:
    base = zoo.model(family)
    rows = sample_rows(base, parts)
    for row, answer in zip(rows, greedy_by_cohort(base, rows), strict=True):
        assert_same(answer, greedy(base, [row])[0])
        assert_same(answer, plain_answer(base, row, answer.tokens))


@pytest.mark.parametrize("family", [*CAUSAL_FAMILIES, "phi3_longrope"])
def test_prompts_that_are_missed_together_are_what_they_are_alone(
    zoo: Zoo, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several lengths, in front of short rows and of long ones, in float64, in passes of three at most."""
    monkeypatch.setattr("caikit_pt.base_model.serving.causal._PROMPT_POSITIONS", 9)
    base = zoo.model(family, "float64")
    serving = base.serving
    if not serving.serves_batched:
        pytest.skip("rows are read from their beginning")
    assert isinstance(serving, CausalServing)
    lengths = [(3, 4), (3, 20), (5, 4), (3, 7), (5, 20), (3, 9), (3, 5)]
    rows = [
        Row({DECODER: soft_prompt(base, prompt, seed)}, base.text.source_ids(words(text, seed)))
        for seed, (prompt, text) in enumerate(lengths)
    ]
    own = serving.prompts
    try:
        with everything_in_float64(), torch.inference_mode():
            serving.prompts = PromptCache()
            together = serving.prompt_cells([*rows, rows[0]])
            assert (serving.prompts.misses, serving.prompts.hits) == (len(rows), 1)
            for row, cells in zip([*rows, rows[0]], together, strict=True):
                serving.prompts = PromptCache()
                (alone,) = serving.prompt_cells([row])
                for layer, expected in zip(cells, alone, strict=True):
                    for tensor, other in zip(layer, expected, strict=True):
                        torch.testing.assert_close(tensor, other, rtol=0, atol=ROUNDING)
    finally:
        serving.prompts = own


@every_case
def test_what_is_left_of_a_difference_is_rounding(zoo: Zoo, family: str, parts: tuple[str, ...]) -> None:
    """The same in float64: a wrong mask can't hide below a tolerance made for float32."""
    base = zoo.model(family, "float64")
    rows = sample_rows(base, parts)
    with everything_in_float64():
        for row, answer in zip(rows, greedy_by_cohort(base, rows), strict=True):
            assert_same(answer, greedy(base, [row])[0], ROUNDING)
            assert_same(answer, plain_answer(base, row, answer.tokens), ROUNDING)


@every_case
def test_the_cases_could_tell(zoo: Zoo, family: str, parts: tuple[str, ...]) -> None:
    """Answers vary from step to step and with the prompt, so that equal ones mean something."""
    base = zoo.model(family)
    rows = sample_rows(base, parts)
    answers = greedy_by_cohort(base, rows)
    assert len({token for answer in answers for token in answer.tokens}) >= 6
    others = [Row(rows[1].prompt, rows[0].ids), Row(rows[2].prompt, rows[1].ids)]
    for answer, other in zip(answers[:2], greedy_by_cohort(base, others), strict=True):
        assert not torch.allclose(answer.logits[0], other.logits[0], atol=0.1)
        assert answer.tokens != other.tokens


def test_some_rows_are_longer_than_the_sliding_window(zoo: Zoo) -> None:
    rows = sample_rows(zoo.model("gemma3"), DECODER_ONLY)
    assert all(length + len(row.ids) > SLIDING_WINDOW for (length, _), row in zip(LENGTHS, rows, strict=True))


@pytest.mark.parametrize("family", SEQ2SEQ_FAMILIES)
def test_rows_with_prompts_on_different_sides_share_a_batch(zoo: Zoo, family: str) -> None:
    base = zoo.model(family)
    rows = [
        sample_rows(base, parts, seed)[seed]
        for seed, parts in enumerate((ENCODER_ONLY, DECODER_ONLY, BOTH, ()))
    ]
    for row, answer in zip(rows, greedy_by_cohort(base, rows), strict=True):
        assert_same(answer, plain_answer(base, row, answer.tokens))


# ---- peft ----


@uses_peft
@peft_cases
def test_a_mixed_batch_equals_peft_run_alone(zoo: Zoo, family: str, parts: tuple[str, ...]) -> None:
    """peft run alone is right, and the reference for what its users have tuned."""
    base = zoo.model(family)
    rows = sample_rows(base, parts)
    for row, answer in zip(rows, greedy_by_cohort(base, rows), strict=True):
        if row.prompt:
            reference = peft_prompt_tuning(base, row.prompt[parts[0]])
            assert_same(answer, peft_answer(reference, base, row, answer.tokens))


@uses_peft
@pytest.mark.parametrize("family", SEQ2SEQ_FAMILIES)
def test_two_sided_prompts_equal_peft_run_alone(zoo: Zoo, family: str) -> None:
    base = zoo.model(family)
    rows = sample_rows(base, BOTH)
    for row, answer in zip(rows, greedy_by_cohort(base, rows), strict=True):
        if row.prompt:
            reference = peft_two_sided(base, row.prompt[ENCODER], row.prompt[DECODER])
            assert_same(answer, peft_two_sided_answer(reference, base, row, answer.tokens))


@uses_peft
@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3", "gemma"])
def test_the_way_peft_pads_a_batch_is_noticed(zoo: Zoo, family: str) -> None:
    """D1, planted: prompt, padding, text, and positions that count the padding.

    It is the same assertion that this project's own batches pass above. The longest row has no
    padding and passes; a short one beside it gets other numbers.
    """
    base = zoo.model(family)
    prompt = {DECODER: soft_prompt(base, 8, seed=5)}
    rows = [Row(prompt, base.text.source_ids(words(count, seed=count))) for count in (17, 4)]
    ours = greedy(base, rows)
    model = peft_prompt_tuning(base, prompt[DECODER])
    longest, short = peft_batch(model, base, rows, [answer.tokens for answer in ours])
    assert_same(longest, ours[0])
    with pytest.raises(AssertionError):
        assert_same(short, ours[1])
    assert (short.logits - ours[1].logits).abs().max() > 1000 * TOLERANCE


# ---- the serving loop ----


@every_case
def test_generate_answers_each_sequence_as_if_it_were_alone(
    zoo: Zoo, family: str, parts: tuple[str, ...]
) -> None:
    """Also where some rows of the batch have ended before the others."""
    base = zoo.model(family)
    together = _requests(base, parts)
    _run(base, together)
    for request, alone in zip(together, _requests(base, parts), strict=True):
        _run(base, [alone])
        assert len(request.generated) >= 12
        assert request.generated == alone.generated
        assert request.text == alone.text
        assert request.finish_reason is alone.finish_reason
        assert _logprobs(request) == pytest.approx(_logprobs(alone), abs=TOLERANCE)


@uses_peft
@peft_cases
def test_generate_equals_the_generate_of_peft(zoo: Zoo, family: str, parts: tuple[str, ...]) -> None:
    base = zoo.model(family)
    requests = _requests(base, parts, lengths=(STEPS,) * 5)
    _run(base, requests)
    for request in requests:
        if request.row.prompt:
            reference = peft_prompt_tuning(base, request.row.prompt[parts[0]])
            assert request.generated == peft_generate(reference, request.row, STEPS)


@pytest.mark.parametrize(("family", "batches"), [("llama", 1), ("t5", 1), ("bart", 4), ("bart_scaled", 4)])
def test_only_absolute_decoder_positions_need_batches_of_their_own(
    zoo: Zoo, family: str, batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BART's decoder would count the padding in front of a short prompt as positions."""
    base = zoo.model(family)
    requests = _requests(base, base.checkpoint.prompt_parts)
    assert len({base.serving.cohort(request.row) for request in requests}) == batches
    read = _spy_on_reading(base, monkeypatch)
    _run(base, requests)
    assert len(read) == batches
    assert sum(read) == len(requests)


@pytest.mark.parametrize("family", SEQ2SEQ_FAMILIES)
def test_encoder_prompts_of_any_length_share_a_batch(zoo: Zoo, family: str) -> None:
    base = zoo.model(family)
    assert len({base.serving.cohort(row) for row in sample_rows(base, ENCODER_ONLY)}) == 1


def test_a_batch_across_cohorts_is_noticed(zoo: Zoo) -> None:
    """Planted: BART rows with decoder prompts of two lengths in one batch, against their cohort."""
    base = zoo.model("bart")
    rows = sample_rows(base, DECODER_ONLY)[:2]
    answer = greedy(base, rows)[0]
    with pytest.raises(AssertionError):
        assert_same(answer, plain_answer(base, rows[0], answer.tokens))


# ---- helpers ----


def _requests(
    base: BaseModel, parts: Sequence[str], lengths: Sequence[int] = (12, 17, 14, 20, 12)
) -> list[Request]:
    """A request for each of LENGTHS, with answers of `lengths` tokens."""
    return [
        Request(
            base.text,
            SoftPrompt(row.prompt),
            base.text.source_ids(words(count, seed=index)),
            GenerationParameters(
                max_new_tokens=length,
                min_new_tokens=length,
                generated_tokens=True,
                token_logprobs=True,
            ),
        )
        for index, (row, (_, count), length) in enumerate(
            zip(sample_rows(base, parts), LENGTHS, lengths, strict=True)
        )
    ]


def _run(base: BaseModel, requests: list[Request]) -> None:
    for _ in generate(base, requests):
        pass


def _logprobs(request: Request) -> list[float | None]:
    return [token.logprob for token in request.tokens]


def _spy_on_reading(base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of rows of each micro-batch that is read from now on."""
    read: list[int] = []
    prefill = base.serving.prefill

    def spy(rows: Sequence[Row]) -> Prefill:
        read.append(len(rows))
        return prefill(rows)

    monkeypatch.setattr(base.serving, "prefill", spy)
    return read
