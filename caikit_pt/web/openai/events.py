"""What happens to a job, as OpenAI tells it: its events, and the checkpoint that it has become."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from caikit_pt.client.message import as_event
from caikit_pt.training import COMPLETED, ERRORED, Event, Training
from caikit_pt.web.openai.server import Server
from caikit_pt.web.refusal import Refused

_PREFIX = "ftevent-"
# The server tells all that there is at once, and then waits for more.
_SECONDS_FOR_THE_FIRST, _SECONDS_FOR_MORE = 5.0, 0.5
_METRICS = ("progress", "validation")


async def watched(server: Server, id: str, after: int = 0) -> AsyncGenerator[Event]:
    """All behind the number `after`, until the training has ended, as they come. Raises ServerError."""
    from caikit_pt.runtime.tuning_messages import WatchTrainingRequest

    asked = WatchTrainingRequest(training_id=id, from_event=after).to_proto()
    async with aclosing(server.stream(server.link.stubs.tuning.WatchTraining, asked)) as found:
        async for message in found:
            yield as_event(message)


async def so_far(server: Server, training: Training) -> list[Event]:
    """All that there are by now, in their order. Raises ServerError."""
    now, found = time.time(), list[Event]()
    over = training.ended is not None
    async with aclosing(watched(server, training.training_id)) as events:
        while True:
            seconds = _SECONDS_FOR_MORE if found else _SECONDS_FOR_THE_FIRST
            try:
                event = await asyncio.wait_for(anext(events, None), None if over else seconds)
            except TimeoutError:
                return found
            if event is None:
                return found
            found.append(event)
            # Of one that goes on there is always more.
            if not over and event.time.timestamp() > now:
                return found


def event_of(id: str, event: Event) -> dict[str, Any]:
    """A fine_tuning.job.event."""
    level = "info"
    if event.kind in ("warning", "death"):
        level = "warn"
    elif event.state == ERRORED:
        level = "error"
    return {
        "id": f"{_PREFIX}{id}-{event.number}",
        "object": "fine_tuning.job.event",
        "created_at": int(event.time.timestamp()),
        "level": level,
        "message": str(event),
        "type": "metrics" if event.kind in _METRICS else "message",
        "data": _data(event),
    }


def number_of(id: str, event_id: str, field: str) -> int:
    """The number of an event of the job `id`. Raises Refused where it is none."""
    number = event_id.removeprefix(f"{_PREFIX}{id}-")
    if number == event_id or not (number.isascii() and number.isdecimal() and len(number) < 16):
        raise Refused(f"There is no event {event_id[:80]!r} of this job", field, "NOT_FOUND")
    return int(number)


async def checkpoints(server: Server, training: Training) -> list[dict[str, Any]]:
    """The one that is published, of a job that has succeeded: that of the best validation."""
    if training.state != COMPLETED:
        return []
    events = await so_far(server, training)
    best = [event for event in events if event.kind == "validation" and event.data.get("best")]
    return [_checkpoint(training, best[-1])] if best else []


def _checkpoint(training: Training, event: Event) -> dict[str, Any]:
    step = int(event.data["step"])
    return {
        "id": f"ftckpt-{training.training_id}-{step}",
        "object": "fine_tuning.job.checkpoint",
        "created_at": int(event.time.timestamp()),
        "fine_tuned_model_checkpoint": training.model_name,
        "fine_tuning_job_id": training.training_id,
        "step_number": step,
        "metrics": {"step": step, **_of_validation(event)},
    }


def _data(event: Event) -> dict[str, Any]:
    at = event.progress
    if at is not None:
        told = {"step": at.step, "total_steps": at.steps, "epoch": at.epoch, "train_loss": at.loss}
        return {**told, "learning_rate": at.learning_rate, "samples_per_second": at.samples_per_second}
    if event.kind == "validation":
        return {"step": int(event.data["step"]), **_of_validation(event)}
    return {"kind": event.kind, **({"state": event.state} if event.state else {})}


def _of_validation(event: Event) -> dict[str, Any]:
    """By OpenAI's name where it has one."""
    scores = dict(event.data.get("scores") or {})
    loss = scores.pop("loss", None)
    return {"valid_loss": loss, **{f"valid_{name}": value for name, value in scores.items()}}
