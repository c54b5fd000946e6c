"""Connections that are let in: each has a file descriptor, and files need theirs."""

from __future__ import annotations

import resource

from caikit_pt.errors import InvalidParameter
from caikit_pt.settings import as_set

# For prompts, base models, records, jobs and the database, and what libraries keep open.
DESCRIPTORS_BESIDE = 256


def raise_limit() -> list[str]:
    """Takes as many descriptors as this process may have, which in many places begins with 1,024; for the log
    where it can't."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        if soft != hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError) as error:
        return [f"this process may open {soft} files, and not {hard}: {error}"]
    return []


def most_connections(wanted: int, addresses: int) -> int:
    """How many each of `addresses` takes: `wanted`, or what descriptors there are for.

    Raises InvalidParameter where there are none.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    most = (
        wanted if limit == resource.RLIM_INFINITY else min(wanted, (limit - DESCRIPTORS_BESIDE) // addresses)
    )
    if most < 1:
        raise InvalidParameter(as_set("max_connections"), wanted, f"set {_for(wanted, addresses, limit)}")
    return most


def doubts(wanted: int, addresses: int) -> list[str]:
    """For the log, where fewer are let in than are wanted. Raises as `most_connections` does."""
    most = most_connections(wanted, addresses)
    if most == wanted:
        return []
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return [
        f"max_connections: {most} instead of {wanted}; {wanted} are let in {_for(wanted, addresses, limit)}"
    ]


def _for(wanted: int, addresses: int, limit: int) -> str:
    needed = wanted * addresses + DESCRIPTORS_BESIDE
    return f"where this process may open {needed} files (it may open {limit}; ulimit -Hn, LimitNOFILE)"
