"""What a person sees of an evaluation: a table, a matrix, a picture."""

from __future__ import annotations

import io
from typing import Any

from caikit_pt.evaluation_report import estimate, label, lines
from caikit_pt.plotting import matrix


def told(value: float, low: float | None, high: float | None) -> dict[str, float | None]:
    return {"value": value, "low": low, "high": high}


REPORT: dict[str, Any] = {
    "task": "classification",
    "records": 20,
    "models": {
        "tuned": {"model_name": "mood", "base_model": "tiny-t5", "max_new_tokens": 3},
        "untuned": {"model_name": "tiny-t5", "base_model": "tiny-t5", "max_new_tokens": 3},
        "majority": {"answer": "good", "of": "the test records"},
    },
    "scores": {
        # In no order: messages have none.
        "majority": {"accuracy": told(0.5, 0.299, 0.701)},
        "tuned": {"loss": told(0.25, None, None), "accuracy": told(0.9, 0.699, 0.972)},
        "untuned": {"accuracy": told(0, 0, 0.161), "loss": told(2, 1.5, 2.5)},
    },
    "differences": {
        name: {
            "accuracy": told(0.4, 0.1, 0.7),
            "right": {"both": 9, "only_tuned": 9, "only_other": 1, "neither": 1, "p_value": 0.0215},
        }
        for name in ("untuned", "majority")
    },
    "confusion": {"labels": ["$bad_", "good\x1b[31m"], "counts": [[8, 1, 1], [1, 9, 0]]},
    "wrong_answers": 2,
    "notes": ["1 answers are none of the labels"],
}


def test_large_numbers_are_short() -> None:
    assert estimate(told(10**300 + 7, 999_999.4, float("inf"))) == "1.00e+300 [999999.400, ∞]"
    assert estimate(told(-2.5e6, float("-inf"), 2.5e6), "+") == "-2.50e+06 [-∞, +2.50e+06]"


def test_a_report_is_a_table() -> None:
    assert "\n".join(lines("mood", REPORT)) == "\n".join(
        [
            "mood on 20 records, as classification; with 95 % intervals",
            "",
            "          mood                  untuned base          always 'good'",
            "accuracy  0.900 [0.699, 0.972]  0.000 [0.000, 0.161]  0.500 [0.299, 0.701]",
            "loss      0.250 [?, ?]          2.000 [1.500, 2.500]  -",
            "",
            "mood less each other, on the same records",
            "",
            "          untuned base             always 'good'",
            "accuracy  +0.400 [+0.100, +0.700]  +0.400 [+0.100, +0.700]",
            "",
            "untuned base: both right 9, only the tuned prompt 9, only the other 1, neither 1 (p 0.021)",
            "always 'good': both right 9, only the tuned prompt 9, only the other 1, neither 1 (p 0.021)",
            "",
            "expected \\ answered  $bad_  good�[31m  (none of them)",
            "$bad_                8      1          1",
            "good�[31m            1      9          0",
            "",
            "- 1 answers are none of the labels",
        ]
    )


def test_a_label_has_one_line_and_an_end() -> None:
    assert label("a\nb") == "a b"
    assert label("x" * 30) == "x" * 23 + "…"


def test_a_matrix_is_drawn_with_its_counts_and_labels_as_they_are() -> None:
    """Though matplotlib takes text between dollars for formulas."""
    confusion = {"labels": ["$bad_$", "$\\frac"], "counts": [[8, 1, 1], [1, 9, 0]]}
    figure = matrix(confusion, "mood")
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == ["8", "1", "1", "1", "9", "0"]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["$bad_$", "$\\frac"]
    file = io.BytesIO()
    figure.savefig(file, format="png")
    assert file.getvalue().startswith(b"\x89PNG")
