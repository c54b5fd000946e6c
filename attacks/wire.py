"""What isn't a request at all, or far too many of them."""

from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import grpc

from attacks.attack import ANSWERED, REFUSED, Attack
from attacks.target import GOOD, Target

_NLP = "/caikit.runtime.Nlp.NlpService"
_UNARY, _STREAM = f"{_NLP}/TextGenerationTaskPredict", f"{_NLP}/ServerStreamingTextGenerationTaskPredict"
_TRAIN = "/caikit.runtime.Nlp.NlpTrainingService/TextGenerationTaskPeftPromptTuningTrain"
_GOOD = (("mm-model-id", GOOD),)
_TEXT = b"\x0a\x05hello"  # field 1, text


def _sent(content: bytes, method: str = _UNARY, **options: Any) -> Callable[[Target], object]:
    def act(target: Target) -> object:
        with grpc.insecure_channel(f"localhost:{target.port}") as channel:
            options.setdefault("metadata", _GOOD)
            return channel.unary_unary(method, None, None)(content, timeout=15, **options)

    return act


def _silent(target: Target) -> object:
    """As many RPCs as the server has threads for answers, none with a message."""
    with ExitStack() as stack:
        channels = [
            stack.enter_context(
                grpc.insecure_channel(f"localhost:{target.port}", [("grpc.use_local_subchannel_pool", 1)])
            )
            for _ in range(4)
        ]
        late = [
            channels[number % 4].stream_unary(_UNARY, None, None).future(_nothing(), metadata=_GOOD)
            for number in range(100)
        ]
        late[0].result(timeout=15)
        return None


def _nothing() -> Iterator[bytes]:
    time.sleep(8)
    yield from ()


def _unread(target: Target) -> object:
    """120 streams that nobody reads, through the smallest window that there is."""
    options = [("grpc.http2.lookahead_bytes", 1024), ("grpc.use_local_subchannel_pool", 1)]
    long = target.raw.messages.ServerStreamingTextGenerationTaskRequest(
        text="hello", max_new_tokens=100, min_new_tokens=100, labels_only=False
    ).SerializeToString()
    with grpc.insecure_channel(f"localhost:{target.port}", options) as channel:
        streams: list[Any] = [
            channel.unary_stream(_STREAM, None, None)(long, metadata=_GOOD) for _ in range(120)
        ]
        assert target.answers_others()
        refused = _refused(streams)
        for one in streams:
            one.cancel()
        # It raises what it was refused with.
        return next(refused)


def _health_watches(target: Target) -> object:
    """Of 100 that needn't say who they are, each with a long name of its own."""
    with _own_channel(target) as channel:
        rpc: Any = channel.unary_stream("/grpc.health.v1.Health/Watch", None, None)
        watching = [rpc(b"\x0a\xfa\x01" + b"%0250d" % number, timeout=15) for number in range(100)]
        refused = _refused(watching)
        assert _is_live(target)
        return next(refused)


def _health_without_a_name(target: Target) -> object:
    """100 health checks whose message never comes."""
    with _own_channel(target) as channel:
        rpc: Any = channel.stream_unary("/grpc.health.v1.Health/Check", None, None)
        silent = [rpc.future(_nothing(), timeout=15) for _ in range(100)]
        assert _is_live(target)
        return silent[0].result()


def _conversations(target: Target) -> object:
    """100 conversations about what this server has, in which nothing is said."""
    with _own_channel(target) as channel:
        rpc: Any = channel.stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", None, None
        )
        silent = [rpc(_nothing(), timeout=15) for _ in range(100)]
        refused = _refused(silent)
        assert _is_live(target)
        return next(refused)


def _names(target: Target) -> object:
    """1,000 RPCs that there aren't."""
    with _own_channel(target) as channel:
        asked: list[Any] = [
            channel.unary_unary(f"{_NLP}/{number:0900d}", None, None).future(b"", timeout=15)
            for number in range(1000)
        ]
        assert {one.code().name for one in asked} == {"UNIMPLEMENTED"}
        return asked[0].result()


def _own_channel(target: Target) -> grpc.Channel:
    return grpc.insecure_channel(f"localhost:{target.port}", [("grpc.use_local_subchannel_pool", 1)])


def _is_live(target: Target) -> bool:
    """For whoever asks health, at once."""
    with _own_channel(target) as channel:
        return bool(channel.unary_unary("/grpc.health.v1.Health/Check", None, None)(b"", timeout=3))


