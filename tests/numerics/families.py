"""Tiny random models of every family, built from their configs and loaded the way a server loads them.

The weights are far larger than an untrained model's: greedy answers vary, and a wrong position or a
wrong mask moves the logits by whole units. Every family writes a directory with a tokenizer, which
`locate` and `load` then read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from packaging.version import Version
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BartConfig,
    BloomConfig,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    OPTConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    T5Config,
)

from caikit_pt.base_model.loading.checkpoint import Checkpoint, locate
from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.pool import load
from caikit_pt.settings import Settings

PAD, BOS, EOS, UNKNOWN = "<pad>", "<s>", "</s>", "<unk>"
SPECIAL = (PAD, BOS, EOS, UNKNOWN)
WORDS = tuple(f"w{number}" for number in range(76))
VOCABULARY = {token: number for number, token in enumerate((*SPECIAL, *WORDS))}
# As in many released models, the embedding has a few rows that no token has.
VOCABULARY_ROWS = len(VOCABULARY) + 4
SLIDING_WINDOW = 8

_HIDDEN = 32
_QUERIES_AND_KEYS = ("q_proj", "k_proj", "c_attn", "query_key_value")
_IDS: dict[str, Any] = {
    "vocab_size": VOCABULARY_ROWS,
    "pad_token_id": VOCABULARY[PAD],
    "bos_token_id": VOCABULARY[BOS],
    "eos_token_id": VOCABULARY[EOS],
    # Tied to its embedding, a random model answers with the word that it has just read.
    "tie_word_embeddings": False,
}
_SIZES: dict[str, Any] = {
    "hidden_size": _HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
}


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture: its config, and the special tokens that its tokenizer puts around a text."""

    config: Callable[[], PreTrainedConfig]
    template: str = "$A"
    has_bos: bool = True


_T5_SIZES: dict[str, Any] = {
    **_IDS,
    "d_model": _HIDDEN,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": VOCABULARY[PAD],
    "feed_forward_proj": "gated-gelu",
}
_BART_SIZES: dict[str, Any] = {
    **_IDS,
    "d_model": _HIDDEN,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 128,
    "decoder_start_token_id": VOCABULARY[EOS],
    # Released ones end an answer by force at their maximum length, which is no limit here.
    "forced_eos_token_id": None,
    # A separate output layer would give encoder and decoder an embedding each.
    "tie_word_embeddings": True,
}


def _more(kind: str, template: str = f"{BOS} $A", **settings: Any) -> Family:
    """A family that needs no config class of its own here."""
    return Family(partial(AutoConfig.for_model, kind, **{**_IDS, **settings}), template)


