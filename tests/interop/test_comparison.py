"""The comparison finds every kind of difference that would break a client of the peer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)

from .comparison import compare

SERVICE = "caikit.runtime.Nlp"
PATH = "/caikit.runtime.Nlp.NlpService/Predict"
Plant = Callable[[FileDescriptorProto, FileDescriptorProto], object]


def files(data_package: str = "caikit_data_model.caikit_nlp") -> FileDescriptorSet:
    """A service file and a file of data classes, as the peer renders them, in small."""
    found = FileDescriptorSet()
    data = found.file.add(name=f"{data_package}.proto", package=data_package, syntax="proto3")
    data.enum_type.add(name="Reason").value.add(name="UNSET", number=0)
    data.enum_type[0].value.add(name="EOS", number=1)
    result = data.message_type.add(name="Result")
    add(result, "text", 1, FieldDescriptorProto.TYPE_STRING)
    add(result, "reason", 2, FieldDescriptorProto.TYPE_ENUM, f".{data_package}.Reason")
    services = found.file.add(name="nlp.proto", package=SERVICE, syntax="proto3")
    request = services.message_type.add(name="Request")
    request.oneof_decl.add(name="source")
    request.oneof_decl.add(name="_seed")
    add(request, "text", 1, FieldDescriptorProto.TYPE_STRING)
    add(request, "stops", 2, FieldDescriptorProto.TYPE_STRING).label = FieldDescriptorProto.LABEL_REPEATED
    add(request, "file", 3, FieldDescriptorProto.TYPE_STRING).oneof_index = 0
    seed = add(request, "seed", 5, FieldDescriptorProto.TYPE_UINT64)
    seed.oneof_index, seed.proto3_optional = 1, True
    services.service.add(name="NlpService").method.add(
        name="Predict",
        input_type=f".{SERVICE}.Request",
        output_type=f".{data_package}.Result",
        server_streaming=True,
    )
    return found


def add(
    message: DescriptorProto,
    name: str,
    number: int,
    kind: FieldDescriptorProto.Type.ValueType,
    type_name: str = "",
) -> FieldDescriptorProto:
    added: FieldDescriptorProto = message.field.add(
        name=name, number=number, type=kind, label=FieldDescriptorProto.LABEL_OPTIONAL
    )
    if type_name:
        added.type_name = type_name
    return added


def field(file: FileDescriptorProto, name: str) -> FieldDescriptorProto:
    """The field called `name` of the first message in `file`."""
    found: FieldDescriptorProto
    for found in file.message_type[0].field:
        if found.name == name:
            return found
    raise LookupError(name)


def test_the_same_files_are_the_same() -> None:
    found = compare(files(), files())
    assert found.differences == found.additions == found.left_out == []
    assert (found.methods, found.messages, found.fields, found.enums) == (1, 2, 6, 1)


def test_data_classes_may_have_another_package() -> None:
    found = compare(files(), files("caikit_data_model.caikit_pt"))
    assert found.differences == []
    assert (found.methods, found.messages, found.fields, found.enums) == (1, 2, 6, 1)


def test_a_field_at_the_end_is_an_addition() -> None:
    ours = files()
    add(ours.file[1].message_type[0], "preset", 6, FieldDescriptorProto.TYPE_STRING)
    found = compare(files(), ours)
    assert found.differences == []
    assert found.additions == ["caikit.runtime.Nlp.Request: string preset = 6"]


def test_optional_is_optional_without_its_mark() -> None:
    """The descriptors of a running caikit server lack `proto3_optional`, its .proto files don't."""
    ours = files()
    field(ours.file[1], "seed").proto3_optional = False
    assert compare(files(), ours).differences == []


def without_presence(services: FileDescriptorProto) -> None:
    field(services, "seed").ClearField("oneof_index")
    field(services, "seed").proto3_optional = False


