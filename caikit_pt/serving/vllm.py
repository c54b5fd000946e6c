"""Requests answered by a vLLM server, as it is, over its OpenAI API.

vLLM picks the tokens. What they are as text, where a stop sequence or the time ends them, and what
the caller is told is decided here, by the sequence, as for the engine of this process.
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
from caikit_pt.serving.sequence import FinishReason, Sequence, Token, token_text
from caikit_pt.serving.vllm_text import VllmText

_LOG = logging.getLogger(__name__)
_MOMENT = 0.01  # seconds by which a timer may be early


class RemoteGeneration(Generation):
    """What a server does for one sequence."""

    task: Future[None] | None = None

    def cancel(self) -> None:
        super().cancel()
        if self.task:
            self.task.cancel()


class VllmBackend(Backend):
    """Answers requests to one base model by a vLLM server."""

    def __init__(self, text: VllmText, waiting: int) -> None:
        """`waiting`: requests that may be under way."""
        self._text, self._waiting = text, waiting

    def submit(self, sequence: Sequence) -> Generation:
        vllm_request.check(sequence.parameters, self._text.checkpoint.name)
        body = vllm_request.body(sequence, self._text)
        generation = RemoteGeneration(sequence)
        server = self._text.server
        if server.under_way >= self._waiting:
            raise TooManyRequests(
                f"{server.under_way} requests are under way, as many as max_waiting_requests allows. "
                "Try again later"
            )
        generation.task = server.start(partial(self._answer, generation, body))
        return generation

    def input_tokens(self, sequence: Sequence) -> list[Token]:
        return [Token(token_text(self._text, token)) for token in sequence.row.ids]

    async def _answer(self, generation: Generation, body: bytes) -> None:
        sequence = generation.sequence
        try:
            await self._follow(generation, body)
        except TimeoutError:
            sequence.end_in_time()
            generation.tell()
        except asyncio.CancelledError:
            generation.fail()
            raise
        except CaikitPtError as error:
            generation.fail(error)
        except Exception as error:  # of one request's answer
            _LOG.exception("a request to %s failed", self._text.server)
            generation.fail(error)

    async def _follow(self, generation: Generation, body: bytes) -> None:
        """Takes what the server sends until the sequence is finished."""
        sequence, read = generation.sequence, False
        async with (
            asyncio.timeout(_seconds(sequence)),
            aclosing(self._text.server.chunks(body)) as chunks,
        ):
            async for chunk in chunks:
                if not read:
                    self._check_read(chunk, sequence)
                    read = True
                for choice in chunk["choices"]:
                    self._take(choice, sequence)
                generation.tell()
                if sequence.finished:
                    return
        raise BackendUnavailable(f"{self._text.server} ended an answer early. Try again later")

    def _check_read(self, chunk: Mapping[str, Any], sequence: Sequence) -> None:
        """Raises BackendMismatch where the server has read anything but the prompt and the text."""
        read = chunk.get("prompt_token_ids") or []
        virtual = sequence.prompt.num_virtual_tokens
        if len(read) != virtual + len(sequence.row.ids) or read[virtual:] != list(sequence.row.ids):
            raise BackendMismatch(
                f"{self._text.server} reads other tokens than it is sent: it needs the tokenizer of "
                f"{self._text.checkpoint.name} and the pass-through chat template (docs/vllm.md)"
            )

    def _take(self, choice: Mapping[str, Any], sequence: Sequence) -> None:
        """Extends the answer by the tokens of a chunk."""
        tokens = choice.get("token_ids") or []
        told = (choice.get("logprobs") or {}).get("content") or [{}] * len(tokens)
        for token, told_of in zip(tokens, told, strict=True):
            if sequence.finished:
                return
            described = None
            if sequence.parameters.generated_tokens:
                described = Token(token_text(self._text, token), told_of.get("logprob"))
            sequence.extend(token, described)
        reason = choice.get("finish_reason")
        if reason and not sequence.finished:
            sequence.end(self._reason(reason))

    def _reason(self, reason: str) -> FinishReason:
        """Why the server has ended an answer that could have gone on, by what is known here."""
        if reason == "length":
            return FinishReason.TOKEN_LIMIT
        if reason == "stop":
            return FinishReason.EOS_TOKEN
        raise BackendUnavailable(f"{self._text.server} ended an answer ({reason}). Try again later")


def _seconds(sequence: Sequence) -> float | None:
    left = sequence.seconds_left
    return None if left == float("inf") else max(0.0, left) + _MOMENT
