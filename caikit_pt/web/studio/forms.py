"""The form for a new training: filled in by a person, or by an earlier training; checked, and sent."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from caikit_pt.client.server_error import ServerError
from caikit_pt.errors import CaikitPtError, InvalidParameter
from caikit_pt.web.refusal import answer_to, body_of, code_of
from caikit_pt.web.studio.answers import Description
from caikit_pt.web.studio.fields import OWN, checked, common, fields_of, rest, values_of
from caikit_pt.web.studio.pages import AWAY, described, page, readable, to
from caikit_pt.web.studio.records import TAKEN, Brought, RefusedRecords, brought, form_of, text_of
from caikit_pt.web.studio.server import Server, server_of
from caikit_pt.web.studio.tables import Table, of_preflight

_REQUEST = "request"
_TRAIN, _VALIDATE = "train", "validate"
# What the server calls records that go by these names here.
_STREAMS = {_TRAIN: "train_stream", _VALIDATE: "val_stream", "test": "test_stream"}
# The fields of the request that the form has by other names.
_FIELDS = {"train_stream": _TRAIN, "val_stream": _VALIDATE, "file": _TRAIN}
_TYPED = (
    "model_name",
    "base_model",
    "other_base",
    *(f"{n}_{k}" for n in (_TRAIN, _VALIDATE) for k in ("text", "lies")),
)
_MOST_OPTIONS = 1000
_AUTO = "auto"
# Nobody sees what a training would do before there is a name.
_UNNAMED = "unnamed"
_ALREADY = ("ALREADY_EXISTS", "ABORTED")


@readable
async def empty(request: Request) -> Response:
    """The form, of an earlier training's values where one is named."""
    values: dict[str, Any] = {}
    earlier = None
    if id := request.query_params.get("from", ""):
        earlier = await server_of(request).training(id)
        origins = earlier.parameters.get("origins", {})
        values = {
            name: value
            for name, value in earlier.parameters.items()
            if origins.get(name) == _REQUEST and value not in ("", None)
        }
        values |= {"model_name": earlier.model_name, "base_model": earlier.base_model}
    elif prompt := request.query_params.get("go_on_from", ""):
        values["prompt_tuning_init_prompt"] = prompt
    return await _page(request, values, earlier=earlier)


@readable
async def sent(request: Request) -> Response:
    """Queues a training, or shows what was refused, beside its field and in the server's words."""
    # What was typed isn't lost because the server is away.
    about = await described(request, at_any_time=True)
    async with form_of(request) as form:
        return await _sent(request, form, about)


async def _sent(request: Request, form: FormData, about: Description) -> Response:
    server = server_of(request)
    given: dict[str, Brought | None] = {}
    try:
        parameters = await _parameters(request, form, about, given)
        if text_of(form, "check"):
            report = await server.check(text_of(form, "model_name") or _UNNAMED, parameters)
            return await _page(request, _values(form, about), given=given, report=report)
        id = text_of(form, "training_id")
        return to(
            "trainings", await server.train(text_of(form, "model_name"), parameters | {"training_id": id})
        )
    except CaikitPtError as error:
        if not _is_of_the_form(error):
            raise
        lines = error.lines if isinstance(error, RefusedRecords) else []
        known = text_of(form, "training_id") if error.status not in _ALREADY else ""
        return await _page(
            request, _values(form, about), error=error, lines=lines, given=given, training_id=known
        )


async def preflight(request: Request) -> Response:
    """What the form as it stands would do, for a script."""
    try:
        about = await described(request)
        async with form_of(request) as form:
            parameters = await _parameters(request, form, about, {})
            name = text_of(form, "model_name") or _UNNAMED
        report = await server_of(request).check(name, parameters)
    except CaikitPtError as error:
        return _refusal(error)
    return JSONResponse({"warnings": report.get("warnings", []), "tables": _told(of_preflight(report))})


