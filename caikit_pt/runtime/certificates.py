"""The server's certificate and key, and whose clients' it believes: read again when they change."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from caikit_pt.errors import InvalidParameter
from caikit_pt.runtime.guard.renewed import Renewed
from caikit_pt.settings import as_set

KEY, CERTIFICATE, CLIENTS = (f"runtime.tls.{part}" for part in ("server.key", "server.cert", "client.cert"))
_ONE = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Pair:
    own: bytes
    configuration: Any


class Certificates:
    """Those of `runtime.tls`, each a file, or what would be in one."""

    def __init__(self, tls: Mapping[str, Any]) -> None:
        """Raises InvalidParameter where key and certificate aren't those of one another."""
        self._key, self._certificate = (str(tls["server"][name]) for name in ("key", "cert"))
        self._clients = str((tls.get("client") or {}).get("cert") or "")
        texts = [text for text in (self._key, self._certificate, self._clients) if text]
        self._pair = Renewed([Path(text) for text in texts if not _is_pem(text)], self._read)
        self._given = self._pair.get()

    @property
    def clients_need_one(self) -> bool:
        """Whether a client without a certificate isn't let in."""
        return bool(self._clients)

    def own(self) -> bytes:
        """The server's own certificate, as PEM."""
        return self._pair.get().own

    def credentials(self) -> Any:
        """For a port. Every connection is begun with what the files say then."""
        return grpc.dynamic_ssl_server_credentials(
            self._given.configuration, self._changed, require_client_authentication=self.clients_need_one
        )

    def _changed(self) -> Any:
        """None where nothing has."""
        pair = self._pair.get()
        if pair is self._given:
            return None
        self._given = pair
        return pair.configuration

    def _read(self) -> _Pair:
        key, certificate = content_of(self._key), content_of(self._certificate)
        try:
            private = serialization.load_pem_private_key(key, None)
            own = x509.load_pem_x509_certificate(certificate)
            fit = private.public_key() == own.public_key()
        except (ValueError, TypeError):
            fit = False
        leaf = _ONE.search(certificate)
        if not fit or leaf is None:
            # Not what was found, which may be a key.
            allowed = f"the key of {as_set(CERTIFICATE)}, both PEM, the key without a passphrase"
            raise InvalidParameter(as_set(KEY), "…", allowed)
        # Health probes may show the server's own certificate. That of an authority, which may stand behind it
        # in its file, would let in whoever else has one of that authority.
        trusted = content_of(self._clients) + b"\n" + leaf[0] + b"\n" if self._clients else None
        if trusted and not _ONE.search(content_of(self._clients)):
            raise InvalidParameter(as_set(CLIENTS), "…", "certificates of authorities, as PEM")
        return _Pair(leaf[0], grpc.ssl_server_certificate_configuration([(key, certificate)], trusted))


def _is_pem(text: str) -> bool:
    return "-----BEGIN" in text


def content_of(text: str) -> bytes:
    """PEM, or what is in the file that `text` names. Raises OSError."""
    return text.encode() if _is_pem(text) else Path(text).read_bytes()
