"""The studio: trainings, prompts and sources as pages, readable without a script and live with one."""

from __future__ import annotations

from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from caikit_pt.web.studio import downloads, forms, prompts, sources, trainings
from caikit_pt.web.studio.pages import STATIC
from caikit_pt.web.studio.server import Server


def routes() -> list[BaseRoute]:
    """All of them."""
    return [
        Route("/", trainings.listed),
        Route("/trainings/{id}", trainings.one),
        *(
            Route(f"/trainings/{{id}}/{what.__name__}", trainings.does(what), methods=["POST"])
            for what in (Server.cancel, Server.pause, Server.resume)
        ),
        Route("/trainings/{id}/curve.csv", downloads.csv),
        Route("/trainings/{id}/curve.png", downloads.png),
        Route("/trainings/{id}/log.jsonl", downloads.log),
        Route("/compare", trainings.compared),
        Route("/prompts", prompts.listed),
        Route("/prompts/{name}", prompts.one),
        Route("/prompts/{name}/try", prompts.tried, methods=["POST"]),
        Route("/prompts/{name}/test", prompts.tested, methods=["POST"]),
        Route("/prompts/{name}/remove", prompts.removed, methods=["POST"]),
        Route("/prompts/{name}/artifact.tar", downloads.archive),
        Route("/sources", sources.listed),
        Route("/sources/{name:path}", sources.one),
        Route("/new", forms.empty),
        Route("/new", forms.sent, methods=["POST"]),
        # What scripts ask.
        Route("/studio/trainings", trainings.changes),
        Route("/studio/trainings/{id}", trainings.points),
        Route("/studio/trainings/{id}/events", trainings.events),
        Route("/studio/prompts/{name}/try", prompts.streamed_answers, methods=["POST"]),
        Route("/studio/prompts/{name}/test", prompts.streamed_test, methods=["POST"]),
        Route("/studio/check", forms.preflight, methods=["POST"]),
        Route("/studio/records", forms.looked_through, methods=["POST"]),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
