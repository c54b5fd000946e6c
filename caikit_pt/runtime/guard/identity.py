"""Who asks, by what comes with an RPC before its message does."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from caikit_pt.errors import Unauthenticated
from caikit_pt.runtime.guard.caller import AUTHORIZATION
from caikit_pt.runtime.guard.tokens import NAME, Tokens
from caikit_pt.runtime.guard.web_tokens import WebTokens
from caikit_pt.settings import Access

_BEARER = re.compile(r"bearer +([\x21-\x7e]{1,8192})", re.IGNORECASE)
# As gRPC calls what it has read of a client's certificate.
_PEM, _COMMON_NAME, _URI = "x509_pem_cert", "x509_common_name", "peer_uri"
_STRANGER = (
    "This server doesn't know who asks. Give a token that it knows, as metadata `authorization: Bearer TOKEN`"
)
_NAMELESS = "This server doesn't know who asks: the client's certificate names nobody"


class Identity:
    """By a bearer token, or by the certificate of a client that has none."""

    def __init__(self, access: Access, own: Callable[[], bytes] | None) -> None:
        """`own` gives the server's own certificate, where clients have to have one: it names nobody, and is
        good for health probes alone. Raises InvalidParameter."""
        self._ways: list[Tokens | WebTokens] = []
        if access.tokens_file:
            self._ways.append(Tokens(Path(access.tokens_file)))
        if access.jwt.keys:
            self._ways.append(WebTokens(access.jwt))
        self._own = own

    @property
    def wanted(self) -> bool:
        """Whether callers have to say who they are."""
        return bool(self._ways or self._own)

    def name(
        self, metadata: Sequence[tuple[str, Any]], certificate: Callable[[], Mapping[str, Sequence[bytes]]]
    ) -> str:
        """That of the principal; empty where nobody has to say who he is. Raises Unauthenticated."""
        if not self.wanted:
            return ""
        given = [value for key, value in metadata if key == AUTHORIZATION]
        if self._ways and (given or not self._own):
            return self._by_token(given)
        return self._by_certificate(certificate())

    def known(self, metadata: Iterable[tuple[str, Any]]) -> str:
        """That of the principal where a look tells it, empty where it takes more: a signature to check."""
        if self._ways and (token := _token([value for key, value in metadata if key == AUTHORIZATION])):
            for way in self._ways:
                if name := way.known(token):
                    return name
        return ""

    def _by_token(self, given: Sequence[Any]) -> str:
        if token := _token(given):
            for way in self._ways:
                if name := way.principal(token):
                    return name
        raise Unauthenticated(_STRANGER)

    def _by_certificate(self, certificate: Mapping[str, Sequence[bytes]]) -> str:
        """What its URI says, which is there to name whoever has it, else its common name."""
        pem = next(iter(certificate.get(_PEM, ())), b"")
        if not pem or (self._own and _der(pem) == _der(self._own())):
            raise Unauthenticated(_STRANGER if self._ways else _NAMELESS)
        for kind in (_URI, _COMMON_NAME):
            for value in certificate.get(kind, ()):
                name = value.decode("utf-8", "replace")
                if NAME.fullmatch(name):
                    return name
        raise Unauthenticated(_NAMELESS)


def _token(given: Sequence[Any]) -> str:
    """That of the one header there may be; empty where it isn't one."""
    told = _BEARER.fullmatch(given[0]) if len(given) == 1 and isinstance(given[0], str) else None
    return told[1] if told else ""


def _der(pem: bytes) -> bytes:
    """Of the first certificate."""
    end = "-----END CERTIFICATE-----"
    text = pem.decode("ascii", "ignore")
    start = max(0, text.find("-----BEGIN CERTIFICATE-----"))
    return ssl.PEM_cert_to_DER_cert(text[start:].partition(end)[0] + end + "\n")
