"""What an RPC says of its caller, whether that is true or not."""

from __future__ import annotations

AUTHORIZATION = "authorization"


def client_of(peer: str) -> str:
    """The address of the host in what gRPC says of a peer: ipv4:127.0.0.1:4242, ipv6:%5B::1%5D:4242."""
    return peer.partition(":")[2].rpartition(":")[0].removeprefix("%5B").removesuffix("%5D") or peer
