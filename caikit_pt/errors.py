"""Every error that caikit_pt raises on purpose, each with the gRPC status a caller sees (docs/errors.md).

This module knows nothing of gRPC: a status is the name of one, and `status.py` and `runtime/` turn
the name into what caikit expects.
"""

from __future__ import annotations

import re

_EXCERPT = 20  # characters
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
# What stands in front of a file's name in its path; no part of an address. Whoever asks needn't know it.
_FOLDERS = re.compile(r"(?<![\w.:/])/(?:[^\s/'\"]+/)+")


class CaikitPtError(Exception):
    """Anything that caikit_pt refuses or fails at, with a text written for the user."""

    status = "INTERNAL"
    # After which the same request may succeed; None: nobody knows, or it never will.
    retry_seconds: float | None = None

    # For programs: INVALID_PARAMETER ... It stays what it is in later releases.
    reason = "CAIKIT_PT_ERROR"

    def __init_subclass__(cls) -> None:
        cls.reason = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).upper()


class InvalidParameter(CaikitPtError):
    """A field of a request holds what it may not hold.

    The text always has the same three parts: the field, the value given, what is allowed.
    """

    status = "INVALID_ARGUMENT"

    def __init__(self, field: str, value: object, allowed: str) -> None:
        super().__init__(f"{field}: {self.told(value)} is not allowed. Allowed: {allowed}")
        self.field = field
        self.value = value
        self.allowed = allowed

    @staticmethod
    def told(value: object) -> str:
        """`value` as it stands in the text."""
        return shown(value)


class InvalidRecord(InvalidParameter):
    """A training record can't be used.

    `value` says which and why, in words of our own that may hold an `excerpt`; no more of a record's
    text is part of the message, since it may be private.
    """

    @staticmethod
    def told(value: object) -> str:
        return str(value)


class UnknownToken(InvalidParameter):
    """A text has a token that the base model's tokenizer knows, and its embeddings don't."""

    def __init__(self, field: str, piece: str, allowed: str) -> None:
        super().__init__(field, piece[:20], allowed)


class UnreadableText(InvalidParameter):
    """The base model's tokenizer gives up on a text; `value` is an `excerpt` of it."""

    @staticmethod
    def told(value: object) -> str:
        return str(value)


class InvalidSourcePrompt(InvalidParameter):
    """A source prompt is missing, outside its root, unreadable, other than it was published, or of another
    shape or base model."""


class BaseModelMismatch(CaikitPtError):
    """A tuned prompt was trained on another base model than the one found under its name."""

    status = "FAILED_PRECONDITION"


class BaseModelUnavailable(CaikitPtError):
    """The base model of a tuned prompt isn't there any more, or can't be read: no request is to blame."""

    status = "FAILED_PRECONDITION"


class DamagedArtifact(CaikitPtError):
    """A saved prompt lacks a file or holds something that `save` never writes."""

    status = "DATA_LOSS"


class TrainingDiverged(CaikitPtError):
    """The loss is no longer a finite number, so there is no prompt worth saving."""

    status = "ABORTED"


class TrainingInterrupted(CaikitPtError):
    """A training was told to stop. It goes on from its last snapshot."""

    status = "UNAVAILABLE"


class TrainingFailed(CaikitPtError):
    """A library failed in the midst of a training, for a reason that nobody has foreseen."""


class TooManyRequests(CaikitPtError):
    """As many requests wait as may wait."""

    status = "RESOURCE_EXHAUSTED"
    retry_seconds = 1.0


class OutOfMemory(CaikitPtError):
    """The device has no room for a request, not even alone."""

    status = "RESOURCE_EXHAUSTED"
    retry_seconds = 5.0

    def __init__(self, text: str, device: str = "", missing_bytes: int = 0) -> None:
        """`missing_bytes` more would have to be free on `device`, as torch calls it; 0: nobody knows."""
        super().__init__(text)
        self.device, self.missing_bytes = device, missing_bytes


class TooManyOpenFiles(CaikitPtError):
    """The server has as many files and connections open as it may, and can't read a file now."""

    status = "RESOURCE_EXHAUSTED"
    retry_seconds = 1.0


class AnswerNotFinite(CaikitPtError):
    """The model's scores of the next token aren't finite numbers, so that there is no answer."""

    status = "FAILED_PRECONDITION"


