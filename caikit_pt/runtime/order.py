"""What a process of trainings is told: a JSON object a line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# The two commands: an order, as plain values; and the id of a job that is to end behind a snapshot.
RUN, LEAVE = "run", "leave"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One run of a job.

    `fence`: its number. `environment`: what its process has to see. `seconds`: between two snapshots. `told`:
    the update that the server has heard of last. `alone`: its process has no other, and ends with it; else
    one of this machine that is still at the job, as that of a server that was killed may be, is waited for.
    `shared`: another server may take the job over; the process leaves it when it sees a later run.
    `workers`: how many processes share its updates, this one among them, and `elsewhere` how many of these
    are on other machines; others begin them.
    """

    job: str
    folder: str
    fence: int
    device: str
    environment: Mapping[str, str]
    joined: bool
    seconds: float
    told: int
    alone: bool
    shared: bool
    workers: int = 1
    elsewhere: int = 0
