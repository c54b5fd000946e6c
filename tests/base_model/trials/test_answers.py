"""A model that ignores what it is given is refused when it is loaded."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import OPTConfig, OPTForCausalLM, PegasusConfig, PegasusForConditionalGeneration

from caikit_pt import GenerationTrainRecord
from caikit_pt.base_model.loading.checkpoint import locate
from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.pool import load
from caikit_pt.base_model.trials.answers import check_answers
from caikit_pt.errors import InvalidParameter
from caikit_pt.settings import Settings
from caikit_pt.tuning.plan import make_plan
from caikit_pt.tuning.tuner import tune
from tests.conftest import BASE_MODELS, LLAMA, T5


def saved(model: Any, tokenizer: str, root: Path) -> Settings:
    """`model` as `made` under `root`, with the tokenizer of an embedded model."""
    model.save_pretrained(root / "made")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(BASE_MODELS / tokenizer / name, root / "made")
    return Settings(base_models_dir=str(root))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", [LLAMA, T5])
def test_good_models_pass_in_every_data_type(name: str, dtype: str) -> None:
    load(locate(name, Settings(base_models_dir=str(BASE_MODELS))), dtype, "cpu")


def test_a_model_that_scales_ids_and_not_embeddings(tmp_path: Path) -> None:
    """Pegasus multiplies embedded ids by the root of the width, and takes embeddings as they are."""
    torch.manual_seed(1)
    config = PegasusConfig(
        vocab_size=2048,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        scale_embedding=True,
        init_std=0.5,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
    )
    settings = saved(PegasusForConditionalGeneration(config), T5, tmp_path)
    with pytest.raises(InvalidParameter, match="given as embeddings"):
        load(locate("made", settings), "float32", "cpu")


def test_a_model_that_forgets_what_it_has_read(llama: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one with a state that isn't in the cache does."""
    real = llama.weights.model.forward

    def forgetful(**inputs: Any) -> Any:
        cache = inputs.get(llama.weights.cache_argument)
        if cache is not None and cache.get_seq_length():
            inputs["attention_mask"] = inputs["attention_mask"][:, -1:]
            return real(**{**inputs, llama.weights.cache_argument: None, "use_cache": False})
        return real(**inputs)

    monkeypatch.setattr(llama.weights.model, "forward", forgetful)
    monkeypatch.setattr(llama.weights, "_arguments", frozenset({"position_ids"}))
    with pytest.raises(InvalidParameter, match="a token later"):
        check_answers(llama.serving)


def test_a_model_whose_embeddings_have_a_width_of_their_own(tmp_path: Path) -> None:
    """OPT-350m projects embeddings to another width: the trained prompt didn't fit its own model."""
    torch.manual_seed(1)
    config = OPTConfig(
        vocab_size=2048,
        hidden_size=32,
        word_embed_proj_dim=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        ffn_dim=16,
        do_layer_norm_before=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=3,
    )
    settings = saved(OPTForCausalLM(config), LLAMA, tmp_path)
    checkpoint = locate("made", settings)
    request = {"base_model": "made", "num_epochs": 1, "num_virtual_tokens": 3}
    plan = make_plan(request, [GenerationTrainRecord(input="a", output="b")], None, settings)
    tuned = tune(plan, load(checkpoint, "float32", "cpu"))
    tuned.check_base(checkpoint)
    assert tuned.prompt.hidden_size == checkpoint.hidden_size == 16
