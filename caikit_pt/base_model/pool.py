"""One frozen copy of a base model for each (weights, data type, device), shared by all who need it.

A copy lives as long as somebody holds it: a tuned prompt that is being served, a training that
runs. Loads wait for one another: while `from_pretrained` runs it changes the default data type and
the tying of weights for the whole process, so that two at once spoil each other.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from caikit_pt import ending
from caikit_pt.base_model.loading.checkpoint import Checkpoint
from caikit_pt.base_model.loading.device import resolve_device, resolve_dtype
from caikit_pt.base_model.loading.memory import free_memory_of, release_memory
from caikit_pt.base_model.loading.trial import trial
from caikit_pt.base_model.loading.weights import read_weights
from caikit_pt.base_model.loading.work import weight_bytes
from caikit_pt.errors import OutOfMemory
from caikit_pt.settings import Settings

if TYPE_CHECKING:
    from caikit_pt.base_model.model import BaseModel

_LOG = logging.getLogger(__name__)
_Key = tuple[str, str, str, str]
# Of the free memory, so much may weights take that are loaded only to be tried.
_SHARE_TO_TRY = 0.5
_LOADING = threading.RLock()


class BaseModelPool:
    """Hands out base models, each loaded once."""

    def __init__(self) -> None:
        self._models: weakref.WeakValueDictionary[_Key, BaseModel] = weakref.WeakValueDictionary()
        # What has been seen to train. What fails is tried again: its files may have been mended.
        self._trains: set[tuple[_Key, frozenset[str]]] = set()

    def get(self, checkpoint: Checkpoint, dtype: str, device: str) -> BaseModel:
        """The one copy of `checkpoint` in `dtype` on `device`, loaded if nobody holds it yet."""
        key = _key(checkpoint, dtype, device)
        model = self._models.get(key)
        if model is not None:
            return model
        with _LOADING:
            # Whoever had the lock before may have loaded it.
            model = self._models.get(key)
            if model is None:
                model = self._models[key] = load(checkpoint, dtype, device)
            return model

    def check_training(self, checkpoint: Checkpoint, parts: Collection[str], dtype: str, device: str) -> None:
        """Tries a step of training with prompts on the sides `parts`, if nobody has yet in this process.

        Where nobody holds a copy one is loaded for it, and let go of; but not one that would take most of the
        memory that is free. Such a model is tried by its first training. Raises as `load` does, and
        InvalidParameter where the step fails.
        """
        from caikit_pt.base_model.trials.training import check_training

        key = _key(checkpoint, dtype, device)
        if (key, frozenset(parts)) in self._trains:
            return
        if key not in self._models and not is_small(checkpoint, dtype, device):
            _LOG.info("%s is large, and is tried when its training begins", checkpoint.name)
            return
        base = self.get(checkpoint, dtype, device)
        check_training(base.training, parts)
        self._trains.add((key, frozenset(parts)))

    def __len__(self) -> int:
        """Copies in memory now."""
        return len(self._models)

    @property
    def models(self) -> Sequence[BaseModel]:
        """The copies in memory now."""
        return [model for one in self._models.valuerefs() if (model := one()) is not None]


def _key(checkpoint: Checkpoint, dtype: str, device: str) -> _Key:
    return str(checkpoint.directory), checkpoint.fingerprint, dtype, device


def is_small(checkpoint: Checkpoint, dtype: str, device: str) -> bool:
    """Whether its weights take so little of the memory that is free that they may be loaded for a trial."""
    return weight_bytes(checkpoint, dtype) <= _SHARE_TO_TRY * free_memory_of(device)


def _check_memory(checkpoint: Checkpoint, dtype: str, device: str) -> None:
    """Raises OutOfMemory where the weights are more than there is: a system that has none left may end
    this process, and whatever else it does."""
    needed, free = weight_bytes(checkpoint, dtype), free_memory_of(device)
    if needed > free:
        # An allocator keeps what a base model had that is gone.
        release_memory(device)
        free = free_memory_of(device)
    if needed > free:
        raise OutOfMemory(
            f"No memory for base model {checkpoint.name}: its weights take {needed / 2**20:,.0f} MiB in "
            f"{dtype}, and {free / 2**20:,.0f} MiB are free on {device}. Free some, or take a torch_dtype of "
            "two bytes or another device",
            device,
            needed - free,
        )


POOL = BaseModelPool()


def load(checkpoint: Checkpoint, dtype: str, device: str) -> BaseModel:
    """A new frozen copy of `checkpoint`. Almost everybody wants `POOL.get` instead.

    Raises InvalidParameter where the weights aren't whole, or the model fails one of its trials; OutOfMemory.
    """
    from caikit_pt.base_model.frozen import freeze
    from caikit_pt.base_model.model import BaseModel
    from caikit_pt.base_model.trials.answers import check_answers

    with ending.waits_for_this():
        _check_memory(checkpoint, dtype, device)
        with _LOADING:
            model = read_weights(checkpoint, dtype)
        with trial(checkpoint.name, f"freezing it on {device}"):
            base = BaseModel(checkpoint, freeze(model.to(device)), checkpoint.tokenizer)
        check_answers(base.serving)
        return base


def shared(checkpoint: Checkpoint, settings: Settings, dtype: str = "", device: str = "") -> BaseModel:
    """The one copy of `checkpoint` where and as a request, or else the settings, want it."""
    device = resolve_device(device, settings)
    return POOL.get(checkpoint, resolve_dtype(dtype, checkpoint, device, settings), device)
