"""Text as it comes: joined it is the text of all tokens, no half character, no half stop sequence."""

from __future__ import annotations

import itertools

import pytest

from caikit_pt.base_model.model import BaseModel
from caikit_pt.serving.text import Detokenizer, StopSequences

TEXTS = (
    "hello world",
    "Grüße aus Köln, 30 €",
    "family 👨‍👩‍👧‍👦 and flag 🇩🇪 🙂🙂",
    "日本語のテキスト",
    "  two  spaces ,and punctuation !",
    "नमस्ते",
    "tab\tand\nnewline",
)


@pytest.mark.parametrize("text", TEXTS)
def test_parts_joined_are_the_whole(base: BaseModel, text: str) -> None:
    ids = base.text.target_ids(text)
    detokenizer = Detokenizer(base.text.tokenizer)
    parts = [detokenizer.push(token) for token in ids]
    assert "".join(parts) + detokenizer.flush() == base.text.tokenizer.decode(ids, skip_special_tokens=True)
    assert not any("\ufffd" in part for part in parts)


@pytest.mark.parametrize("text", TEXTS)
def test_with_context_the_answer_continues_the_text(llama: BaseModel, text: str) -> None:
    context, ids = llama.text.source_ids("It says:"), llama.text.target_ids(text)
    detokenizer = Detokenizer(llama.text.tokenizer, context)
    joined = "".join([detokenizer.push(token) for token in ids]) + detokenizer.flush()
    assert f"It says:{joined}" == llama.text.tokenizer.decode([*context, *ids], skip_special_tokens=True)


def test_bytes_that_never_become_a_character_are_shown_at_the_end(llama: BaseModel) -> None:
    ids = llama.text.target_ids("\U00013000")
    assert len(ids) > 1, "the tokenizer knows this one whole"
    detokenizer = Detokenizer(llama.text.tokenizer)
    assert "".join(detokenizer.push(token) for token in ids[:-1]).strip() == ""
    assert "\ufffd" in detokenizer.flush()


def shown_until_stop(chunks: list[str], stops: list[str], include: bool) -> tuple[str, bool]:
    """What a reader has seen at the end."""
    watcher = StopSequences(stops, include)
    text = ""
    for chunk in chunks:
        part, stopped = watcher.push(chunk)
        text += part
        if stopped:
            return text, True
    return text + watcher.flush(), False


def slow_answer(text: str, stops: list[str], include: bool) -> tuple[str, bool]:
    """The obvious way: the first end of a stop sequence in the whole text, by start and then length."""
    found = [(text.find(stop), -len(stop), stop) for stop in stops if stop in text]
    if not found:
        return text, False
    at, _, stop = min(found)
    return text[: at + len(stop)] if include else text[:at], True


@pytest.mark.parametrize("include", [True, False])
@pytest.mark.parametrize("stops", [["END"], ["ab", "bc"], ["\n\n"], ["aab", "x"], []])
def test_stops_are_found_across_any_cut_of_the_text(stops: list[str], include: bool) -> None:
    """Every way to cut a short text into pieces."""
    for text in ("aaab", "xEND", "a\n\nb", "abc", "aabaab", "EN", "bcab", ""):
        for cuts in itertools.product([False, True], repeat=max(0, len(text) - 1)):
            edges = [0, *(at + 1 for at, cut in enumerate(cuts) if cut), len(text)]
            chunks = [text[start:end] for start, end in itertools.pairwise(edges)]
            seen = shown_until_stop(chunks, stops, include)
            expected = slow_answer(text, stops, include)
            if len(stops) == 1 or seen[1] != expected[1]:
                assert seen == expected, chunks


def test_a_tail_that_may_become_a_stop_is_held_back() -> None:
    watcher = StopSequences(["STOP"], include=True)
    assert watcher.push("go ST") == ("go ", False)
    assert watcher.push("AY") == ("STAY", False)
    assert watcher.push("ST") == ("", False)
    assert watcher.push("OPS") == ("STOP", True)


def test_before_the_minimum_nothing_stops() -> None:
    watcher = StopSequences(["STOP"], include=False)
    assert watcher.push("STOP and ", may_stop=False) == ("STOP and ", False)
    assert watcher.push("STOP") == ("", True)
