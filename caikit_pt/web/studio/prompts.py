"""Prompts that are served: the list, one of them, a text tried on it and on its base, a test with records."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import Response

from caikit_pt.client.message import struct
from caikit_pt.client.server_error import ServerError
from caikit_pt.errors import CaikitPtError, InvalidParameter
from caikit_pt.tuning.outcome import in_words
from caikit_pt.web.refusal import answer_to, body_of, code_of
from caikit_pt.web.sse import event as sent
from caikit_pt.web.sse import streamed
from caikit_pt.web.studio.answers import Description
from caikit_pt.web.studio.fields import Field, checked, fields_of, values_of
from caikit_pt.web.studio.pages import described, page, readable, to
from caikit_pt.web.studio.records import TAKEN, Brought, RefusedRecords, brought, form_of, text_of
from caikit_pt.web.studio.server import Server, server_of
from caikit_pt.web.studio.tables import of_evaluation, of_parameters, of_verdict

TUNED, UNTUNED = "tuned", "untuned"
# Of a request's parameters, those that somebody turns who tries a text.
_TURNED = ("max_new_tokens", "decoding_method", "temperature", "top_p", "seed", "labels_only")
_WRONG_SHOWN = 20
_LONGEST_TEXT = 1_000_000
_TEST = "test"


@readable
async def listed(request: Request) -> Response:
    """By name."""
    found, behind = await server_of(request).prompts(request.query_params.get("page", ""))
    return await page(request, "prompts.html", prompts=found, next=behind)


@readable
async def one(request: Request) -> Response:
    """All of one."""
    return await _page(request)


@readable
async def removed(request: Request) -> Response:
    """Nothing is served under its name any more; leads back to the list."""
    await server_of(request).remove(request.path_params["name"])
    return to("prompts")


@readable
async def tried(request: Request) -> Response:
    """A text on the prompt and on its base, on a page: for browsers without scripts."""
    about, name = await described(request), request.path_params["name"]
    async with form_of(request) as form:
        text, values = text_of(form, "text"), values_of(form, _turned(about))
    server = server_of(request)
    try:
        asked = _checked(text, values, about)
        answers = dict(
            zip(
                (TUNED, UNTUNED),
                await asyncio.gather(*(_whole(server, name, text, asked, role) for role in (TUNED, UNTUNED))),
                strict=True,
            )
        )
    except CaikitPtError as error:
        if code_of(error) not in (400, 429):
            raise
        return await _page(request, text=text, values=values, error=error)
    return await _page(request, text=text, values=values, answers=answers)


async def streamed_answers(request: Request) -> Response:
    """The same, a piece at a time."""
    try:
        about = await described(request)
        async with form_of(request) as form:
            text = text_of(form, "text")
            asked = _checked(text, values_of(form, _turned(about)), about)
    except CaikitPtError as error:
        return answer_to(error)
    return streamed(_both(server_of(request), request.path_params["name"], text, asked))


@readable
async def tested(request: Request) -> Response:
    """What a prompt is worth on records, on a page: for browsers without scripts."""
    try:
        found: dict[str, Any] = {}
        wrong: list[dict[str, Any]] = []
        await described(request)
        async with form_of(request) as form:
            events = await _evaluation(request, form)
        async for event in events:
            if event.HasField("wrong"):
                wrong.append(_wrong(event))
            elif event.HasField("report"):
                found = struct(event, "report")
    except CaikitPtError as error:
        if code_of(error) not in (400, 409, 429):
            raise
        lines = error.lines if isinstance(error, RefusedRecords) else []
        return await _page(request, test_error=error, lines=lines)
    return await _page(request, report=found, wrong=wrong)


async def streamed_test(request: Request) -> Response:
    """The same, with how far it is."""
    try:
        await described(request)
        async with form_of(request) as form:
            found = await _evaluation(request, form)
        first = await anext(found, None)
    except CaikitPtError as error:
        told = body_of(error)
        told["error"]["lines"] = error.lines if isinstance(error, RefusedRecords) else []
        return streamed(_single(sent(told)))
    name = request.path_params["name"]

    async def told_of_all() -> AsyncIterator[bytes]:
        async with aclosing(found) as rest:  # type: ignore[type-var]
            if first is not None:
                yield _evaluated(name, first)
            async for event in rest:
                yield _evaluated(name, event)

    return streamed(told_of_all())


async def _single(one: bytes) -> AsyncIterator[bytes]:
    yield one


def _evaluated(name: str, event: Any) -> bytes:
    if event.HasField("wrong"):
        return sent(_wrong(event), "wrong")
    if event.HasField("report"):
        report = struct(event, "report")
        tables = [table.to_dict() for table in of_evaluation(name, report)]
        return sent({"tables": tables, "notes": report.get("notes", [])}, "report")
    return sent({"done": event.done, "of": event.of}, "progress")


async def _evaluation(request: Request, form: FormData) -> AsyncIterator[Any]:
    """Raises CaikitPtError for records that can't be used."""
    given: Brought | None = await brought(request, form, _TEST, "test_stream")
    if given is None:
        raise InvalidParameter("test_stream", "", "a file, pasted records or a file on the server")
    asked: dict[str, Any] = {"wrong_answers": _WRONG_SHOWN, "against": text_of(form, "against") or None}
    if text_of(form, "free"):
        asked["labels_only"] = False
    name = request.path_params["name"]
    return server_of(request).evaluation(name, None if given.file else given.records, given.file, asked)


