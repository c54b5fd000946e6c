"""/v1/fine_tuning/jobs: trainings of tuned prompts."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import secrets
import time
from collections.abc import AsyncGenerator, Container, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from caikit_pt.client.message import as_training
from caikit_pt.client.request import cancel_message, train_message
from caikit_pt.client.server_error import ServerError
from caikit_pt.errors import InvalidRecord
from caikit_pt.training import CANCELED, COMPLETED, ERRORED, PAUSED, PROMPT, QUEUED, RUNNING, Training
from caikit_pt.tuning.record_fields import Asked
from caikit_pt.tuning.records import Records, field_doubts
from caikit_pt.web.job_notes import JobNotes, Note
from caikit_pt.web.openai.events import checkpoints, event_of, number_of, so_far, watched
from caikit_pt.web.openai.fields import Fields, asked_of, fields_of, warnings_of
from caikit_pt.web.openai.hyperparameters import Table, check, shown_of, taken
from caikit_pt.web.openai.pages import Page, page
from caikit_pt.web.openai.server import TRAINING_NAMES, Server, begun, server_of, unless_left
from caikit_pt.web.openai.tokenizer import needed
from caikit_pt.web.openai.uploads import store_of
from caikit_pt.web.refusal import Refused
from caikit_pt.web.sse import event, streamed

_LOG = logging.getLogger(__name__)
_STATUSES = {
    QUEUED: "queued",
    RUNNING: "running",
    PAUSED: "paused",
    COMPLETED: "succeeded",
    CANCELED: "cancelled",
    ERRORED: "failed",
}
_KEY = "Idempotency-Key"
_SUFFIX = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LONGEST_BASE = 80
_LIMIT, _MOST_LISTED, _MOST_EVENTS = 20, 100, 1000
_PAIRS, _LONGEST_KEY, _LONGEST_VALUE = 16, 64, 512
_OF_METADATA = re.compile(r"metadata\[(.{1,64})\]")
# Of those that are submitted elsewhere all has to be asked for, one by one.
_ASKED_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request for a job, read."""

    model: str
    training_file: str
    validation_file: str | None
    suffix: str | None
    seed: int | None
    metadata: Mapping[str, str] | None
    id: str
    # Ours: the whole name, where a policy wants another than is made here.
    name: str | None


@dataclass(frozen=True, slots=True)
class Teller:
    """What is needed to tell a caller of his jobs."""

    server: Server
    caller: str
    notes: JobNotes
    table: Table
    base_models: Container[str]

    @classmethod
    async def of(cls, request: Request) -> Teller:
        """Raises ServerError."""
        server = server_of(request)
        description = await server.description()
        notes = JobNotes(Path(request.app.state.door.now.directory))
        bases = list(description.base_models)
        return cls(server, str(description.caller), notes, Table.of(description), bases)

    async def training(self, id: str) -> Training:
        """Raises Refused where there is none; what is noted of it goes, too."""
        try:
            return await self.server.training(id, "fine_tuning_job_id")
        except Refused as error:
            if error.status == "NOT_FOUND":
                self.notes.remove(self.caller, id)
            raise

    def told(self, training: Training) -> dict[str, Any]:
        """A fine_tuning.job."""
        note = self.notes.find(self.caller, training.training_id)
        parameters, ended = training.parameters, training.ended
        seed = parameters.get("seed", note.seed if note else None)
        shown = shown_of(note.hyperparameters if note else {}, parameters, self.table)
        return {
            "id": training.training_id,
            "object": "fine_tuning.job",
            "created_at": int(training.submitted.timestamp()) if training.submitted else 0,
            "finished_at": int(ended.timestamp()) if ended and training.state == COMPLETED else None,
            "status": _STATUSES.get(training.state, training.state.lower()),
            "model": training.base_model,
            "fine_tuned_model": training.model_name if training.state == COMPLETED else None,
            "organization_id": self.caller,
            "training_file": note.training_file if note else "",
            "validation_file": note.validation_file if note else None,
            "user_provided_suffix": note.suffix if note else None,
            "seed": self.table.default("seed") if seed is None else seed,
            "metadata": dict(note.metadata) if note and note.metadata is not None else None,
            "hyperparameters": shown,
            "method": {"type": "supervised", "supervised": {"hyperparameters": shown}},
            "error": _error(training),
            "estimated_finish": _estimate(training),
            "trained_tokens": None,
            "result_files": [],
            "integrations": [],
            # Ours.
            "warnings": list(note.warnings) if note else [],
        }


