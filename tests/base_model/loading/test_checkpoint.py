"""Names of base models become directories, or are refused for a reason."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Llama4TextConfig,
    LlamaConfig,
    NllbMoeConfig,
)

from caikit_pt.base_model.family import CAUSAL, SEQ2SEQ
from caikit_pt.base_model.loading.checkpoint import Checkpoint, locate
from caikit_pt.base_model.loading.fingerprint import fingerprint
from caikit_pt.errors import InvalidParameter
from caikit_pt.settings import Settings
from tests.conftest import BASE_MODELS, LLAMA, SETTINGS, T5


def test_what_is_known_before_a_weight_is_read() -> None:
    causal, seq2seq = locate(LLAMA, SETTINGS), locate(T5, SETTINGS)
    assert (causal.family, causal.prompt_parts, causal.context_length) == (CAUSAL, ("DECODER",), 1024)
    assert (seq2seq.family, seq2seq.prompt_parts) == (SEQ2SEQ, ("ENCODER", "DECODER"))
    assert seq2seq.context_length is None
    assert causal.dtype == "float16"


def test_a_classifier_generates_no_text(tmp_path: Path) -> None:
    config = BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "classifier")
    with pytest.raises(InvalidParameter, match="BertForSequenceClassification"):
        locate("classifier", Settings(base_models_dir=str(tmp_path)))


def test_a_config_with_code_of_its_own_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "remote"
    directory.mkdir()
    config: dict[str, Any] = {"model_type": "mine", "auto_map": {"AutoConfig": "mine.MyConfig"}}
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "mine.py").write_text("raise SystemExit('this ran')")
    with pytest.raises(InvalidParameter, match=r"config\.json"):
        locate("remote", Settings(base_models_dir=str(tmp_path)))


def test_a_link_out_of_the_root_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(BASE_MODELS / T5)
    with pytest.raises(InvalidParameter, match="stays inside"):
        locate("link", Settings(base_models_dir=str(tmp_path)))


def test_a_model_in_the_hugging_face_cache_is_found_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layout that huggingface_hub leaves behind: snapshots of links into blobs."""
    repository = tmp_path / "models--someone--little"
    snapshot = repository / "snapshots" / "abc"
    shutil.copytree(BASE_MODELS / T5, snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert locate("someone/little", Settings()).directory == snapshot
    assert locate("someone/little", SETTINGS).directory == snapshot


def test_downloads_are_asked_for_only_when_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def download(name: str, **options: Any) -> str:
        asked.append({"name": name, **options})
        return str(BASE_MODELS / T5)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    for allowed in (False, True):
        locate("someone/else", Settings(allow_downloads=allowed))
    assert [call["local_files_only"] for call in asked] == [True, False]
    assert not any("bin" in pattern or "py" in pattern for pattern in asked[0]["allow_patterns"])


def copy_of(name: str, tmp_path: Path) -> Path:
    """A copy of an embedded model that a test may change."""
    return Path(shutil.copytree(BASE_MODELS / name, tmp_path / name))


def test_the_fingerprint_is_that_of_the_weights_and_not_of_the_place(tmp_path: Path) -> None:
    copy = copy_of(LLAMA, tmp_path)
    (copy / "README.md").write_text("changed")
    assert fingerprint(copy) == fingerprint(BASE_MODELS / LLAMA) != fingerprint(BASE_MODELS / T5)


def test_the_fingerprint_survives_resharding_and_other_metadata(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    copy = copy_of(LLAMA, tmp_path)
    tensors = load_file(copy / "model.safetensors")
    names = sorted(tensors)
    (copy / "model.safetensors").unlink()
    for number, part in enumerate((names[:7], names[7:])):
        file = copy / f"model-0000{number + 1}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, file, metadata={"format": "pt", "x": str(number)})
    assert fingerprint(copy) == fingerprint(BASE_MODELS / LLAMA)


@pytest.mark.parametrize("change", [{"num_attention_heads": 2}, {"rms_norm_eps": 0.1}, {"rope_theta": 5.0}])
def test_what_tensors_cannot_tell_is_in_the_fingerprint(tmp_path: Path, change: dict[str, Any]) -> None:
    copy = copy_of(LLAMA, tmp_path)
    config = json.loads((copy / "config.json").read_text())
    unchanged = {**config, "transformers_version": "99", "use_cache": False, "rope_parameters": None}
    unchanged["rope_theta"] = config["rope_parameters"]["rope_theta"]
    (copy / "config.json").write_text(json.dumps(unchanged))
    assert fingerprint(copy) == fingerprint(BASE_MODELS / LLAMA)
    (copy / "config.json").write_text(json.dumps({**unchanged, **change}))
    assert fingerprint(copy) != fingerprint(BASE_MODELS / LLAMA)


def test_another_vocabulary_gives_another_fingerprint(tmp_path: Path) -> None:
    copy = copy_of(LLAMA, tmp_path)
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer, indent=3))
    assert fingerprint(copy) == fingerprint(BASE_MODELS / LLAMA)
    pieces = tokenizer["model"]["vocab"]
    first, second = list(pieces)[300:302]
    pieces[first], pieces[second] = pieces[second], pieces[first]
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert fingerprint(copy) != fingerprint(BASE_MODELS / LLAMA)


def test_one_fine_tuned_tensor_gives_another_fingerprint(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    copy = copy_of(LLAMA, tmp_path)
    tensors = load_file(copy / "model.safetensors")
    name = next(name for name in tensors if "q_proj" in name)
    tensors[name] = tensors[name] * 1.01
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    assert fingerprint(copy) != fingerprint(BASE_MODELS / LLAMA)


def test_a_directory_without_weights_has_no_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InvalidParameter, match="safetensors"):
        fingerprint(tmp_path)


def test_torch_files_have_a_fingerprint_too(tmp_path: Path) -> None:
    import torch

    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    torch.save(
        {"a": torch.ones(3, 2), "b": torch.zeros((), dtype=torch.float16)}, tmp_path / "pytorch_model.bin"
    )
    first = fingerprint(tmp_path)
    torch.save(
        {"a": torch.ones(3, 2), "b": torch.ones((), dtype=torch.float16)}, tmp_path / "pytorch_model.bin"
    )
    assert fingerprint(tmp_path) != first


def test_width_and_context_come_from_the_config() -> None:
    config = LlamaConfig(hidden_size=64, max_position_embeddings=77)
    checkpoint = Checkpoint("x", Path(), config)
    assert (checkpoint.hidden_size, checkpoint.context_length) == (64, 77)


def test_a_context_ends_where_a_row_would_depend_on_its_company() -> None:
    chunks: dict[str, Any] = {"attention_chunk_size": 32, "layer_types": ["chunked_attention"]}
    config = Llama4TextConfig(hidden_size=64, num_hidden_layers=1, max_position_embeddings=77, **chunks)
    assert Checkpoint("some", Path(), config).context_length == 31


def test_experts_that_drop_tokens_by_the_batch_are_refused(tmp_path: Path) -> None:
    config = NllbMoeConfig(d_model=64, moe_eval_capacity_token_fraction=0.5)
    config.architectures = ["NllbMoeForConditionalGeneration"]
    config.save_pretrained(tmp_path / "some")
    with pytest.raises(InvalidParameter, match="moe_eval_capacity_token_fraction"):
        locate("some", Settings(base_models_dir=str(tmp_path)))
