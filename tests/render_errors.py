"""Renders docs/errors.md from the tree of errors: `python -m tests.render_errors docs/errors.md`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

from caikit_pt.errors import CaikitPtError

_HEAD = """# Errors

Rendered from `caikit_pt/errors.py` by `make docs`; a test compares.

Every RPC that fails has a status, a text for a person and, in the trailing metadata
`grpc-status-details-bin`, a [google.rpc.Status](https://google.aip.dev/193) for a program:

- `ErrorInfo`: `reason` from this page, `domain` `caikit_pt`, and in `metadata` the `request_id` that finds
  the request in the server's log, with `field` where there is one. A client may name its request by
  `x-request-id` in its metadata (up to 128 visible ASCII characters).
- `BadRequest`: the `field` of the request that is refused, with the text.
- `RetryInfo`: after how long the same request may succeed. Where there is none, it won't unless something
  else changes.

Without details end, since nobody of this server is asked: a request whose message doesn't arrive in
`max_message_seconds` (health: 5), as CANCELLED; one of more bytes than `grpc.max_receive_message_length`, or
with more metadata than `grpc.max_metadata_size`, as RESOURCE_EXHAUSTED; one beyond
`runtime.grpc.maximum_concurrent_rpcs`, as RESOURCE_EXHAUSTED (unset, it is more than
all RPCs that are let in); one that comes on a connection that has just been told to end, or a stream of
requests that is silent then, as CANCELLED; and what a client ends itself. Of more than twelve health checks
of one host at the same time the first is CANCELLED for the next.

What caikit refuses itself has the name of its status as its reason. Reasons stay what they are in later
releases. In Python they are `reason`, `request_id`, `field` and `retry_seconds` of `ServerError`.

| reason | status | again after | meaning |
| --- | --- | ---: | --- |
"""


def render() -> str:
    """The whole page."""
    return _HEAD + "".join(f"| {' | '.join(row)} |\n" for row in _rows(CaikitPtError))


def kinds_of(kind: type[CaikitPtError]) -> list[type[CaikitPtError]]:
    """The kinds below one that a caller may see; others derive what stays in their process."""
    return [one for one in kind.__subclasses__() if one.__module__ == CaikitPtError.__module__]


def _rows(kind: type[CaikitPtError], depth: int = 0) -> Iterator[tuple[str, ...]]:
    """A kind, and under it those that are known in more detail."""
    again = "" if kind.retry_seconds is None else f"{kind.retry_seconds:g} s"
    meaning = (inspect.getdoc(kind) or "").split("\n\n")[0].replace("\n", " ")
    if kind is not CaikitPtError:
        indent = "&nbsp;&nbsp;" * (depth - 1)
        yield f"{indent}`{kind.reason}`", f"`{kind.status}`", again, meaning
    for one in kinds_of(kind):
        yield from _rows(one, depth + 1)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(render(), "utf-8")
