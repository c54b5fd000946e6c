"""Trainings: the list, one of them, two side by side; what is live of them, and what may be done."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from caikit_pt.comparison import comparison
from caikit_pt.errors import CaikitPtError, InvalidParameter
from caikit_pt.evaluation_report import METRICS
from caikit_pt.training import ENDED, Event, Training
from caikit_pt.web.refusal import answer_to
from caikit_pt.web.sse import streamed
from caikit_pt.web.studio.curves import Curve, chart, rows
from caikit_pt.web.studio.hub import Watch, hub_of, told_of
from caikit_pt.web.studio.pages import page, readable, to
from caikit_pt.web.studio.row import row
from caikit_pt.web.studio.server import Server, server_of
from caikit_pt.web.studio.tables import of_comparison, of_parameters, of_verdict

STATES = ("QUEUED", "RUNNING", "PAUSED", "COMPLETED", "CANCELED", "ERRORED")
_MOST_COMPARED = 4
# Nothing like a share, or drawn with the training's loss.
_NO_SHARES = ("loss", "teacher_loss", "perplexity")
LOOKS = ("line-1", "line-2 dashed", "line-3 dotted", "line-4 dashed dotted")


@readable
async def listed(request: Request) -> Response:
    """The list, the latest first."""
    states, name, token = _query(request)
    found, behind = await server_of(request).trainings(states, name, token)
    asked = [*(("state", state) for state in states), *([("name", name)] if name else [])]
    return await page(
        request,
        "trainings.html",
        trainings=list(map(row, found)),
        all_states=STATES,
        states=states,
        name=name,
        token=token,
        next="/?" + urlencode([*asked, ("page", behind)]) if behind else "",
        live="/studio/trainings?" + urlencode([*asked, *([("page", token)] if token else [])]),
        most_compared=_MOST_COMPARED,
    )


@readable
async def one(request: Request) -> Response:
    """All of one training."""
    id, server = request.path_params["id"], server_of(request)
    last, events, scores, phase, missing = 0, list[Event](), dict[str, Any](), "", ""
    try:
        async with hub_of(request).watching(server, id) as watch:
            await watch.settled()
            last, events, scores, phase = watch.last, list(watch.told), _scores_of(watch), watch.phase
    except CaikitPtError as error:
        # All but what happens is there all the same.
        if error.status != "RESOURCE_EXHAUSTED":
            raise
        missing = str(error)
    training = await server.training(id)
    curves, metrics = losses(training), _metrics(scores)
    return await page(
        request,
        "training.html",
        training=training,
        row=row(training),
        phase=phase,
        last=last,
        missing=missing,
        events=[(event, told_of(event)) for event in events],
        curves=chart("losses", curves, f"Loss of {training.model_name}", "nats a target token"),
        points=rows(curves),
        metrics=chart("metrics", metrics, f"Validation metrics of {training.model_name}", "share")
        if metrics
        else "",
        drawn=metrics,
        metric_names=[curve.name for curve in metrics],
        metric_points=rows(metrics),
        in_words=training.outcome_text,
        verdict=of_verdict(training.verdict),
        parameters=of_parameters(training.parameters),
    )


@readable
async def compared(request: Request) -> Response:
    """Some trainings side by side."""
    ids = list(dict.fromkeys(filter(None, request.query_params.getlist("id"))))
    if not 2 <= len(ids) <= _MOST_COMPARED:
        raise InvalidParameter("id", len(ids), f"2 to {_MOST_COMPARED} trainings: tick them in the list")
    server = server_of(request)
    found = [await server.training(id) for id in ids]
    told = comparison(found)
    curves = [
        Curve(
            f"{number}: {curve.name}",
            curve.points,
            f"line-{number}" + " dashed" * ("validation" in curve.name),
            str(number),
        )
        for number, training in enumerate(found, start=1)
        for curve in losses(training)
    ]
    return await page(
        request,
        "compare.html",
        trainings=found,
        rows=list(map(row, found)),
        curves=chart("losses", curves, "Losses side by side", "nats a target token"),
        names=[curve.name for curve in curves],
        looks=[curve.look for curve in curves],
        points=rows(curves),
        tables=of_comparison(told),
        notes=told["notes"],
        words=[training.outcome_text for training in found],
    )


async def points(request: Request) -> Response:
    """What a script draws, and the number of the event that it is as of."""
    id, server = request.path_params["id"], server_of(request)
    try:
        async with hub_of(request).watching(server, id) as watch:
            await watch.settled()
            last, scores = watch.last, _scores_of(watch)
            training = await server.training(id)
    except CaikitPtError as error:
        return answer_to(error)
    told = {"last": last, "name": training.model_name, "points": training.points, "scores": scores}
    return JSONResponse({**told, "ended": training.state in ENDED}, headers={"cache-control": "no-store"})


async def events(request: Request) -> Response:
    """What happens to one training, behind the event that the page has seen last."""
    id, server = request.path_params["id"], server_of(request)
    seen = request.headers.get("last-event-id") or request.query_params.get("from") or "0"
    after = int(seen) if seen.isdecimal() and len(seen) < 19 else 0
    hub = hub_of(request)
    try:
        async with hub.watching(server, id) as watch:
            await watch.settled()
    except CaikitPtError as error:
        return answer_to(error)

    async def told() -> AsyncIterator[bytes]:
        async with hub.watching(server, id) as watch:
            async for event in watch.events(after):
                yield event

    return streamed(told())


async def changes(request: Request) -> Response:
    """What changes in a page of the list."""
    states, name, token = _query(request)
    server, hub = server_of(request), hub_of(request)
    try:
        await server.trainings(states, name, token, 1)
    except CaikitPtError as error:
        if error.status != "UNAVAILABLE":
            return answer_to(error)

    async def told() -> AsyncIterator[bytes]:
        async with hub.listing(server, states, name, token) as listing:
            async for event in listing.changes():
                yield event

    return streamed(told())


def does(what: Callable[[Server, str], Awaitable[None]]) -> Callable[[Request], Awaitable[Response]]:
    """A button of a training's page."""

    @readable
    async def answer(request: Request) -> Response:
        id = request.path_params["id"]
        await what(server_of(request), id)
        return to("trainings", id)

    return answer


def losses(training: Training) -> list[Curve]:
    """Those of the updates and of the validations."""
    return [
        Curve("training loss", training.points.get("loss", ()), "line-1"),
        Curve("validation loss", training.points.get("validation_loss", ()), "line-2 dashed"),
    ]


def _scores_of(watch: Watch) -> dict[str, list[tuple[int, float | None]]]:
    order = {name: number for number, name in enumerate(METRICS)}

    def place(name: str) -> tuple[int, str]:
        """The same of all tasks of a source side by side: only some are drawn."""
        return order.get(name.rpartition("/")[2], len(order)), name

    names = sorted(watch.scores, key=place)
    return {name: list(watch.scores[name]) for name in names if name.rpartition("/")[2] not in _NO_SHARES}


def _metrics(scores: Mapping[str, Sequence[tuple[int, float | None]]]) -> list[Curve]:
    drawn = enumerate(list(scores)[: len(LOOKS)], start=1)
    return [Curve(name.replace("_", " "), scores[name], LOOKS[number - 1]) for number, name in drawn]


def _query(request: Request) -> tuple[list[str], str, str]:
    asked: Any = request.query_params
    states = [state for state in asked.getlist("state") if state]
    return states, asked.get("name", "").strip(), asked.get("page", "")
