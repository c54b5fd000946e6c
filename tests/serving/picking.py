"""The next tokens of rows, picked once."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from caikit_pt.base_model.layers.parcel import Parcel
from caikit_pt.serving.sampler import Sampler
from caikit_pt.serving.sampling import Sampling


def pick(logits: torch.Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """The next token of each row from its logits [B, V] (float32), and it is remembered."""
    parcel = Parcel(logits.device)
    sampling = Sampling(samplers, parcel)
    sampling.prepare(parcel)
    parcel.send()
    picked: list[int] = sampling.pick(logits).tolist()
    for sampler, token in zip(samplers, picked, strict=True):
        sampler.take(token)
    return picked
