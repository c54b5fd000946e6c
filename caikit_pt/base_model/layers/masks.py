"""Attention masks that are made without a look at their numbers.

transformers leaves a mask out where it would hide nothing, and looks at its numbers to find out. On a CPU
that is cheap; on an accelerator the host waits for all that the device was given before. There the mask is
made.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

_MARK = "_caikit_pt_makes_masks_unseen"
# The configs of models whose masks are made unseen, by their addresses: a config has no hash.
_UNSEEN: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
_INTERFACES = ("sdpa", "eager")


def make_masks_unseen(model: Any) -> None:
    """The masks of `model`, which is on an accelerator, are made unseen; those of others aren't."""
    from transformers import AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    for module in model.modules():
        if hasattr(module, "config"):
            _UNSEEN[id(module.config)] = module.config
    # `packing` has a name of its own.
    for name in {*_INTERFACES, model.config._attn_implementation}:
        make = ALL_MASK_ATTENTION_FUNCTIONS.get(name)
        if make is not None and not hasattr(make, _MARK):
            AttentionMaskInterface.register(name, _unseen(make))


def _unseen(make: Callable[..., Any]) -> Callable[..., Any]:
    """`make`, a function of transformers that makes masks, as it is for models that are marked."""

    @wraps(make)
    def made(*arguments: Any, config: Any = None, device: Any = "cpu", **keywords: Any) -> Any:
        if torch.device(device).type != "cpu" and _UNSEEN.get(id(config)) is config is not None:
            keywords.update(allow_is_causal_skip=False, allow_is_bidirectional_skip=False)
        return make(*arguments, config=config, device=device, **keywords)

    setattr(made, _MARK, True)
    return made
