"""The words that virtual tokens lie next to."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from caikit_pt.base_model.model import BaseModel
from caikit_pt.tuning import neighbours
from caikit_pt.tuning.neighbours import nearest_words

NAMES = (
    *(
        "</s>",
        "<unused7>",
        "[unused3]",
        "<|reserved_special_token_1|>",
        "<extra_id_4>",
        "<0x0A>",
        "▁",
        "<wo|",
    ),
    *("▁good", "good", "ba\ufffd", "▁bad", "plain", "word", None, "beyond"),
)


@pytest.fixture
def stand_in() -> BaseModel:
    """A model of 15 words, each of its own direction but for "good" with and without a space."""
    table = torch.eye(15)
    table[9] = 0.9 * table[8] + 0.1 * table[12]

    def decode(ids: list[int], clean_up_tokenization_spaces: bool) -> str:
        return str(NAMES[ids[0]]).replace("▁", " ")

    class Tokenizer(SimpleNamespace):
        def __len__(self) -> int:
            return len(NAMES)

    tokenizer = Tokenizer(
        added_tokens_decoder={7: SimpleNamespace(special=True), 12: SimpleNamespace(special=False)},
        all_special_ids=[0],
        convert_ids_to_tokens=lambda ids: [NAMES[index] for index in ids],
        decode=decode,
    )
    # As in Gemma: what the first layer gets is not what the table holds.
    shift = torch.linspace(0.1, 0.2, 15)
    fake = SimpleNamespace(
        text=SimpleNamespace(tokenizer=tokenizer, rows=15),
        weights=SimpleNamespace(
            device=torch.device("cpu"),
            embed=lambda ids: (100 * (table[list(ids)] + shift)).bfloat16(),
        ),
    )
    return cast(BaseModel, fake)


@pytest.mark.parametrize("text", ["good bad kettle", "the lamp is broken"])
def test_words_are_nearest_to_themselves(base: BaseModel, text: str) -> None:
    ids = base.text.target_ids(text)
    expected = [base.text.tokenizer.decode([index]).strip() for index in ids]
    rows = base.weights.embed(ids)
    assert [words[0] for words in nearest_words(base, rows)] == expected
    # By direction, whatever their length, and in whatever a prompt is kept.
    assert [words[0] for words in nearest_words(base, 30 * rows.double().requires_grad_())] == expected


def test_the_order_is_that_of_the_cosine(base: BaseModel) -> None:
    good, bad = base.weights.embed([*base.text.target_ids("good")[:1], *base.text.target_ids("bad")[:1]])
    ((first, second, *_),) = nearest_words(base, (0.6 * good + 0.5 * bad)[None])
    assert [first, second] == ["good", "bad"]


def test_every_row_has_as_many_different_words_as_are_asked_for(base: BaseModel) -> None:
    rows = torch.randn(20, base.checkpoint.hidden_size, generator=torch.Generator().manual_seed(1))
    for count in (1, 3, 10):
        found = nearest_words(base, rows, count)
        assert [len(set(words)) for words in found] == [count] * 20
        assert all(word == word.strip() and word.isprintable() and word for words in found for word in words)


def test_special_tokens_are_no_words(base: BaseModel) -> None:
    special = base.text.tokenizer.all_special_ids
    found = nearest_words(base, base.weights.embed(special), 5)
    assert not {word for words in found for word in words} & set(base.text.tokenizer.all_special_tokens)


@pytest.mark.parametrize("chunk", [1, 100, 1787])
def test_the_vocabulary_is_read_in_parts(
    base: BaseModel, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = torch.randn(5, base.checkpoint.hidden_size, generator=torch.Generator().manual_seed(2))
    whole = nearest_words(base, rows)
    seen, embed = [], base.weights.embed

    def watched(ids: Sequence[int]) -> torch.Tensor:
        seen.append(len(ids))
        return embed(ids)

    monkeypatch.setattr(base.weights, "embed", watched)
    monkeypatch.setattr(neighbours, "_CHUNK", chunk)
    assert nearest_words(base, rows) == whole
    assert max(seen) <= chunk


def test_what_stands_for_no_text_is_left_out_and_a_word_is_shown_once(stand_in: BaseModel) -> None:
    rows = stand_in.weights.embed(range(15))
    found = nearest_words(stand_in, rows, 10)
    assert all(sorted(words) == ["bad", "good", "plain", "word"] for words in found)
    nearest = [found[index][0] for index in (8, 9, 11, 12, 13)]
    assert nearest == ["good", "good", "bad", "plain", "word"]


def test_no_rows_have_no_neighbours(base: BaseModel) -> None:
    assert nearest_words(base, torch.empty(0, base.checkpoint.hidden_size)) == []
