"""Arithmetic without rounding worth mentioning, to tell a wrong formula from a rounded one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch


@contextmanager
def everything_in_float64() -> Iterator[None]:
    """Inside, what models and product round to float32 on purpose is float64.

    Norms, rotary angles, softmax and the loss are computed in float32 whatever the weights are. With
    these out of the way two ways to compute one number agree to 1e-10, or one of them is wrong. Use
    it with a model of float64 weights that is loaded already.
    """
    with (
        mock.patch.object(torch, "float32", torch.float64),
        mock.patch.object(torch.Tensor, "float", torch.Tensor.double),
    ):
        yield
