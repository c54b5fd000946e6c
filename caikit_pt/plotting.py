"""Loss curves as a figure of matplotlib, which `pip install 'caikit-pt[plot]'` brings along."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

from caikit_pt.errors import CaikitPtError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Pairs of update and loss, by the name of the curve; None: not finite.
Curves = Mapping[str, Sequence[Sequence[float | None]]]
_LABELS = {"loss": "loss of each update", "validation_loss": "validation loss"}


class PlotsUnavailable(CaikitPtError):
    """matplotlib isn't installed."""

    status = "FAILED_PRECONDITION"


def figure_of(trainings: Mapping[str, Curves], title: str) -> Figure:
    """The curves of some trainings, by the names that they have in the legend, in one plot.

    Of several, those of one training have one colour, and that of its validation is dashed. A notebook shows
    the figure where it is the value of a cell. Raises PlotsUnavailable.
    """
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

    figure = Shown(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for number, (name, curves) in enumerate(trainings.items()):
        for curve, label in _LABELS.items():
            points = [(step, loss) for step, loss in curves.get(curve, ()) if _is_finite(loss)]
            if points:
                axes.plot(
                    *zip(*points, strict=True),
                    color=f"C{number}" if len(trainings) > 1 else None,
                    linestyle="--" if len(trainings) > 1 and curve != "loss" else "-",
                    label=f"{name}: {label}" if len(trainings) > 1 else label,
                    linewidth=1,
                    marker="." * (len(points) == 1),
                )
    axes.set(xlabel="update", ylabel="nats a target token", title=title)
    if axes.lines:
        axes.legend()
    return figure


def _is_finite(loss: float | None) -> bool:
    return loss is not None and math.isfinite(loss)


def curves_of(training_logs: Sequence[Mapping[str, Any]]) -> Curves:
    """Those in the training logs of a tuned prompt."""
    curves: dict[str, list[tuple[float, float | None]]] = {name: [] for name in _LABELS}
    for entry in training_logs:
        if entry["name"] in curves:
            curves[entry["name"]].append((entry["data"]["step"], entry["data"]["value"]))
    return curves
