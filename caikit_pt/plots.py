"""Pictures of trainings and evaluations, by matplotlib (`caikit-pt[plot]`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from caikit_pt.evaluation_report import label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from caikit_pt.client import Training

_INCHES = (8.0, 4.5)
_INCHES_A_LABEL, _SMALLEST = 0.45, 3.5
_MOST_NUMBERED = 30  # labels; of more only the colours can be read


def curves(trainings: Sequence[Training]) -> Figure:
    """The loss curves: of one training, or of several in one plot, each in a colour of its own.

    Raises ImportError without matplotlib.
    """
    figure = _figure(_INCHES)
    axes = figure.subplots()
    for number, training in enumerate(trainings):
        named = f"{training.model_name} ({training.training_id}): " if len(trainings) > 1 else ""
        for name, told in (("loss", "loss of each update"), ("validation_loss", "validation loss")):
            points = [point for point in training.points.get(name, ()) if point[1] is not None]
            if points:
                (line,) = axes.plot(*zip(*points, strict=True), label=named + told, linewidth=1)
                if len(points) == 1:
                    line.set_marker(".")
                if named:
                    line.set(color=f"C{number}", linestyle="-" if name == "loss" else "--")
    titles = [f"{training.model_name} ({training.state})" for training in trainings]
    axes.set(xlabel="update", ylabel="nats a target token", title=titles[0] if len(titles) == 1 else "")
    if axes.lines:
        axes.legend(fontsize="small" if len(trainings) > 1 else None)
    return figure


def matrix(confusion: Mapping[str, Any], title: str) -> Figure:
    """A confusion matrix, coloured by the share of each label's records. Raises ImportError."""
    labels, counts = confusion["labels"], confusion["counts"]
    side = max(_SMALLEST, _INCHES_A_LABEL * len(labels))
    figure = _figure((side + 3, side + 1.5))
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


def _figure(inches: tuple[float, float]) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=inches, layout="constrained")
