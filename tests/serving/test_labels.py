"""The walk over a trie of labels, against looking at every label."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import cast

import pytest

from caikit_pt.base_model.text.side import TextSide
from caikit_pt.serving.labels import Labels, LabelSearch

END = 0


class _Letters:
    """A text side whose tokens are letters."""

    end_id = END

    def answer_text(self, output: str, separator: str) -> str:
        return output

    def target_ids(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]


def labels(texts: Sequence[str], longest: int = 100) -> Labels:
    return Labels(cast(TextSide, _Letters()), texts, "", longest)


def walk(search: LabelSearch, logits: Mapping[tuple[int, ...], Mapping[int, float]]) -> int:
    """To the end; how many choices were looked at."""
    looked = 0
    while search.wanted is not None:
        own = [logits[search.wanted][token] for token in search.choices]
        whole = math.log(sum(map(math.exp, own)))
        search.take([one - whole for one in own])
        looked += 1
    return looked


def some(seed: int) -> tuple[Labels, dict[tuple[int, ...], dict[int, float]], dict[str, float]]:
    """Labels, logits behind each of their beginnings, and by these the probability of each label."""
    rng = random.Random(seed)
    texts = sorted({"".join(rng.choices("ab", k=rng.randint(0, 4))) for _ in range(rng.randint(1, 9))})
    known = labels(texts)
    paths = {ids[:place] for ids in known.ids for place in range(len(ids))}
    logits = {path: {token: rng.gauss(0, 2) for token in (END, ord("a"), ord("b"))} for path in sorted(paths)}
    found = {}
    for text, ids in zip(texts, known.ids, strict=True):
        share = 1.0
        for place, token in enumerate(ids):
            allowed = {other[place] for other in known.ids if other[:place] == ids[:place]}
            weights = {one: math.exp(logits[ids[:place]][one]) for one in allowed}
            share *= weights[token] / sum(weights.values())
        found[text] = share
    return known, logits, found


@pytest.mark.parametrize("seed", range(60))
def test_the_likeliest_label_is_found(seed: int) -> None:
    known, logits, expected = some(seed)
    best, all_of_them = LabelSearch(known), LabelSearch(known, whole=True)
    assert walk(best, logits) <= walk(all_of_them, logits)
    assert all_of_them.probabilities == pytest.approx(expected)
    shares = list(all_of_them.probabilities.values())
    assert shares == sorted(shares, reverse=True)
    for search in (best, all_of_them):
        assert search.found is not None
        assert known.texts[search.found] == max(expected, key=expected.__getitem__)


def test_labels_that_differ_at_once_take_one_look() -> None:
    known = labels(["yes", "no", "maybe"])
    assert walk(LabelSearch(known, whole=True), {(): {ord("y"): 1.0, ord("n"): 0.5, ord("m"): 0.0}}) == 1


def test_one_label_takes_none() -> None:
    search = LabelSearch(labels(["yes"]), whole=True)
    assert (search.wanted, search.found, dict(search.probabilities)) == (None, 0, {"yes": 1.0})


def test_labels_are_drawn_by_their_probabilities() -> None:
    known, logits, expected = some(7)
    rng = random.Random(1)
    drawn: Counter[str] = Counter()
    for _ in range(4000):
        search = LabelSearch(known, draw=rng.random)
        walk(search, logits)
        assert search.found is not None
        drawn[known.texts[search.found]] += 1
    for text, share in expected.items():
        assert drawn[text] / 4000 == pytest.approx(share, abs=4 * math.sqrt(share / 4000) + 1e-3)


def test_a_low_temperature_draws_the_likeliest_at_every_choice() -> None:
    known = labels(["ab", "aa", "b"])
    logits = {(): {97: 1.0, 98: 0.0}, (97,): {97: 0.0, 98: 0.1}}
    search = LabelSearch(known, draw=lambda: 0.999, temperature=0.001)
    walk(search, logits)
    assert search.found == 0


def test_labels_are_cut_as_targets_are() -> None:
    known = labels(["abc", "abd", "x"], longest=2)
    assert known.ids == [(97, 98, END), (97, 98, END), (120, END)]
    search = LabelSearch(known)
    walk(search, {(): {97: 1.0, 120: 0.0}})
    assert search.found == 0


@pytest.mark.parametrize("seed", range(20))
def test_a_draw_is_the_same_with_all_probabilities(seed: int) -> None:
    known, logits, expected = some(seed)
    drawn = []
    for whole in (False, True):
        search = LabelSearch(known, whole=whole, draw=random.Random(seed).random, temperature=1.5)
        walk(search, logits)
        drawn.append(search.found)
    assert drawn[0] == drawn[1]
    assert search.probabilities == pytest.approx(expected)
