"""A vLLM server as an HTTP client sees it: what it serves, how it is, a stream of chunks, and its errors."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from functools import cached_property
from typing import Any

import httpx2

from caikit_pt.errors import (
    BackendMismatch,
    BackendUnavailable,
    CaikitPtError,
    InvalidParameter,
    TooManyRequests,
    WaitedTooLong,
)
from caikit_pt.replicas import Replica

_CONNECT_SECONDS = 5.0
_SHOWN = 300  # characters of what a server says


class Server(Replica):
    """One served model at one address. Its requests are made in one thread, and errors are its own."""

    def __init__(self, address: str, model: str, wait_seconds: float) -> None:
        """`wait_seconds`: how long it may take to the next token."""
        super().__init__(address)
        self.model = model
        self._wait_seconds = wait_seconds

    def __str__(self) -> str:
        return f"the vLLM server at {self.address}"

    async def context_length(self) -> int | None:
        """Positions that it was started with, soft prompt included.

        Raises BackendUnavailable, and BackendMismatch where it serves other models.
        """
        response = await self._get("/v1/models")
        if response.status_code != httpx2.codes.OK:
            raise self._refusal(response.status_code, _message(response.content))
        served = {entry["id"]: entry.get("max_model_len") for entry in response.json()["data"]}
        if self.model not in served:
            raise BackendMismatch(f"{self} has no model {self.model!r}; it has {', '.join(served)}"[:_SHOWN])
        return served[self.model] and int(served[self.model])

    async def check(self) -> None:
        """Raises BackendUnavailable where it isn't there, or says that it isn't well."""
        response = await self._get("/health")
        # A proxy in between may know no such page.
        if response.status_code >= httpx2.codes.INTERNAL_SERVER_ERROR:
            raise self._refusal(response.status_code, _message(response.content))

    async def chunks(self, body: bytes) -> AsyncGenerator[Mapping[str, Any]]:
        """What it answers to a request for a chat completion that is streamed.

        Whoever closes the iterator closes the response, and vLLM aborts the request.
        """
        try:
            async with self._client.stream(
                "POST", "/v1/chat/completions", content=body, headers={"content-type": "application/json"}
            ) as response:
                if response.status_code != httpx2.codes.OK:
                    raise self._refusal(response.status_code, _message(await response.aread()))
                async for event in httpx2.EventSource(response):
                    if event.data == "[DONE]":
                        return
                    yield self._checked(json.loads(event.data))
        except httpx2.TransportError as error:
            raise self._failure(error) from error

    @cached_property
    def _client(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(
            base_url=self.address,
            timeout=httpx2.Timeout(self._wait_seconds, connect=_CONNECT_SECONDS),
            # vLLM has its own queue.
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=64),
            # The requests hold prompts and texts: they go to the address that is set, never to a proxy.
            trust_env=False,
        )

    async def _get(self, path: str) -> httpx2.Response:
        """Raises BackendUnavailable."""
        try:
            return await self._client.get(path, timeout=_CONNECT_SECONDS)
        except httpx2.RequestError as error:
            raise self._gone(error) from error

    def _checked(self, chunk: Mapping[str, Any]) -> Mapping[str, Any]:
        """`chunk`, where it isn't the news of a failure."""
        error = chunk.get("error")
        if error:
            code = error.get("code") if isinstance(error, Mapping) else None
            raise self._refusal(code if isinstance(code, int) else 500, str(error))
        return chunk

    def _refusal(self, status: int, said: str) -> CaikitPtError:
        """The error for a response that isn't an answer."""
        if status in (400, 413, 422):
            if "--enable-prompt-embeds" in said:
                return BackendMismatch(f"{self} was started without --enable-prompt-embeds")
            return InvalidParameter("text", "this request", f"what {self} takes; it says: {said}")
        if status == 429:
            return TooManyRequests(f"{self} takes no more requests now: {said}. Try again later")
        if 400 <= status < 500:
            return BackendMismatch(f"{self} refuses requests for {self.model!r} ({status}): {said}")
        return BackendUnavailable(f"{self} failed ({status}): {said}")

    def _failure(self, error: httpx2.TransportError) -> CaikitPtError:
        """The error for a request that was never answered, or not to its end."""
        if isinstance(error, httpx2.ReadTimeout):
            return WaitedTooLong(f"No token came from {self} within max_wait_seconds")
        return self._gone(error)

    def _gone(self, error: httpx2.RequestError) -> BackendUnavailable:
        kind = type(error).__name__
        return BackendUnavailable(f"{self} can't be reached, or went away ({kind}). Try again later")


def _message(body: bytes) -> str:
    """What a server says in the body of a response."""
    try:
        said = json.loads(body)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        said = body.decode(errors="replace")
    return str(said)[:_SHOWN]
