"""Errors of caikit_pt as caikit passes them on to a caller: with their gRPC status and clean text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from caikit_pt.errors import CaikitPtError
from caikit_pt.refusals import refused


@contextmanager
def caikit_errors() -> Iterator[None]:
    """Raises CaikitRuntimeException in the place of a CaikitPtError, which becomes its cause. It counts as
    a refusal."""
    try:
        yield
    except CaikitPtError as error:
        import grpc
        from caikit.runtime.types.caikit_runtime_exception import CaikitRuntimeException

        refused(error)
        raise CaikitRuntimeException(grpc.StatusCode[error.status], str(error)) from error