PLANTED: dict[str, tuple[Plant, str]] = {
    "renamed field": (
        lambda data, services: setattr(field(services, "text"), "name", "input"),
        "Request: peer has string text = 1, ours string input = 1",
    ),
    "renumbered field": (
        lambda data, services: setattr(field(services, "seed"), "number", 6),
        "Request: peer has optional uint64 seed = 5, ours no such field",
    ),
    "field between the peer's": (
        lambda data, services: add(services.message_type[0], "preset", 4, FieldDescriptorProto.TYPE_STRING),
        "Request: ours adds string preset = 4 below the peer's highest number 5",
    ),
    "another type": (
        lambda data, services: setattr(field(services, "seed"), "type", FieldDescriptorProto.TYPE_INT64),
        "Request: peer has optional uint64 seed = 5, ours optional int64 seed = 5",
    ),
    "another type in a data class": (
        lambda data, services: setattr(field(data, "text"), "type", FieldDescriptorProto.TYPE_BYTES),
        "Result: peer has string text = 1, ours bytes text = 1",
    ),
    "single for repeated": (
        lambda data, services: setattr(
            field(services, "stops"), "label", FieldDescriptorProto.LABEL_OPTIONAL
        ),
        "Request: peer has repeated string stops = 2, ours string stops = 2",
    ),
    "presence lost": (
        lambda data, services: without_presence(services),
        "Request: peer has optional uint64 seed = 5, ours uint64 seed = 5",
    ),
    "out of its oneof": (
        lambda data, services: field(services, "file").ClearField("oneof_index"),
        "Request: peer has string file = 3 in oneof source, ours string file = 3",
    ),
    "renamed oneof": (
        lambda data, services: setattr(services.message_type[0].oneof_decl[0], "name", "origin"),
        "Request: peer has string file = 3 in oneof source, ours string file = 3 in oneof origin",
    ),
    "enum value moved": (
        lambda data, services: setattr(data.enum_type[0].value[1], "number", 2),
        "Reason: peer has EOS = 1, ours no such value",
    ),
    "streaming lost": (
        lambda data, services: setattr(services.service[0].method[0], "server_streaming", False),
        f"{PATH}: peer has server_streaming True, ours False",
    ),
    "method renamed": (
        lambda data, services: setattr(services.service[0].method[0], "name", "Run"),
        f"{PATH}: ours has no such method",
    ),
    "service in another package": (
        lambda data, services: setattr(services, "package", "caikit.runtime.Pt"),
        f"{PATH}: ours has no such method",
    ),
    "another response": (
        lambda data, services: setattr(services.service[0].method[0], "output_type", f".{SERVICE}.Request"),
        f"{PATH} response: peer has caikit_data_model.caikit_nlp.Result, ours {SERVICE}.Request",
    ),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_difference_is_found(kind: str) -> None:
    plant, line = PLANTED[kind]
    ours = files()
    plant(*ours.file)
    differences = compare(files(), ours).differences
    assert any(found.endswith(line) for found in differences), differences


def test_a_method_that_is_left_out_is_listed() -> None:
    ours = files()
    del ours.file[1].service[:]
    found = compare(files(), ours, left_out=["*/Pred*"])
    assert found.differences == []
    assert found.left_out == [PATH]


def test_an_extended_message_is_compared_by_its_fields() -> None:
    ours = files()
    longer = ours.file[0].message_type.add()
    longer.CopyFrom(ours.file[0].message_type[0])
    longer.name = "Longer"
    add(longer, "more", 3, FieldDescriptorProto.TYPE_STRING)
    package = "caikit_data_model.caikit_nlp"
    ours.file[1].service[0].method[0].output_type = f".{package}.Longer"
    extended = {f"{package}.Result": f"{package}.Longer"}
    assert compare(files(), ours).differences
    assert compare(files(), ours, extended=extended).differences == []
    longer.field[0].type = FieldDescriptorProto.TYPE_BYTES
    assert len(compare(files(), ours, extended=extended).differences) == 1


def test_a_stale_exception_is_a_difference() -> None:
    found = compare(files(), files(), left_out=["*/Embed*"])
    assert found.differences == ["left out, but not the peer's: */Embed*"]


def test_a_peer_without_methods_proves_nothing() -> None:
    assert compare(FileDescriptorSet(), files()).differences == ["the peer has no methods at all"]
