"""Who asks over HTTP: the token that goes on to the server, which alone knows whose it is."""

from __future__ import annotations

import base64
import binascii
import re

from starlette.requests import HTTPConnection

_BEARER = re.compile(r"bearer +([\x21-\x7e]{1,8192})", re.IGNORECASE)
_BASIC = re.compile(r"basic +([A-Za-z0-9+/=]{1,12000})", re.IGNORECASE)
_TOKEN = re.compile(r"[\x21-\x7e]{1,8192}")


def token_of(request: HTTPConnection) -> str:
    """The token in `Authorization: Bearer`, as OpenAI's clients send it, or the password of `Basic`, which
    browsers ask a person for and send with every request, an EventSource's too; empty without either."""
    header = request.headers.get("authorization", "")
    if bearer := _BEARER.fullmatch(header):
        return bearer[1]
    if basic := _BASIC.fullmatch(header):
        return _password(basic[1])
    return ""


def _password(encoded: str) -> str:
    try:
        _, _, password = base64.b64decode(encoded, validate=True).decode("ascii").partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return ""
    return password if _TOKEN.fullmatch(password) else ""
