"""Trainings and evaluations as figures of matplotlib, which `pip install 'caikit-pt[plot]'` brings along."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

from caikit_pt.errors import CaikitPtError
from caikit_pt.evaluation_report import label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Pairs of update and loss, by the name of the curve; None: not finite.
Curves = Mapping[str, Sequence[Sequence[float | None]]]
_INCHES = (8.0, 4.5)
_INCHES_A_LABEL, _SMALLEST = 0.45, 3.5
_MOST_NUMBERED = 30  # labels; of more only the colours can be read
_LABELS = {"loss": "loss of each update", "validation_loss": "validation loss"}


class PlotsUnavailable(CaikitPtError):
    """matplotlib isn't installed."""

    status = "FAILED_PRECONDITION"


def figure_of(trainings: Mapping[str, Curves], title: str) -> Figure:
    """The curves of some trainings, by the names that they have in the legend, in one plot.

    Of several, those of one training have one colour, and that of its validation is dashed. A notebook shows
    the figure where it is the value of a cell. Raises PlotsUnavailable.
    """
    figure = _new_figure(_INCHES)
    axes = figure.subplots()
    for number, (name, curves) in enumerate(trainings.items()):
        for curve, told in _LABELS.items():
            points = [(step, loss) for step, loss in curves.get(curve, ()) if _is_finite(loss)]
            if points:
                axes.plot(
                    *zip(*points, strict=True),
                    color=f"C{number}" if len(trainings) > 1 else None,
                    linestyle="--" if len(trainings) > 1 and curve != "loss" else "-",
                    label=f"{name}: {told}" if len(trainings) > 1 else told,
                    linewidth=1,
                    marker="." * (len(points) == 1),
                )
    axes.set(xlabel="update", ylabel="nats a target token", title=title)
    if axes.lines:
        axes.legend()
    return figure


def matrix(confusion: Mapping[str, Any], title: str) -> Figure:
    """A confusion matrix, coloured by the share of each label's records. Raises PlotsUnavailable."""
    labels, counts = confusion["labels"], confusion["counts"]
    side = max(_SMALLEST, _INCHES_A_LABEL * len(labels))
    figure = _new_figure((side + 3, side + 1.5))
    axes = figure.subplots()
    shares = [[count / (sum(row) or 1) for count in row] for row in counts]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    columns = [*map(label, labels), "(none of them)"]
    axes.set_xticks(
        range(len(columns)), columns, rotation=45, ha="right", rotation_mode="anchor", parse_math=False
    )
    axes.set_yticks(range(len(labels)), list(map(label, labels)), parse_math=False)
    axes.set(xlabel="answered", ylabel="expected", title=title)
    if len(labels) <= _MOST_NUMBERED:
        for row, (numbers, parts) in enumerate(zip(counts, shares, strict=True)):
            for column, (count, share) in enumerate(zip(numbers, parts, strict=True)):
                colour = "white" if share > 0.5 else "black"
                axes.text(column, row, str(count), ha="center", va="center", color=colour)
    return figure


def _new_figure(inches: tuple[float, float]) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PlotsUnavailable("plots need matplotlib: pip install 'caikit-pt[plot]'") from error

    class Shown(Figure):
        """Notebooks know a figure by themselves only when pyplot has been imported."""

        def _repr_png_(self) -> bytes:
            png = BytesIO()
            self.savefig(png, format="png", dpi=100)
            return png.getvalue()

    return Shown(figsize=inches, layout="constrained")


def _is_finite(loss: float | None) -> bool:
    return loss is not None and math.isfinite(loss)


def curves_of(training_logs: Sequence[Mapping[str, Any]]) -> Curves:
    """Those in the training logs of a tuned prompt."""
    curves: dict[str, list[tuple[float, float | None]]] = {name: [] for name in _LABELS}
    for entry in training_logs:
        if entry["name"] in curves:
            curves[entry["name"]].append((entry["data"]["step"], entry["data"]["value"]))
    return curves
