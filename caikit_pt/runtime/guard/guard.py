"""Stands before every RPC: refuses at once what may not be, asks who knocks, reads what he wants, and has it
answered in its lane.

A message is taken as bytes, whatever gRPC would make of it: whoever may not knock isn't read, what isn't a
message is refused as one, and a message that doesn't come holds a thread for so long only.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError

from caikit_pt import call as calls
from caikit_pt.call import Call
from caikit_pt.errors import (
    CaikitPtError,
    ClosedDoor,
    InvalidParameter,
    NotAllowed,
    ServerStopping,
    UnknownModel,
    UnknownRpc,
)
from caikit_pt.runtime.guard.at_once import AtOnce
from caikit_pt.runtime.guard.context import Aborted, GuardedContext
from caikit_pt.runtime.guard.door import GENERATE, NOT_AWAITED, PROBE, SHARE, TUNE, Door, door_of
from caikit_pt.runtime.guard.doorkeeper import Doorkeeper
from caikit_pt.runtime.guard.lane import Lane, on_return, returned
from caikit_pt.runtime.guard.lease import Lease
from caikit_pt.runtime.guard.patience import Patience
from caikit_pt.runtime.guard.places import Places
from caikit_pt.runtime.guard.silence import Silence
from caikit_pt.runtime.request_log import RequestLog, logged
from caikit_pt.runtime.tracing import COMPLETION, TUNING, accepted, request_span

REQUEST_ID = "x-request-id"
_OPERATIONS = {GENERATE: COMPLETION, TUNE: TUNING, SHARE: TUNING}
_STOPPING = ServerStopping("This server is ending, and takes nothing on. Another one, or the next, answers")
_UNKNOWN = UnknownRpc("This server has no RPC of this name")
# Nobody is kept from guessing what a request is called, and each draw from the system would hand the lock of
# Python's threads to another one.
_ID = random.Random()
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


@dataclass(frozen=True, slots=True)
class _Handlers:
    """An RPC as it is answered, and as it is refused."""

    # None where it is never answered.
    lane: Lane | None
    answering: Any
    refusing: Any
    # When the server ends; None where it is answered nevertheless.
    stopping: Any

    @classmethod
    def never(cls, refusing: Any) -> _Handlers:
        """Of one that is always refused."""
        return cls(None, None, refusing, None)


class Guard(grpc.ServerInterceptor):  # type: ignore[type-arg]
    """Of one server. `opened` are the settings that open doors which are closed without."""

    def __init__(
        self,
        lanes: Mapping[str, Lane],
        opened: frozenset[str],
        message_seconds: float,
        doorkeeper: Doorkeeper | None = None,
        is_published: Callable[[str], bool] = lambda _: True,
    ) -> None:
        """Without a `doorkeeper` everybody may do everything. What isn't published is asked of nobody: caikit
        would count it under its name for ever."""
        self._lanes, self._opened = lanes, opened
        self._doorkeeper = doorkeeper or Doorkeeper()
        self._is_published = is_published
        for lane in lanes.values():
            lane.known = self._doorkeeper.known
        self._patience = Patience(message_seconds)
        self._refusals = AtOnce()
        self._unknown = _refusing(_UNKNOWN, self._refusals)
        self._known: dict[str, _Handlers] = {}
        self._closed: frozenset[str] = frozenset()
        self._under_way: set[GuardedContext] = set()
        self._silence = Silence(_STOPPING)

    def close(self, *lanes: str) -> None:
        """Nobody is let into these any more, without any into all; health is told of all the same."""
        self._closed |= {*(lanes or self._lanes)}
        if not lanes:
            self._silence.end()

    @property
    def busy(self) -> bool:
        """Whether anything but health is asked for, be it that it waits for a thread."""
        return bool(self._under_way) or any(
            lane.under_way for lane in self._lanes.values() if lane.name not in NOT_AWAITED
        )

    def cut_off(self, error: CaikitPtError) -> int:
        """Ends whatever is under way with `error`; how much that is."""
        cut = list(self._under_way)
        for context in cut:
            context.cut_off(error)
        return len(cut)

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """Called for every RPC, in one thread for all of them."""
        method = details.method
        if method not in self._known:
            handler = continuation(details)
            if handler is None:
                # Names that there aren't are of any number: none is remembered.
                return self._unknown
            self._known[method] = self._handlers(method, handler)
        known = self._known[method]
        if known.lane is None:
            return known.refusing
        if known.stopping and known.lane.name in self._closed:
            return known.stopping
        return known.refusing if known.lane.full else known.answering

    def _handlers(self, method: str, handler: Any) -> _Handlers:
        door = door_of(method)
        if door is None:
            return _Handlers.never(self._unknown)
        lane = self._lanes[door.lane]
        if door.opened_by and door.opened_by not in self._opened:
            closed = ClosedDoor(f"This server has no {method}, unless its setting {door.opened_by} is true")
            return _Handlers.never(_refusing(closed, self._refusals))
        is_health = door.action == PROBE
        under_way = set() if is_health else self._under_way
        answers = _Answers(
            method,
            door,
            handler,
            self._patience,
            self._doorkeeper,
            under_way,
            self._silence,
            self._is_published,
        )
        stopping = None if is_health else _refusing(_STOPPING, self._refusals)
        full = _refusing(lane.over_capacity, self._refusals)
        return _Handlers(lane, answers.handler(lane), full, stopping)


class _Answers:
    """How one RPC is answered."""

    def __init__(
        self,
        method: str,
        door: Door,
        handler: Any,
        patience: Patience,
        doorkeeper: Doorkeeper,
        under_way: set[GuardedContext],
        silence: Silence,
        is_published: Callable[[str], bool],
    ) -> None:
        """Whoever is answered is among those `under_way`; whose stream says nothing yet, of the `silence`."""
        self._method, self._door, self._handler = method, door, handler
        self._patience, self._doorkeeper, self._under_way = patience, doorkeeper, under_way
        self._silence, self._is_published = silence, is_published
        self._places = Places(door.most_per_client, door.give_way)

    def handler(self, lane: Lane) -> Any:
        """As gRPC has it. Requests are streams of bytes: of a single one nobody knows that it is late."""
        handler = self._handler
        serializer = handler.response_serializer
        if handler.request_streaming:
            assert handler.response_streaming, "no service here answers a stream with one message"
            return grpc.stream_stream_rpc_method_handler(_in(lane, self._converse), None, serializer)
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(_in(lane, self._stream), None, serializer)
        return grpc.stream_unary_rpc_method_handler(_in(lane, self._answer), None, serializer)

    def _answer(self, messages: Iterator[bytes], context: Any) -> Any:
        with self._under_guard(context) as guarded:
            try:
                with self._noted(guarded) as line:
                    message = self._admitted(messages, guarded, line)
                    with self._traced(guarded, line):
                        answer = self._handler.unary_unary(message, guarded)
                        line.training_id = getattr(answer, "training_id", "")
                    if self._door.told:
                        self._door.told(answer)
                    guarded.settle()
                    return answer
            finally:
                returned()

    def _stream(self, messages: Iterator[bytes], context: Any) -> Iterator[Any]:
        with self._under_guard(context) as guarded:
            with self._noted(guarded) as line:
                message = self._admitted(messages, guarded, line)
                with self._traced(guarded, line):
                    for answer in self._handler.unary_stream(message, guarded):
                        guarded.check()
                        yield answer
                guarded.settle()
            # Not in the end of this: another thread may close what a client has left.
            returned()

    def _converse(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:
        with self._under_guard(context) as guarded:
            self._let_in(guarded)
            for answer in self._handler.stream_stream(self._messages(requests, guarded), guarded):
                guarded.check()
                # Whoever doesn't read is no better than who says nothing.
                with self._patience.with_(guarded):
                    yield answer
            guarded.settle()

    @contextmanager
    def _under_guard(self, context: Any) -> Iterator[GuardedContext]:
        """Around all that is done for an RPC: what that raises, the RPC ends with. Raises Aborted."""
        guarded = GuardedContext(context, _request_id(context))
        self._under_way.add(guarded)
        try:
            with self._places.one(guarded.host, guarded):
                yield guarded
        except GeneratorExit:
            raise
        except BaseException as error:  # SystemExit, too: it would end the server, and leave its process
            _end(guarded, error)
        finally:
            self._under_way.discard(guarded)

    @contextmanager
    def _noted(self, context: GuardedContext) -> Iterator[RequestLog]:
        """A line in the log of what is more than a look."""
        if self._door.is_look:
            yield RequestLog(operation=self._door.action, request_id=context.request_id)
            return
        with logged(context.request_id, self._door.action) as line:
            yield line

    @contextmanager
    def _traced(self, context: GuardedContext, line: RequestLog) -> Iterator[None]:
        """A trace, where there are any, of what has something generated or trained."""
        operation = _OPERATIONS.get(self._door.action)
        if operation is None or self._door.is_look:
            yield
            return
        metadata = dict(context.invocation_metadata())
        with request_span(metadata, line.model, operation):
            yield
        if line.training_id:
            accepted(line.training_id, metadata)

    def _admitted(self, messages: Iterator[bytes], context: GuardedContext, line: RequestLog) -> Any:
        """The request, if it may be answered. Raises CaikitPtError."""
        call = self._let_in(context)
        message = self._message(messages, context)
        for action, model in self._door.named(message, context.invocation_metadata()):
            # The first is what it is about; others it looks at.
            line.model = line.model or model
            if call:
                call.principal.check(action, model)
            if self._door.by_metadata and not self._is_published(model):
                raise UnknownModel(model)
        return message

    def _let_in(self, context: GuardedContext) -> Call | None:
        """Whoever knocks, before he is listened to; None where that is anybody. Raises CaikitPtError."""
        door = self._door
        if door.action == PROBE:
            return None
        principal = self._doorkeeper.principal(context)
        if door.of_all and not principal.may_everywhere(door.action):
            raise NotAllowed(f"{principal.name} may not {door.action} every model, as this RPC wants it")
        if door.of_any and not principal.globs(door.action):
            told = f"{principal.name} may not {door.action} any model, as this RPC wants it"
            raise NotAllowed(f"{told}. Ask for the right in access.policy")
        tenant = principal.name or context.host
        call = Call(
            context.request_id,
            self._method,
            context.host,
            context.add_callback,
            principal,
            self._doorkeeper.spend(tenant),
            self._doorkeeper.check_tokens(tenant),
            context.is_active,
        )
        if give_back := self._doorkeeper.begin(tenant, door):
            lease = Lease(give_back)
            on_return(lease.work_returned)
            call.on_end(lease.rpc_ended)
        calls.begin(call)
        return call

    def _messages(self, messages: Iterator[bytes], context: GuardedContext) -> Iterator[Any]:
        """All of a stream's, each of which has its time."""
        most = self._door.most_messages
        for number in count(1):
            self._under_way.discard(context)
            with self._silence.of(context):
                content = self._content(messages, context)
            self._under_way.add(context)
            if content is None:
                return
            if number > most:
                raise InvalidParameter("request", f"message {number:,}", f"a stream of up to {most:,}")
            context.check()
            yield self._read(content)

    def _message(self, messages: Iterator[bytes], context: GuardedContext) -> Any:
        content = self._content(messages, context)
        if content is None:
            raise InvalidParameter("request", "no message", "one message")
        return self._read(content)

    def _content(self, messages: Iterator[bytes], context: GuardedContext) -> bytes | None:
        """The next message's; None where no more come. Raises Aborted."""
        try:
            with self._patience.with_(context, self._door.most_seconds):
                return next(messages, None)
        except grpc.RpcError:
            # The client has left, or was late.
            context.abort(grpc.StatusCode.CANCELLED, "")

    def _read(self, content: bytes) -> Any:
        most = self._door.most_bytes
        if most and len(content) > most:
            allowed = f"up to {most:,} bytes"
            raise InvalidParameter("request", f"{len(content):,} bytes", allowed)
        try:
            return self._handler.request_deserializer(content)
        except DecodeError:
            allowed = "a message as protos/ describes it, its texts in UTF-8"
            raise InvalidParameter("request", f"{len(content):,} bytes", allowed) from None


