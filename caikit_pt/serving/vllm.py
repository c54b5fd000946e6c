"""Requests answered by vLLM servers, as they are, over their OpenAI API.

vLLM picks the tokens. What they are as text, where a stop sequence or the time ends them, and what
the caller is told is decided here, by the request, as for the engine of this process.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import aclosing
from functools import partial
from typing import Any

from caikit_pt.errors import (
    BackendMismatch,
    BackendUnavailable,
    CaikitPtError,
    TooManyRequests,
)
from caikit_pt.serving import vllm_request
from caikit_pt.serving.backend import Backend
from caikit_pt.serving.generation import Generation
from caikit_pt.serving.request import FinishReason, Request, Token, token_text
from caikit_pt.serving.vllm_server import Server
from caikit_pt.serving.vllm_text import VllmModel, VllmText
from caikit_pt.serving.witness import shown

_LOG = logging.getLogger(__name__)
_MOMENT = 0.01  # seconds by which a timer may be early


class RemoteGeneration(Generation):
    """What servers do for one request."""

    task: Future[None] | None = None

    def cancel(self) -> None:
        super().cancel()
        if self.task:
            self.task.cancel()


class VllmBackend(Backend):
    """Answers requests to one base model by vLLM servers."""

    def __init__(self, model: VllmModel, waiting: int) -> None:
        """`waiting`: requests that may be under way for each server; while one is, `model` is that of all."""
        self._model, self._waiting = model, waiting

    @property
    def _text(self) -> VllmText:
        return self._model.text

    def submit(self, request: Request) -> Generation:
        vllm_request.check(request.parameters, self._text.checkpoint.name)
        body = vllm_request.body(request, self._text)
        generation = RemoteGeneration(request)
        servers = self._text.servers
        if servers.under_way >= self._waiting * len(servers.all):
            raise TooManyRequests(
                f"{servers.under_way} requests are under way, as many as max_waiting_requests allows. "
                "Try again later"
            )
        generation.task = servers.start(partial(self._answer, generation, body))
        return shown(generation)

    def input_tokens(self, request: Request) -> list[Token]:
        return [Token(token_text(self._text, token)) for token in request.row.ids]

    async def _answer(self, generation: Generation, body: bytes) -> None:
        request = generation.request
        try:
            async with asyncio.timeout(_seconds(request)):
                await self._text.servers.ask(
                    # What a server's cache knows it by.
                    vllm_request.cache_salt(request.prompt, self._text),
                    partial(self._follow, generation, body),
                    begun=lambda: bool(request.generated),
                )
        except TimeoutError:
            request.end_in_time()
            generation.tell()
        except asyncio.CancelledError:
            generation.fail()
            raise
        except CaikitPtError as error:
            generation.fail(error)
        except Exception as error:  # of one request's answer
            _LOG.exception("a request to %s failed", self._text.servers)
            generation.fail(error)

    async def _follow(self, generation: Generation, body: bytes, server: Server) -> None:
        """Takes what `server` sends until the request is finished."""
        request, read = generation.request, False
        async with aclosing(server.chunks(body)) as chunks:
            async for chunk in chunks:
                if not read:
                    self._check_read(chunk, request, server)
                    read = True
                for choice in chunk["choices"]:
                    self._take(choice, request, server)
                generation.tell()
                if request.finished:
                    return
        raise BackendUnavailable(f"{server} ended an answer early. Try again later")

    def _check_read(self, chunk: Mapping[str, Any], request: Request, server: Server) -> None:
        """Raises BackendMismatch where the server has read anything but the prompt and the text."""
        read = chunk.get("prompt_token_ids") or []
        virtual = request.prompt.num_virtual_tokens
        if len(read) != virtual + len(request.row.ids) or read[virtual:] != list(request.row.ids):
            raise BackendMismatch(
                f"{server} reads other tokens than it is sent: it needs the tokenizer of "
                f"{self._text.checkpoint.name} and the pass-through chat template (docs/vllm.md)"
            )

    def _take(self, choice: Mapping[str, Any], request: Request, server: Server) -> None:
        """Extends the answer by the tokens of a chunk."""
        tokens = choice.get("token_ids") or []
        told = (choice.get("logprobs") or {}).get("content") or [{}] * len(tokens)
        for token, told_of in zip(tokens, told, strict=True):
            if request.finished:
                return
            described = None
            if request.parameters.generated_tokens:
                described = Token(token_text(self._text, token), told_of.get("logprob"))
            request.extend(token, described)
        reason = choice.get("finish_reason")
        if reason and not request.finished:
            request.end(_reason(reason, server))


def _reason(reason: str, server: Server) -> FinishReason:
    """Why `server` has ended an answer that could have gone on, by what is known here."""
    if reason == "length":
        return FinishReason.TOKEN_LIMIT
    if reason == "stop":
        return FinishReason.EOS_TOKEN
    raise BackendUnavailable(f"{server} ended an answer ({reason}). Try again later")


def _seconds(request: Request) -> float | None:
    left = request.seconds_left
    return None if left == float("inf") else max(0.0, left) + _MOMENT
