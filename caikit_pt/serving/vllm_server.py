"""A vLLM server as an HTTP client sees it: what it serves, a stream of chunks, and its errors."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from concurrent.futures import Future
from functools import cached_property, partial
from typing import Any, TypeVar

import httpx2

from caikit_pt.ending import start
from caikit_pt.errors import (
    BackendMismatch,
    BackendUnavailable,
    CaikitPtError,
    InvalidParameter,
    TooManyRequests,
    WaitedTooLong,
)

Result = TypeVar("Result")

_CONNECT_SECONDS = 5.0
_SHOWN = 300  # characters of what a server says


class Server:
    """One served model. All requests to it go through one thread, whoever waits for them."""

    def __init__(self, address: str, model: str, wait_seconds: float) -> None:
        """`wait_seconds`: how long it may take to the next token."""
        self.address, self.model = address, model
        self._tasks: set[Future[Any]] = set()
        self._wait_seconds = wait_seconds

    def __str__(self) -> str:
        return f"the vLLM server at {self.address}"

    def start(self, work: Callable[[], Awaitable[Result]]) -> Future[Result]:
        """Does `work` in the thread of all servers."""
        task = asyncio.run_coroutine_threadsafe(_done(work), _loop())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    @property
    def under_way(self) -> int:
        """Requests that it is answering, or has in its queue."""
        return len(self._tasks)

    @cached_property
    def context_length(self) -> int | None:
        """Positions that the server was started with, soft prompt included.

        Asked once. Raises BackendUnavailable, and BackendMismatch where it serves other models.
        """
        return self.start(self._ask_context_length).result()

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

    async def _ask_context_length(self) -> int | None:
        try:
            response = await self._client.get("/v1/models", timeout=_CONNECT_SECONDS)
        except httpx2.TransportError as error:
            raise self._failure(error) from error
        if response.status_code != httpx2.codes.OK:
            raise self._refusal(response.status_code, _message(response.content))
        served = {entry["id"]: entry.get("max_model_len") for entry in response.json()["data"]}
        if self.model not in served:
            raise BackendMismatch(f"{self} has no model {self.model!r}; it has {', '.join(served)}"[:_SHOWN])
        return served[self.model] and int(served[self.model])

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
        kind = type(error).__name__
        return BackendUnavailable(f"{self} can't be reached, or went away ({kind}). Try again later")


def _message(body: bytes) -> str:
    """What a server says in the body of a response."""
    try:
        said = json.loads(body)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        said = body.decode(errors="replace")
    return str(said)[:_SHOWN]


async def _done(work: Callable[[], Awaitable[Result]]) -> Result:
    # Called only here: a coroutine that is cancelled before it has begun would complain.
    return await work()


_LOOPS: list[asyncio.AbstractEventLoop] = []
_LOCK = threading.Lock()


def _loop() -> asyncio.AbstractEventLoop:
    """The event loop of all servers, in a thread that starts with the first request."""
    with _LOCK:
        if not _LOOPS:
            loop = asyncio.new_event_loop()
            start(loop.run_forever, partial(loop.call_soon_threadsafe, loop.stop), "vllm")
            _LOOPS.append(loop)
        return _LOOPS[0]
