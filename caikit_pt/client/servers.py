"""The servers that a client was told of: their addresses, and the channel to each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from caikit_pt.errors import InvalidParameter
from caikit_pt.replicas import Replica

if TYPE_CHECKING:
    import grpc

# What stands in front of an address that gRPC reads by itself, commas and all.
_SCHEMES = ("ipv4:", "ipv6:", "dns:", "unix:", "unix-abstract:")


def addresses(given: str | Sequence[str]) -> list[str]:
    """Of one server or several: a list, or HOST:PORT,HOST:PORT. Raises InvalidParameter."""
    names = [given] if isinstance(given, str) else list(given)
    if isinstance(given, str) and not given.startswith(_SCHEMES):
        names = [name.strip() for name in given.split(",")]
    if not names or not all(isinstance(name, str) and name for name in names) or len(set(names)) < len(names):
        raise InvalidParameter("address", given, "HOST:PORT, or several of them, each once")
    return names


@dataclass(slots=True, eq=False)
class Server(Replica):
    """One of them."""

    channel: grpc.Channel