def _wrong(event: Any) -> dict[str, Any]:
    names = ("record", "input", "expected", "answered")
    return {name: getattr(event.wrong, name) for name in names}


async def _page(
    request: Request,
    text: str = "",
    values: Mapping[str, Any] | None = None,
    error: CaikitPtError | None = None,
    answers: Mapping[str, Any] | None = None,
    test_error: CaikitPtError | None = None,
    lines: Any = (),
    report: Mapping[str, Any] | None = None,
    wrong: Any = (),
) -> Response:
    about, server = await described(request), server_of(request)
    prompt = await server.prompt(request.path_params["name"])
    refused = error or test_error
    field = getattr(error, "field", "")
    return await page(
        request,
        "prompt.html",
        code_of(refused) if refused else 200,
        about=about,
        prompt=prompt,
        parameters=of_parameters(prompt.parameters),
        in_words=in_words(prompt.verdict.get("outcome", {})),
        verdict=of_verdict(prompt.verdict),
        text=text,
        fields=_fields(about, values or {}, {field: str(error)} if error else {}),
        error=error,
        answers=answers,
        test_error=test_error,
        lines=lines,
        report=of_evaluation(prompt.model_name, report) if report else [],
        notes=report.get("notes", []) if report else [],
        wrong=wrong,
        trained_by=await _trained_by(server, prompt.model_name),
        others=await _others(server, prompt.model_name),
        endings=", ".join(TAKEN),
    )


async def _trained_by(server: Server, name: str) -> str:
    """The id of the last training of it; empty for who may not watch trainings."""
    try:
        found, _ = await server.trainings(("COMPLETED",), name, size=1)
    except ServerError:
        return ""
    return found[0].training_id if found else ""


async def _others(server: Server, name: str) -> list[str]:
    found, _ = await server.prompts(size=1000)
    return [one.model_name for one in found if one.model_name != name and not one.problem]


def _turned(about: Description) -> list[Any]:
    return [one for one in about.generation if one.name in _TURNED]


def _fields(about: Description, values: Mapping[str, Any], errors: Mapping[str, str]) -> list[Field]:
    return fields_of(_turned(about), values, errors)


def _checked(text: str, values: Mapping[str, Any], about: Description) -> dict[str, Any]:
    """The parameters of a request. Raises InvalidParameter."""
    if not text or len(text) > _LONGEST_TEXT:
        raise InvalidParameter("text", text, f"text of 1 to {_LONGEST_TEXT:,} characters")
    return checked(values, about.generation)


async def _whole(server: Server, name: str, text: str, asked: Mapping[str, Any], role: str) -> dict[str, Any]:
    answer, tokens, reason = "", 0, ""
    async for told in _pieces(server, name, text, asked, role):
        answer += told.get("text", "")
        tokens, reason = told.get("tokens", tokens), told.get("reason", reason)
    return {"text": answer, "tokens": tokens, "reason": reason}


async def _pieces(
    server: Server, name: str, text: str, asked: Mapping[str, Any], role: str
) -> AsyncIterator[dict[str, Any]]:
    asked = {**asked, **({"untuned": True} if role == UNTUNED else {})}
    async with aclosing(server.answers(name, text, asked)) as found:  # type: ignore[type-var]
        async for part in found:
            told: dict[str, Any] = {"text": part.generated_text}
            if part.HasField("details"):
                details = part.details
                reasons = details.DESCRIPTOR.fields_by_name["finish_reason"].enum_type.values_by_number
                told |= {"tokens": details.generated_tokens, "reason": reasons[details.finish_reason].name}
            yield told


async def _both(server: Server, name: str, text: str, asked: Mapping[str, Any]) -> AsyncIterator[bytes]:
    """The pieces of both answers as they come, each under the name of who gives it."""
    told: asyncio.Queue[bytes | None] = asyncio.Queue(64)

    async def follow(role: str) -> None:
        try:
            async with aclosing(_pieces(server, name, text, asked, role)) as found:  # type: ignore[type-var]
                async for piece in found:
                    await told.put(sent(piece, role))
            await told.put(sent({"role": role}, "done"))
        except CaikitPtError as error:
            await told.put(sent({"role": role, **body_of(error)}, "refused"))
        finally:
            # Whatever it was: who listens isn't to wait for it.
            await told.put(None)

    tasks = [asyncio.ensure_future(follow(role)) for role in (TUNED, UNTUNED)]
    try:
        under_way = len(tasks)
        while under_way:
            piece = await told.get()
            if piece is None:
                under_way -= 1
            else:
                yield piece
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
