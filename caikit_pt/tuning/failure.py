"""What ends a training becomes an error that says what to do, whatever library it comes from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from caikit_pt.base_model.loading.memory import is_out_of_memory
from caikit_pt.errors import CaikitPtError, OutOfMemory, StateUnavailable, TrainingFailed, in_short


@contextmanager
def told() -> Iterator[None]:
    """Raises a CaikitPtError in the place of any other exception, which becomes its cause."""
    try:
        yield
    except CaikitPtError:
        raise
    except Exception as error:
        raise explained(error) from error


def explained(error: BaseException) -> CaikitPtError:
    """`error` for the user of the training that it ended."""
    if is_out_of_memory(error):
        return OutOfMemory(
            f"Out of memory: {in_short(error)}. Train when less else runs, with a smaller max_source_length, "
            "max_target_length or num_virtual_tokens, or with a torch_dtype of two bytes"
        )
    if isinstance(error, OSError):
        return StateUnavailable(
            f"The training can't read or write its files: {in_short(error)}. Mend that and submit it again"
        )
    return TrainingFailed(
        f"The training failed with {in_short(error)}. Submit it again; if it fails again, take another base "
        "model or other parameters, and report it with the log of the training"
    )
