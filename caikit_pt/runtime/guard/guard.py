"""Stands before every RPC: refuses at once what may not be, asks who knocks, reads what he wants, and has it
answered in its lane.

A message is taken as bytes, whatever gRPC would make of it: whoever may not knock isn't read, what isn't a
message is refused as one, and a message that doesn't come holds a thread for so long only.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from caikit_pt import call as calls
from caikit_pt.call import Call
from caikit_pt.errors import CaikitPtError, ClosedDoor, InvalidParameter, NotAllowed, OverCapacity
from caikit_pt.runtime.guard.caller import client_of
from caikit_pt.runtime.guard.context import GuardedContext
from caikit_pt.runtime.guard.door import CONTROL, PROBE, Door, door_of
from caikit_pt.runtime.guard.doorkeeper import Doorkeeper
from caikit_pt.runtime.guard.lane import Lane
from caikit_pt.runtime.guard.patience import Patience

REQUEST_ID = "x-request-id"
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


@dataclass(frozen=True, slots=True)
class _Handlers:
    """An RPC as it is answered, and as it is refused."""

    lane: Lane
    answering: Any
    refusing: Any


class Guard(grpc.ServerInterceptor):  # type: ignore[type-arg]
    """Of one server. `opened` are the settings that open doors which are closed without."""

    def __init__(
        self,
        lanes: Mapping[str, Lane],
        opened: frozenset[str],
        message_seconds: float,
        doorkeeper: Doorkeeper | None = None,
    ) -> None:
        """Without a `doorkeeper` everybody may do everything."""
        self._lanes, self._opened = lanes, opened
        self._doorkeeper = doorkeeper or Doorkeeper()
        self._patience = Patience(message_seconds)
        self._known: dict[str, _Handlers | None] = {}

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """Called for every RPC, in one thread for all of them."""
        method = details.method
        if method not in self._known:
            handler = continuation(details)
            if handler is None:
                # Names that there aren't are of any number.
                return None
            self._known[method] = self._handlers(method, handler)
        known = self._known[method]
        if known is None:
            return None
        return known.refusing if known.lane.full else known.answering

    def _handlers(self, method: str, handler: Any) -> _Handlers | None:
        door = door_of(method)
        if door is None:
            return None
        lane, control = self._lanes[door.lane], self._lanes[CONTROL]
        if door.opened_by and door.opened_by not in self._opened:
            closed = ClosedDoor(f"This server has no {method}, unless its setting {door.opened_by} is true")
            refusing = _refusing(handler, closed, control)
            return _Handlers(control, refusing, refusing)
        answers = _Answers(method, door, handler, self._patience, self._doorkeeper)
        full = OverCapacity(
            f"{lane.most} RPCs like this one are under way, as many as may be. Try again later"
        )
        return _Handlers(lane, answers.handler(lane), _refusing(handler, full, control))


class _Answers:
    """How one RPC is answered."""

    def __init__(
        self, method: str, door: Door, handler: Any, patience: Patience, doorkeeper: Doorkeeper
    ) -> None:
        self._method, self._door, self._handler = method, door, handler
        self._patience, self._doorkeeper = patience, doorkeeper

    def handler(self, lane: Lane) -> Any:
        """As gRPC has it. Requests are streams of bytes: of a single one nobody knows that it is late."""
        handler = self._handler
        serializer = handler.response_serializer
        if handler.request_streaming:
            make = (
                grpc.stream_stream_rpc_method_handler
                if handler.response_streaming
                else (grpc.stream_unary_rpc_method_handler)
            )
            behavior = self._converse if handler.response_streaming else self._listen
            return make(_in(lane, behavior), handler.request_deserializer, serializer)
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(_in(lane, self._stream), None, serializer)
        return grpc.stream_unary_rpc_method_handler(_in(lane, self._answer), None, serializer)

    def _answer(self, messages: Iterator[bytes], context: Any) -> Any:
        guarded = GuardedContext(context, _request_id(context))
        try:
            return self._handler.unary_unary(self._admitted(messages, guarded), guarded)
        except BaseException as error:  # SystemExit, too: it would end the server, and leave its process
            return _end(guarded, error)

    def _stream(self, messages: Iterator[bytes], context: Any) -> Iterator[Any]:
        guarded = GuardedContext(context, _request_id(context))
        try:
            yield from self._handler.unary_stream(self._admitted(messages, guarded), guarded)
        except GeneratorExit:
            raise
        except BaseException as error:
            _end(guarded, error)

    def _converse(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:
        guarded = GuardedContext(context, _request_id(context))
        try:
            self._let_in(guarded)
            yield from self._handler.stream_stream(requests, guarded)
        except GeneratorExit:
            raise
        except BaseException as error:
            _end(guarded, error)

    def _listen(self, requests: Iterator[Any], context: Any) -> Any:
        guarded = GuardedContext(context, _request_id(context))
        try:
            self._let_in(guarded)
            return self._handler.stream_unary(requests, guarded)
        except BaseException as error:
            return _end(guarded, error)

    def _admitted(self, messages: Iterator[bytes], context: GuardedContext) -> Any:
        """The request, if it may be answered. Raises CaikitPtError."""
        call = self._let_in(context)
        message = self._message(messages, context)
        for action, model in self._door.named(message, context.invocation_metadata()):
            if call:
                call.principal.check(action, model)
        return message

    def _let_in(self, context: GuardedContext) -> Call | None:
        """Whoever knocks, before he is listened to; None where that is anybody. Raises CaikitPtError."""
        door = self._door
        if door.action == PROBE:
            return None
        client = client_of(context.peer())
        principal = self._doorkeeper.principal(context)
        if door.of_all and not principal.may_everywhere(door.action):
            raise NotAllowed(f"{principal.name} may not {door.action} every model, as this RPC wants it")
        call = Call(
            context.request_id,
            self._method,
            client,
            context.add_callback,
            principal,
            self._doorkeeper.spend(principal.name or client),
        )
        call.on_end(self._doorkeeper.begin(call.tenant, door))
        calls.begin(call)
        return call

    def _message(self, messages: Iterator[bytes], context: GuardedContext) -> Any:
        with self._patience.with_(context):
            content = next(messages, None)
        if content is None:
            raise InvalidParameter("request", "no message", "one message")
        most = self._door.most_bytes
        if most and len(content) > most:
            raise InvalidParameter("request", f"a message of {len(content):,} bytes", f"up to {most:,} bytes")
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
    return uuid.uuid4().hex


def _end(context: GuardedContext, error: BaseException) -> Any:
    """Ends an RPC that has failed."""
    if context.aborted:
        raise error
    if not context.is_active():
        # Nobody listens any more.
        context.abort(grpc.StatusCode.CANCELLED, "")
    if isinstance(error, CaikitPtError):
        context.refuse(error)
    context.abort(grpc.StatusCode.INTERNAL, repr(error))


def _refusing(handler: Any, error: CaikitPtError, lane: Lane) -> Any:
    """A handler that tells every caller of `handler` of `error`, and reads nothing."""

    def refuse(_: Iterator[bytes], context: Any) -> Any:
        GuardedContext(context, _request_id(context)).refuse(error)

    make = (
        grpc.stream_stream_rpc_method_handler
        if handler.response_streaming
        else grpc.stream_unary_rpc_method_handler
    )
    return make(_in(lane, refuse), None, handler.response_serializer)


def _in(lane: Lane, behavior: Callable[..., Any]) -> Callable[..., Any]:
    """`behavior`, which gRPC is to run in the threads of `lane`."""

    def in_lane(requests: Any, context: Any) -> Any:
        return behavior(requests, context)

    in_lane.experimental_thread_pool = lane  # type: ignore[attr-defined]
    return in_lane
