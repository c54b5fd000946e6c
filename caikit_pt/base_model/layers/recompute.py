"""Layers that are computed twice: the last resort where even one row's activations don't fit in memory.

Inside `recomputing` a layer keeps what it is given, and nothing of what the gradient needs within it: that is
computed again when the backward gets there. The numbers are the same, for a third more work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from caikit_pt.base_model.layers.front import put_in_front
from caikit_pt.base_model.layers.packing import StopForward, as_now

_RECOMPUTING: ContextVar[bool] = ContextVar("recomputing", default=False)


@contextmanager
def recomputing(wanted: bool = True) -> Iterator[None]:
    """Inside, layers of every model are computed twice if that is `wanted`, in this thread alone."""
    token = _RECOMPUTING.set(wanted)
    try:
        yield
    finally:
        _RECOMPUTING.reset(token)


def let_recompute(model: Any) -> None:
    """Teaches the layers of `model` to heed `recomputing`; outside of it nothing changes.

    Layers that transformers couldn't recompute itself stay what they are.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, GradientCheckpointingLayer)
    }
    for name, module in layers.items():
        if not any(name.startswith(f"{outer}.") for outer in layers):
            put_in_front(module, _RecomputedLayer)


class _RecomputedLayer:
    """Goes in front of the class of a layer."""

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        forward: Any = super().forward  # type: ignore[misc]
        if not _RECOMPUTING.get() or not torch.is_grad_enabled():
            return forward(*arguments, **keywords)
        call = _Call(forward)
        # A frozen model draws no random numbers. On a GPU the backward has a thread of its own.
        result = checkpoint(
            call,
            *arguments,
            use_reentrant=False,
            preserve_rng_state=False,
            context_fn=lambda: (nullcontext(), as_now()),
            **keywords,
        )
        call.raise_again()
        return result


class _Call:
    """A layer's forward. What it raises the first time comes up behind `checkpoint`.

    Through it, an exception would leave its hooks where they are, for all that the thread computes later.
    """

    def __init__(self, forward: Callable[..., Any]) -> None:
        self._forward = forward
        self._again = False
        self._raised: BaseException | None = None

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        again, self._again = self._again, True
        try:
            return self._forward(*arguments, **keywords)
        except StopForward as error:
            self._raised = None if again else error
        except BaseException as error:
            if again:
                raise
            self._raised = error
        return None

    def raise_again(self) -> None:
        """What was raised, if anything was; it isn't kept, because it holds all that was computed."""
        raised, self._raised = self._raised, None
        try:
            if raised is not None:
                raise raised
        finally:
            del raised
