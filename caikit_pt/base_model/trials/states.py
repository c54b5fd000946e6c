"""Can the states of a model's layers be had while it trains, and are they what it tells of itself?"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from caikit_pt.base_model.layers.reading import let_layers_be_read, reading
from caikit_pt.base_model.loading.trial import trial
from caikit_pt.base_model.training.side import TrainingSide
from caikit_pt.base_model.trials.sample import agrees, some_ids
from caikit_pt.errors import InvalidParameter
from caikit_pt.parameters.tuning import ENCODER


def check_states(training: TrainingSide, layers: Collection[int]) -> None:
    """Raises InvalidParameter where states of `layers`, counted from 1, can't be had; none: the last.

    From now on they can be read.
    """
    checkpoint = training.text.checkpoint
    if (not layers or checkpoint.layers in layers) and not training.has_states:
        raise InvalidParameter(
            "state_weight",
            "states of the last layer",
            f"0 or unset, or state_layers without the last, for {checkpoint.name}, whose output layer is its "
            "table of words",
        )
    others = [layer for layer in layers if layer != checkpoint.layers]
    if not others:
        return
    with trial(checkpoint.name, "a forward pass that gives the states of all layers"):
        found = let_layers_be_read(_predicting(training.weights.model), checkpoint.layers)
        told, seen = _states(training, others)
    for layer in others:
        if not (found and layer in seen and len(told) == checkpoint.layers + 1):
            raise _refused(checkpoint.name, layers, "can't be read")
        if not agrees(told[layer], seen[layer], training.weights.dtype):
            raise _refused(checkpoint.name, layers, f"give other states than it tells of layer {layer}")


def _states(training: TrainingSide, layers: Collection[int]) -> tuple[list[Tensor], Mapping[int, Tensor]]:
    """What the model tells of all of its states, the embeddings first, and what is seen of `layers`."""
    weights, ids = training.weights, some_ids(training.text)
    with torch.inference_mode(False), torch.no_grad(), reading(layers=layers) as read:
        rows = weights.embed(ids)[None]
        mask = torch.ones(rows.shape[:2], dtype=torch.long, device=rows.device)
        arguments: dict[str, Any] = {"inputs_embeds": rows, "attention_mask": mask}
        if ENCODER in training.text.checkpoint.prompt_parts:
            arguments |= {"decoder_inputs_embeds": rows, "decoder_attention_mask": mask}
        result = weights.forward(output_hidden_states=True, **arguments)
    told = getattr(result, "decoder_hidden_states", None) or result.hidden_states
    return list(told or ()), read.states


def _predicting(model: Any) -> torch.nn.Module:
    """The stack of `model` that predicts, which may be all of it."""
    stack: torch.nn.Module = model.get_decoder() if hasattr(model, "get_decoder") else model
    return stack


def _refused(name: str, layers: Collection[int], why: str) -> InvalidParameter:
    return InvalidParameter(
        "state_layers", list(layers), f"unset, for the last, with {name}, whose layers {why}"
    )
