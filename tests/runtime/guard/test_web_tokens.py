"""JSON Web Tokens: which are believed, and why others aren't."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm

from caikit_pt.errors import InvalidParameter, Unauthenticated
from caikit_pt.runtime.guard import web_tokens
from caikit_pt.runtime.guard.web_tokens import WebTokens
from caikit_pt.settings import Jwt

to_jwk: Any = ECAlgorithm.to_jwk
KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())


def public(key: Any) -> bytes:
    encoded: bytes = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return encoded


def claims(**changed: Any) -> dict[str, Any]:
    told = {"sub": "ada", "iss": "https://issuer", "aud": "caikit_pt", "exp": time.time() + 600, **changed}
    return {name: value for name, value in told.items() if value is not None}


def signed(key: Any = KEY, algorithm: str = "ES256", id: str | None = None, **changed: Any) -> str:
    return jwt.encode(claims(**changed), key, algorithm, headers={"kid": id} if id else None)


@pytest.fixture
def wanted(tmp_path: Path) -> Jwt:
    file = tmp_path / "keys"
    file.write_bytes(public(KEY))
    return Jwt(keys=str(file), issuer="https://issuer", audience="caikit_pt")


def test_one_that_is_good(wanted: Jwt) -> None:
    tokens = WebTokens(wanted)
    assert tokens.principal(signed()) == "ada"
    assert tokens.principal(signed(aud=["others", "caikit_pt"])) == "ada"
    assert WebTokens(replace(wanted, principal_claim="email")).principal(signed(email="a@b")) == "a@b"


def unsigned() -> str:
    return jwt.encode(claims(), "", "none")


def forged() -> str:
    """Signed with the public key as if it were a secret of both."""
    import base64
    import hashlib
    import hmac

    def part(content: bytes) -> str:
        return base64.urlsafe_b64encode(content).rstrip(b"=").decode()

    head = part(json.dumps({"alg": "HS256", "typ": "JWT"}).encode())
    text = f"{head}.{part(json.dumps(claims()).encode())}"
    return f"{text}.{part(hmac.new(public(KEY), text.encode(), hashlib.sha256).digest())}"


BAD: dict[str, Callable[[], str]] = {
    "by another key": lambda: signed(OTHER),
    "unsigned": unsigned,
    "by the public key": forged,
    "of another issuer": lambda: signed(iss="https://other"),
    "for others": lambda: signed(aud="others"),
    "for anybody": lambda: signed(aud=None),
    "for ever": lambda: signed(exp=None),
    "of nobody": lambda: signed(sub=None),
    "of a name with a line": lambda: signed(sub="a\nb"),
    "of an empty name": lambda: signed(sub=""),
    "cut": lambda: signed()[:-4],
    "no token": lambda: "abc",
    "two dots": lambda: "..",
    "with another algorithm": lambda: jwt.encode(
        claims(), rsa.generate_private_key(public_exponent=65537, key_size=2048), "RS256"
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_those_that_are_not_believed(wanted: Jwt, case: str) -> None:
    assert WebTokens(wanted).principal(BAD[case]()) is None


def test_what_was_good_or_will_be_is_told(wanted: Jwt) -> None:
    tokens = WebTokens(wanted)
    with pytest.raises(Unauthenticated, match="has expired"):
        tokens.principal(signed(exp=time.time() - 60))
    with pytest.raises(Unauthenticated, match="isn't good yet"):
        tokens.principal(signed(nbf=time.time() + 60))


def test_what_is_remembered_expires_nevertheless(wanted: Jwt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_tokens, "_LEEWAY", 0.0)
    tokens, token = WebTokens(wanted), signed(exp=int(time.time()) + 2)
    assert tokens.principal(token) == "ada"
    checked = jwt.decode
    monkeypatch.setattr(jwt, "decode", lambda *_, **__: pytest.fail("it is remembered"))
    assert tokens.principal(token) == "ada"
    monkeypatch.setattr(jwt, "decode", checked)
    time.sleep(2.1)
    with pytest.raises(Unauthenticated, match="has expired"):
        tokens.principal(token)


def test_no_more_are_remembered_than_so_many(wanted: Jwt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_tokens, "_MOST_REMEMBERED", 3)
    tokens = WebTokens(wanted)
    for number in range(6):
        tokens.principal(signed(sub=f"p{number}"))
    assert len(tokens._known) == 3


def test_keys_that_change(wanted: Jwt, tmp_path: Path) -> None:
    """A set of keys with ids; one that is withdrawn isn't believed from then on, remembered or not."""
    file = Path(wanted.keys)

    def publish(**keys: Any) -> None:
        found = [{**to_jwk(key.public_key(), as_dict=True), "kid": id} for id, key in keys.items()]
        new = tmp_path / "new"
        new.write_text(json.dumps({"keys": found}))
        new.replace(file)

    publish(a=KEY, b=OTHER)
    tokens = WebTokens(wanted)
    first, second = signed(id="a"), signed(OTHER, id="b")
    assert (tokens.principal(first), tokens.principal(second)) == ("ada", "ada")
    assert tokens.principal(signed(OTHER, id="a")) is None
    assert tokens.principal(signed()) is None
    publish(b=OTHER)
    assert (tokens.principal(first), tokens.principal(second)) == (None, "ada")
    file.write_text("{")
    assert tokens.principal(second) == "ada"


PRIVATE = KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
)


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b'{"keys": []}', b"abc", PRIVATE, b'{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}'],
)
def test_files_without_public_keys(wanted: Jwt, content: bytes) -> None:
    Path(wanted.keys).write_bytes(content)
    with pytest.raises(InvalidParameter, match=r"access\.jwt\.keys: .* a public key as PEM"):
        WebTokens(wanted)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"audience": ""}, r"access\.jwt\.audience: .* set, since access\.jwt\.keys is"),
        ({"issuer": ""}, r"access\.jwt\.issuer"),
        ({"algorithms": "ES256, HS256"}, r"access\.jwt\.algorithms: 'HS256' .* RS256"),
        ({"algorithms": "none"}, r"access\.jwt\.algorithms: 'none'"),
    ],
)
def test_settings_that_would_believe_anybody(wanted: Jwt, changed: dict[str, str], told: str) -> None:
    with pytest.raises(InvalidParameter, match=told):
        WebTokens(replace(wanted, **changed))


def test_a_look_knows_whoever_was_checked_a_moment_ago(wanted: Jwt, monkeypatch: pytest.MonkeyPatch) -> None:
    """No signature is checked for it: whose turn it is is asked for every RPC, in one thread."""
    tokens, token = WebTokens(wanted), signed()
    assert tokens.known(token) is None
    name = tokens.principal(token)
    assert name
    monkeypatch.setattr(tokens, "_checked", None)
    assert tokens.known(token) == name
    assert tokens.known(signed(sub="another")) is None
