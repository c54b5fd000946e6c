"""TensorBoard: a directory of event files for each training, written through torch.utils.tensorboard.

Files can't be searched for what they hold already, so those of a training that is told of again are replaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from caikit_pt.tracking.point import Point, Told
from caikit_pt.tracking.track import Training


class TensorBoard:
    """All trainings under one directory, by name and id."""

    name, keeps_prompts = "TensorBoard", False

    def __init__(self, directory: str) -> None:
        self._directory = Path(directory)

    def open(self, training: Training) -> EventFiles:
        """As Tracker says."""
        return EventFiles(self._directory / training.name / training.id, training)


class EventFiles:
    """A training at TensorBoard."""

    def __init__(self, directory: Path, training: Training) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.address = str(directory)
        self._told = Told({})
        for file in directory.glob("events.out.tfevents.*"):
            file.unlink()
        # A TensorBoard that has read those forgets them.
        self._writer = SummaryWriter(self.address, purge_step=0)
        rows = [
            f"| {name} | {_cell(value)} | {training.origins.get(name, 'default')} |"
            for name, value in training.values.items()
        ]
        table = "\n".join(["| parameter | value | from |", "| --- | --- | --- |", *rows])
        self._writer.add_text("parameters", table, 0, training.started)
        self._add_to_table(training)
        self._writer.flush()

    def _add_to_table(self, training: Training) -> None:
        """Of the tab of hyperparameters; what SummaryWriter.add_hparams does, in a run of its own."""
        from torch.utils.tensorboard import summary

        made: Any = summary
        files: Any = self._writer
        columns, session, _ = made.hparams(training.values, {"train/loss": None, "eval/loss": None})
        for one in (columns, session):
            files._get_file_writer().add_summary(one, 0, training.started)

    def log(self, points: Sequence[Point]) -> None:
        """As Track says."""
        for point in (new := self._told.new(points)):
            self._writer.add_scalar(point.name, point.value, point.step, point.time)
        self._writer.flush()
        self._told.add(new)

    def end(self, state: str, text: str, time: float) -> None:
        """As Track says."""
        self._writer.add_text("state", "\n\n".join(filter(None, (state, text))), 0, time)
        self._writer.close()

    def keep(self, artifact: Path, model_name: str) -> None:
        """There is no place for it."""


def _cell(value: str) -> str:
    """As Markdown has it in a table."""
    return " ".join(value.replace("|", "\\|").split())
