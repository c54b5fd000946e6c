"""Curves as SVG that needs no script, in the shapes that static/chart.js draws again where there is one."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

Points = Sequence[Sequence[float | None]]
WIDTH, HEIGHT = 720, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 26, 12, 40
_TICKS = 5
# Of a curve, as many as there are places for; of a table, as many as somebody reads.
_MOST_DRAWN, _MOST_TOLD = 700, 50


@dataclass(frozen=True, slots=True)
class Curve:
    """Pairs of update and value by a `name`. `look` are classes of the style sheet: line-1 to line-4, and
    dashed, dotted or both; what is drawn in the same dashes has another `mark` at its end."""

    name: str
    points: Points
    look: str = "line-1"
    mark: str = ""

    @property
    def finite(self) -> list[tuple[float, float]]:
        """Those that can be drawn."""
        return [
            (float(step), float(value))
            for step, value in self.points
            if step is not None and value is not None and math.isfinite(value)
        ]


def chart(id: str, curves: Sequence[Curve], title: str, unit: str) -> Markup:
    """The `curves` in one plot."""
    drawn = [(curve, points) for curve in curves if (points := curve.finite)]
    told = "; ".join(
        f"{curve.name}: {len(points):,} points, from {points[0][1]:.4g} to {points[-1][1]:.4g}"
        for curve, points in drawn
    )
    every = [point for _, points in drawn for point in points]
    parts = [
        Markup('<svg id="{}" class="chart" viewBox="0 0 {} {}" role="img" aria-labelledby="{} {}">').format(
            id, WIDTH, HEIGHT, f"{id}-title", f"{id}-desc"
        ),
        Markup('<title id="{}">{}</title>').format(f"{id}-title", title),
        Markup('<desc id="{}">{}</desc>').format(f"{id}-desc", told or "No values yet."),
    ]
    if not every:
        parts.append(_text(WIDTH / 2, HEIGHT / 2, "No values yet", "middle"))
    else:
        scale = _Scale.of(every)
        parts += scale.axes(unit)
        for curve, points in drawn:
            parts.append(scale.line(curve.look, _thinned(points)))
            if curve.mark:
                step, value = points[-1]
                parts.append(_text(scale.x(step) + 5, scale.y(value) + 4, curve.mark, "start"))
    return Markup("").join([*parts, Markup("</svg>")])


def rows(curves: Sequence[Curve]) -> list[list[str]]:
    """A table of some of the updates: each with the value of every curve, where it has one."""
    values = [dict(curve.finite) for curve in curves]
    steps = sorted({step for known in values for step in known})
    stride = -(-len(steps) // _MOST_TOLD) or 1
    some = steps[::-1][::stride][::-1]
    # Validations are rare, and no reader should look for them.
    some = sorted({*some, *_evenly(values, _MOST_TOLD)})
    return [
        [f"{step:,.0f}", *(f"{known[step]:.4f}" if step in known else "" for known in values)]
        for step in some
    ]


def table(points: Mapping[str, Points]) -> str:
    """All points of both losses as CSV: step, loss, validation_loss."""
    names = ("loss", "validation_loss")
    known = [{point[0]: point[1] for point in points.get(name, ())} for name in names]
    written = io.StringIO()
    writer = csv.writer(written)
    writer.writerow(["step", *names])
    for step in sorted({step for one in known for step in one if step is not None}):
        writer.writerow([step, *(_cell(one.get(step)) for one in known)])
    return written.getvalue()


def _cell(value: float | None) -> str:
    return "" if value is None else repr(value)


def _evenly(values: Sequence[Mapping[float, float]], most: int) -> Iterator[float]:
    for known in values:
        if 0 < len(known) <= most:
            yield from known


@dataclass(frozen=True, slots=True)
class _Scale:
    """From values to places."""

    last: float
    low: float
    high: float

    @classmethod
    def of(cls, points: Sequence[tuple[float, float]]) -> _Scale:
        low, high = min(value for _, value in points), max(value for _, value in points)
        if low >= 0 and low < high / 2:
            low = 0.0
        if high == low:
            low, high = low - 0.5, high + 0.5
        return cls(max(1.0, max(step for step, _ in points)), low, high)

    def x(self, step: float) -> float:
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * step / self.last

    def y(self, value: float) -> float:
        return _TOP + (HEIGHT - _TOP - _BOTTOM) * (self.high - value) / (self.high - self.low)

    def axes(self, unit: str) -> Iterator[Markup]:
        bottom = HEIGHT - _BOTTOM
        for value in ticks(self.low, self.high):
            place = self.y(value)
            yield _line("grid", _LEFT, place, WIDTH - _RIGHT, place)
            yield _text(_LEFT - 6, place + 4, f"{value:g}", "end")
        for step in ticks(0, self.last, whole=True):
            yield _line("axis", self.x(step), bottom, self.x(step), bottom + 5)
            yield _text(self.x(step), bottom + 18, f"{step:,.0f}", "middle")
        yield _line("axis", _LEFT, bottom, WIDTH - _RIGHT, bottom)
        yield _text(WIDTH - _RIGHT, HEIGHT - 5, "update", "end")
        yield _text(_LEFT, HEIGHT - 5, unit, "start")

    def line(self, look: str, points: Sequence[tuple[float, float]]) -> Markup:
        places = " ".join(f"{self.x(step):.1f},{self.y(value):.1f}" for step, value in points)
        made = Markup('<polyline class="curve {}" points="{}"/>').format(look, places)
        if len(points) > 40:
            return made
        dots = (
            Markup('<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="2.5"/>').format(
                look, self.x(step), self.y(value)
            )
            for step, value in points
        )
        return made + Markup("").join(dots)


def ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """Round numbers from `low` to `high`, some five of them."""
    rough = (high - low) / _TICKS
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * size for factor in (1, 2, 5, 10) if factor * size >= rough * 0.999)
    step = max(1.0, step) if whole else step
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 10) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of many, the lowest and the highest of each run."""
    if len(points) <= _MOST_DRAWN:
        return points
    run = -(-2 * len(points) // _MOST_DRAWN)
    kept: list[tuple[float, float]] = []
    for at in range(0, len(points), run):
        part = points[at : at + run]
        ends = {min(part, key=_value), max(part, key=_value)}
        kept += sorted(ends)
    return [*kept, points[-1]]


def _value(point: tuple[float, float]) -> float:
    return point[1]


def _line(look: str, *ends: float) -> Markup:
    return Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(look, *ends)


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, text)
