"""Server-sent events as a browser reads them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2


@contextmanager
def heard(web: httpx2.Client, path: str, **options: Any) -> Iterator[Iterator[tuple[str, str, Any]]]:
    """The events behind `path`: kind, id and data."""
    with web.stream("GET", path, **options) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield events_of(answer.iter_lines())


def events_of(lines: Iterator[str]) -> Iterator[tuple[str, str, Any]]:
    """Kind, id and data of each."""
    kind, id, data = "message", "", ""
    for line in lines:
        name, _, value = line.partition(": ")
        if name == "event":
            kind = value
        elif name == "id":
            id = value
        elif name == "data":
            data += value
        elif not line and data:
            yield kind, id, json.loads(data)
            kind, id, data = "message", "", ""
