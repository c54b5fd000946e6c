"""/v1/files: records to train on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from caikit_pt.errors import InvalidRecord, shown
from caikit_pt.web.files import FileStore, StoredFile
from caikit_pt.web.openai.fields import Fields, asked_of
from caikit_pt.web.openai.pages import Page
from caikit_pt.web.openai.server import server_of
from caikit_pt.web.refusal import Refused

_FINE_TUNE = "fine-tune"
_MOST_LISTED = 10_000
_MOST_FIELDS = 8
# Each may take seconds of a processor.
_LOOKED_THROUGH_AT_ONCE = 2


class _Uploads:
    """What all requests for files share."""

    def __init__(self, store: FileStore) -> None:
        self.store = store
        self.gate = asyncio.Semaphore(_LOOKED_THROUGH_AT_ONCE)


def store_of(request: Request) -> FileStore:
    """The files of this process."""
    return _uploads(request).store


async def create(request: Request) -> Response:
    """Keeps a file that can be trained on."""
    owner = await server_of(request).caller()
    async with _form(request) as form:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise Refused("file is needed, in a body of multipart/form-data", "file")
        fields = Fields({name: value for name, value in form.multi_items() if name != "file"})
        purpose = fields.text("purpose")
        if purpose != _FINE_TUNE:
            raise fields.refusal("purpose", purpose, f"{_FINE_TUNE}: files are trained on, and nothing else")
        for name in ("expires_after", "expires_after[anchor]", "expires_after[seconds]"):
            fields.same(name, why="isn't supported here: files stay until they are deleted")
        fields.end()
        uploads = _uploads(request)
        async with uploads.gate:
            stored = await asyncio.to_thread(
                _added, uploads.store, owner, file.filename or "", purpose, file.file
            )
    return JSONResponse(_shown(stored))


async def listed(request: Request) -> Response:
    """The caller's."""
    fields = asked_of(request)
    page = Page.asked(fields, _MOST_LISTED, _MOST_LISTED)
    order, purpose = fields.text("order") or "desc", fields.text("purpose")
    if order not in ("asc", "desc"):
        raise fields.refusal("order", order, "asc, desc")
    fields.end()
    owner = await server_of(request).caller()
    found = await asyncio.to_thread(store_of(request).all, owner)
    wanted = [_shown(one) for one in found if purpose in (None, one.purpose)]
    return JSONResponse(page.of(wanted if order == "desc" else wanted[::-1]))


async def found(request: Request) -> Response:
    """One of them."""
    owner = await server_of(request).caller()
    return JSONResponse(
        _shown(await asyncio.to_thread(store_of(request).get, owner, request.path_params["file_id"]))
    )


async def content(request: Request) -> Response:
    """Its bytes."""
    owner = await server_of(request).caller()
    parts = await asyncio.to_thread(store_of(request).content, owner, request.path_params["file_id"])
    told = {"content-disposition": "attachment", "cache-control": "no-store"}
    return StreamingResponse(parts, media_type="application/octet-stream", headers=told)


async def removed(request: Request) -> Response:
    """It is gone."""
    owner, id = await server_of(request).caller(), request.path_params["file_id"]
    await asyncio.to_thread(store_of(request).remove, owner, id)
    return JSONResponse({"id": id, "object": "file", "deleted": True})


def _added(store: FileStore, owner: str, filename: str, purpose: str, file: Any) -> StoredFile:
    """Raises Refused."""
    try:
        return store.add(owner, filename, purpose, file)
    except InvalidRecord as error:
        raise Refused(str(error), "file", reason="INVALID_FILE") from error
    except OSError as error:
        told = f"The file can't be kept: {error.strerror or type(error).__name__}"
        raise Refused(told, "file", "UNAVAILABLE", "STORAGE_UNAVAILABLE") from error


@asynccontextmanager
async def _form(request: Request) -> AsyncIterator[FormData]:
    """Raises Refused for a body that is none."""
    try:
        form = await request.form(max_files=1, max_fields=_MOST_FIELDS)
    except HTTPException as error:
        raise Refused(f"The body can't be read: {shown(error.detail)}", "file") from error
    try:
        yield form
    finally:
        await form.close()


def _uploads(request: Request) -> _Uploads:
    state = request.app.state
    if not hasattr(state, "openai_uploads"):
        now = state.door.now
        mib = 2**20
        store = FileStore(Path(now.directory), now.max_file_mib * mib, now.max_files_mib * mib)
        state.openai_uploads = _Uploads(store)
    made: _Uploads = state.openai_uploads
    return made


def _shown(file: StoredFile) -> dict[str, Any]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": file.created_at,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
        "expires_at": None,
    }
