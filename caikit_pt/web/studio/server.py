"""The server as one caller asks it: what the pages need, as plain values."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from caikit_pt.client.message import as_event, as_training, struct
from caikit_pt.client.prompt import Prompt, as_prompt
from caikit_pt.client.request import cancel_message, evaluation_message, train_message
from caikit_pt.client.source import Source, as_source
from caikit_pt.errors import InvalidParameter
from caikit_pt.runtime import tuning_messages as messages
from caikit_pt.training import Event, Training
from caikit_pt.web.caller import token_of
from caikit_pt.web.filling import fill
from caikit_pt.web.link import Link
from caikit_pt.web.studio.answers import Description, as_description

# As many as the server puts into one answer.
_MOST = 1000


@dataclass(frozen=True, slots=True)
class Server:
    """Every call raises ServerError where the server refuses or is away."""

    link: Link
    token: str = field(repr=False)

    # ---- trainings ----

    async def trainings(
        self, states: Sequence[str] = (), model_name: str = "", page: str = "", size: int = 0
    ) -> tuple[list[Training], str]:
        """The latest first, and what the page behind them is asked for by, where there is one."""
        asked = messages.ListTrainingsRequest(
            states=list(states), model_name=model_name, page_token=page, page_size=size
        )
        answer = await self._answer("ListTrainings", asked)
        return list(map(as_training, answer.trainings)), answer.next_page_token

    async def training(self, id: str) -> Training:
        """Everything of one."""
        return as_training(await self._answer("GetTraining", messages.GetTrainingRequest(training_id=id)))

    async def events(self, id: str, after: int = 0) -> AsyncIterator[Event]:
        """Those of one training behind number `after`, as they come, until it has ended."""
        asked = messages.WatchTrainingRequest(training_id=id, from_event=after)
        async with aclosing(self._stream("WatchTraining", asked)) as found:  # type: ignore[type-var]
            async for message in found:
                yield as_event(message)

    async def cancel(self, id: str) -> None:
        """Ends a training; one that has ended stays as it is."""
        await self.link.answer(self.link.stubs.management.CancelTraining, cancel_message(id), self.token)

    async def pause(self, id: str) -> None:
        """It stops where it is, until it is resumed."""
        await self._answer("PauseTraining", messages.PauseTrainingRequest(training_id=id))

    async def resume(self, id: str) -> None:
        """It is queued again."""
        await self._answer("ResumeTraining", messages.ResumeTrainingRequest(training_id=id))

    async def check(self, model_name: str, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """What `train` with the same arguments would do."""
        message = await asyncio.to_thread(train_message, self._kind, model_name, request)
        rpc = self.link.stubs.tuning.CheckTraining
        return struct(await self.link.answer(rpc, message, self.token), "report")

    async def train(self, model_name: str, request: Mapping[str, Any]) -> str:
        """Queues a training; its id. `request` is what `request_of` takes."""
        message = await asyncio.to_thread(train_message, self._kind, model_name, request)
        return str((await self.link.answer(self.link.stubs.train, message, self.token)).training_id)

    # ---- prompts ----

    async def prompts(self, page: str = "", size: int = 0) -> tuple[list[Prompt], str]:
        """By name, and what the page behind them is asked for by, where there is one."""
        asked = messages.ListPromptsRequest(page_token=page, page_size=size)
        answer = await self._answer("ListPrompts", asked)
        return list(map(as_prompt, answer.prompts)), answer.next_page_token

    async def prompt(self, name: str) -> Prompt:
        """Everything of one."""
        return as_prompt(await self._answer("GetPrompt", messages.GetPromptRequest(model_name=name)))

    async def remove(self, name: str) -> None:
        """Deletes one."""
        await self._answer("RemovePrompt", messages.RemovePromptRequest(model_name=name))

    async def archive(self, name: str) -> AsyncIterator[bytes]:
        """The files of one, as a tar."""
        asked = messages.DownloadPromptRequest(model_name=name)
        async with aclosing(self._stream("DownloadPrompt", asked)) as found:  # type: ignore[type-var]
            async for chunk in found:
                yield chunk.data

    async def answers(self, name: str, text: str, parameters: Mapping[str, Any]) -> AsyncIterator[Any]:
        """The answer of a prompt to `text`, a piece at a time."""
        stubs = self.link.stubs
        asked = stubs.messages.ServerStreamingTextGenerationTaskRequest(text=text, preserve_input_text=False)
        for name_of_field, value in parameters.items():
            try:
                fill(asked, name_of_field, value)
            except (TypeError, ValueError):
                allowed = "a value that fits into a request"
                raise InvalidParameter(name_of_field, value, allowed) from None
        async with aclosing(self.link.stream(stubs.stream, asked, self.token, name)) as found:  # type: ignore[type-var]
            async for part in found:
                yield part

    async def evaluation(
        self, name: str, records: Any, file: str, request: Mapping[str, Any]
    ) -> AsyncIterator[Any]:
        """The EvaluationEvents of one."""
        message = await asyncio.to_thread(evaluation_message, name, records, file, request)
        rpc = self.link.stubs.tuning.Evaluate
        async with aclosing(self.link.stream(rpc, message, self.token)) as found:  # type: ignore[type-var]
            async for event in found:
                yield event

    # ---- sources ----

    async def sources(self, page: str = "", size: int = 0) -> tuple[list[Source], str]:
        """By name, and what the page behind them is asked for by, where there is one."""
        asked = messages.ListSourcesRequest(page_token=page, page_size=size)
        answer = await self._answer("ListSources", asked)
        return list(map(as_source, answer.sources)), answer.next_page_token

    async def source(self, name: str) -> Source:
        """Everything of one."""
        return as_source(await self._answer("GetSource", messages.GetSourceRequest(name=name)))

    async def described(self) -> Description:
        """What the server is to the caller."""
        return as_description(await self._answer("Describe", messages.DescribeRequest()))

    async def _answer(self, rpc: str, request: Any) -> Any:
        return await self.link.answer(getattr(self.link.stubs.tuning, rpc), request.to_proto(), self.token)

    def _stream(self, rpc: str, request: Any) -> AsyncIterator[Any]:
        return self.link.stream(getattr(self.link.stubs.tuning, rpc), request.to_proto(), self.token)

    @property
    def _kind(self) -> Any:
        return self.link.stubs.training_messages.TextGenerationTaskPeftPromptTuningTrainRequest


def server_of(request: Request) -> Server:
    """As the one asks it who sent `request`."""
    return Server(request.app.state.door.link, token_of(request))
