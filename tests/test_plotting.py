"""Loss curves as figures, as a notebook shows them."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from caikit_pt.client import Training
from caikit_pt.plotting import PlotsUnavailable, curves_of, figure_of

POINTS: dict[str, Any] = {"loss": [[1, 2.0], [2, None], [3, 1.0]], "validation_loss": [[3, 1.5]]}


def lines(figure: Any) -> dict[str, list[list[float]]]:
    (axes,) = figure.axes
    return {line.get_label(): line.get_xydata().tolist() for line in axes.lines}


def test_a_training_is_a_picture() -> None:
    nothing: dict[str, Any] = dict.fromkeys(("submitted", "started", "ended", "progress"))
    training = Training(
        "id", "mood", "b", "RUNNING", reasons=(), queued_before=0, path="", points=POINTS, **nothing
    )
    figure: Any = training.plot()
    assert lines(figure) == {
        "loss of each update": [[1, 2.0], [3, 1.0]],
        "validation loss": [[3, 1.5]],
    }
    assert figure.axes[0].get_title() == "mood (RUNNING)"
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_several_trainings_are_told_apart() -> None:
    figure = figure_of({"one": POINTS, "other": POINTS}, "compared")
    assert list(lines(figure)) == [
        f"{name}: {curve}"
        for name in ("one", "other")
        for curve in ("loss of each update", "validation loss")
    ]
    colours = [line.get_color() for line in figure.axes[0].lines]
    assert colours[0] == colours[1] != colours[2] == colours[3]


def test_nothing_to_plot_yet() -> None:
    assert lines(figure_of({"mood": {}}, "mood")) == {}


def test_the_logs_of_a_prompt_are_curves() -> None:
    logs = [
        {"name": name, "data": {"epoch": 1, "step": step, "value": value, "timestamp": ""}}
        for name, step, value in (("loss", 1, 2.0), ("validation_loss", 1, 1.5), ("search_loss", 1, 3.0))
    ]
    assert curves_of(logs) == {"loss": [(1, 2.0)], "validation_loss": [(1, 1.5)]}
    assert lines(figure_of({"a": curves_of([*logs, _skipped()])}, ""))["loss of each update"] == [[1, 2.0]]


def _skipped() -> dict[str, Any]:
    """An update whose loss wasn't finite."""
    return {"name": "loss", "data": {"epoch": 1, "step": 2, "value": float("nan"), "timestamp": ""}}


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(PlotsUnavailable, match=r"pip install 'caikit-pt\[plot\]'"):
        figure_of({}, "")
