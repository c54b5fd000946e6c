"""Whether what one server offers on the wire, another offers too. Knows protobuf descriptors alone.

`compare` starts at the methods, follows their messages down to the last field, and says in one line
each what differs. The rule is that ours is a superset of the peer's: every method, field and enum
value of the peer is there, identical; what we add has a number above all of the peer's. Packages of
data classes aren't on the wire and may differ, the package of a service is and may not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import TYPE_CHECKING

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

DATA_CLASSES = "caikit_data_model."


@dataclass(slots=True)
class Comparison:
    """What was compared, and each thing found, in a line of text."""

    methods: int = 0
    messages: int = 0
    fields: int = 0
    enums: int = 0
    differences: list[str] = field(default_factory=list)
    additions: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Message:
    """A message, and what its own descriptor doesn't say about it."""

    proto: DescriptorProto
    package: str
    syntax: str


class Catalogue:
    """The methods, messages and enums of a set of files by full name: `/package.Service/Method`,
    `.package.Message`."""

    def __init__(self, files: FileDescriptorSet) -> None:
        self.methods: dict[str, MethodDescriptorProto] = {}
        self.messages: dict[str, Message] = {}
        self.enums: dict[str, EnumDescriptorProto] = {}
        self.packages: dict[str, str] = {}
        for file in files.file:
            self._add_file(file)

    def local_name(self, name: str) -> str:
        """`name` without its package."""
        return name.removeprefix(f".{self.packages[name]}.")

    def _add_file(self, file: FileDescriptorProto) -> None:
        prefix = f".{file.package}" if file.package else ""
        for service in file.service:
            for method in service.method:
                self.methods[f"/{prefix[1:]}.{service.name}/{method.name}"] = method
        self._add_enums(file.enum_type, prefix, file)
        for message in file.message_type:
            self._add_message(message, prefix, file)

    def _add_message(self, proto: DescriptorProto, prefix: str, file: FileDescriptorProto) -> None:
        name = f"{prefix}.{proto.name}"
        self.messages[name] = Message(proto, file.package, file.syntax or "proto2")
        self.packages[name] = file.package
        self._add_enums(proto.enum_type, name, file)
        for nested in proto.nested_type:
            self._add_message(nested, name, file)

    def _add_enums(
        self, protos: Iterable[EnumDescriptorProto], prefix: str, file: FileDescriptorProto
    ) -> None:
        for proto in protos:
            self.enums[f"{prefix}.{proto.name}"] = proto
            self.packages[f"{prefix}.{proto.name}"] = file.package


def compare(
    peer: FileDescriptorSet,
    ours: FileDescriptorSet,
    left_out: Iterable[str] = (),
    extended: Mapping[str, str] = MappingProxyType({}),
) -> Comparison:
    """What of `peer` is missing or different in `ours`.

    A message of the peer that `extended` names has another full name in ours and is compared by its fields,
    which is all that there is of it on the wire. A method that fits one of the patterns in `left_out` may be
    missing. A pattern that fits none is a difference itself, so that the list can't grow stale.
    """
    return _Walk(Catalogue(peer), Catalogue(ours), extended).run(tuple(left_out))


