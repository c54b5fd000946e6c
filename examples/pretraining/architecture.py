"""The two tiny architectures and how their weights start.

Word embeddings start at a standard deviation of one, as T5's do, so that a soft prompt drawn at
the same scale can be tuned with the large learning rates that prompt tuning is known for.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

WIDTH = 128
HEADS = 4


def tiny_llama(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A causal model with an untied head: logits of tied unit-scale embeddings start too large."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=320,
        num_hidden_layers=4,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name == "model.embed_tokens.weight":
                weight.normal_(0.0, 1.0)
            elif weight.ndim == 2:
                weight.normal_(0.0, float(weight.shape[1]) ** -0.5)
    return model


def tiny_t5(tokenizer: PreTrainedTokenizerFast) -> T5ForConditionalGeneration:
    """An encoder-decoder with tied embeddings, whose logits T5 scales down by itself."""
    settings: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "d_model": WIDTH,
        "d_kv": WIDTH // HEADS,
        "d_ff": 320,
        "num_layers": 3,
        "num_decoder_layers": 3,
        "num_heads": HEADS,
        "dropout_rate": 0.0,
        "feed_forward_proj": "relu",
        "tie_word_embeddings": True,
        "n_positions": 512,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "decoder_start_token_id": tokenizer.pad_token_id,
    }
    return T5ForConditionalGeneration(T5Config(**settings))
