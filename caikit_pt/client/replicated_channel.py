"""A channel to several servers of the same prompts: each request to the one that its prompt prefers, and from
one that is gone or about to end to the next.

gRPC has this as ring_hash_experimental, which takes its hash from a header where a variable of the
environment is set, and knows no bound of what one server gets.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any

import grpc

from caikit_pt.client.knowing import Knowing, Metadata
from caikit_pt.client.retries import LOST, pauses
from caikit_pt.client.server_error import server_error
from caikit_pt.client.servers import Server
from caikit_pt.replicas import Replicas

_PROMPT = "mm-model-id"
_STOPPING = "SERVER_STOPPING"


class ReplicatedChannel:
    """What stubs need of a grpc.Channel.

    What is about a prompt, as its metadata say, goes first to the server that this prompt prefers; what is
    about trainings to the first server of the list, since the one that accepts a training knows it, and to
    those that share its jobs (knowing.py); all else to the first that answers.
    """

    def __init__(self, replicas: Replicas[Server]) -> None:
        self._replicas, self._knowing = replicas, Knowing(replicas)

    def unary_unary(self, method: str, *serializers: Any, **more: Any) -> _Answers:
        """An RPC with one answer."""
        return _Answers(
            self._servers(method),
            {one: one.channel.unary_unary(method, *serializers, **more) for one in self._replicas.all},
        )

    def unary_stream(self, method: str, *serializers: Any, **more: Any) -> _Streams:
        """An RPC with several."""
        return _Streams(
            self._servers(method),
            {one: one.channel.unary_stream(method, *serializers, **more) for one in self._replicas.all},
        )

    def close(self) -> None:
        """Lets go of all of them."""
        for replica in self._replicas.all:
            replica.channel.close()

    def _servers(self, method: str) -> _Servers:
        return _Servers(self._replicas, self._knowing if about_trainings(method) else None)


def about_trainings(method: str) -> bool:
    """Whether the RPC /SERVICE/METHOD is about trainings: their names say so."""
    return "Train" in method.rpartition("/")[2]


class _Servers:
    """Those that are asked by one RPC."""

    def __init__(self, replicas: Replicas[Server], knowing: Knowing | None) -> None:
        """Where it is about trainings, of those that are `knowing` them."""
        self.replicas, self._knowing = replicas, knowing

    def order(self, metadata: Metadata) -> Iterator[Server]:
        """Whom to ask, one after the other."""
        if self._knowing is not None:
            return self._knowing.order(metadata)
        return iter(self.replicas.order(dict(metadata).get(_PROMPT, "")))

    def tries(self, metadata: Metadata) -> Iterator[Server]:
        """The same again and again, with pauses in between."""
        yield from self.order(metadata)
        for pause in pauses():
            time.sleep(pause)
            yield from self.order(metadata)

    def passed_over(self, replica: Server, error: Any) -> bool:
        """Whether another server may be asked for what ended with `error` at `replica`."""
        if error.code().name not in LOST:
            return False
        # What has a reason of its own comes from a server that goes on; it may be another one's as well.
        if server_error(error).reason in ("", _STOPPING):
            self.replicas.lost(replica)
        return True


class _Answers:
    """Asks for one answer."""

    def __init__(self, servers: _Servers, rpcs: Mapping[Server, Any]) -> None:
        self._servers, self._rpcs = servers, rpcs

    def __call__(self, request: Any, metadata: Metadata = ()) -> Any:
        """The answer. Raises grpc.RpcError."""
        lost: grpc.RpcError | None = None
        for replica in self._servers.tries(metadata):
            try:
                with self._servers.replicas.asking(replica):
                    return self._rpcs[replica](request, metadata=metadata)
            except grpc.RpcError as error:
                if not self._servers.passed_over(replica, error):
                    raise
                lost = error
        assert lost is not None
        raise lost

    def future(self, request: Any, metadata: Metadata = ()) -> _Coming:
        """The answer is under way; each server is asked for it once."""
        return _Coming(
            self._servers, metadata, lambda replica: self._rpcs[replica].future(request, metadata=metadata)
        )


class _Coming:
    """An answer under way."""

    def __init__(self, servers: _Servers, metadata: Metadata, ask: Callable[[Server], Any]) -> None:
        self._servers, self._ask_of = servers, ask
        self._left = servers.order(metadata)
        # The call that was the last.
        self._ended: Future[Any] = Future()
        self._cancelled = False
        self.add_done_callback = self._ended.add_done_callback
        self._ask(next(self._left))

    def result(self) -> Any:
        """Raises grpc.RpcError, or grpc.FutureCancelledError."""
        return self._ended.result().result()

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        self._cancelled = True
        self._call.cancel()

    def _ask(self, replica: Server) -> None:
        self._servers.replicas.began(replica)
        self._call = self._ask_of(replica)
        if self._cancelled:
            self._call.cancel()
        self._call.add_done_callback(partial(self._end, replica))

    def _end(self, replica: Server, call: Any) -> None:
        """In a thread of gRPC's."""
        self._servers.replicas.ended(replica)
        again = not self._cancelled and call.code() and self._servers.passed_over(replica, call)
        following = next(self._left, None) if again else None
        if following is None:
            self._ended.set_result(call)
        else:
            self._ask(following)


class _Streams:
    """Asks for several answers."""

    def __init__(self, servers: _Servers, rpcs: Mapping[Server, Any]) -> None:
        self._servers, self._rpcs = servers, rpcs

    def __call__(self, request: Any, metadata: Metadata = ()) -> _Stream:
        """They come as they are waited for."""
        tries = self._servers.tries(metadata)
        return _Stream(self._servers, tries, lambda replica: self._rpcs[replica](request, metadata=metadata))


class _Stream:
    """Answers that come; from another server only as long as none has come."""

    def __init__(self, servers: _Servers, tries: Iterator[Server], ask: Callable[[Server], Any]) -> None:
        self._servers, self._tries, self._ask = servers, tries, ask
        self._call: Any = None

    def __iter__(self) -> Iterator[Any]:
        """Raises grpc.RpcError."""
        lost: grpc.RpcError | None = None
        for replica in self._tries:
            begun = False
            with self._servers.replicas.asking(replica):
                self._call = self._ask(replica)
                try:
                    for answer in self._call:
                        begun = True
                        yield answer
                    return
                except grpc.RpcError as error:
                    if not self._servers.passed_over(replica, error) or begun:
                        raise
                    lost = error
        assert lost is not None
        raise lost

    def cancel(self) -> None:
        """Nobody waits for more."""
        if self._call is not None:
            self._call.cancel()