async def create(request: Request) -> Response:
    """Queues a training on an uploaded file."""
    fields = await fields_of(request)
    teller = await Teller.of(request)
    stubs = teller.server.link.stubs
    kind = stubs.training_messages.TextGenerationTaskPeftPromptTuningTrainRequest
    wanted = _wanted(request, fields)
    parameters, said = taken(fields, teller.table, kind)
    fields.end()
    base, start = await _start(teller, wanted.model)
    asked = Asked(str(parameters.get("input_field") or ""), str(parameters.get("output_field") or ""))
    records = await _records(request, teller, wanted.training_file, "training_file", asked)
    told = {**parameters, **start, "training_id": wanted.id, "records": records}
    if wanted.seed is not None:
        check(kind, teller.table, "seed", wanted.seed, "seed")
        told["seed"] = wanted.seed
    doubts = field_doubts(records)
    if wanted.validation_file is not None:
        found = await _records(request, teller, wanted.validation_file, "validation_file", asked)
        told["validation_records"], doubts = found, doubts + field_doubts(found)
    name = wanted.name or model_name(base, wanted.suffix, wanted.id)
    message = await asyncio.to_thread(train_message, kind, name, told)
    own_name = {"model_name": "fine_tuned_model" if wanted.name else "suffix"}
    names = {**teller.table.names, **TRAINING_NAMES, **own_name}
    answer = await unless_left(request, teller.server.answer(stubs.train, message, names=names))
    id = str(answer.training_id)
    note = Note(
        wanted.training_file,
        wanted.validation_file,
        wanted.suffix,
        wanted.seed,
        wanted.metadata,
        said,
        doubts,
    )
    try:
        await asyncio.to_thread(teller.notes.keep, teller.caller, id, note)
    except OSError as error:
        # The training is there all the same.
        _LOG.warning("nothing is noted of job %s: %s", id, error.strerror or type(error).__name__)
    training = await teller.training(id)
    return JSONResponse(teller.told(training), headers=warnings_of(fields.ignored, doubts))


async def listed(request: Request) -> Response:
    """Those that the caller may see, the latest first."""
    fields = asked_of(request)
    asked, wanted = Page.asked(fields, _LIMIT, _MOST_LISTED), _metadata_asked(fields)
    fields.end()
    teller = await Teller.of(request)
    found = list[Training]()
    async for training in _trainings(teller, asked.after):
        if wanted and not _has(teller, training, wanted):
            continue
        found.append(training)
        if len(found) > asked.limit:
            break
    data = await _all_told(teller, found[: asked.limit])
    return JSONResponse(page(data, len(found) > asked.limit))


async def found(request: Request) -> Response:
    """One of them."""
    teller = await Teller.of(request)
    return JSONResponse(teller.told(await teller.training(request.path_params["id"])))


async def cancelled(request: Request) -> Response:
    """Ends it; one that has ended stays as it is."""
    teller = await Teller.of(request)
    training = await teller.training(request.path_params["id"])
    asked = cancel_message(training)
    await teller.server.answer(teller.server.link.stubs.management.CancelTraining, asked)
    return JSONResponse(teller.told(await teller.training(training.training_id)))


