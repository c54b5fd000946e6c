"""How a command ends: exit codes, and what can't be carried out."""

from __future__ import annotations

DONE, FAILED, USAGE, WAS_CANCELED, UNREACHABLE, NOT_BETTER, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130


class WrongCommand(Exception):
    """A command that can't be carried out as it stands."""
