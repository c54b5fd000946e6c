"""Protos of a caikit library, rendered by caikit and compiled by protoc."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.descriptor_pb2 import FileDescriptorSet

if TYPE_CHECKING:
    from pathlib import Path

    from .environment import Environment


def render(environment: Environment, library: str, out: Path) -> None:
    """Writes the .proto files of `library`, as `environment` has it, into `out`."""
    environment.run(
        *("-m", "caikit.runtime.dump_services", "-p", "-c", out),
        cwd=out.parent,
        RUNTIME_LIBRARY=library,
        RUNTIME_HTTP_ENABLED="false",
        LOG_LEVEL="error",
    )


def descriptors(environment: Environment, protos: Path, file: Path) -> FileDescriptorSet:
    """What the .proto files in `protos` declare; `file` is where protoc puts it."""
    _protoc(environment, protos, "--include_imports", f"--descriptor_set_out={file}")
    found: FileDescriptorSet = FileDescriptorSet.FromString(file.read_bytes())
    return found


def generate_stubs(environment: Environment, protos: Path, out: Path) -> None:
    """Writes the Python client of the .proto files in `protos` into `out`."""
    out.mkdir()
    _protoc(environment, protos, f"--python_out={out}", f"--grpc_python_out={out}")


def _protoc(environment: Environment, protos: Path, *options: str) -> None:
    names = sorted(file.name for file in protos.glob("*.proto"))
    environment.run("-m", "grpc_tools.protoc", "-I.", *options, *names, cwd=protos)
