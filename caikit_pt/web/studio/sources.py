"""Source prompts: the list, one of them."""

from __future__ import annotations

import json

from starlette.requests import Request
from starlette.responses import Response

from caikit_pt.web.studio.pages import page, readable
from caikit_pt.web.studio.server import server_of


@readable
async def listed(request: Request) -> Response:
    """By name, the newest version of each first."""
    found, behind = await server_of(request).sources(request.query_params.get("page", ""))
    return await page(request, "sources.html", sources=found, next=behind)


@readable
async def one(request: Request) -> Response:
    """All of one."""
    source = await server_of(request).source(request.path_params["name"])
    manifest = json.dumps(source.manifest, indent=2, ensure_ascii=False, sort_keys=True)
    return await page(request, "source.html", source=source, manifest=manifest)
