"""A line of the table: what was looked at, what was found, and whether that is what it should be."""

from __future__ import annotations

from dataclasses import dataclass

MET, MISSED = "met", "missed"
# No figure: it failed, there was no time for it, or what is measured doesn't exist here.
FAILED, NOT_RUN, NOT_THERE = "failed", "not run", "not there"
MACHINE = "machine"


@dataclass(frozen=True, slots=True)
class Row:
    """`part` is the section that it belongs to; `goal` may be empty, and then so is `verdict`."""

    part: str
    what: str
    found: str
    goal: str = ""
    verdict: str = ""


class NotThere(Exception):
    """What was to be measured doesn't exist in this release or on this device; it says why."""


def judged(part: str, what: str, found: str, goal: str, good: bool) -> Row:
    """A row with a goal."""
    return Row(part, what, found, goal, MET if good else MISSED)
