"""Answers that are labels: the likeliest of all, by probabilities as plain forward passes have them.

Some labels begin alike, and one is the beginning of others, so that the walk turns back and goes deep.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.row import Row
from caikit_pt.parameters.generation import GenerationParameters
from caikit_pt.serving.engine import generate
from caikit_pt.serving.labels import Labels
from caikit_pt.serving.request import FinishReason, Request
from caikit_pt.soft_prompt.prompt import SoftPrompt

from .answers import sample_rows
from .cases import every_case
from .families import Zoo
from .precision import everything_in_float64
from .references import plain_answer

TEXTS = ("w1", "w1 w2", "w1 w2 w3", "w4 w5 w6", "w4 w5 w7", "w8")
ROUNDING = 1e-8


@every_case
def test_probabilities_are_those_of_plain_passes(zoo: Zoo, family: str, parts: tuple[str, ...]) -> None:
    base = zoo.model(family, "float64")
    labels = Labels(base.text, TEXTS, "", 9)
    rows = sample_rows(base, parts)
    with everything_in_float64():
        asked = [_request(base, row, labels, label_probabilities=True) for row in rows]
        _run(base, asked)
        for row, request in zip(rows, asked, strict=True):
            assert request.search is not None
            expected = _probabilities(base, row, labels)
            assert dict(request.search.probabilities) == pytest.approx(expected, abs=ROUNDING)
            assert sum(request.search.probabilities.values()) == pytest.approx(1)
            assert (
                request.text
                == next(iter(request.search.probabilities))
                == max(expected, key=expected.__getitem__)
            )


@every_case
def test_labels_and_free_answers_share_a_batch(zoo: Zoo, family: str, parts: tuple[str, ...]) -> None:
    """The likeliest label without all being looked at, and neighbours that notice nothing."""
    base = zoo.model(family)
    labels = Labels(base.text, TEXTS, "", 9)
    rows = sample_rows(base, parts)
    alone = [_request(base, row) for row in rows]
    for request in alone:
        _run(base, [request])
    confined, free = [_request(base, row, labels) for row in rows], [_request(base, row) for row in rows]
    _run(base, [request for pair in zip(confined, free, strict=True) for request in pair])
    assert [request.generated for request in free] == [request.generated for request in alone]
    for row, request in zip(rows, confined, strict=True):
        shares = _probabilities(base, row, labels)
        # Of two labels as likely as each other, either is right.
        assert shares[request.text] == pytest.approx(max(shares.values()), rel=1e-3)
        assert request.finish_reason is FinishReason.EOS_TOKEN
        assert tuple(request.generated) == labels.ids[TEXTS.index(request.text)]


@every_case
def test_what_is_told_of_tokens_is_what_the_model_thinks_of_them(
    zoo: Zoo, family: str, parts: tuple[str, ...]
) -> None:
    base = zoo.model(family, "float64")
    labels = Labels(base.text, TEXTS, "", 9)
    with everything_in_float64():
        for row in sample_rows(base, parts):
            told = {"generated_tokens": True, "token_logprobs": True, "token_ranks": True}
            request = _request(base, row, labels, **told)
            _run(base, [request])
            logs = plain_answer(base, row, request.generated).logits.log_softmax(dim=-1)
            expected = [
                float(of_step[token]) for of_step, token in zip(logs, request.generated, strict=False)
            ]
            assert [token.logprob for token in request.tokens] == pytest.approx(expected, abs=ROUNDING)
            assert [step.text for step in request.steps][-1] == request.text in TEXTS


def _request(base: BaseModel, row: Row, labels: Labels | None = None, **parameters: Any) -> Request:
    asked = GenerationParameters(max_new_tokens=6, preserve_input_text=False, **parameters)
    return Request(base.text, SoftPrompt(row.prompt), row.ids, asked, labels=labels)


def _run(base: BaseModel, requests: list[Request]) -> None:
    for _ in generate(base, requests):
        pass


def _probabilities(base: BaseModel, row: Row, labels: Labels) -> Mapping[str, float]:
    """Each label's, a plain pass for each: the product of its tokens' shares among those that are allowed."""
    found = {}
    for text, ids in zip(labels.texts, labels.ids, strict=True):
        logits = plain_answer(base, row, ids).logits
        log = 0.0
        for place, token in enumerate(ids):
            allowed = sorted({other[place] for other in labels.ids if other[:place] == ids[:place]})
            log += float(logits[place][allowed].double().log_softmax(dim=0)[allowed.index(token)])
        found[text] = math.exp(log)
    return found


def test_the_labels_could_tell(zoo: Zoo) -> None:
    """More than one of them is an answer, and some are found off the first way that was taken."""
    base = zoo.model("llama")
    labels = Labels(base.text, TEXTS, "", 9)
    rows = [Row(row.prompt, row.ids) for seed in range(6) for row in sample_rows(base, ("DECODER",), seed)]
    greedy = 0
    for row in rows:
        shares = _probabilities(base, row, labels)
        firsts = torch.tensor([ids[0] for ids in labels.ids])
        first = int(firsts[plain_answer(base, row, [0]).logits[0][firsts].argmax()])
        best = max(shares, key=shares.__getitem__)
        greedy += labels.ids[TEXTS.index(best)][0] != first
    assert greedy
