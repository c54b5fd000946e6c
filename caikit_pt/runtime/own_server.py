"""The server of this machine, by the settings that it has: for who wants to know whether it is there."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Any

import caikit
from cryptography import x509
from cryptography.x509.oid import ExtensionOID, NameOID

from caikit_pt import settings
from caikit_pt.runtime.certificates import content_of


@dataclass(frozen=True, slots=True)
class OwnServer:
    """Where it listens. With TLS it shows its own certificate, `name` is its name in there, and clients that
    have to have one may have that."""

    address: str
    certificate: bytes | None = None
    key: bytes | None = None
    name: str = ""


def own_server() -> OwnServer:
    """Raises InvalidParameter for settings that no server starts with, OSError, and ValueError for
    certificates that are none."""
    runtime = caikit.get_config().runtime
    address = f"{_host(settings.current().listen_host)}:{runtime.grpc.port}"
    if not runtime.tls.server.key:
        return OwnServer(address)
    certificate = content_of(runtime.tls.server.cert)
    key = content_of(runtime.tls.server.key) if runtime.tls.client.cert else None
    return OwnServer(address, certificate, key, _name(x509.load_pem_x509_certificate(certificate)))


def _host(host: str) -> str:
    if host in ("", "localhost"):
        return "localhost"
    address = ipaddress.ip_address(host.strip("[]"))
    if address.is_unspecified:
        return "localhost"
    return f"[{address}]" if address.version == 6 else str(address)


def _name(certificate: x509.Certificate) -> str:
    """One that it is for."""
    try:
        names: Any = certificate.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME).value
        found = names.get_values_for_type(x509.DNSName) or list(
            map(str, names.get_values_for_type(x509.IPAddress))
        )
    except x509.ExtensionNotFound:
        found = [str(one.value) for one in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    return next(iter(found), "").replace("*", "any", 1)
