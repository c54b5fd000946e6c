"""How a client makes sure of its server, and tells it who asks."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from caikit_pt.errors import InvalidParameter

Pem = Path | str | bytes
# As gRPC has them: https://github.com/grpc/grpc/blob/master/doc/naming.md
_SOCKETS, _SCHEMES = ("unix", "unix-abstract"), ("ipv4", "ipv6", "dns")
_TOKEN = re.compile(r"[\x21-\x7e]{1,8192}")


@dataclass(frozen=True, slots=True)
class Security:
    """Encrypted where `tls` says so, or where a certificate is given and it says nothing.

    `ca` are the certificates that the server's is checked by, else those of gRPC; `cert` and `key` are the
    client's own. Each is a file or PEM itself. `token` goes along with each request.
    """

    tls: bool | None = None
    ca: Pem | None = None
    cert: Pem | None = None
    # Neither is for a log, which may have the rest.
    key: Pem | None = field(default=None, repr=False)
    token: str = field(default="", repr=False)

    def check(self, address: str) -> None:
        """Raises InvalidParameter for what contradicts itself, and for a token that others could read."""
        if bool(self.cert) != bool(self.key):
            missing = "key" if self.cert else "cert"
            raise InvalidParameter(missing, "", "set: a certificate and its key go together")
        if self.tls is False and (self.ca or self.cert):
            raise InvalidParameter("tls", False, "true or unset where certificates are given")
        if self.token and not _TOKEN.fullmatch(self.token):
            raise InvalidParameter("token", "…", "a token without spaces, in ASCII")
        if self.token and not self.encrypted and self.tls is None and not _is_local(address):
            allowed = "with TLS (tls=True, --tls); tls=False sends a token as it is, where nobody listens"
            raise InvalidParameter("token", "…", allowed)

    @property
    def encrypted(self) -> bool:
        """Whether it is TLS."""
        return bool(self.ca or self.cert) if self.tls is None else self.tls

    @property
    def metadata(self) -> list[tuple[str, str]]:
        """What goes along with each request."""
        return [("authorization", f"Bearer {self.token}")] if self.token else []

    def channel(self, address: str, options: Sequence[tuple[str, object]], made_by: Any = None) -> Any:
        """`made_by` grpc, or grpc.aio. Raises InvalidParameter for a file that can't be read."""
        import grpc

        made_by = made_by or grpc
        if not self.encrypted:
            return made_by.insecure_channel(address, options)
        credentials = grpc.ssl_channel_credentials(
            _content("ca", self.ca), _content("key", self.key), _content("cert", self.cert)
        )
        return made_by.secure_channel(address, credentials, options)


def _content(name: str, pem: Pem | None) -> bytes | None:
    if pem is None or isinstance(pem, bytes):
        return pem
    if "-----BEGIN" in str(pem):
        return str(pem).encode()
    try:
        return Path(pem).read_bytes()
    except OSError as error:
        raise InvalidParameter(name, str(pem), f"a PEM file ({error.strerror})") from None


def _is_local(address: str) -> bool:
    """Whether all servers that gRPC finds behind `address` are on this machine: HOST:PORT, a socket, or
    several as ipv4:HOST:PORT,HOST:PORT."""
    scheme, colon, rest = address.partition(":")
    if colon and scheme in _SOCKETS:
        return True
    if not colon or scheme not in _SCHEMES:
        rest = address
    # dns:///HOST:PORT; a server of names that one names oneself answers whatever it likes.
    rest = rest.removeprefix("///")
    return all(is_loopback(one) for one in rest.split(","))


def is_loopback(address: str) -> bool:
    """Of HOST:PORT, [HOST]:PORT or a HOST alone."""
    address = unquote(address)
    bare = address.startswith("[") or address.count(":") == 1
    host = (address.rpartition("]")[0] or address.rpartition(":")[0] if bare else address).lstrip("[")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
