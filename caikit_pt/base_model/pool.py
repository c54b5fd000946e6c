"""One frozen copy of a base model for each (weights, data type, device), shared by all who need it.

A copy lives as long as somebody holds it: a tuned prompt that is being served, a training that
runs. Loads wait for one another: while `from_pretrained` runs it changes the default data type and
the tying of weights for the whole process, so that two at once spoil each other.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Collection
from typing import TYPE_CHECKING

from caikit_pt import ending
from caikit_pt.base_model.checkpoint import CAUSAL, Checkpoint
from caikit_pt.base_model.memory import free_memory_of
from caikit_pt.base_model.trial import trial
from caikit_pt.base_model.weights import read_weights
from caikit_pt.base_model.work import work_of
from caikit_pt.errors import InvalidParameter
from caikit_pt.parameters.tuning import DTYPES
from caikit_pt.settings import Settings

if TYPE_CHECKING:
    from caikit_pt.base_model.frozen import BaseModel

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
        key = _key(checkpoint, dtype, device)
        if (key, frozenset(parts)) in self._trains:
            return
        if key not in self._models and not _is_small(checkpoint, dtype, device):
            _LOG.info("%s is large, and is tried when its training begins", checkpoint.name)
            return
        self.get(checkpoint, dtype, device).check_training(parts)
        self._trains.add((key, frozenset(parts)))

    def __len__(self) -> int:
        """Copies in memory now."""
        return len(self._models)


def _key(checkpoint: Checkpoint, dtype: str, device: str) -> _Key:
    return str(checkpoint.directory), checkpoint.fingerprint, dtype, device


def _is_small(checkpoint: Checkpoint, dtype: str, device: str) -> bool:
    import torch

    weights = work_of(checkpoint).weights * int(getattr(torch, dtype).itemsize)
    return weights <= _SHARE_TO_TRY * free_memory_of(device)


POOL = BaseModelPool()


def import_libraries() -> None:
    """Imports all that requests need. transformers' lazy imports fail when threads race for them."""
    import huggingface_hub
    import torch
    import transformers
    from transformers.generation import logits_process
    from transformers.models.auto import modeling_auto

    lazy = ("AutoConfig", "AutoModelForCausalLM", "AutoModelForSeq2SeqLM", "AutoTokenizer")
    more = ("DynamicCache", "EncoderDecoderCache", "GenerationConfig")
    _ = [getattr(transformers, name) for name in (*lazy, *more)]
    _ = [torch.nn, huggingface_hub.snapshot_download, logits_process, modeling_auto]


def load(checkpoint: Checkpoint, dtype: str, device: str) -> BaseModel:
    """A new frozen copy of `checkpoint`. Almost everybody wants `POOL.get` instead.

    Raises InvalidParameter where the weights aren't whole, or the model fails one of its trials; OutOfMemory.
    """
    from caikit_pt.base_model.causal import CausalModel
    from caikit_pt.base_model.quicken import quicken
    from caikit_pt.base_model.self_test import check_itself
    from caikit_pt.base_model.seq2seq import Seq2SeqModel

    kind = CausalModel if checkpoint.family == CAUSAL else Seq2SeqModel
    with ending.waits_for_this():
        with _LOADING:
            model = read_weights(checkpoint, dtype)
        with trial(checkpoint.name, f"freezing it on {device}"):
            base = kind(checkpoint, model.to(device), checkpoint.tokenizer, quicken(model))
        check_itself(base)
        return base


def shared(checkpoint: Checkpoint, settings: Settings, dtype: str = "", device: str = "") -> BaseModel:
    """The one copy of `checkpoint` where and as a request, or else the settings, want it."""
    device = resolve_device(device, settings)
    return POOL.get(checkpoint, resolve_dtype(dtype, checkpoint, device, settings), device)


def resolve_device(asked: str, settings: Settings) -> str:
    """The device for a request: its own, else the setting, else cuda where there is one.

    Raises InvalidParameter where it is unknown or this machine lacks it.
    """
    import torch

    count = torch.cuda.device_count()
    device = asked or settings.device or ("cuda" if count else "cpu")
    devices = ["cpu", *(["cuda"] if count else []), *(f"cuda:{index}" for index in range(count))]
    if device not in devices:
        raise InvalidParameter("device", device, f"one of {', '.join(devices)} on this machine")
    return "cuda:0" if device == "cuda" else device


def resolve_dtype(asked: str, checkpoint: Checkpoint, device: str, settings: Settings) -> str:
    """The data type for a request: its own, else the setting, else what suits the device.

    bfloat16 and float16 on a CPU round differently from batch to batch and can change answers on
    near-ties, so float32 is the default there.
    """
    dtype = asked or settings.torch_dtype
    if not dtype:
        return "float32" if device == "cpu" else checkpoint.dtype
    if dtype not in DTYPES:
        raise InvalidParameter("torch_dtype", dtype, ", ".join(DTYPES))
    return dtype
