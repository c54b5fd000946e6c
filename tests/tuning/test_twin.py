"""A model that computes the same with word embeddings of another size is tuned alike."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import caikit_pt
from caikit_pt.base_model.model import BaseModel
from caikit_pt.settings import Settings
from caikit_pt.tuning.plan import make_plan
from caikit_pt.tuning.tuner import tune
from examples.local_server import ROOT

_SMALLER = 111.0
_DATA = ROOT / "examples" / "data" / "guestbook_sentiment" / "train.jsonl"


def twin_of(llama: BaseModel, folder: Path) -> BaseModel:
    """`llama` with a residual stream of 1/111 of the size: embeddings and all that is added to it, and the
    norms' epsilon by the square."""
    source = ROOT / "examples" / "base_models" / llama.checkpoint.name
    shutil.copytree(source, folder)
    tensors = {name: tensor.float() for name, tensor in load_file(source / "model.safetensors").items()}
    for name in tensors:
        if name.endswith(("embed_tokens.weight", "o_proj.weight", "down_proj.weight")):
            tensors[name] = tensors[name] / _SMALLER
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config |= {"rms_norm_eps": config["rms_norm_eps"] / _SMALLER**2, "dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config))
    return caikit_pt.load_base_model(str(folder))


def test_what_is_tuned_does_not_depend_on_the_size_of_word_embeddings(
    llama: BaseModel, tmp_path: Path
) -> None:
    twin = twin_of(llama, tmp_path / "twin")
    ids = llama.text.source_ids("the kettle is a delight")
    assert torch.allclose(twin.serving.plain_logits(ids), llama.serving.plain_logits(ids), atol=2e-3)
    records = [json.loads(line) for line in _DATA.read_text("utf-8").splitlines()][:160]
    ended = {}
    for base in (llama, twin):
        request = {"base_model": base.checkpoint.name, "num_virtual_tokens": 20, "num_epochs": 6}
        tuned = tune(make_plan(request, records[:120], records[120:], Settings(), base), base)
        ended[base] = tuned.verdict["validation"]["tuned"]
    accuracies = [scores["accuracy"]["value"] for scores in ended.values()]
    assert min(accuracies) > 0.8, accuracies
