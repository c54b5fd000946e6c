"""The frozen weights of a language model and their embedding, as one thing: what every pass goes through.

Nothing here changes the model: rows of different soft prompts can share a call, and calls can run at the same
time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch

from caikit_pt.base_model.layers.parcel import sent
from caikit_pt.base_model.layers.quicken import quicken
from caikit_pt.base_model.layers.rope import longest_short_row
from caikit_pt.base_model.loading.checkpoint import cache_argument

if TYPE_CHECKING:
    from torch import Tensor


def freeze(model: Any) -> FrozenWeights:
    """`model` as what it will be from now on; changed in place, in the fastest way that gives its numbers."""
    return FrozenWeights(model, quicken(model))


class FrozenWeights:
    """A model of transformers that is never trained, on one device in one data type."""

    def __init__(self, model: Any, packable: bool = False) -> None:
        """`packable`: whether `model` heeds layouts of packed rows (`layers.packing.prepare`)."""
        self.model = model.eval().requires_grad_(False)
        self.packable = packable

    @property
    def bytes(self) -> int:
        """Of its weights, without copies that are packed for a kernel."""
        return sum(weight.nbytes for weight in self.model.parameters())

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._embeddings.weight.device  # type: ignore[no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        """The weights' data type."""
        return self._embeddings.weight.dtype  # type: ignore[no-any-return]

    @property
    def vocabulary(self) -> int:
        """Logits at a position, V."""
        return int(self.model.config.get_text_config().vocab_size)

    @property
    def rows(self) -> int:
        """Token ids that there are embeddings and logits for."""
        return min(int(self._embeddings.weight.shape[0]), self.vocabulary)

    @property
    def layers(self) -> int:
        """Layers with attention, of one stack."""
        return int(self.model.config.get_text_config().num_hidden_layers)

    @cached_property
    def cache_argument(self) -> str:
        """What the model's forward calls the keys and values of earlier tokens."""
        name = cache_argument(type(self.model))
        assert name, "refused by the checkpoint"
        return name

    def embed(self, ids: Sequence[int] | Tensor) -> Tensor:
        """Word embeddings [..., T, H] as the first layer gets them, in the model's data type."""
        if not isinstance(ids, torch.Tensor):
            ids = sent(torch.tensor(ids, dtype=torch.long), self.device)
        return self._embeddings(ids)  # type: ignore[no-any-return]

    def join(self, prompt: Tensor | None, ids: Sequence[int] | Tensor) -> Tensor:
        """The soft prompt in front of the embedded `ids`: [P + T, H]."""
        text = self.embed(ids)
        if prompt is None:
            return text
        return torch.cat([sent(prompt, text.device).to(text.dtype), text])

    def length_class(self, length: int) -> bool:
        """Rows of one class have one way to compute a position.

        A row that grows into another class has to be read anew, soft prompt included.
        """
        return self._longest_short_row is not None and length > self._longest_short_row

    def forward(self, optional: Mapping[str, Any] | None = None, cache: Any = None, **arguments: Any) -> Any:
        """The model's own forward; of `optional` arguments it gets those that it takes.

        ALiBi models have no positions to be told, some no cache of this name.
        """
        taken = {name: value for name, value in (optional or {}).items() if name in self._arguments}
        return self.model(use_cache=cache is not None, **{self.cache_argument: cache}, **arguments, **taken)

    @cached_property
    def _arguments(self) -> frozenset[str]:
        return frozenset(signature(self.model.forward).parameters)

    @property
    def _embeddings(self) -> Any:
        return self.model.get_input_embeddings()

    @cached_property
    def _longest_short_row(self) -> int | None:
        return longest_short_row(self.model)
