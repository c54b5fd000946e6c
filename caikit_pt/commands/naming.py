"""Trainings by what a person remembers of them: an id, or the name of the model."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from caikit_pt.client import ServerError, Training, TuningClient

NAMED = "the id of a training, or the name of a model: its latest one"
_UNKNOWN = "NOT_FOUND"


def training_of(client: TuningClient, named: str) -> Training:
    """The training with this id, or the latest of this model; which one is told. Raises ServerError."""
    try:
        return client.training(named)
    except ServerError as error:
        latest = _latest(client, named) if error.status == _UNKNOWN else None
        if latest is None:
            raise
    print(f"{named}: its latest training, {latest.training_id}", file=sys.stderr)
    return client.training(latest.training_id)


@contextmanager
def hinting(client: TuningClient, named: str) -> Iterator[None]:
    """For what changes a training, where only an id will do: a name is told its id."""
    try:
        yield
    except ServerError as error:
        latest = _latest(client, named) if error.status == _UNKNOWN else None
        if latest is None:
            raise
        told = f"{error}. The latest training of the model {named} is {latest.training_id}"
        raise ServerError(error.status, told) from None


def _latest(client: TuningClient, model_name: str) -> Training | None:
    return next(client.trainings((), model_name), None)