CAUSAL_FAMILIES: Mapping[str, Family] = {
    "llama": Family(partial(LlamaConfig, **_IDS, **_SIZES), f"{BOS} $A"),
    "gpt2": Family(partial(GPT2Config, **_IDS, n_embd=_HIDDEN, n_layer=2, n_head=4, n_positions=128)),
    "bloom": Family(partial(BloomConfig, **_IDS, hidden_size=_HIDDEN, n_layer=2, n_head=4)),
    "opt": Family(
        partial(
            OPTConfig,
            **_IDS,
            hidden_size=_HIDDEN,
            word_embed_proj_dim=_HIDDEN,
            ffn_dim=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=128,
        ),
        f"{BOS} $A",
    ),
    "qwen3": Family(partial(Qwen3Config, **_IDS, **_SIZES), has_bos=False),
    "gemma": Family(partial(GemmaConfig, **_IDS, **_SIZES), f"{BOS} $A"),
    # One layer sees only the last few positions, fewer than most rows have, the other all of them.
    "gemma3": Family(
        partial(
            Gemma3TextConfig,
            **_IDS,
            **_SIZES,
            sliding_window=SLIDING_WINDOW,
            layer_types=["sliding_attention", "full_attention"],
        ),
        f"{BOS} $A",
    ),
}
SEQ2SEQ_FAMILIES: Mapping[str, Family] = {
    "t5": Family(partial(T5Config, **_T5_SIZES), f"$A {EOS}", has_bos=False),
    "bart": Family(partial(BartConfig, **_BART_SIZES), f"{BOS} $A {EOS}"),
}
# Tried in the tests of training alone, each for something that the others lack.
_PLAIN_SIZES: dict[str, Any] = {name: size for name, size in _SIZES.items() if name != "head_dim"}
_OLD_SIZES: dict[str, Any] = {"hidden_size": _HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 4}
_OLDEST_SIZES: dict[str, Any] = {"n_embd": _HIDDEN, "n_layer": 2, "n_head": 4, "n_positions": 128}
_WINDOW: dict[str, Any] = {"sliding_window": SLIDING_WINDOW}
# Rows of more positions are turned by other factors than shorter ones.
SHORT_ROW = 18
_LONGROPE: dict[str, Any] = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "original_max_position_embeddings": SHORT_ROW,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [1.5, 3.0, 6.0, 9.0],
}
MORE_CAUSAL_FAMILIES: Mapping[str, Family] = {
    # Every layer sees the last few positions only, the last layer too.
    "mistral": _more("mistral", **_SIZES, **_WINDOW),
    "phi3": _more("phi3", **_PLAIN_SIZES, **_WINDOW),
    "phi3_longrope": _more(
        "phi3", **_PLAIN_SIZES, original_max_position_embeddings=SHORT_ROW, rope_parameters=_LONGROPE
    ),
    # The same, and a factor of the angles' size that changes too.
    "phimoe_longrope": _more(
        "phimoe",
        **_PLAIN_SIZES,
        num_local_experts=4,
        rope_parameters={**_LONGROPE, "short_mscale": 1.1, "long_mscale": 1.4},
    ),
    # The last layer alone has a window.
    "olmo3": _more("olmo3", **_SIZES, **_WINDOW, layer_types=["full_attention", "sliding_attention"]),
    "olmo2": _more("olmo2", **_SIZES),
    "gpt_neox": _more("gpt_neox", **_OLD_SIZES, intermediate_size=48),
    "granite": _more(
        "granite", **_SIZES, attention_multiplier=0.3, embedding_multiplier=3.0, residual_multiplier=0.5
    ),
    "phi": _more("phi", **_PLAIN_SIZES),
    "cohere": _more("cohere", **_SIZES),
    "smollm3": _more("smollm3", **_SIZES, no_rope_layers=[1, 0]),
    "gpt_bigcode": _more("gpt_bigcode", **_OLDEST_SIZES),
    # Experts: each position picks two of four.
    "mixtral": _more("mixtral", **_SIZES, num_local_experts=4),
    # These have to be padded: their attention can't be replaced, or something else looks at the neighbours.
    "gemma2": _more("gemma2", **_SIZES, **_WINDOW, attn_logit_softcapping=5.0, query_pre_attn_scalar=8),
    "falcon": _more("falcon", **_OLD_SIZES),
    "falcon_alibi": _more("falcon", **_OLD_SIZES, alibi=True),
    "gptj": _more("gptj", **_OLDEST_SIZES, rotary_dim=4),
    "llama4": _more(
        "llama4_text",
        **_SIZES,
        num_local_experts=4,
        # Longer than any row: past it a row would depend on its company.
        attention_chunk_size=128,
        layer_types=["chunked_attention", "full_attention"],
    ),
    "lfm2": _more("lfm2", **_SIZES, layer_types=["conv", "full_attention"]),
}
MORE_SEQ2SEQ_FAMILIES: Mapping[str, Family] = {
    "mt5": _more("mt5", f"$A {EOS}", **_T5_SIZES),
    "mbart": _more("mbart", f"{BOS} $A {EOS}", **_BART_SIZES),
    "blenderbot": _more("blenderbot", f"{BOS} $A {EOS}", **_BART_SIZES),
    # A relative bias in every layer; positions that are counted from the ids.
    "umt5": _more("umt5", f"$A {EOS}", **_T5_SIZES),
    "m2m_100": _more("m2m_100", f"{BOS} $A {EOS}", **_BART_SIZES),
}
# Rows of these have to be padded. The product finds that out by trying; here it is written down.
PADDED_FAMILIES = frozenset(
    ["bloom", "gemma2", "falcon", "falcon_alibi", "llama4", "lfm2", "umt5", "m2m_100"]
    + (["gptj"] if Version(transformers.__version__) < Version("5.24") else [])
)
FAMILIES: Mapping[str, Family] = {
    **CAUSAL_FAMILIES,
    **SEQ2SEQ_FAMILIES,
    # As some releases are: the embedding layer multiplies its weights by √H.
    "bart_scaled": Family(partial(BartConfig, **_BART_SIZES, scale_embedding=True), f"{BOS} $A {EOS}"),
}
ALL_FAMILIES: Mapping[str, Family] = {**FAMILIES, **MORE_CAUSAL_FAMILIES, **MORE_SEQ2SEQ_FAMILIES}


class Zoo:
    """The models of a test session, each written and loaded when a test first asks for it."""

    def __init__(self, root: Path) -> None:
        self.settings = Settings(base_models_dir=str(root))
        self._root = root
        self._loaded: dict[tuple[str, str], BaseModel] = {}

    def checkpoint(self, name: str) -> Checkpoint:
        """The family `name` on disk, found as a request finds it."""
        if not (self._root / name).exists():
            _write(ALL_FAMILIES[name], self._root / name)
        return locate(name, self.settings)

    def model(self, name: str, dtype: str = "float32") -> BaseModel:
        """The family `name`, frozen and ready; `float64` is `float32` widened."""
        key = name, dtype
        if key not in self._loaded:
            wide = dtype == "float64"
            loaded = load(self.checkpoint(name), "float32" if wide else dtype, "cpu")
            if wide:
                loaded.weights.model.double()
                # The fast way through experts knows no float64.
                loaded.weights.model.set_experts_implementation("eager")
            self._loaded[key] = loaded
        return self._loaded[key]


def make_tokenizer(template: str, has_bos: bool = True) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words that puts `template` around a text."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from tokenizers.processors import TemplateProcessing

    words = Tokenizer(WordLevel(dict(VOCABULARY), unk_token=UNKNOWN))
    words.pre_tokenizer = WhitespaceSplit()
    words.post_processor = TemplateProcessing(
        single=template, special_tokens=[(token, VOCABULARY[token]) for token in (BOS, EOS)]
    )
    begin: dict[str, Any] = {"bos_token": BOS} if has_bos else {}
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=words, eos_token=EOS, pad_token=PAD, unk_token=UNKNOWN, **begin
    )


def _write(family: Family, directory: Path) -> None:
    config = family.config()
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = auto.from_config(config)  # type: ignore[no-untyped-call]
    _enlarge(model)
    model.save_pretrained(directory)
    make_tokenizer(family.template, family.has_bos).save_pretrained(directory)


def _enlarge(model: torch.nn.Module) -> None:
    """Random weights as large as trained ones; attention picks a few positions, not their mean."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim < 2:
                parameter.add_(0.05 * noise)
            else:
                gain = 2.0 if any(part in name for part in _QUERIES_AND_KEYS) else 1.5
                parameter.copy_(noise * gain / parameter.shape[-1] ** 0.5)
