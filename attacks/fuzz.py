"""Requests that nobody wrote: to every RPC of a server, every field at the edges of its values and beyond."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from hypothesis import strategies as st

from attacks.target import LLAMA, T5, Target

# What an RPC may end with, whatever it was sent (docs/errors.md). Neither INTERNAL nor UNKNOWN.
ALLOWED = frozenset(
    {
        "OK",
        "INVALID_ARGUMENT",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "FAILED_PRECONDITION",
        "RESOURCE_EXHAUSTED",
        "UNIMPLEMENTED",
        "DATA_LOSS",
        "ABORTED",
        "DEADLINE_EXCEEDED",
    }
)
_SECONDS = 1.0
# What only tells of changes goes on until somebody leaves.
_SECONDS_TO_WATCH = 0.05
_DEEPEST, _MOST_ITEMS = 5, 3
# A prompt that may be removed.
TOY = "toy"
_NAMES = (
    TOY,
    LLAMA,
    T5,
    "",
    "..",
    "/etc/passwd",
    "../good",
    "good\0",
    "x" * 300,
    "\u202e",
    "{{input}}",
    "*",
)
_WHOLE = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}


@dataclass(frozen=True, slots=True)
class Case:
    """One request: bytes, which may be no message, to a method."""

    method: str
    content: bytes
    streams: bool
    model: str


def methods(target: Target) -> list[MethodDescriptor]:
    """Every RPC that the server tells of."""
    with grpc.insecure_channel(f"localhost:{target.port}") as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        pool = descriptor_pool.DescriptorPool(database)
        services = [pool.FindServiceByName(name) for name in sorted(database.get_services())]
        return [method for service in services for method in service.methods if not method.client_streaming]


def cases(of: list[MethodDescriptor]) -> st.SearchStrategy[Case]:
    """Requests to any of these."""
    return st.one_of([_case(method) for method in of])


def _case(method: MethodDescriptor) -> st.SearchStrategy[Case]:
    message = _message(method.input_type, 0).map(lambda made: made.SerializeToString())
    return st.builds(
        Case,
        st.just(f"/{method.containing_service.full_name}/{method.name}"),
        st.one_of(message, message, message, message.flatmap(_spoilt), st.binary(max_size=200)),
        st.just(bool(method.server_streaming)),
        st.sampled_from([TOY, TOY, "", "nobody", "../good", "x" * 1000]),
    )


def _spoilt(content: bytes) -> st.SearchStrategy[bytes]:
    """A message that is cut off, or has a byte of another in it."""
    place = st.integers(0, max(0, len(content) - 1))
    byte = st.integers(0, 255)
    return st.builds(lambda at, one: content[:at] + bytes([one]) * bool(one) + content[at + 1 :], place, byte)


def _message(kind: Any, depth: int) -> st.SearchStrategy[Any]:
    fields = {
        field.name: _field(field, depth) for field in kind.fields if depth < _DEEPEST or not _nested(field)
    }
    made = message_factory.GetMessageClass(kind)
    return st.fixed_dictionaries({}, optional=fields).map(lambda values: _filled(made, values))


def _filled(kind: Any, values: dict[str, Any]) -> Any:
    message = kind()
    for name, value in values.items():
        field = kind.DESCRIPTOR.fields_by_name[name]
        if _is_map(field):
            for key, item in value:
                if _nested(field.message_type.fields_by_name["value"]):
                    getattr(message, name)[key].CopyFrom(item)
                else:
                    getattr(message, name)[key] = item
        elif _many(field):
            getattr(message, name).extend(value)
        elif _nested(field):
            getattr(message, name).CopyFrom(value)
        else:
            setattr(message, name, value)
    return message


def _field(field: Any, depth: int) -> st.SearchStrategy[Any]:
    if _is_map(field):
        key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
        return st.lists(st.tuples(_one(key, depth + 1), _one(value, depth + 1)), max_size=_MOST_ITEMS)
    return st.lists(_one(field, depth), max_size=_MOST_ITEMS) if _many(field) else _one(field, depth)


def _one(field: Any, depth: int) -> st.SearchStrategy[Any]:
    if _nested(field):
        return _message(field.message_type, depth + 1)
    if field.cpp_type in _WHOLE:
        low, high = _WHOLE[field.cpp_type]
        near = [number for number in (0, 1, 2, 5, low, high) if low <= number <= high]
        return st.one_of(st.sampled_from(near), st.integers(low, high))
    if field.cpp_type in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        double = field.cpp_type == FieldDescriptor.CPPTYPE_DOUBLE
        return st.one_of(st.sampled_from([0.0, 0.3, 1.0]), st.floats(width=64 if double else 32))
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        return st.sampled_from([value.number for value in field.enum_type.values])
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(max_size=50)
    return st.one_of(st.sampled_from(_NAMES), st.text(st.characters(exclude_categories=["Cs"]), max_size=20))


def _many(field: Any) -> bool:
    repeated: bool = field.is_repeated
    return repeated


def _nested(field: Any) -> bool:
    return bool(field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE)


def _is_map(field: Any) -> bool:
    return _nested(field) and bool(field.message_type.GetOptions().map_entry)


class Sender:
    """Sends cases over one connection."""

    def __init__(self, target: Target) -> None:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        self._channel = grpc.insecure_channel(f"localhost:{target.port}", options)

    def send(self, case: Case) -> tuple[str, str]:
        """The status that it ends with, and its text."""
        metadata = (("mm-model-id", case.model),) if case.model else ()
        try:
            if case.streams:
                for _ in self._stream(case, metadata):
                    pass
            else:
                rpc = self._channel.unary_unary(case.method, None, None)
                rpc(case.content, timeout=_SECONDS, metadata=metadata)
        except grpc.RpcError as failed:
            error: Any = failed
            return error.code().name, error.details() or ""
        return "OK", ""

    def _stream(self, case: Case, metadata: Any) -> Iterator[bytes]:
        rpc: Any = self._channel.unary_stream(case.method, None, None)
        seconds = _SECONDS_TO_WATCH if "Watch" in case.method else _SECONDS
        yield from rpc(case.content, timeout=seconds, metadata=metadata)

    def close(self) -> None:
        """Lets go of the connection."""
        self._channel.close()


# So many requests in a run; FUZZ says how many more.
CASES = int(os.environ.get("FUZZ", "1200"))