async def paused(request: Request) -> Response:
    """Stops it behind a snapshot; one that has ended stays as it is."""
    from caikit_pt.runtime.tuning_messages import PauseTrainingRequest

    teller = await Teller.of(request)
    training = await teller.training(request.path_params["id"])
    asked = PauseTrainingRequest(training_id=training.training_id).to_proto()
    answer = await teller.server.answer(teller.server.link.stubs.tuning.PauseTraining, asked)
    return JSONResponse(teller.told(as_training(answer)))


async def resumed(request: Request) -> Response:
    """Queues it again; one that isn't paused stays as it is."""
    from caikit_pt.runtime.tuning_messages import ResumeTrainingRequest

    teller = await Teller.of(request)
    training = await teller.training(request.path_params["id"])
    asked = ResumeTrainingRequest(training_id=training.training_id).to_proto()
    answer = await teller.server.answer(teller.server.link.stubs.tuning.ResumeTraining, asked)
    return JSONResponse(teller.told(as_training(answer)))


async def events(request: Request) -> Response:
    """The latest first; as they come with ?stream=true, the earliest first."""
    fields = asked_of(request)
    asked, streams = Page.asked(fields, _LIMIT, _MOST_EVENTS), fields.text("stream") or "false"
    if streams.lower() not in ("true", "false"):
        raise fields.refusal("stream", streams, "true, false")
    fields.end()
    teller = await Teller.of(request)
    training = await teller.training(request.path_params["id"])
    id = training.training_id
    if streams.lower() == "true":
        last = asked.after or request.headers.get("last-event-id", "")
        after = number_of(id, last, "after") if last else 0
        return streamed(await unless_left(request, begun(_streamed(teller.server, id, after))))
    before = number_of(id, asked.after, "after") if asked.after else None
    known = await unless_left(request, so_far(teller.server, training))
    told = [event_of(id, one) for one in reversed(known) if before is None or one.number < before]
    return JSONResponse(page(told[: asked.limit], len(told) > asked.limit))


async def published(request: Request) -> Response:
    """The checkpoint that can be asked."""
    fields = asked_of(request)
    asked = Page.asked(fields, 10, _MOST_LISTED)
    fields.end()
    teller = await Teller.of(request)
    training = await teller.training(request.path_params["id"])
    return JSONResponse(asked.of(await unless_left(request, checkpoints(teller.server, training))))


