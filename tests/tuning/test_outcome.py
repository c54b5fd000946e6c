"""Whether a prompt is worth using: what is found, how sure that is, and what is said of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from caikit_pt.tuning.judged import Judged, differences
from caikit_pt.tuning.outcome import BETTER, NO_BETTER, PERHAPS_BETTER, WORSE, in_words, outcome, unknown

LABELS = ["yes", "no"] * 20
MOSTLY = ["yes"] * 36 + ["no"] * 4
TEXTS = [f"it is number {number}" for number in range(40)]


def right_in(outputs: Sequence[str], share: float) -> list[str]:
    """Answers of which so many are right, spread over all records."""
    count = round(share * len(outputs))
    drawn = set(np.random.default_rng(0).permutation(len(outputs))[:count].tolist())
    return [output if n in drawn else "-" for n, output in enumerate(outputs)]


@pytest.mark.parametrize(
    ("outputs", "tuned", "untuned", "labelled", "found", "than"),
    [
        (LABELS, 1.0, 0.0, True, BETTER, "the untuned base"),
        (LABELS, 0.0, 0.5, True, WORSE, "the untuned base"),
        # A newcomer's: nothing is right, and that was "settled", COMPLETED and exit code 0.
        (LABELS, 0.0, 0.0, True, WORSE, "always giving the commonest answer"),
        (LABELS, 0.9, 0.9, True, NO_BETTER, "the untuned base"),
        (LABELS, 0.95, 0.9, True, PERHAPS_BETTER, "the untuned base"),
        # Far better than the base, and worth nothing all the same.
        (MOSTLY, 0.9, 0.0, True, NO_BETTER, "always giving the commonest answer"),
        (MOSTLY, 0.5, 0.0, True, WORSE, "always giving the commonest answer"),
        (TEXTS, 0.6, 0.1, False, BETTER, "the untuned base"),
        (TEXTS, 0.1, 0.1, False, NO_BETTER, "the untuned base"),
        (TEXTS, 0.0, 0.9, False, WORSE, "the untuned base"),
    ],
)
def test_what_is_found(
    outputs: list[str], tuned: float, untuned: float, labelled: bool, found: str, than: str
) -> None:
    answers = right_in(outputs, tuned), right_in(outputs, untuned)
    told = outcome(outputs, *answers, labelled, "settled")
    assert told["found"] == found
    assert told["sentence"].startswith(f"{found.capitalize()} than {than}: ")
    assert ("majority" in told) == labelled
    assert told["tuned"] == pytest.approx(tuned)
    above = told["untuned"]["difference"]
    assert above["value"] == pytest.approx(tuned - untuned)
    assert above["low"] <= above["value"] <= above["high"]


def test_the_sentence() -> None:
    told = outcome(LABELS, LABELS, ["no"] * 40, True, "settled")
    above = told["untuned"]["difference"]
    assert told["sentence"] == (
        f"Better than the untuned base: accuracy 1.000 against 0.500 (+0.500 [{above['low']:+.3f}, "
        f"{above['high']:+.3f}], 95 % sure, by 40 validation records); always giving the commonest answer "
        "has 0.500."
    )
    assert in_words(told) == f"{told['sentence']} {told['next']}"
    assert in_words({}) == ""


def test_texts_of_which_none_is_right() -> None:
    """The name of their metric is nothing of a program's."""
    told = outcome(TEXTS, ["-"] * 40, ["-"] * 40, False, "settled")
    assert told["sentence"].startswith(
        "No better than the untuned base: ROUGE-L 0.000 against 0.000 (+0.000 ["
    )


def test_six_records_are_no_proof_and_the_sentence_says_so() -> None:
    told = outcome(["yes", "no"] * 3, ["yes", "no"] * 2 + ["yes", "yes"], ["no"] * 6, True, "settled")
    assert told["found"] == PERHAPS_BETTER
    assert "that may be chance" in told["sentence"]
    assert "More records to validate with" in told["next"]


@pytest.mark.parametrize(
    ("course", "share", "told"),
    [
        ("settled", 1.0, "caikit-pt evaluate"),
        ("still improving", 1.0, "more num_epochs"),
        ("still improving", 0.0, "more num_epochs"),
        ("flat", 0.0, "more num_epochs or search auto"),
        ("diverged", 0.0, "smaller learning_rate"),
        ("settled", 0.0, "search auto"),
    ],
)
def test_what_to_try_next_is_what_the_loss_suggests(course: str, share: float, told: str) -> None:
    answers = right_in(LABELS, share)
    assert told in outcome(LABELS, answers, right_in(LABELS, 0.0), True, course)["next"]
    assert unknown(course)["next"]


def test_its_interval_is_that_of_the_slow_bootstrap() -> None:
    """As `evaluate` has it."""
    tuned, untuned = right_in(LABELS * 5, 0.8), right_in(LABELS[::-1] * 5, 0.4)
    ours, theirs = (Judged(answers, LABELS * 5, True) for answers in (tuned, untuned))
    slow = differences(ours, {"untuned": theirs})["untuned"]["accuracy"]
    quick = outcome(LABELS * 5, tuned, untuned, True, "settled")["untuned"]["difference"]
    assert quick["value"] == pytest.approx(slow.value)
    assert quick["low"] == pytest.approx(slow.low, abs=0.015)
    assert quick["high"] == pytest.approx(slow.high, abs=0.015)