class WaitedTooLong(CaikitPtError):
    """A request has waited for its turn as long as it may."""

    status = "DEADLINE_EXCEEDED"
    retry_seconds = 5.0


class BackendUnavailable(CaikitPtError):
    """The server that answers for a base model can't be reached, or fails."""

    status = "UNAVAILABLE"
    retry_seconds = 5.0


class BackendMismatch(CaikitPtError):
    """The server that answers for a base model isn't set up for soft prompts, or has another model."""

    status = "FAILED_PRECONDITION"


class StateUnavailable(CaikitPtError):
    """The jobs in `state_dir` can't be read or written: locked, full, in use, of a later release; or a prompt
    can't be published."""

    status = "UNAVAILABLE"
    retry_seconds = 5.0


class TooManyJobs(CaikitPtError):
    """As many trainings are queued as may be."""

    status = "RESOURCE_EXHAUSTED"
    retry_seconds = 60.0


class OverCapacity(CaikitPtError):
    """As many RPCs of a kind are under way as this server takes on."""

    status = "RESOURCE_EXHAUSTED"
    retry_seconds = 1.0


class ServerStopping(CaikitPtError):
    """This server has been told to end. Another one, or the next, answers."""

    status = "UNAVAILABLE"
    retry_seconds = 1.0


class ClientLeft(CaikitPtError):
    """Nobody waits for an answer any more: what was done for it is given up."""

    status = "CANCELLED"


class ClosedDoor(CaikitPtError):
    """An RPC that the settings of this server leave out."""

    status = "UNIMPLEMENTED"


class UnknownRpc(CaikitPtError):
    """There is no RPC of this name."""

    status = "UNIMPLEMENTED"


class QuotaExceeded(CaikitPtError):
    """A principal, or all together, have used what `quotas` gives them."""

    status = "RESOURCE_EXHAUSTED"

    def __init__(self, quota: str, used: str, allowed: str, retry_seconds: float | None) -> None:
        """`retry_seconds` None: time alone won't help."""
        again = "" if retry_seconds is None else f" Try again in {max(retry_seconds, 0.001):.3g} seconds"
        super().__init__(f"{quota}: {used}, and {allowed} is allowed.{again}")
        self.retry_seconds = retry_seconds


class Unauthenticated(CaikitPtError):
    """Nobody knows who asks."""

    status = "UNAUTHENTICATED"


class NotAllowed(CaikitPtError):
    """Whoever asks may see what this is about, and may not do this with it."""

    status = "PERMISSION_DENIED"


class UnknownModel(CaikitPtError):
    """Nothing has been published under a name, or nothing that may be seen."""

    status = "NOT_FOUND"

    def __init__(self, name: str, told: str = "not found") -> None:
        # The same of what there isn't and of what may not be seen.
        super().__init__(f"Model {shown(name)} {told}")


class Unforeseen(CaikitPtError):
    """A defect of this program. The log has it, by the id that the text ends with."""

    def __init__(self, request_id: str) -> None:
        super().__init__(
            f"Something failed that nobody has foreseen. The server's log has it as {request_id}"
        )


class UnknownJob(CaikitPtError):
    """No training with this id was ever accepted."""

    status = "NOT_FOUND"

    def __init__(self, id: str) -> None:
        super().__init__(f"Unknown training_id: {shown(id)}")


def in_short(error: BaseException, limit: int = 200) -> str:
    """The kind of a library's error and what it says first, as part of an error text."""
    told = without_folders(_COLOURS.sub("", str(error)))
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    # Many a first line ends with a colon, and says nothing without the next.
    said = " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1])
    text = f"{type(error).__name__}: {said}" if said else type(error).__name__
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def without_folders(text: str) -> str:
    """`text` with the names of files alone where it has their paths."""
    return _FOLDERS.sub("", text)


def shown(value: object, limit: int = 80) -> str:
    """`value` as it stands in an error text: quoted where it is text, cut where it is long."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def excerpt(text: str) -> str:
    """The first characters of what a user sent, in quotes that nothing else in an error text has."""
    cut = repr(text[:_EXCERPT])[1:-1].replace("“", '"').replace("”", '"')
    return f"“{cut}{'…' * (len(text) > _EXCERPT)}”"


def without_excerpts(text: str) -> str:
    """An error text as it may stand in a log."""
    return re.sub("“.*?”", "“…”", text)
