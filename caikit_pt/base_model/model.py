"""One frozen copy of a language model, on one device in one data type, and what can be done with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from caikit_pt.base_model.loading.checkpoint import Checkpoint
from caikit_pt.base_model.sides import serving_side, text_side, training_side

if TYPE_CHECKING:
    from caikit_pt.base_model.frozen import FrozenWeights


class BaseModel:
    """Weights that tuning and serving share, and its family's three sides.

    `text` needs no weights, `training` gives losses and gradients, `serving` gives logits token by token.
    """

    def __init__(self, checkpoint: Checkpoint, weights: FrozenWeights, tokenizer: Any) -> None:
        # Whoever names the class, as caikit's stubs do, needs no torch.
        from caikit_pt.base_model.trials.batching import check_batching
        from caikit_pt.base_model.trials.training import check_packing

        family, generation_config = checkpoint.family, weights.model.generation_config
        self.checkpoint = checkpoint
        self.weights = weights
        self.text = text_side(family)(checkpoint, tokenizer, generation_config, weights.rows)
        self.training = training_side(family)(weights, self.text, check_packing)
        self.serving = serving_side(family)(weights, self.text, check_batching)
