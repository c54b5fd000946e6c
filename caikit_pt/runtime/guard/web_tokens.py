"""JSON Web Tokens, as `access.jwt` has them checked."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from caikit_pt.errors import InvalidParameter, Unauthenticated
from caikit_pt.runtime.guard.renewed import Renewed
from caikit_pt.runtime.guard.tokens import NAME
from caikit_pt.settings import Jwt, as_set

# Signed by a key that this server doesn't have: with a secret of both, whoever can check can forge.
ALGORITHMS = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "ES256K", "EdDSA"),
)
_MOST_REMEMBERED, _SECONDS_REMEMBERED = 1024, 60.0
# Clocks differ.
_LEEWAY = 10.0  # seconds
_PRIVATE = "PRIVATE KEY-----"


@dataclass(frozen=True, slots=True)
class _Keys:
    """By their ids; a PEM has one, and none."""

    by_id: dict[str, Any]

    def of(self, token: str) -> Any:
        """The key that the token says it is signed by; the only one there is where it doesn't."""
        id = jwt.get_unverified_header(token).get("kid")
        if id is not None and "" not in self.by_id:
            return self.by_id[id]
        (only,) = self.by_id.values()
        return only


class WebTokens:
    """Who has which. What was found is remembered for a minute, and no longer than the token is good."""

    def __init__(self, wanted: Jwt) -> None:
        """Raises InvalidParameter for what can't be checked by."""
        self._wanted, self._file = wanted, Path(wanted.keys)
        for name in ("issuer", "audience", "principal_claim"):
            if not getattr(wanted, name):
                allowed = "set, since access.jwt.keys is: tokens for others would be taken, too"
                raise InvalidParameter(as_set(f"access.jwt.{name}"), "", allowed)
        self._algorithms = algorithms(wanted.algorithms)
        self._keys = Renewed([self._file], self._read)
        self._known: OrderedDict[bytes, tuple[str, float, _Keys]] = OrderedDict()
        self._lock = threading.Lock()

    def principal(self, token: str) -> str | None:
        """The name of the one who has it; None where it isn't believed. Raises Unauthenticated where it was,
        and isn't any more or not yet."""
        keys = self._keys.get()
        if known := self._remembered(token, keys):
            return known
        found = self._checked(token, keys)
        if found is None:
            return None
        principal, until = found
        name = _name(token)
        with self._lock:
            self._known[name] = principal, min(until, time.time() + _SECONDS_REMEMBERED), keys
            self._known.move_to_end(name)
            while len(self._known) > _MOST_REMEMBERED:
                self._known.popitem(last=False)
        return principal

    def known(self, token: str) -> str | None:
        """The name of the one who has it, where that was found a moment ago."""
        return self._remembered(token, self._keys.get())

    def _remembered(self, token: str, keys: _Keys) -> str | None:
        with self._lock:
            known = self._known.get(_name(token))
        # Keys that have changed know nothing of it.
        return known[0] if known and known[2] is keys and time.time() < known[1] else None

    def _checked(self, token: str, keys: _Keys) -> tuple[str, float] | None:
        wanted = self._wanted
        try:
            claims = jwt.decode(
                token,
                keys.of(token),
                algorithms=self._algorithms,
                audience=wanted.audience,
                issuer=wanted.issuer,
                leeway=_LEEWAY,
                options={"require": ["exp", "aud", "iss", wanted.principal_claim]},
            )
            name, until = claims[wanted.principal_claim], float(claims["exp"]) + _LEEWAY
        except jwt.ExpiredSignatureError:
            raise Unauthenticated("The token has expired. Give one that is still good") from None
        except jwt.ImmatureSignatureError:
            raise Unauthenticated("The token isn't good yet. Give one that is") from None
        except (jwt.PyJWTError, KeyError, ValueError, TypeError):
            return None
        return (name, until) if isinstance(name, str) and NAME.fullmatch(name) else None

    def _read(self) -> _Keys:
        allowed = "a file with a public key as PEM, or with a JWKS of public keys, that this server may read"
        try:
            content = self._file.read_bytes()
            return _Keys(_of_jwks(content) if content.lstrip()[:1] == b"{" else {"": _of_pem(content)})
        except (OSError, ValueError, KeyError, TypeError, jwt.PyJWTError) as error:
            raise InvalidParameter(as_set("access.jwt.keys"), str(self._file), allowed) from error


def _name(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def algorithms(text: str) -> list[str]:
    """Those of `access.jwt.algorithms`. Raises InvalidParameter."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in ALGORITHMS:
            raise InvalidParameter(as_set("access.jwt.algorithms"), name, ", ".join(ALGORITHMS))
    return names


def _of_pem(content: bytes) -> Any:
    if _PRIVATE.encode() in content:
        raise ValueError("a private key has no place in here")
    if b"BEGIN CERTIFICATE" in content:
        return x509.load_pem_x509_certificate(content).public_key()
    return serialization.load_pem_public_key(content)


def _of_jwks(content: bytes) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in json.loads(content)["keys"]:
        if one.get("use", "sig") != "sig":
            continue
        if one["kty"] == "oct" or "d" in one:
            raise ValueError("a secret has no place in here")
        key = jwt.PyJWK(one)
        # One that says its algorithm is good for no other. Without an id it is the only one.
        found[one.get("kid") or f"key {len(found)}"] = key if "alg" in one else key.key
    if not found:
        raise ValueError("no keys")
    return found