async def looked_through(request: Request) -> Response:
    """A file that was dropped on the form, line by line, for a script."""
    try:
        # Whom the server doesn't know, nothing is read for.
        await described(request)
        async with form_of(request) as form:
            name = next((one for one in _STREAMS if one == text_of(form, "which")), _TRAIN)
            found = await brought(request, form, name, _STREAMS[name])
    except CaikitPtError as error:
        return _refusal(error)
    if found is None or found.records is None:
        return answer_to(InvalidParameter(_STREAMS[name], "", "a file"))
    return JSONResponse(
        {"held": found.held, "name": found.name, "records": len(found.records), "doubts": found.doubts}
    )


async def _parameters(
    request: Request, form: FormData, about: Description, given: dict[str, Brought | None]
) -> dict[str, Any]:
    """What `request_of` takes; `given` are the records by the form's names for them."""
    for name in (_TRAIN, _VALIDATE):
        given[name] = await brought(request, form, name, _STREAMS[name])
    values = checked(values_of(form, about.tuning, OWN), about.tuning)
    found: dict[str, Any] = {"base_model": text_of(form, "other_base") or text_of(form, "base_model")}
    for name, (records, file) in {
        _TRAIN: ("records", "file"),
        _VALIDATE: ("validation_records", "validation_file"),
    }.items():
        if one := given[name]:
            found |= {file: one.file} if one.file else {records: one.records}
    if not found.get("file") and found.get("records") is None:
        raise InvalidParameter("train_stream", "", "a file, pasted records or a file on the server")
    return found | values


async def _page(
    request: Request,
    values: Mapping[str, Any],
    earlier: Any = None,
    error: CaikitPtError | None = None,
    lines: Sequence[str] = (),
    given: Mapping[str, Brought | None] | None = None,
    report: Mapping[str, Any] | None = None,
    training_id: str = "",
) -> Response:
    about = await described(request, at_any_time=bool(error))
    server = server_of(request)
    field = getattr(error, "field", "").rpartition(".")[2] if error else ""
    field = _FIELDS.get(field, field)
    shown = [one for one in about.tuning if one.name not in OWN]
    known = {"model_name", "base_model", _TRAIN, _VALIDATE, *(one.name for one in shown)}
    errors = {field: str(error)} if field in known else {}
    fields = fields_of(shown, values, errors, await _options(server))
    return await page(
        request,
        "new.html",
        code_of(error) if error else 200,
        about=about,
        values=values,
        common=common(fields),
        rest=rest(fields),
        errors=errors,
        error=error,
        lines=lines,
        given=given or {},
        report=report,
        tables=of_preflight(report) if report else [],
        earlier=earlier,
        endings=", ".join(TAKEN),
        training_id=training_id or str(uuid.uuid4()),
    )


async def _options(server: Server) -> dict[str, list[str]]:
    """What there is on the server to start from. A caller may not be allowed to see it."""
    found: dict[str, list[str]] = {}
    try:
        sources, _ = await server.sources(size=_MOST_OPTIONS)
        named = [one.name for one in sources if not one.problem]
        found["prompt_tuning_init_source_model"] = [_AUTO, *named]
        prompts, _ = await server.prompts(size=_MOST_OPTIONS)
        found["prompt_tuning_init_prompt"] = [one.model_name for one in prompts if not one.problem]
    except ServerError:
        pass
    return found


def _values(form: FormData, about: Description) -> dict[str, Any]:
    """All that was typed, as it was."""
    return {**values_of(form, about.tuning, OWN), **{name: text_of(form, name) for name in _TYPED}}


def _is_of_the_form(error: CaikitPtError) -> bool:
    return code_of(error) in (400, 403, 404, 409, 429) or error.status in AWAY


def _refusal(error: CaikitPtError) -> JSONResponse:
    told = body_of(error)
    field = (told["error"]["param"] or "").rpartition(".")[2]
    told["error"]["field"] = _FIELDS.get(field, field)
    told["error"]["lines"] = error.lines if isinstance(error, RefusedRecords) else []
    made = answer_to(error)
    return JSONResponse(told, made.status_code, {k: v for k, v in made.headers.items() if k in _TOLD})


_TOLD = ("retry-after", "www-authenticate")


def _told(tables: Sequence[Table]) -> list[dict[str, Any]]:
    return [table.to_dict() for table in tables]
