"""Shapes of language models: all that decides what a training costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from caikit_pt.base_model.family import CAUSAL, SEQ2SEQ

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True, slots=True)
class Shape:
    """A Llama, or a T5 with as many layers on each side; embeddings and logits are not tied."""

    name: str
    family: str
    layers: int
    width: int
    inner: int
    heads: int
    head_width: int
    vocabulary: int
    kv_heads: int

    @property
    def causal(self) -> bool:
        """Whether it is a Llama."""
        return self.family == CAUSAL.name

    def config(self) -> PretrainedConfig:
        """What transformers builds it from."""
        return self._llama() if self.causal else self._t5()

    def _llama(self) -> PretrainedConfig:
        from transformers import LlamaConfig

        return LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.width,
            intermediate_size=self.inner,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=self.head_width,
            max_position_embeddings=2048,
            tie_word_embeddings=False,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=0,
        )

    def _t5(self) -> PretrainedConfig:
        from transformers import T5Config

        # Arguments of every config, which T5's own signature doesn't name.
        common: dict[str, Any] = {"decoder_start_token_id": 0, "tie_word_embeddings": False}
        return T5Config(
            vocab_size=self.vocabulary,
            d_model=self.width,
            d_kv=self.head_width,
            d_ff=self.inner,
            num_layers=self.layers,
            num_heads=self.heads,
            feed_forward_proj="gated-gelu",
            **common,
        )


_SHAPES = (
    # As large as this measures in minutes on one core.
    Shape("llama", CAUSAL.name, 8, 512, 1376, 8, 64, 32_000, kv_heads=8),
    Shape("llama-128k", CAUSAL.name, 8, 512, 1376, 8, 64, 128_000, kv_heads=8),
    Shape("t5", SEQ2SEQ.name, 6, 512, 1024, 8, 64, 32_128, kv_heads=8),
    # Of the size of the embedded models, where small calls are what counts.
    Shape("llama-260k", CAUSAL.name, 5, 64, 172, 8, 8, 512, kv_heads=4),
    # For a GPU.
    Shape("llama-8b", CAUSAL.name, 32, 4096, 14_336, 32, 128, 128_256, kv_heads=8),
    Shape("t5-xl", SEQ2SEQ.name, 24, 2048, 5120, 32, 64, 32_128, kv_heads=32),
    # To see in a minute that all of it runs.
    Shape("llama-mini", CAUSAL.name, 4, 256, 688, 4, 64, 8_000, kv_heads=4),
    Shape("t5-mini", SEQ2SEQ.name, 3, 256, 512, 4, 64, 8_000, kv_heads=4),
)
SHAPES = {shape.name: shape for shape in _SHAPES}
