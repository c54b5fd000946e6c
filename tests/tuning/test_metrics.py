"""Metrics by hand, as published, and by properties that hold for any answers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from random import Random

import pytest

from caikit_pt.tuning.metrics import exact_match, label_set, macro_f1, rouge_l, scores

TASKS = ("classification", "summarization", "generation")
WORDS = ("the", "cat", "sat", "on", "a", "mat", "dog")


def rouge(answer: str, output: str) -> float:
    return rouge_l([answer], [output])[0]


def texts(source: Random, count: int) -> list[str]:
    return [" ".join(source.choices(WORDS, k=source.randint(1, 12))) for _ in range(count)]


def test_white_space_around_an_answer_does_not_count() -> None:
    assert exact_match([" good\n", "Good", "go od", ""], ["good", "good", "good", "good"]) == [1, 0, 0, 0]
    assert macro_f1([" a\n", "b"], ["a", "b "]) == 1.0


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("police kill the gunman", 3 / 4),
        ("the gunman kill police", 2 / 4),
        ("the gunman police killed", 2 / 4),
    ],
)
def test_rouge_l_is_that_of_the_paper(answer: str, score: float) -> None:
    """Lin 2004, section 3.1."""
    assert rouge(answer, "police killed the gunman") == score


@pytest.mark.parametrize(
    ("answer", "output", "score"),
    [
        ("the cat", "the cat sat on the mat", 1 / 2),  # precision 1, recall 1/3
        ("The cat, sat.", "the CAT sat", 1),
        ("a b c d e", "e d c b a", 1 / 5),
        ("x y", "a b", 0),
        ("", "a b", 0),
        ("the the the the", "the cat", 1 / 3),  # a word is found as often as it is there
    ],
)
def test_rouge_l_by_hand(answer: str, output: str, score: float) -> None:
    assert rouge(answer, output) == pytest.approx(score)


@pytest.mark.parametrize(
    ("answer", "output", "score"),
    [
        ("кошка сидит", "Кошка спит", 1 / 2),
        ("un café noir", "un caf noir", 2 / 3),
        ("हिन्दी भाषा", "हिन्दी बोली", 1 / 2),
        ("cafe\u0301", "caf\u00e9", 1),
        ("猫在睡觉", "狗在睡觉", 3 / 4),
        ("ネコが寝る", "イヌが寝る", 3 / 5),
        ("고양이가 잔다", "고양이가 논다", 1 / 2),
        ("👍", "👍", 1),
        ("👎", "👍", 0),
    ],
)
def test_rouge_l_counts_in_every_language(answer: str, output: str, score: float) -> None:
    assert rouge(answer, output) == pytest.approx(score)


def test_the_common_subsequence_is_that_of_the_table() -> None:
    source = Random(2)
    for answer, output in zip(texts(source, 300), texts(source, 300), strict=True):
        said, expected = answer.split(), output.split()
        assert rouge(answer, output) == pytest.approx(
            2 * longest(said, expected) / (len(said) + len(expected))
        )


def longest(first: Sequence[str], second: Sequence[str]) -> int:
    """The longest common subsequence as textbooks have it."""
    row = [0] * (len(second) + 1)
    for word in first:
        above = row[:]
        for place, other in enumerate(second):
            row[place + 1] = above[place] + 1 if word == other else max(above[place + 1], row[place])
    return row[-1]


def test_macro_f1_by_hand() -> None:
    """a: 2 right of 2 answered and 3 expected; b: 1 of 2 and 2; c: 1 of 1 and 1. x is no label."""
    answers, labels = ["a", "a", "b", "b", "x", "c"], ["a", "a", "a", "b", "b", "c"]
    assert macro_f1(answers, labels) == pytest.approx((4 / 5 + 2 / 4 + 1) / 3)


@pytest.mark.parametrize(
    ("answers", "labels", "score"),
    [
        ("aaaaaa", "abcabc", 0.166667),
        ("zzzzzz", "abcabc", 0.0),
        ("abzabz", "abcabc", 0.666667),
        ("aacaac", "abcabc", 0.555556),
        ("abbacazbbcad", "aabbccddabaa", 0.307540),
    ],
)
def test_macro_f1_is_that_of_scikit_learn(answers: str, labels: str, score: float) -> None:
    """What its 1.x gives for f1_score(labels, answers, average="macro", labels=sorted(set(labels)))."""
    assert macro_f1(list(answers), list(labels)) == pytest.approx(score, abs=1e-6)


def test_an_answer_that_is_no_label_takes_nothing_from_other_labels() -> None:
    assert macro_f1(["a", "nonsense"], ["a", "b"]) == 1 / 2
    assert macro_f1(["a", "a"], ["a", "b"]) == 1 / 3


@pytest.mark.parametrize(
    ("outputs", "labels"),
    [
        (["yes", "no"] * 4, {"yes", "no"}),
        (["yes", "no", "yes ", "no\n"] * 2, {"yes", "no"}),
        (["yes"] * 7 + ["no"], {"yes", "no"}),  # rare, and a label all the same
        (["yes", "no"] * 3 + ["yes"], None),
        (["yes"] * 100, None),
        ([str(number) for number in range(100)], None),
        ([str(number % 50) for number in range(200)], {str(number) for number in range(50)}),
        ([str(number % 51) for number in range(1000)], None),
        ([], None),
    ],
)
def test_labels_are_few_and_each_is_used_often(outputs: list[str], labels: set[str] | None) -> None:
    assert label_set(outputs) == labels


@pytest.mark.parametrize(
    ("task", "outputs", "names"),
    [
        ("classification", ["one", "two", "three"], ["accuracy", "macro_f1"]),
        ("summarization", ["yes", "no"] * 10, ["rouge_l"]),
        ("generation", ["one", "two", "three"], ["exact_match", "rouge_l"]),
        ("generation", ["yes", "no"] * 10, ["exact_match", "rouge_l"]),
    ],
)
def test_a_task_has_its_metrics(task: str, outputs: list[str], names: list[str]) -> None:
    assert list(scores(task, outputs, outputs)) == names


@pytest.mark.parametrize("task", TASKS)
def test_perfect_answers_score_1_and_a_few_of_them_are_no_proof(task: str) -> None:
    outputs = ["yes", "no", "never mind"] * 4
    for estimate in scores(task, outputs, outputs).values():
        assert estimate.value == estimate.high == 1
        assert 0.7 < estimate.low < 0.8


@pytest.mark.parametrize("task", TASKS)
def test_the_order_of_the_records_changes_no_value(task: str) -> None:
    source = Random(4)
    records = list(zip(texts(source, 40), texts(source, 40), strict=True))
    mixed = source.sample(records, k=len(records))
    before, after = (scores(task, *map(list, zip(*order, strict=True))) for order in (records, mixed))
    for name, estimate in before.items():
        assert estimate.value == pytest.approx(after[name].value)
        assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1


@pytest.mark.parametrize("task", TASKS)
def test_the_same_answers_have_the_same_interval(task: str) -> None:
    answers, outputs = ["yes", "no", "no", "yes"] * 5, ["yes", "no", "yes", "no"] * 5
    assert scores(task, answers, outputs) == scores(task, answers, outputs)


@pytest.mark.parametrize("task", TASKS)
def test_what_cannot_be_scored_is_refused(task: str) -> None:
    with pytest.raises(ValueError, match="no records"):
        scores(task, [], [])
    with pytest.raises(ValueError, match="longer"):
        scores(task, ["yes"], ["yes", "no"])


def test_another_task_is_refused() -> None:
    with pytest.raises(ValueError, match="translation"):
        scores("translation", ["yes"], ["yes"])


def test_a_thousand_records_of_fifty_labels_take_a_moment() -> None:
    source = Random(5)
    outputs = [str(source.randrange(50)) for _ in range(1000)]
    answers = [output if source.random() < 0.8 else "0" for output in outputs]
    started = time.process_time()
    estimate = scores("classification", answers, outputs)["macro_f1"]
    assert time.process_time() - started < 1
    assert 0.02 < estimate.high - estimate.low < 0.1
