"""A prompt as it is trained: plain, multitask or residual, by what its training asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from caikit_pt.parameters.tuning import MULTITASK_PROMPT_TUNING, RESIDUAL, TuningParameters
from caikit_pt.soft_prompt.prompt import MultitaskPrompt, PlainPrompt, SoftPrompt, TrainablePrompt
from caikit_pt.soft_prompt.residual import ResidualPrompt

if TYPE_CHECKING:
    import torch


def trainable(
    initial: SoftPrompt, parameters: TuningParameters, generator: torch.Generator
) -> TrainablePrompt:
    """`initial` as the tuning type and the reparameterization want it."""
    if parameters.tuning_type == MULTITASK_PROMPT_TUNING:
        return MultitaskPrompt(initial, parameters)
    if parameters.reparameterization == RESIDUAL:
        return ResidualPrompt(initial, parameters, generator)
    return PlainPrompt(initial, parameters)