def _refused(streams: list[Any]) -> Any:
    """One of `streams`, of which the server is to take few; what it refuses is told when it is."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        refused = [one for one in streams if one.done()]
        if len(refused) > len(streams) * 0.7:
            return refused[0]
        time.sleep(0.05)
    raise AssertionError("all are taken on")


def _begun_and_left(target: Target) -> object:
    """Rapid reset: 3,000 requests that are cancelled as soon as they are sent."""
    # On a connection of its own, which the server may close.
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(f"localhost:{target.port}", options) as channel:
        rpc: Any = channel.unary_unary(_UNARY, None, None)
        for _ in range(3000):
            rpc.future(_TEXT, metadata=_GOOD).cancel()
    return None


def _connections(target: Target) -> object:
    """400 connections that say nothing."""
    with ExitStack() as stack:
        for _ in range(400):
            stack.enter_context(socket.create_connection(("localhost", target.port), timeout=5))
        assert target.answers_others()
    return None


def _idle_connections(target: Target) -> object:
    """1,200 connections that begin as gRPC's do, and then say nothing: more than the 1,024 that a process may
    open in many places until it asks for more."""
    with ExitStack() as stack:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(min(1200, hard - 200)):
            connection = socket.create_connection(("localhost", target.port), timeout=5)
            stack.enter_context(connection).sendall(_PREFACE + _SETTINGS)
        assert target.answers_others()
        assert _is_live(target)
        return target.submit("idle")


def _plain(content: bytes) -> Callable[[Target], object]:
    def act(target: Target) -> object:
        with socket.create_connection(("localhost", target.port), timeout=5) as connection:
            connection.sendall(content)
            connection.settimeout(2)
            try:
                while connection.recv(4096):
                    pass
            except (TimeoutError, ConnectionError):
                pass
        return None

    return act


def _flood(target: Target) -> object:
    """400 requests at once, of which some may be refused, and all the others are answered right."""

    def ask(_: int) -> bool:
        try:
            return bool(target.raw.predict(GOOD, "The lamp is great", max_new_tokens=3).generated_text)
        except grpc.RpcError as error:
            return error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

    assert target.answers_others()
    with ThreadPoolExecutor(64) as pool:
        assert all(pool.map(ask, range(400)))
    return None


_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_SETTINGS = b"\0\0\0\x04\0\0\0\0\0"
_LARGE = (*REFUSED, "RESOURCE_EXHAUSTED", "INTERNAL", "UNKNOWN", "UNAVAILABLE", "CANCELLED")
ATTACKS = [
    Attack("message: random bytes", _sent(b"\xff" + os.urandom(1000))),
    Attack("message: a text that isn't UTF-8", _sent(b"\x0a\x02\xc3\x28")),
    Attack("message: a length beyond its end", _sent(b"\x0a\xff\xff\xff\xff\x0f")),
    Attack("message: groups without an end", _sent(b"\x0b" * 100_000)),
    Attack("message: a number of a hundred bytes", _sent(b"\x08" + b"\xff" * 100 + b"\x01")),
    Attack("message: training records of random bytes", _sent(b"\xff" + os.urandom(1000), _TRAIN)),
    Attack("message: 70 MiB", _sent(b"\x0a" + b"x" * (70 * 2**20)), ("RESOURCE_EXHAUSTED",)),
    Attack("message: 5 MiB where 4 may be", _sent(b"\x0a" + b"x" * (5 * 2**20))),
    Attack("metadata: 1 MiB", _sent(_TEXT, metadata=(("x", "y" * 2**20),)), _LARGE),
    Attack(
        "metadata: 5,000 entries", _sent(_TEXT, metadata=tuple((f"x-{n}", "y") for n in range(5000))), _LARGE
    ),
    Attack("metadata: no model", _sent(_TEXT, metadata=())),
    Attack("an RPC that there isn't", _sent(b"", f"{_NLP}/Nothing"), ("UNIMPLEMENTED",)),
    Attack("a service that there isn't", _sent(b"", "/evil.Service/Do"), ("UNIMPLEMENTED",)),
    Attack("caikit's Process", _sent(b"", "/processproto.Process/Run"), ("UNIMPLEMENTED",)),
    Attack("a message that never comes, 100 times", _silent, ("CANCELLED",), seconds=30),
    Attack("100 watchers of health", _health_watches, ("RESOURCE_EXHAUSTED",)),
    Attack("100 health checks that don't say of what", _health_without_a_name, ("CANCELLED",)),
    Attack(
        "a health check of 5 MiB",
        _sent(b"\x0a" + b"x" * (5 * 2**20), "/grpc.health.v1.Health/Check"),
    ),
    Attack("100 conversations in which nothing is said", _conversations, ("RESOURCE_EXHAUSTED",)),
    Attack("1,000 RPCs that there aren't", _names, ("UNIMPLEMENTED",), seconds=60),
    Attack("120 streams that nobody reads", _unread, ("RESOURCE_EXHAUSTED",), seconds=30),
    Attack("3,000 requests that are taken back", _begun_and_left, (ANSWERED,), seconds=60),
    Attack("400 connections that say nothing", _connections, (ANSWERED,)),
    Attack("1,200 connections that are idle", _idle_connections, (ANSWERED,)),
    Attack("400 requests at once", _flood, (ANSWERED,), seconds=60),
    Attack("HTTP/1", _plain(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"), (ANSWERED,)),
    Attack(
        "TLS to a plain port", _plain(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc" + os.urandom(500)), (ANSWERED,)
    ),
    Attack("frames of random bytes", _plain(_PREFACE + os.urandom(5000)), (ANSWERED,)),
    Attack("a frame of 16 MiB", _plain(_PREFACE + b"\xff\xff\xff\x04\0\0\0\0\0" + b"x" * 1000), (ANSWERED,)),
]
