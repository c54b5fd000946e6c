"""What one example looks like: its tokens, what is cut, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from caikit_pt.base_model.model import BaseModel
from caikit_pt.errors import InvalidRecord
from caikit_pt.tuning.examples import make_examples
from caikit_pt.tuning.plan import make_plan
from caikit_pt.tuning.records import Record, Records
from caikit_pt.tuning.tuner import tune
from tests.conftest import SETTINGS

from .test_tuner import RECORDS, WORDS, plan


def test_a_target_ends_with_eos_and_holds_nothing_else_special(base: BaseModel) -> None:
    examples = make_examples(RECORDS, base.text, plan(base, separator="").parameters)
    special = set(base.text.tokenizer.all_special_ids)
    for record, example in zip(RECORDS.items, examples.items, strict=True):
        assert example.target[-1] == base.text.end_id
        assert not special & set(example.target[:-1])
        assert base.text.tokenizer.decode(example.target[:-1]).strip() == record.output
        assert example.source == base.text.source_ids(record.input)


def test_a_causal_source_does_not_end_before_its_target(llama: BaseModel) -> None:
    source = make_examples(RECORDS, llama.text, plan(llama).parameters).items[0].source
    assert source[-1] != llama.text.end_id


def test_cuts_keep_the_beginning_and_are_counted(base: BaseModel) -> None:
    long = Records(
        (Record("one two three four five six seven", "eight nine ten eleven"), RECORDS.items[0]), False
    )
    parameters = plan(base, max_source_length=6, max_target_length=2, separator="").parameters
    examples = make_examples(long, base.text, parameters)
    whole = base.text.source_ids(long.items[0].input)
    cut = examples.items[0]
    assert len(cut.source) == 6
    assert cut.source[:5] == whole[:5]
    assert (cut.source[-1] == base.text.end_id) == (whole[-1] == base.text.end_id)
    assert cut.target == [*base.text.target_ids(long.items[0].output)[:2], base.text.end_id]
    assert examples.cut_sources >= 1
    assert examples.cut_targets >= 1


def test_a_long_text_is_cut_before_it_is_tokenised(base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten million characters kept the RPC for half a minute. The tokens are those of the whole."""
    text = "".join(f"the {word} number {n} is good, " for n in range(300) for word in WORDS)
    parameters = plan(base, max_source_length=50, max_target_length=20, separator="").parameters
    whole = base.text.source_ids(text), base.text.target_ids(text)
    read: list[int] = []

    def counted(real: Callable[[str], list[int]]) -> Callable[[str], list[int]]:
        def ids(given: str) -> list[int]:
            read.append(len(given))
            return real(given)

        return ids

    for name in ("source_ids", "target_ids"):
        monkeypatch.setattr(base.text, name, counted(getattr(base.text, name)))
    long = Records((Record(text, text), Record(text * 300, text * 300)), False)
    examples = make_examples(long, base.text, parameters)
    assert max(read) < len(text)
    assert examples.items[0] == examples.items[1]
    assert examples.items[0].source == base.text.cut_source(whole[0], 50)
    assert examples.items[0].target == [*whole[1][:20], base.text.end_id]
    assert (examples.cut_sources, examples.cut_targets) == (2, 2)


def test_a_text_of_few_tokens_is_read_whole(base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long: characters that a tokenizer leaves out are no tokens."""
    real = base.text.source_ids
    monkeypatch.setattr(base.text, "source_ids", lambda text: real(text.replace("\u200b", "")))
    text = "\u200b" * 100_000 + "kettle"
    assert base.text.first_source_ids(text, 20) == real("kettle")


def test_a_source_without_a_token_is_refused_by_its_number(
    base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some tokenizers leave out characters, and of a text of these nothing is left."""
    real = base.text.source_ids
    monkeypatch.setattr(base.text, "source_ids", lambda text: real("" if text == "\u200b" else text))
    pairs = [{"input": f"thing {n}", "output": "good"} for n in range(20)]
    pairs[3]["input"] = pairs[8]["input"] = "\u200b"
    request = {"base_model": base.checkpoint.name, "validation_share": 0.5}
    planned = make_plan(request, pairs, None, SETTINGS)
    with pytest.raises(InvalidRecord, match=r"2 records whose input has no token \(record 4, 9\)") as refusal:
        tune(planned, base)
    assert refusal.value.field == "train_stream"
    held_out = make_plan({"base_model": base.checkpoint.name}, pairs[:3], pairs, SETTINGS)
    with pytest.raises(InvalidRecord, match=r"record 4, 9") as refusal:
        tune(held_out, base)
    assert refusal.value.field == "val_stream"


def test_what_looks_like_a_special_token_in_a_target_is_text(base: BaseModel) -> None:
    for token in base.text.tokenizer.all_special_tokens:
        ids = base.text.target_ids(f"a {token} b")
        assert not set(base.text.tokenizer.all_special_ids) & set(ids)
