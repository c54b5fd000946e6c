"""The report of an evaluation, as a person reads it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from caikit_pt.columns import aligned
from caikit_pt.errors import shown

# Who stands beside whom, and what is told of them, as tuning/evaluation.py names them.
_ROLES = ("tuned", "untuned", "against", "majority")
METRICS = ("accuracy", "macro_f1", "exact_match", "rouge_l", "loss", "perplexity")
_LONGEST_LABEL = 24
_LARGE = 1e6


def lines(model_name: str, report: Mapping[str, Any]) -> Iterator[str]:
    """Scores, differences, the confusion matrix and notes of `report`, that of a prompt."""
    scores, names = report["scores"], _names(report)
    yield f"{model_name} on {report['records']} records, as {report['task']}; with 95 % intervals"
    yield ""
    yield from _table(scores, names, sign="")
    yield ""
    yield f"{model_name} less each other, on the same records"
    yield ""
    yield from _table(report["differences"], names, sign="+")
    yield ""
    for role in _present(report["differences"]):
        yield f"{names[role]}: {_right(report['differences'][role]['right'])}"
    if report["confusion"]:
        yield ""
        yield from _matrix(report["confusion"])
    if report["notes"]:
        yield ""
    for note in report["notes"]:
        yield f"- {note}"


def estimate(found: Mapping[str, float | None], sign: str = "") -> str:
    """Such as `0.930 [0.880, 0.960]`; a question mark is what so few records can't tell."""
    value, low, high = (_number(found[name], sign) for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _number(found: float | None, sign: str) -> str:
    """In ten characters or so, as a perplexity may have any size."""
    if found is None:
        return "?"
    if math.isinf(found):
        return f"{found:{sign}}".replace("inf", "∞")
    return f"{found:{sign}.3f}" if abs(found) < _LARGE else f"{found:{sign}.2e}"


def label(text: str) -> str:
    """A label on one line, cut where it is long, without what a terminal would obey."""
    line = "".join(letter if letter.isprintable() else "�" for letter in " ".join(text.split()))
    return line if len(line) <= _LONGEST_LABEL else f"{line[: _LONGEST_LABEL - 1]}…"


def _names(report: Mapping[str, Any]) -> dict[str, str]:
    models = report["models"]
    names = {role: told["model_name"] for role, told in models.items() if "model_name" in told}
    names["untuned"] = "untuned base"
    if "majority" in models:
        names["majority"] = f"always {shown(models['majority']['answer'], _LONGEST_LABEL)}"
    return names


def _present(told: Mapping[str, Any]) -> list[str]:
    return [role for role in _ROLES if role in told]


def _table(told: Mapping[str, Any], names: Mapping[str, str], sign: str) -> Iterator[str]:
    """Metrics one below the other, roles side by side."""
    roles = _present(told)
    rows = [
        [metric, *(estimate(told[role][metric], sign) if metric in told[role] else "-" for role in roles)]
        for metric in METRICS
        if any(metric in told[role] for role in roles)
    ]
    return aligned(["", *(names[role] for role in roles)], rows)


def _right(right: Mapping[str, Any]) -> str:
    return (
        f"both right {right['both']}, only the tuned prompt {right['only_tuned']}, only the other "
        f"{right['only_other']}, neither {right['neither']} (p {right['p_value']:.2g})"
    )


def _matrix(confusion: Mapping[str, Any]) -> Iterator[str]:
    labels: Sequence[str] = confusion["labels"]
    rows = [
        [label(expected), *map(str, counts)]
        for expected, counts in zip(labels, confusion["counts"], strict=True)
    ]
    return aligned(["expected \\ answered", *map(label, labels), "(none of them)"], rows)
