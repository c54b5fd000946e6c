"""What an RPC says of its caller, whether that is true or not."""

from __future__ import annotations

import ipaddress
from functools import lru_cache

AUTHORIZATION = "authorization"
# What of an IPv6 address is one customer's: the rest he chooses, anew for each request if he likes.
_NETWORK_BITS = 64
_LOOPBACK = "127.0.0.1"
_CONNECTIONS = 4096


def client_of(peer: str) -> str:
    """The address of the host in what gRPC says of a peer: ipv4:127.0.0.1:4242, ipv6:%5B::1%5D:4242."""
    return peer.partition(":")[2].rpartition(":")[0].removeprefix("%5B").removesuffix("%5D") or peer


# Of a connection, which is asked for some times in each of its RPCs.
@lru_cache(_CONNECTIONS)
def host_of(peer: str) -> str:
    """Whom an RPC is counted for where nobody has to say who he is: an IPv4 address, or the network that an
    IPv6 address is of."""
    client = client_of(peer)
    try:
        address = ipaddress.ip_address(client.partition("%")[0])
    except ValueError:
        return client
    if address.is_loopback:
        # Of one machine, however it names itself.
        return _LOOPBACK
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address), _NETWORK_BITS), strict=False))
