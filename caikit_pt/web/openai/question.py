"""What completions and chats have in common: how a question is put, to whom, and how often."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from caikit_pt.client.message import plain
from caikit_pt.client.server_error import ServerError
from caikit_pt.parameters.generation import GREEDY, SAMPLING
from caikit_pt.web.openai.fields import Fields
from caikit_pt.web.openai.server import Server, message_of, of_model, server_of
from caikit_pt.web.openai.tokenizer import needed
from caikit_pt.web.refusal import Refused

# The server bounds how many streams a caller has, and how many requests wait.
_AT_ONCE, _STREAMS_AT_ONCE = 32, 8
_MOST_OF_EACH, _MOST = 128, 1024
_WAITING_PARTS = 64
# Those of ours that stand in a request as they are, and what they are called there.
_OURS = {
    "top_k": "top_k",
    "typical_p": "typical_p",
    "repetition_penalty": "repetition_penalty",
    "min_tokens": "min_new_tokens",
    "truncate_prompt_tokens": "truncate_input_tokens",
}
_WHOLE = ("top_k", "min_tokens", "truncate_prompt_tokens")
_FLAGS = ("labels_only", "label_probabilities", "untuned")
_LENGTHS = ("MAX_TOKENS", "TOKEN_LIMIT", "TIME_LIMIT")


@dataclass(slots=True)
class Question:
    """`values` are fields of the server's message, the same for all; `asks` what of them is each one's own:
    one for each choice, in OpenAI's order. `names` are what an error calls the server's fields."""

    server: Server
    model: str
    names: Mapping[str, str]
    values: dict[str, Any]
    n: int
    streams: bool
    tells_usage: bool
    asks: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, request: Request, fields: Fields, names: Mapping[str, str]) -> Question:
        """Takes what both kinds have. Raises Refused."""
        values: dict[str, Any] = {"preserve_input_text": False, "include_stop_sequence": False}
        n = fields.whole("n")
        if n is not None and not 1 <= n <= _MOST_OF_EACH:
            raise fields.refusal("n", n, f"a whole number from 1 to {_MOST_OF_EACH}")
        temperature, top_p = fields.number("temperature"), fields.number("top_p")
        # Unset is what the prompt was tuned for.
        drawn = temperature > 0 if temperature is not None else top_p is not None
        values["decoding_method"] = SAMPLING if drawn else GREEDY
        given: dict[str, Any] = {"temperature": temperature, "top_p": top_p, "seed": fields.whole("seed")}
        for name, own in _OURS.items():
            given[own] = fields.whole(name) if name in _WHOLE else fields.number(name)
        given |= {name: fields.flag(name) for name in _FLAGS}
        values |= {name: value for name, value in given.items() if value is not None}
        values["stop_sequences"] = fields.texts("stop")
        streams, options = fields.flag("stream") or False, fields.object("stream_options")
        tells = options.flag("include_usage") or False
        options.ignore("include_obfuscation")
        options.end()
        fields.ignored += options.ignored
        return cls(server_of(request), needed(request, fields), names, values, n or 1, streams, tells)

    def ask(self, texts: Sequence[str | list[int]], field: str) -> None:
        """Of each of `texts`, which are texts or the ids of tokens, n times. Raises Refused."""
        if len(texts) * self.n > _MOST:
            raise Refused(f"{field}: {len(texts) * self.n} choices, and a request may have {_MOST}", field)
        seed = self.values.pop("seed", None)
        for text in texts:
            # Ids are read as they are: what becomes of them isn't what the prompt was tuned to tell apart.
            given: dict[str, Any] = (
                {"text": text} if isinstance(text, str) else {"labels_only": False, "input_ids": text}
            )
            for number in range(self.n):
                own = {**given, **self.values}
                self.asks.append(own if seed is None else {**own, "seed": seed + number})

    async def answers(self) -> list[Any]:
        """Each choice's. Raises ServerError, Refused."""
        kind = self.server.link.stubs.messages.TextGenerationTaskRequest
        messages = [message_of(kind, own, self.names) for own in self.asks]
        gate = asyncio.Semaphore(_AT_ONCE)

        async def answer(message: Any) -> Any:
            async with gate:
                rpc = self.server.link.stubs.predict
                return await self.server.answer(rpc, message, self.model, self.names)

        tasks = [asyncio.create_task(answer(message)) for message in messages]
        try:
            return list(await asyncio.gather(*tasks))
        except ServerError as error:
            raise of_model(error) from error
        finally:
            await _end(tasks)

    async def parts(self) -> AsyncGenerator[tuple[int, Any]]:
        """The number of a choice with a part of its answer, as they come. Raises ServerError, Refused."""
        kind = self.server.link.stubs.messages.ServerStreamingTextGenerationTaskRequest
        messages = [message_of(kind, own, self.names) for own in self.asks]
        gate = asyncio.Semaphore(_STREAMS_AT_ONCE)
        # Whoever reads slowly has the server wait.
        found = asyncio.Queue[tuple[int, Any]](_WAITING_PARTS)

        async def listen(number: int, message: Any) -> None:
            rpc = self.server.link.stubs.stream
            try:
                async with gate:
                    stream = self.server.stream(rpc, message, self.model, self.names)
                    async with aclosing(stream):
                        async for part in stream:
                            await found.put((number, part))
                await found.put((number, None))
            except ServerError as error:
                await found.put((number, of_model(error)))
            except Exception as error:  # whatever it is: who listens isn't to wait for it
                await found.put((number, error))

        tasks = [asyncio.create_task(listen(*each)) for each in enumerate(messages)]
        try:
            left = len(tasks)
            while left:
                number, part = await found.get()
                if isinstance(part, Exception):
                    raise part
                if part is None:
                    left -= 1
                else:
                    yield number, part
        finally:
            await _end(tasks)


@dataclass(slots=True)
class Usage:
    """Tokens that were read, once for each text, and written."""

    n: int
    prompt: dict[int, int] = field(default_factory=dict)
    completion: dict[int, int] = field(default_factory=dict)

    def saw(self, number: int, read: int, written: int) -> None:
        """What the choice with this number has had so far."""
        self.prompt[number // self.n], self.completion[number] = read, written

    def told(self) -> dict[str, int]:
        """As OpenAI has it."""
        read, written = sum(self.prompt.values()), sum(self.completion.values())
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def finish_reason(answer: Any) -> str | None:
    """As OpenAI has it, of a result or the details of a part; None before the end."""
    values = answer.DESCRIPTOR.fields_by_name["finish_reason"].enum_type.values_by_number
    name = values[answer.finish_reason].name
    if name == "NOT_FINISHED":
        return None
    return "length" if name in _LENGTHS else "stop"


def label_probabilities(answer: Any) -> dict[str, Any]:
    """Ours, where they are there."""
    found = [plain(one) for one in answer.label_probabilities]
    return {"label_probabilities": found} if found else {}


def head(kind: str, model: str) -> dict[str, Any]:
    """What every answer and every part of it begins with."""
    prefix = "chatcmpl" if kind.startswith("chat") else "cmpl"
    return {
        "id": f"{prefix}-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
    }


async def _end(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