def model_name(base: str, suffix: str | None, id: str) -> str:
    """The name that a job's prompt is published by: always the same for one id, and hardly for two."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", base.rstrip("/").rpartition("/")[2])[:_LONGEST_BASE]
    own = hashlib.sha256(id.encode()).hexdigest()[:8]
    return "-".join([plain.lstrip("._-") or "model", suffix or "tuned", own])


async def _streamed(server: Server, id: str, after: int) -> AsyncGenerator[bytes]:
    async with aclosing(watched(server, id, after)) as found:
        async for one in found:
            told = event_of(id, one)
            yield event(told, id=told["id"])
    yield event("[DONE]")


def _wanted(request: Request, fields: Fields) -> Wanted:
    """Takes all fields but hyperparameters and method. Raises Refused."""
    model, file = needed(request, fields), fields.text("training_file")
    if not file:
        raise Refused("training_file is needed: the id of an uploaded file", "training_file")
    suffix, seed = fields.text("suffix"), fields.whole("seed")
    if suffix and not _SUFFIX.fullmatch(suffix):
        raise fields.refusal("suffix", suffix, "up to 64 letters, digits, '.', '_' and '-'")
    fields.same("integrations", [], why="aren't supported here: tracking is a setting of the server")
    id = request.headers.get(_KEY) or f"ftjob-{secrets.token_hex(12)}"
    validation, metadata = fields.text("validation_file"), _metadata(fields)
    name = fields.text("fine_tuned_model")
    if name and suffix:
        raise fields.refusal("fine_tuned_model", name, "unset together with suffix, which is a part of it")
    return Wanted(model, file, validation, suffix or None, seed, metadata, id, name)


def _metadata(fields: Fields) -> Mapping[str, str] | None:
    """Raises Refused."""
    given = fields.any("metadata")
    if given is None:
        return None
    allowed = f"up to {_PAIRS} texts of up to {_LONGEST_VALUE} characters, by names of up to {_LONGEST_KEY}"
    fits = isinstance(given, dict) and len(given) <= _PAIRS
    if not fits or not all(
        isinstance(value, str) and len(value) <= _LONGEST_VALUE and len(key) <= _LONGEST_KEY
        for key, value in given.items()
    ):
        raise fields.refusal("metadata", given, allowed)
    found: Mapping[str, str] = given
    return found


async def _start(teller: Teller, model: str) -> tuple[str, dict[str, str]]:
    """The base model, and what says so in the request: itself, or a tuned prompt to go on from."""
    if model not in teller.base_models:
        try:
            prompt = await teller.server.prompt(model)
        except (ServerError, Refused) as error:
            # A base model may be there that isn't listed: the server knows.
            if error.status not in ("NOT_FOUND", "INVALID_ARGUMENT"):
                raise
        else:
            return prompt.base_model, {"prompt_tuning_init_prompt": model}
    return model, {"base_model": model}


async def _records(request: Request, teller: Teller, id: str, field: str, asked: Asked) -> Records:
    """Raises Refused."""
    try:
        return await asyncio.to_thread(store_of(request).records, teller.caller, id, field, asked)
    except InvalidRecord as error:
        raise Refused(str(error), field, reason="INVALID_FILE") from error


async def _trainings(teller: Teller, after: str) -> AsyncGenerator[Training]:
    """Of prompts, the latest first, behind the id `after`. Raises Refused where there is none."""
    from caikit_pt.runtime.tuning_messages import ListTrainingsRequest

    until, waits = None, bool(after)
    if after:
        last = await teller.server.training(after, "after")
        # Others may have come in the same moment.
        until = last.submitted + timedelta(milliseconds=1) if last.submitted else None
    token = ""
    while True:
        asked = ListTrainingsRequest(submitted_until=until, page_token=token).to_proto()
        answer = await teller.server.answer(teller.server.link.stubs.tuning.ListTrainings, asked)
        for message in answer.trainings:
            training = as_training(message)
            if not waits and training.makes == PROMPT:
                yield training
            waits = waits and training.training_id != after
        token = answer.next_page_token
        if not token:
            return


async def _all_told(teller: Teller, trainings: Sequence[Training]) -> list[dict[str, Any]]:
    """Of one that was submitted elsewhere the server knows what isn't in a list."""
    gate = asyncio.Semaphore(_ASKED_AT_ONCE)

    async def told(training: Training) -> dict[str, Any]:
        if await asyncio.to_thread(teller.notes.find, teller.caller, training.training_id):
            return teller.told(training)
        async with gate:
            return teller.told(await teller.server.training(training.training_id))

    return list(await asyncio.gather(*map(told, trainings)))


def _metadata_asked(fields: Fields) -> dict[str, str]:
    """Raises Refused."""
    names = [name for name in fields.names() if _OF_METADATA.fullmatch(name)]
    found = {_OF_METADATA.sub(r"\1", name): fields.text(name) or "" for name in names}
    # OpenAI's way to ask for those without any.
    if fields.text("metadata") not in (None, "null"):
        raise Refused("metadata: it is asked for as metadata[NAME]=VALUE", "metadata")
    return found


def _has(teller: Teller, training: Training, wanted: Mapping[str, str]) -> bool:
    note = teller.notes.find(teller.caller, training.training_id)
    known = note.metadata if note and note.metadata else {}
    return all(known.get(name) == value for name, value in wanted.items())


def _error(training: Training) -> dict[str, Any] | None:
    if training.state != ERRORED:
        return None
    told = "\n".join(training.reasons) or "The training failed"
    return {"code": "training_failed", "message": told, "param": None}


def _estimate(training: Training) -> int | None:
    if training.state != RUNNING or training.progress is None:
        return None
    return int(time.time() + training.progress.eta_seconds)