def _request_id(context: Any) -> str:
    """What the client calls its request, else one that there wasn't yet."""
    for key, value in context.invocation_metadata():
        if key == REQUEST_ID and isinstance(value, str) and _REQUEST_ID.fullmatch(value):
            return value
    return f"{_ID.getrandbits(128):032x}"


def _end(context: GuardedContext, error: BaseException) -> NoReturn:
    """Ends an RPC that has failed. Raises Aborted."""
    if isinstance(error, Aborted):
        raise error
    if not context.is_active():
        # Nobody listens any more.
        context.abort(grpc.StatusCode.CANCELLED, "")
    if isinstance(error, CaikitPtError):
        context.refuse(error)
    context.abort(grpc.StatusCode.INTERNAL, repr(error))


def _refusing(error: CaikitPtError, at_once: AtOnce) -> Any:
    """A handler that tells every caller of `error`, and reads nothing: of whatever kind an RPC is, its end
    looks the same."""
    return grpc.stream_unary_rpc_method_handler(_in(at_once, _refusal(error)))


def _refusal(error: CaikitPtError) -> Callable[..., Any]:
    """A behavior that is `error`."""

    def refuse(_: Iterator[bytes], context: Any) -> Any:
        GuardedContext(context, _request_id(context)).refuse(error)

    return refuse


def _in(lane: ThreadPoolExecutor, behavior: Callable[..., Any]) -> Callable[..., Any]:
    """`behavior`, which gRPC is to run in the threads of `lane`."""

    def in_lane(requests: Any, context: Any) -> Any:
        return behavior(requests, context)

    in_lane.experimental_thread_pool = lane  # type: ignore[attr-defined]
    # For the lane, which finds it in what gRPC hands it.
    in_lane.refusing = _refusal  # type: ignore[attr-defined]
    return in_lane
