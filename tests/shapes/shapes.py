"""A tiny random model of every type that transformers generates text with, as a server finds it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM
from transformers.models.auto import modeling_auto

from tests.numerics.families import BOS, EOS, PAD, VOCABULARY, VOCABULARY_ROWS, make_tokenizer

CAUSAL_TYPES: Mapping[str, str] = dict(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
SEQ2SEQ_TYPES: Mapping[str, str] = dict(modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES)
TYPES = tuple(dict.fromkeys([*CAUSAL_TYPES, *SEQ2SEQ_TYPES]))

_LAYERS = 2
_MOST_WEIGHTS = 20_000_000
# By the names that configs have for them; each gets those that it knows.
_SIZES: Mapping[str, Any] = {
    "vocab_size": VOCABULARY_ROWS,
    "pad_token_id": VOCABULARY[PAD],
    "bos_token_id": VOCABULARY[BOS],
    "eos_token_id": VOCABULARY[EOS],
    "decoder_start_token_id": VOCABULARY[EOS],
    "hidden_size": 32,
    "d_model": 32,
    "n_embd": 32,
    "emb_dim": 32,
    # As released models have them, other than the hidden size.
    "embedding_size": 16,
    "input_embedding_size": 16,
    "output_embedding_size": 16,
    "intermediate_size": 48,
    "ffn_dim": 48,
    "d_ff": 48,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "num_hidden_layers": _LAYERS,
    "num_layers": _LAYERS,
    "num_decoder_layers": _LAYERS,
    "n_layer": _LAYERS,
    "n_layers": _LAYERS,
    "encoder_layers": _LAYERS,
    "decoder_layers": _LAYERS,
    "num_attention_heads": 4,
    "n_head": 4,
    "n_heads": 4,
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_d_ssm": 64,
    "mamba_d_state": 8,
    "mamba_head_dim": 16,
    "mamba_num_heads": 4,
    "ssm_state_size": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "mamba_expand": 2,
    "attention_window": 8,
    "num_heads": 4,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "d_kv": 8,
    "max_position_embeddings": 128,
    "n_positions": 128,
    "max_seq_len": 128,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    "sliding_window": 8,
    "rotary_dim": 4,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "tie_word_embeddings": False,
}
# What the general sizes don't fit, by the type of the config or of a part of it.
_TWO_KINDS: Mapping[str, Any] = {"layer_types": ["linear_attention", "full_attention"]}
_MORE: Mapping[str, Mapping[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "bailing_hybrid": {**_TWO_KINDS, "mlp_layer_types": ["dense", "sparse"]},
    "cohere_compass_text": {"layer_types": ["full_attention", "full_attention"]},
    "deepseek_v4": {
        "layer_types": ["heavily_compressed_attention", "compressed_sparse_attention"],
        "mlp_layer_types": ["moe", "moe"],
    },
    "dots3_note": {"num_key_value_heads": 4},
    "dots3_note_text": {"num_key_value_heads": 4},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 8},
    "granitemoehybrid": _TWO_KINDS,
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": {**_TWO_KINDS, "mlp_layer_types": ["dense", "sparse"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "minimax": _TWO_KINDS,
    "mamba2": {"expand": 2, "num_heads": 8, "head_dim": 8, "state_size": 8},
    "qwen3_5_text": _TWO_KINDS,
    "qwen3_5_moe_text": _TWO_KINDS,
    "qwen3_next": _TWO_KINDS,
    "recurrent_gemma": {"num_hidden_layers": 3, "lru_width": 32},
    "reformer": {"is_decoder": True},
    "switch_transformers": {"num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1},
    "xmod": {"default_language": "en_XX"},
    "gemma3n_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "num_kv_shared_layers": 0,
        "vocab_size_per_layer_input": VOCABULARY_ROWS,
        "hidden_size_per_layer_input": 8,
        "activation_sparsity_pattern": [0.0, 0.0],
        "laurel_rank": 4,
    },
    "gemma4_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "vocab_size_per_layer_input": VOCABULARY_ROWS,
        "hidden_size_per_layer_input": 8,
        "per_layer_config": {},
    },
    "nemotron_h": {
        "layers_block_type": ["linear_attention", "full_attention"],
        "num_hidden_layers": 2,
        "n_groups": 1,
    },
    "zamba": {"layers_block_type": ["linear_attention", "hybrid"]},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"]},
    "zaya": {"num_experts_per_tok": 1},
}


def write(kind: str, directory: Path) -> None:
    """A model of type `kind` with a tokenizer. Raises whatever transformers does where it can't be made."""
    config = small_config(kind)
    auto: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    with torch.device("meta"):
        numbers = sum(weight.numel() for weight in auto.from_config(config).parameters())
    if numbers > _MOST_WEIGHTS:
        raise ValueError(f"{numbers} weights are no small model")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = auto.from_config(config)
    model.save_pretrained(directory)
    _write_tokenizer(directory, config)


def write_config(kind: str, directory: Path) -> None:
    """The config of type `kind`, as it is by default, with a tokenizer and without weights."""
    config = AutoConfig.for_model(kind)
    config.save_pretrained(directory)
    _write_tokenizer(directory, config)


def is_seq2seq(kind: str) -> bool:
    """Whether a model of type `kind` has an encoder and a decoder."""
    return bool(small_config(kind).is_encoder_decoder)


def _write_tokenizer(directory: Path, config: Any) -> None:
    make_tokenizer(f"$A {EOS}" if config.is_encoder_decoder else f"{BOS} $A").save_pretrained(directory)


def small_config(kind: str) -> Any:
    """Its config with small sizes, those of its text part too."""
    return _small(type(AutoConfig.for_model(kind)))


def _small(config_class: Any) -> Any:
    known = {f.name for f in dataclasses.fields(config_class)} | set(config_class.attribute_map)
    names = {name: value for name, value in _SIZES.items() if name in known}
    if "qk_rope_head_dim" in known:
        # Latent attention: widths of its own, and keys for every head.
        names.pop("head_dim", None)
        names["num_key_value_heads"] = names["num_attention_heads"]
    names |= _MORE.get(config_class.model_type, {})
    # An alias and what it stands for are one.
    for alias, name in config_class.attribute_map.items():
        if alias in names and name in names:
            del names[alias]
    parts = {
        name: _small(part).to_dict()
        for name, part in (getattr(config_class, "sub_configs", None) or {}).items()
        if isinstance(part, type) and part is not AutoConfig and dataclasses.is_dataclass(part)
    }
    if config_class().is_encoder_decoder:
        # A separate output layer would give encoder and decoder an embedding each.
        names["tie_word_embeddings"] = True
    return config_class(**{**names, **parts})
