"""What a model thinks of the tokens of a text, and which it thinks likeliest, as plain transformers does."""

from __future__ import annotations

import pytest
import torch

from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.row import Row
from caikit_pt.parameters.generation import GenerationParameters
from caikit_pt.serving.engine import generate
from caikit_pt.serving.input_tokens import input_tokens
from caikit_pt.serving.request import Request, given_ids, token_text
from caikit_pt.soft_prompt.prompt import SoftPrompt

from .answers import DECODER_ONLY, ROUNDING, sample_rows
from .families import CAUSAL_FAMILIES, SEQ2SEQ_FAMILIES, Zoo
from .precision import everything_in_float64
from .references import plain_answer

TOP = 3


def request_of(base: BaseModel, row: Row, **fields: object) -> Request:
    asked = {
        "input_ids": list(row.ids),
        "token_logprobs": True,
        "token_ranks": True,
        "top_tokens": TOP,
        **fields,
    }
    parameters = GenerationParameters.from_request(asked, None, {})
    return Request(base.text, SoftPrompt(dict(row.prompt)), given_ids(base.text, parameters), parameters)


def reference(base: BaseModel, row: Row) -> torch.Tensor:
    """Log-probabilities [T, V] of what may stand at each place; without a prompt at each but the first."""
    if row.prompt:
        return plain_answer(base, Row(row.prompt, ()), row.ids).logits.log_softmax(dim=-1)
    return plain_answer(base, Row({}, row.ids[:1]), row.ids[1:]).logits.log_softmax(dim=-1)


@pytest.mark.parametrize("family", CAUSAL_FAMILIES)
def test_tokens_of_a_text_are_worth_what_plain_transformers_says(zoo: Zoo, family: str) -> None:
    base = zoo.model(family, "float64")
    with everything_in_float64():
        for row in sample_rows(base, DECODER_ONLY):
            told = input_tokens(request_of(base, row, input_tokens=True), base)
            expected = reference(base, row)
            without = len(row.ids) - len(expected)
            assert without == (not row.prompt)
            assert [(each.logprob, each.rank, each.top) for each in told[:without]] == [
                (None, None, ())
            ] * without
            for token, each, logprobs in zip(row.ids[without:], told[without:], expected, strict=True):
                assert each.logprob == pytest.approx(float(logprobs[token]), abs=ROUNDING)
                assert each.rank == int((logprobs > logprobs[token]).sum()) + 1
                values, ids = logprobs.topk(TOP)
                assert [one.logprob for one in each.top] == pytest.approx(values.tolist(), abs=ROUNDING)
                assert [one.text for one in each.top] == [token_text(base.text, id) for id in ids.tolist()]
                assert [one.rank for one in each.top] == [1, 2, 3]


@pytest.mark.parametrize("family", [*CAUSAL_FAMILIES, *SEQ2SEQ_FAMILIES])
def test_the_likeliest_at_each_place_of_an_answer_are_those_of_its_logits(zoo: Zoo, family: str) -> None:
    """In a batch whose rows ask for more of them, for fewer and for none."""
    base = zoo.model(family, "float64")
    rows = sample_rows(base, base.checkpoint.prompt_parts[:1])
    wanted = [TOP, 1, 0, 2, TOP]
    with everything_in_float64():
        requests = [
            request_of(base, row, generated_tokens=True, top_tokens=top, max_new_tokens=4)
            for row, top in zip(rows, wanted, strict=True)
        ]
        for cohort in {base.serving.cohort(each.row) for each in requests}:
            of_one = [each for each in requests if base.serving.cohort(each.row) == cohort]
            assert list(generate(base, of_one))
        for request, row, top in zip(requests, rows, wanted, strict=True):
            expected = plain_answer(base, row, request.generated).logits.log_softmax(dim=-1)
            for told, logprobs in zip(request.tokens, expected, strict=True):
                assert len(told.top) == top
                assert [one.logprob for one in told.top] == pytest.approx(
                    logprobs.topk(max(top, 1)).values[:top].tolist(), abs=ROUNDING
                )
                # It is greedy: its own is the first.
                assert told.rank == 1
                assert all(one.text == told.text for one in told.top[:1])


@pytest.mark.parametrize("family", SEQ2SEQ_FAMILIES)
def test_nothing_predicts_what_an_encoder_reads(zoo: Zoo, family: str) -> None:
    base = zoo.model(family)
    for row in sample_rows(base, base.checkpoint.prompt_parts):
        told = input_tokens(request_of(base, row, input_tokens=True), base)
        assert [(each.logprob, each.top) for each in told] == [(None, ())] * len(row.ids)