class _Walk:
    """One comparison under way; each pair of types is visited once."""

    def __init__(self, peer: Catalogue, ours: Catalogue, extended: Mapping[str, str]) -> None:
        self.peer = peer
        self.ours = ours
        self.extended = extended
        self.found = Comparison()
        self.visited: set[tuple[str, str]] = set()

    def run(self, left_out: tuple[str, ...]) -> Comparison:
        if not self.peer.methods:
            self.found.differences.append("the peer has no methods at all")
        fitting: set[str] = set()
        for path in sorted(self.peer.methods):
            patterns = [pattern for pattern in left_out if fnmatchcase(path, pattern)]
            fitting.update(patterns)
            if path in self.ours.methods:
                self._method(path)
            elif patterns:
                self.found.left_out.append(path)
            else:
                self.found.differences.append(f"{path}: ours has no such method")
        for pattern in left_out:
            if pattern not in fitting:
                self.found.differences.append(f"left out, but not the peer's: {pattern}")
        self._new_methods()
        self._namesakes()
        return self.found

    def _new_methods(self) -> None:
        """Ours alone: a service by its name, a method in a service of the peer by its path."""
        services = {path.rpartition("/")[0] for path in self.peer.methods}
        new = self.ours.methods.keys() - self.peer.methods.keys()
        paths = ((path, path.rpartition("/")[0]) for path in new)
        self.found.additions += sorted({path if service in services else service for path, service in paths})

    def _method(self, path: str) -> None:
        self.found.methods += 1
        peer, ours = self.peer.methods[path], self.ours.methods[path]
        for part in ("client_streaming", "server_streaming"):
            if getattr(peer, part) != getattr(ours, part):
                self._differ(path, f"{part} {getattr(peer, part)}", f"{getattr(ours, part)}")
        self._types(f"{path} request", peer.input_type, ours.input_type)
        self._types(f"{path} response", peer.output_type, ours.output_type)

    def _namesakes(self) -> None:
        """Messages that no shared method reaches, but both have under one full name."""
        for name in sorted(self.peer.messages.keys() & self.ours.messages.keys()):
            self._types(name, name, name)

    def _types(self, where: str, peer: str, ours: str) -> None:
        if not self._may_stand_for(peer, ours):
            self._differ(where, peer[1:], ours[1:])
            return
        if (peer, ours) in self.visited:
            return
        self.visited.add((peer, ours))
        if peer in self.peer.messages and ours in self.ours.messages:
            self._message(peer, self.peer.messages[peer], self.ours.messages[ours])
        elif peer in self.peer.enums and ours in self.ours.enums:
            self._enum(peer, self.peer.enums[peer], self.ours.enums[ours])
        else:
            self.found.differences.append(f"{where}: {peer[1:]} is a message in one, an enum in the other")

    def _may_stand_for(self, peer: str, ours: str) -> bool:
        if peer not in self.peer.packages or ours not in self.ours.packages:
            self.found.differences.append(f"{peer[1:]} or {ours[1:]} isn't defined in its files")
            return True
        if peer == ours or self.extended.get(peer[1:]) == ours[1:]:
            return True
        data_classes = all(name[1:].startswith(DATA_CLASSES) for name in (peer, ours))
        return data_classes and self.peer.local_name(peer) == self.ours.local_name(ours)

    def _message(self, name: str, peer: Message, ours: Message) -> None:
        self.found.messages += 1
        theirs = {each.number: each for each in peer.proto.field}
        fields = {each.number: each for each in ours.proto.field}
        if peer.proto.options.map_entry != ours.proto.options.map_entry:
            self.found.differences.append(f"{name[1:]}: a map entry in only one of the two")
        for number, each in sorted(theirs.items()):
            self.found.fields += 1
            self._field(name, each, peer, fields.get(number), ours)
        for number, each in sorted(fields.items()):
            if number not in theirs:
                self._addition(name, number, declaration(each, ours), theirs)

    def _field(
        self,
        name: str,
        peer: FieldDescriptorProto,
        peer_message: Message,
        ours: FieldDescriptorProto | None,
        our_message: Message,
    ) -> None:
        wanted = declaration(peer, peer_message)
        if ours is None:
            self._differ(name[1:], wanted, "no such field")
            return
        if declaration(ours, our_message) != wanted:
            self._differ(name[1:], wanted, declaration(ours, our_message))
        elif peer.type_name:
            self._types(f"{name[1:]}.{peer.name}", peer.type_name, ours.type_name)

    def _enum(self, name: str, peer: EnumDescriptorProto, ours: EnumDescriptorProto) -> None:
        self.found.enums += 1
        theirs = {value.number: value.name for value in peer.value}
        values = {value.number: value.name for value in ours.value}
        for number, value in sorted(theirs.items()):
            if values.get(number) != value:
                there = f"{values[number]} = {number}" if number in values else "no such value"
                self._differ(name[1:], f"{value} = {number}", there)
        for number in sorted(values.keys() - theirs.keys()):
            self._addition(name, number, f"{values[number]} = {number}", theirs)

    def _addition(self, name: str, number: int, text: str, theirs: Mapping[int, object]) -> None:
        self.found.additions.append(f"{name[1:]}: {text}")
        if number < max(theirs, default=0):
            self.found.differences.append(
                f"{name[1:]}: ours adds {text} below the peer's highest number {max(theirs)}"
            )

    def _differ(self, where: str, peer: str, ours: str) -> None:
        self.found.differences.append(f"{where}: peer has {peer}, ours {ours}")


def declaration(field: FieldDescriptorProto, message: Message) -> str:
    """`field` as a .proto file declares it, without the package of its type, on one line.

    Two fields that read the same here are the same on the wire and in generated code.
    """
    kind = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    words = [_label(field, message), kind, field.name, f"= {field.number}"]
    if oneof := _oneof(field, message):
        words.append(f"in oneof {oneof}")
    if field.options.HasField("packed"):
        words.append(f"[packed = {str(field.options.packed).lower()}]")
    if field.json_name and field.json_name != _json_name(field.name):
        words.append(f"[json_name = {field.json_name}]")
    return " ".join(word for word in words if word)


def _label(field: FieldDescriptorProto, message: Message) -> str:
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return "repeated"
    if field.label == FieldDescriptorProto.LABEL_REQUIRED:
        return "required"
    if _oneof(field, message):
        return ""
    explicit = field.HasField("oneof_index") or field.proto3_optional or message.syntax == "proto2"
    return "optional" if explicit else ""


def _oneof(field: FieldDescriptorProto, message: Message) -> str:
    """The oneof that `field` is in, without those that merely make one field optional.

    protoc calls the latter `_field` and marks the field. caikit, when it builds messages at run time,
    gives it the name and forgets the mark; a .proto file rendered from that says `optional` again.
    """
    if not field.HasField("oneof_index") or field.proto3_optional:
        return ""
    members = [other for other in message.proto.field if _shares_oneof(other, field)]
    name: str = message.proto.oneof_decl[field.oneof_index].name
    return "" if name == f"_{field.name}" and len(members) == 1 else name


def _shares_oneof(one: FieldDescriptorProto, other: FieldDescriptorProto) -> bool:
    return one.HasField("oneof_index") and one.oneof_index == other.oneof_index


def _json_name(name: str) -> str:
    """The name that protoc derives where none is given."""
    first, *others = name.split("_")
    return first + "".join(word[:1].upper() + word[1:] for word in others)
