"""Curves as SVG."""

from __future__ import annotations

import math

import pytest

from caikit_pt.web.studio.curves import HEIGHT, WIDTH, Curve, chart, rows, table, ticks
from tests.web.studio.html import Page
from tests.web.studio.standin import HOSTILE, curve


@pytest.mark.parametrize(
    ("low", "high", "whole", "found"),
    [
        (0, 1, False, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0, 3, True, [0, 1, 2, 3]),
        (0, 1800, True, [0, 500, 1000, 1500]),
        (-0.5, 0.5, False, [-0.4, -0.2, 0, 0.2, 0.4]),
        (1e-7, 9e-7, False, [2e-7, 4e-7, 6e-7, 8e-7]),
    ],
)
def test_ticks(low: float, high: float, whole: bool, found: list[float]) -> None:
    """Round, and within."""
    assert ticks(low, high, whole) == pytest.approx(found)


def test_chart() -> None:
    """All of a curve lies within, whatever its values; names are text."""
    points: list[list[float | None]] = [[1, 2.0], [2, None], [3, math.nan], [4, 5e9], [5, -1.0]]
    made = chart("c", [Curve(HOSTILE, points, "line-1 dashed", "1")], HOSTILE, "nats")
    assert HOSTILE not in made
    page = Page(made)
    (line,) = page.all("polyline")
    assert line["class"] == "curve line-1 dashed"
    places = [tuple(map(float, pair.split(","))) for pair in line["points"].split()]
    assert len(places) == 3
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in places)
    assert f"{HOSTILE}: 3 points, from 2 to -1" in page.text


@pytest.mark.parametrize("points", [[], [[1, None]], [[1, 0.5]], [[1, 0.5], [2, 0.5]], [[0, 0.0]]])
def test_few_points(points: list[list[float | None]]) -> None:
    """None, one, or all of one value."""
    assert "nan" not in chart("c", [Curve("loss", points)], "Loss", "nats")


def test_many_points() -> None:
    """Few are drawn, the extremes among them; few are in the table, each validation among them."""
    points = curve(10_000)
    points[5000][1] = 99.0
    made = Page(chart("c", [Curve("loss", points)], "Loss", "nats"))
    places = made.all("polyline")[0]["points"].split()
    assert len(places) <= 701
    assert min(float(place.split(",")[1]) for place in places) == 12.0
    told = rows([Curve("loss", points), Curve("validation", points[1234:6000:1111])])
    assert len(told) <= 60
    assert len([row for row in told if row[2]]) == 5
    assert told[-1][0] == "10,000"


def test_table() -> None:
    """Losses that aren't finite are left open."""
    made = table({"loss": [[1, 0.1], [2, None]], "validation_loss": [[2, 0.5]]})
    assert made.splitlines() == ["step,loss,validation_loss", "1,0.1,", "2,,0.5"]
