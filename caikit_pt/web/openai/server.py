"""The server as OpenAI's API asks it: for whoever sent a request, with errors by OpenAI's names of fields."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request

from caikit_pt.client.message import as_training
from caikit_pt.client.prompt import Prompt, as_prompt
from caikit_pt.client.server_error import ServerError
from caikit_pt.errors import CaikitPtError, shown
from caikit_pt.training import PROMPT, Training
from caikit_pt.web.caller import token_of
from caikit_pt.web.filling import fill
from caikit_pt.web.link import Link
from caikit_pt.web.refusal import Refused

_HYPERPARAMETERS = "hyperparameters."
# The server's names of fields, and OpenAI's, where they differ.
QUESTION_NAMES = {
    "text": "prompt",
    "input_ids": "prompt",
    "max_new_tokens": "max_tokens",
    "min_new_tokens": "min_tokens",
    "truncate_input_tokens": "truncate_prompt_tokens",
    "stop_sequences": "stop",
    "top_tokens": "logprobs",
    "decoding_method": "temperature",
}
CHAT_NAMES = {**QUESTION_NAMES, "text": "messages", "input_ids": "messages", "top_tokens": "top_logprobs"}
TRAINING_NAMES = {
    "train_stream": "training_file",
    "val_stream": "validation_file",
    "base_model": "model",
    "prompt_tuning_init_prompt": "model",
    "training_id": "Idempotency-Key",
    "seed": "seed",
    "num_epochs": f"{_HYPERPARAMETERS}n_epochs",
    "learning_rate": f"{_HYPERPARAMETERS}learning_rate_multiplier",
}
_PAGE = 1000
_ROOM = "numbers have up to 64 bits, and a seed no sign"
_Found = TypeVar("_Found")


@dataclass(frozen=True, slots=True)
class Server:
    """Asked with the token of a caller. Everything raises ServerError."""

    link: Link
    token: str

    async def answer(
        self, rpc: Any, message: Any, model_name: str = "", names: Mapping[str, str] | None = None
    ) -> Any:
        """The answer; an error has its field by `names`."""
        try:
            return await self.link.answer(rpc, message, self.token, model_name)
        except ServerError as error:
            raise renamed(error, names or {}) from error

    async def stream(
        self, rpc: Any, message: Any, model_name: str = "", names: Mapping[str, str] | None = None
    ) -> AsyncGenerator[Any]:
        """The answers, as they come; an error has its field by `names`."""
        try:
            async with aclosing(self.link.stream(rpc, message, self.token, model_name)) as parts:  # type: ignore[type-var]
                async for part in parts:
                    yield part
        except ServerError as error:
            raise renamed(error, names or {}) from error

    async def prompt(self, name: str) -> Prompt:
        """Raises Refused where there is none."""
        from caikit_pt.runtime.tuning_messages import GetPromptRequest

        asked = GetPromptRequest(model_name=name).to_proto()
        try:
            return as_prompt(
                await self.answer(self.link.stubs.tuning.GetPrompt, asked, names={"model_name": "model"})
            )
        except ServerError as error:
            raise of_model(error) from error

    async def remove(self, name: str) -> None:
        """Deletes a prompt. Raises Refused where there is none."""
        from caikit_pt.runtime.tuning_messages import RemovePromptRequest

        asked = RemovePromptRequest(model_name=name).to_proto()
        try:
            await self.answer(self.link.stubs.tuning.RemovePrompt, asked, names={"model_name": "model"})
        except ServerError as error:
            raise of_model(error) from error

    async def prompts(self) -> AsyncGenerator[Prompt]:
        """All that the caller may ask, by name."""
        from caikit_pt.runtime.tuning_messages import ListPromptsRequest

        token = ""
        while True:
            asked = ListPromptsRequest(page_size=_PAGE, page_token=token).to_proto()
            page = await self.answer(self.link.stubs.tuning.ListPrompts, asked)
            for one in page.prompts:
                yield as_prompt(one)
            token = page.next_page_token
            if not token:
                return

    async def training(self, id: str, field: str = "") -> Training:
        """The training of a prompt. Raises Refused where there is none; `field` is what named it."""
        from caikit_pt.runtime.tuning_messages import GetTrainingRequest

        asked = GetTrainingRequest(training_id=id).to_proto()
        try:
            found = as_training(await self.answer(self.link.stubs.tuning.GetTraining, asked))
        except ServerError as error:
            if error.status != "NOT_FOUND":
                raise
            raise _no_job(id, field) from error
        if found.makes != PROMPT:
            raise _no_job(id, field)
        return found

    async def description(self) -> Any:
        """A message Description."""
        from caikit_pt.runtime.tuning_messages import DescribeRequest

        return await self.answer(self.link.stubs.tuning.Describe, DescribeRequest().to_proto())

    async def caller(self) -> str:
        """His name; empty where nobody has to say who he is."""
        return str((await self.description()).caller)


def server_of(request: Request) -> Server:
    """For whoever sent `request`. Raises Refused."""
    return Server(request.app.state.door.link, token_of(request))


def renamed(error: ServerError, names: Mapping[str, str]) -> ServerError:
    """With the field as OpenAI calls it, in its text, too."""
    field = error.field
    told = names.get(field) or names.get(field.rpartition(".")[2])
    if not field or not told:
        return error
    text = str(error)
    made = ServerError(error.status, f"{told}{text[len(field) :]}" if text.startswith(field) else text)
    made.field, made.reason, made.request_id = told, error.reason, error.request_id
    made.retry_seconds = error.retry_seconds
    return made


def of_model(error: CaikitPtError) -> CaikitPtError:
    """As OpenAI says that there is no such model, where that is what `error` says."""
    if error.status != "NOT_FOUND":
        return error
    return Refused(str(error), "model", "NOT_FOUND", "MODEL_NOT_FOUND")


def message_of(kind: Any, values: Mapping[str, Any], names: Mapping[str, str]) -> Any:
    """A message of class `kind`. Raises Refused for a value that it has no room for."""
    made = kind()
    for name, value in values.items():
        try:
            fill(made, name, value)
        except (TypeError, ValueError):
            field = names.get(name, name)
            allowed = f"a value that a request has room for ({_ROOM})"
            raise Refused(f"{field}: {shown(value)} is not allowed. Allowed: {allowed}", field) from None
    return made


async def unless_left(request: Request, work: Awaitable[_Found]) -> _Found:
    """What comes of `work`, which ends where the client leaves. Raises Refused then, and what `work` does."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Refused("The client has left", status="CANCELLED")
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def begun(events: AsyncGenerator[bytes]) -> AsyncIterator[bytes]:
    """All of `events`, when the first is there: until then an error is an answer of its own."""
    first = await anext(events, None)

    async def all_of_them() -> AsyncGenerator[bytes]:
        async with aclosing(events):
            if first is not None:
                yield first
            async for one in events:
                yield one

    return all_of_them()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _no_job(id: str, field: str) -> Refused:
    return Refused(f"There is no fine-tuning job {shown(id)}", field, "NOT_FOUND", "JOB_NOT_FOUND")
