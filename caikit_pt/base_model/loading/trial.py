"""What stands between a folder and a frozen model is tried, and whatever it raises becomes a refusal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from caikit_pt.base_model.loading.memory import is_out_of_memory
from caikit_pt.errors import CaikitPtError, InvalidParameter, OutOfMemory, in_short
from caikit_pt.paths import check_scarcity


@contextmanager
def trial(name: str, what: str) -> Iterator[None]:
    """Inside, the base model `name` is tried; `what` says how, as in "a model that passes this trial: ...".

    Raises InvalidParameter in the place of any error but caikit_pt's own, which pass; OutOfMemory and
    TooManyOpenFiles where there was no memory or no descriptor, which says nothing of the model.
    """
    try:
        yield
    except CaikitPtError:
        raise
    except Exception as error:  # files, transformers and models fail in every way
        if is_out_of_memory(error):
            raise OutOfMemory(
                f"No memory for {what} of base model {name}: {in_short(error)}. Free some, or take a "
                "torch_dtype of two bytes or another device"
            ) from error
        check_scarcity(error)
        raise InvalidParameter(
            "base_model",
            name,
            f"a model that passes this trial: {what}. It failed with {in_short(error)}. {_what_to_do(error)}",
        ) from error


def _what_to_do(error: Exception) -> str:
    from transformers import __version__

    if isinstance(error, ImportError) or "pip install" in str(error):
        return "Install what is missing beside caikit_pt and start again, or take another base model"
    if isinstance(error, OSError):
        return "Fetch its files again, or take another base model"
    return f"Take another base model, or another release of transformers than {__version__}"
