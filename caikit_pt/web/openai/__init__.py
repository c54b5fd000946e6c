"""OpenAI's API in front of the server: docs/openai.md has a table of every field.

Everything stands twice: at the root, and under /models/NAME, where the model is NAME.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route

from caikit_pt.errors import shown
from caikit_pt.web.openai import chat, completions, jobs, models, tokenizer, uploads
from caikit_pt.web.refusal import Refused

_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_JOBS = "/v1/fine_tuning/jobs"


def routes() -> list[BaseRoute]:
    """All of it."""
    return [*_all(), Mount("/models/{model}", routes=_all())]


def _all() -> list[BaseRoute]:
    get, post, delete = ["GET"], ["POST"], ["DELETE"]
    return [
        Route("/v1/models", models.listed, methods=get),
        Route("/v1/models/{name}", models.found, methods=get),
        Route("/v1/models/{name}", models.removed, methods=delete),
        Route("/v1/completions", completions.create, methods=post),
        Route("/v1/chat/completions", chat.create, methods=post),
        Route("/v1/files", uploads.create, methods=post),
        Route("/v1/files", uploads.listed, methods=get),
        Route("/v1/files/{file_id}", uploads.found, methods=get),
        Route("/v1/files/{file_id}", uploads.removed, methods=delete),
        Route("/v1/files/{file_id}/content", uploads.content, methods=get),
        Route(_JOBS, jobs.create, methods=post),
        Route(_JOBS, jobs.listed, methods=get),
        Route(f"{_JOBS}/{{id}}", jobs.found, methods=get),
        Route(f"{_JOBS}/{{id}}/cancel", jobs.cancelled, methods=post),
        Route(f"{_JOBS}/{{id}}/pause", jobs.paused, methods=post),
        Route(f"{_JOBS}/{{id}}/resume", jobs.resumed, methods=post),
        Route(f"{_JOBS}/{{id}}/events", jobs.events, methods=get),
        Route(f"{_JOBS}/{{id}}/checkpoints", jobs.published, methods=get),
        Route("/tokenizer_info", tokenizer.told, methods=get),
        Route("/tokenize", tokenizer.tokenized, methods=post),
        Route("/detokenize", tokenizer.detokenized, methods=post),
        *(
            Route(path, _unknown, methods=_METHODS)
            for path in ("/tokenizer_info", "/tokenize", "/detokenize")
        ),
        Route("/v1/{rest:path}", _unknown, methods=_METHODS),
    ]


async def _unknown(request: Request) -> Response:
    """Raises Refused: of no part of the API."""
    told = f"There is no {request.method} {shown(request.url.path)} here (docs/openai.md)"
    raise Refused(told, status="NOT_FOUND", reason="UNKNOWN_URL")
