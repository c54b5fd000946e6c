"""/v1/models: tuned prompts by name, owned by their base model."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from caikit_pt.client.prompt import Prompt
from caikit_pt.web.openai.server import server_of


async def listed(request: Request) -> Response:
    """All that the caller may ask, but for those that can't be asked."""
    data = [_model(one) async for one in server_of(request).prompts() if not one.problem]
    return JSONResponse({"object": "list", "data": data})


async def found(request: Request) -> Response:
    """One of them."""
    return JSONResponse(_model(await server_of(request).prompt(request.path_params["name"])))


async def removed(request: Request) -> Response:
    """Deletes one: nothing is served under its name any more."""
    name = request.path_params["name"]
    await server_of(request).remove(name)
    return JSONResponse({"id": name, "object": "model", "deleted": True})


def _model(prompt: Prompt) -> dict[str, Any]:
    told = {
        "id": prompt.model_name,
        "object": "model",
        "created": int(prompt.published.timestamp()) if prompt.published else 0,
        "owned_by": prompt.base_model,
    }
    return {**told, "problem": prompt.problem} if prompt.problem else told
