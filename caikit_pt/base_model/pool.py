"""One frozen copy of a base model for each (weights, data type, device), shared by all who need it.

A copy lives as long as somebody holds it: a tuned prompt that is being served, a training that
runs. Whoever asks while it is being loaded waits for that load.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from caikit_pt.base_model.checkpoint import CAUSAL, Checkpoint
from caikit_pt.errors import InvalidParameter
from caikit_pt.parameters.tuning import DTYPES
from caikit_pt.settings import Settings

if TYPE_CHECKING:
    from caikit_pt.base_model.frozen import BaseModel

_Key = tuple[str, str, str, str]


class BaseModelPool:
    """Hands out base models, each loaded once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._models: weakref.WeakValueDictionary[_Key, BaseModel] = weakref.WeakValueDictionary()
        self._loading: dict[_Key, threading.Lock] = {}

    def get(self, checkpoint: Checkpoint, dtype: str, device: str) -> BaseModel:
        """The one copy of `checkpoint` in `dtype` on `device`, loaded if nobody holds it yet."""
        key = (str(checkpoint.directory), checkpoint.fingerprint, dtype, device)
        with self._lock:
            loading = self._loading.setdefault(key, threading.Lock())
        with loading:
            model = self._models.get(key)
            if model is None:
                model = self._models[key] = load(checkpoint, dtype, device)
            return model

    def __len__(self) -> int:
        """Copies in memory now."""
        return len(self._models)


POOL = BaseModelPool()


def load(checkpoint: Checkpoint, dtype: str, device: str) -> BaseModel:
    """A new frozen copy of `checkpoint`. Almost everybody wants `POOL.get` instead."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    from caikit_pt.base_model.causal import CausalModel
    from caikit_pt.base_model.seq2seq import Seq2SeqModel

    causal = checkpoint.family == CAUSAL
    auto: Any = AutoModelForCausalLM if causal else AutoModelForSeq2SeqLM
    kind = CausalModel if causal else Seq2SeqModel
    local = {"local_files_only": True, "trust_remote_code": False}
    with _no_progress_bar():
        model = auto.from_pretrained(checkpoint.directory, dtype=getattr(torch, dtype), **local)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.directory, **local)
    return kind(checkpoint, model.to(device), tokenizer)


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Nobody watches a server load its weights."""
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


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
