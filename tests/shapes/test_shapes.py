"""Every type of model either trains and answers, or is refused by name before a job is queued: no raw error.

`make shapes` tries all types that transformers knows, and prints what became of each.
"""

from __future__ import annotations

import gc
import os
from contextlib import suppress
from pathlib import Path

import pytest

from caikit_pt import GenerationTrainRecord
from caikit_pt.base_model.loading.checkpoint import locate
from caikit_pt.base_model.pool import load
from caikit_pt.errors import InvalidParameter
from caikit_pt.module import PeftPromptTuning
from caikit_pt.settings import Settings
from caikit_pt.tuning.plan import TuningPlan, make_plan
from caikit_pt.tuning.preflight import preflight
from caikit_pt.tuning.tuner import tune

from . import shapes

# What each of a handful is for; "" trains, else a part of the refusal.
HANDFUL = {
    "llama": "",
    "led": "",  # changes in place what a linear layer returns
    "roc_bert": "",  # so does this
    "switch_transformers": "",  # experts of limited capacity, in an encoder-decoder model
    "qwen3_next": "",  # a state beside keys and values
    "deepseek_v3": "",  # keys that are unfolded from a few numbers
    # Looks up ids by their embeddings, which a soft prompt has none of.
    "gemma4_text": "a step of training with a soft prompt on the side DECODER. It failed with RuntimeError",
    "rembert": "",  # embeddings that are narrower than the model
    "electra": "",  # under another name
    "mamba2": "takes the keys and values of earlier tokens",
    "minimax": "answers beside a longer row and a token later. It failed with ValueError",
    "fsmt": "answers beside a longer row and a token later. It failed with TypeError",
    "roberta": "given as embeddings",
    "mllama": "a causal or seq2seq language model",
}
# `all`, or names of types: then those that can't be made small are looked at by their config alone.
ASKED = os.environ.get("SHAPES", "").split()
RECORDS = [
    GenerationTrainRecord(input=f"w{number} w{number + 1} w{number % 3}", output=f"w{20 + number % 2}")
    for number in range(8)
]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("kind", shapes.TYPES if ASKED == ["all"] else ASKED or HANDFUL)
def test_it_trains_or_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    try:
        shapes.write(kind, tmp_path / kind)
    except Exception as error:
        if not ASKED:
            raise
        with suppress(type(error)):  # a few have no config by default either
            shapes.write_config(kind, tmp_path / kind)
        print(f"{kind}: can't be made small ({type(error).__name__}); {_told(kind, tmp_path)}")
        return
    outcome = _outcome(kind, tmp_path)
    print(f"{kind}: {outcome}")
    expected = HANDFUL.get(kind)
    if expected is not None:
        assert expected in outcome if expected else outcome.startswith("trains"), outcome


def _outcome(kind: str, root: Path) -> str:
    """What a user is told, or how it trains. Only refusals that name the model are let through."""
    try:
        plan = _plan(kind, root)
        preflight(plan)
        plan.check_training()
    except InvalidParameter as error:
        return _refusal(kind, error)
    # From here on there is a job.
    base = load(plan.checkpoint, "float32", "cpu")
    model = PeftPromptTuning(tune(plan, base), base)
    model.run("w1 w2", max_new_tokens=3)
    packed = "packed" if base.training.trains_packed else "padded"
    served = "in batches" if base.serving.serves_batched else "one request at a time"
    gc.collect()
    return f"trains {packed}, served {served}"


def _told(kind: str, root: Path) -> str:
    """What is told of a model of which there is only a config, before a weight is read."""
    try:
        checkpoint = locate(kind, Settings(base_models_dir=str(root)))
        _ = checkpoint.tokenizer, checkpoint.generation_config, checkpoint.context_length
    except InvalidParameter as error:
        return _refusal(kind, error)
    return "its config is taken"


def _refusal(kind: str, error: InvalidParameter) -> str:
    assert kind in str(error)
    return f"refused: {error.allowed}"


def _plan(kind: str, root: Path) -> TuningPlan:
    settings = Settings(base_models_dir=str(root))
    parts = ["ENCODER", "DECODER"] if shapes.is_seq2seq(kind) else ["DECODER"]
    request = {
        "base_model": kind,
        "output_model_types": parts,
        "num_epochs": 1,
        "num_virtual_tokens": 3,
        "validation_share": 0.25,
        "device": "cpu",
        "torch_dtype": "float32",
    }
    return make_plan(request, RECORDS, None, settings)
