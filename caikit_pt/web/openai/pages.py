"""Lists as OpenAI pages them: so many behind an id, and whether there are more."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from caikit_pt.web.openai.fields import Fields
from caikit_pt.web.refusal import Refused

_WHOLE = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Page:
    """What of a list is asked for: up to `limit` behind the id `after`."""

    after: str
    limit: int

    @classmethod
    def asked(cls, fields: Fields, limit: int, most: int) -> Page:
        """Takes both fields. Raises Refused."""
        given = fields.text("limit")
        if given is not None and (not _WHOLE.fullmatch(given) or not 1 <= int(given) <= most):
            raise fields.refusal("limit", given, f"a whole number from 1 to {most:,}")
        return cls(fields.text("after") or "", int(given) if given else limit)

    def of(self, found: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The page of all that were `found`. Raises Refused where none of them is `after`."""
        ids = [one["id"] for one in found]
        if self.after and self.after not in ids:
            raise Refused(f"There is no {self.after!r} in this list", "after", "NOT_FOUND")
        behind = found[ids.index(self.after) + 1 :] if self.after else found
        return page(behind[: self.limit], len(behind) > self.limit)


def page(data: Sequence[dict[str, Any]], has_more: bool) -> dict[str, Any]:
    """A list as OpenAI has it."""
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {"object": "list", "data": list(data), "first_id": first, "last_id": last, "has_more": has_more}
