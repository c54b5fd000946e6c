"""The fields of a request: each is taken by its name, and what nobody takes is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from typing import Any

from starlette.requests import Request

from caikit_pt.errors import shown
from caikit_pt.web.refusal import Refused

WARNING = "x-caikit-pt-warning"
_LONGEST_WARNING = 1000
_DEEPEST = 64


class Fields:
    """`values` of an object that stands in `path`. Whatever is taken is gone; null counts as unset."""

    def __init__(self, values: Mapping[str, Any], path: str = "") -> None:
        self._left = {name: value for name, value in values.items() if value is not None}
        self._path = path
        self.ignored: list[str] = []

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def names(self) -> list[str]:
        """Of those that are left."""
        return list(self._left)

    def any(self, name: str) -> Any:
        """The value, whatever it is; None where it is unset."""
        return self._left.pop(name, None)

    def text(self, name: str) -> str | None:
        """Raises Refused where it isn't one."""
        return self._of(str, name, "text")  # type: ignore[no-any-return]

    def whole(self, name: str) -> int | None:
        """Raises Refused where it isn't one."""
        return self._of(int, name, "a whole number")  # type: ignore[no-any-return]

    def number(self, name: str) -> float | None:
        """Raises Refused where it isn't one."""
        found = self._of((int, float), name, "a number")
        try:
            return None if found is None else float(found)
        except OverflowError:
            raise self.refusal(name, found, "a number") from None

    def flag(self, name: str) -> bool | None:
        """Raises Refused where it isn't one."""
        return self._of(bool, name, "true or false")  # type: ignore[no-any-return]

    def object(self, name: str) -> Fields:
        """Those of an object; none where it is unset. Raises Refused where it isn't one."""
        found = self._of(dict, name, "an object")
        return Fields(found or {}, self.path(name))

    def texts(self, name: str) -> list[str]:
        """Of a list of texts, or of one. Raises Refused."""
        found = self.any(name)
        if found is None:
            return []
        given = [found] if isinstance(found, str) else found
        if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
            raise self.refusal(name, found, "text, or a list of texts")
        return given

    def same(self, name: str, *defaults: Any, why: str = "isn't supported here") -> None:
        """Raises Refused where it has another value than one of `defaults`, or is set at all."""
        found = self.any(name)
        if found is not None and not any(found == one and type(found) is type(one) for one in defaults):
            allowed = " or ".join([*(shown(one) for one in defaults), "unset"])
            raise Refused(f"{self.path(name)} {why}. Allowed: {allowed}", self.path(name))

    def ignore(self, *names: str) -> None:
        """What clients send along, and what changes no answer here: it is warned of."""
        for name in names:
            if self.any(name) is not None:
                self.ignored.append(self.path(name))

    def end(self) -> None:
        """Raises Refused where any is left."""
        for name, value in self._left.items():
            told = f"{shown(self.path(name))} (with {shown(value)}) is no field that is known here"
            raise Refused(told, self.path(name), reason="UNKNOWN_FIELD")

    def path(self, name: str) -> str:
        """A field as an error has it."""
        return f"{self._path}.{name}" if self._path else name

    def refusal(self, name: str, value: Any, allowed: str) -> Refused:
        """In the words of the server's own."""
        field = self.path(name)
        return Refused(f"{field}: {shown(value)} is not allowed. Allowed: {allowed}", field)

    def _of(self, kind: Any, name: str, allowed: str) -> Any:
        found = self.any(name)
        if found is None or (isinstance(found, kind) and (kind is bool or not isinstance(found, bool))):
            return found
        raise self.refusal(name, found, allowed)


async def fields_of(request: Request, optional: bool = False) -> Fields:
    """Those of a body in JSON, which may be missing where it is `optional`. Raises Refused."""
    body = await request.body()
    if not body and optional:
        return Fields({})
    return Fields(await asyncio.to_thread(_object_in, body))


def _object_in(body: bytes) -> Mapping[str, Any]:
    """Others are answered meanwhile. Raises Refused."""
    try:
        found = json.loads(body.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise Refused("The body isn't JSON as it should be", reason="INVALID_JSON") from None
    if not isinstance(found, dict):
        raise Refused("The body should be an object of JSON", reason="INVALID_JSON")
    if body.count(b"[") + body.count(b"{") > _DEEPEST and not _is_shallow(found):
        raise Refused(f"The body is nested more than {_DEEPEST} times", reason="INVALID_JSON")
    if b"\\ud" in body.lower():
        _check_whole(found)
    return found


def asked_of(request: Request) -> Fields:
    """Those of the query. All are text."""
    return Fields(dict(request.query_params))


def warnings_of(ignored: Iterable[str], others: Iterable[str] = ()) -> dict[str, str]:
    """The header that tells of fields that were ignored, and of what else is unlikely to be meant."""
    named = ", ".join(dict.fromkeys(ignored))
    told = "; ".join([*([f"ignored: {named}"] if named else []), *others])
    # A header has one line of ASCII.
    plain = "".join(one if " " <= one <= "~" else "?" for one in told)
    return {WARNING: plain[:_LONGEST_WARNING]} if told else {}


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def _is_shallow(value: Any) -> bool:
    """Whether what is said of it can be said without going too deep."""
    level = [value]
    for _ in range(_DEEPEST):
        inner = [one.values() if isinstance(one, dict) else one for one in level]
        level = [each for one in inner for each in one if isinstance(each, (dict, list))]
        if not level:
            return True
    return False


def _check_whole(found: Mapping[str, Any]) -> None:
    """Raises Refused for half a character, a surrogate without the other: nothing can be made of it."""
    for name, value in found.items():
        try:
            json.dumps([name, value], ensure_ascii=False).encode()
        except UnicodeEncodeError:
            named = name if name.isprintable() else "a field"
            told = f"{named}: it has half a character, a surrogate without the other"
            raise Refused(told, named if named == name else "") from None
