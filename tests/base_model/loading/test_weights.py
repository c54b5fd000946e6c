"""What isn't whole between a folder and a frozen model is refused with the part that is wrong."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from caikit_pt import GenerationTrainRecord
from caikit_pt.base_model.loading.checkpoint import locate
from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.pool import load
from caikit_pt.errors import InvalidParameter, InvalidRecord, OutOfMemory, UnknownToken
from caikit_pt.module import PeftPromptTuning
from caikit_pt.settings import Settings
from caikit_pt.tuning.plan import TuningPlan, make_plan
from caikit_pt.tuning.preflight import preflight
from caikit_pt.tuning.tuner import tune
from tests.conftest import LLAMA, T5

from .test_checkpoint import copy_of

_Change = Callable[[Path], object]
DOWN = "model.layers.0.mlp.down_proj.weight"
SHARD = "model-00001-of-00002.safetensors"


# ---- ways to spoil a checkpoint ----


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> _Change:
    def spoil(directory: Path) -> None:
        found = load_file(directory / "model.safetensors")
        change(found)
        save_file(found, directory / "model.safetensors", metadata={"format": "pt"})

    return spoil


def narrower(found: dict[str, torch.Tensor]) -> None:
    found[DOWN] = found[DOWN][:, :-1].contiguous()


def torn(directory: Path) -> None:
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def looped(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors").symlink_to("model.safetensors")


def index(content: Any) -> _Change:
    def spoil(directory: Path) -> None:
        (directory / "model.safetensors").rename(directory / SHARD)
        (directory / "model.safetensors.index.json").write_text(json.dumps(content))

    return spoil


def torch_file(content: Any) -> _Change:
    def spoil(directory: Path) -> None:
        (directory / "model.safetensors").unlink()
        torch.save(content, directory / "pytorch_model.bin")

    return spoil


def written(name: str, text: str) -> _Change:
    return lambda directory: (directory / name).write_text(text)


def changed(name: str, **values: Any) -> _Change:
    def spoil(directory: Path) -> None:
        content = json.loads((directory / name).read_text())
        (directory / name).write_text(json.dumps({**content, **values}))

    return spoil


def without(*names: str) -> _Change:
    def spoil(directory: Path) -> None:
        for name in names:
            (directory / name).unlink()

    return spoil


class Runs:
    def __reduce__(self) -> Any:
        return print, ("this ran",)


SPOILT: dict[str, tuple[_Change, str]] = {
    "more layers than tensors": (
        changed("config.json", num_hidden_layers=10**9),
        "num_hidden_layers in config.json",
    ),
    "a tensor is gone": (tensors(lambda found: found.pop(DOWN)), f"missing: {DOWN}"),
    "the embeddings are gone": (
        tensors(lambda found: found.pop("model.embed_tokens.weight")),
        r"missing: model\.embed_tokens\.weight",
    ),
    "a tensor has another shape": (
        tensors(narrower),
        rf"other shapes: {DOWN} \[128, 319\] where config.json asks for \[128, 320\]",
    ),
    "a number is none": (
        tensors(lambda found: found[DOWN][3].fill_(float("nan"))),
        f"aren't finite in float32: {DOWN}",
    ),
    "more layers than there are": (changed("config.json", num_hidden_layers=9), "and 40 more"),
    "more tokens than there are": (changed("config.json", vocab_size=4000), r"model\.embed_tokens\.weight"),
    "a torn file": (torn, r"model\.safetensors can't be read"),
    "a file that is a link to itself": (looped, r"model\.safetensors can't be read"),
    "an index that leads outside": (
        index({"weight_map": {"a": "../x.safetensors"}}),
        r"names '\.\./x\.safetensors', not files beside it",
    ),
    "an index of what isn't there": (
        index({"weight_map": {"a": SHARD, "b": SHARD.replace("1", "2", 1)}}),
        "names model-00002-of-00002.safetensors, which aren't there",
    ),
    "an index of another kind": (index([1]), "no index of weights"),
    "no file that is read": (
        lambda directory: (directory / "model.safetensors").rename(directory / "other.safetensors"),
        r"reading its weights\. It failed with OSError(?s:.*)Fetch its files again",
    ),
    "a torch file with code": (torch_file(Runs()), "UnpicklingError"),
    "a torch file of another kind": (torch_file([1]), "files are whole"),
    "quantized by a library that isn't there": (
        changed("config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
        r"quantized by bitsandbytes\. It failed with ImportError.*Install what is missing",
    ),
    "quantized by something unknown": (
        changed("config.json", quantization_config={"quant_method": "xyz"}),
        "quant_method is 'xyz'",
    ),
    "a config that isn't JSON": (written("config.json", "{"), "can't be read as JSON"),
    "a config that is a list": (written("config.json", "[]"), "holds no object"),
    "a config without a type": (written("config.json", "{}"), "no model_type"),
    "a config of an unknown type": (
        written("config.json", '{"model_type": "mine"}'),
        "doesn't know model_type 'mine'",
    ),
    "a config that needs code": (
        written("config.json", '{"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine"}}'),
        "model_type 'mine' needs code from its repository, which is never run",
    ),
    "a config with a wrong value": (changed("config.json", hidden_size="x"), "hidden_size"),
    "architectures that are no list": (changed("config.json", architectures=5), "list of architectures"),
    "an activation that nobody knows": (
        changed("config.json", hidden_act="nope"),
        r"reading its weights\. It failed with KeyError: 'nope'\. Take another base model",
    ),
    "no tokenizer": (without("tokenizer.json"), r"reading its tokenizer \(there is no tokenizer\.json\)"),
    "a broken tokenizer": (written("tokenizer.json", "{"), r"tokenizer\.json"),
    "a broken config of the tokenizer": (written("tokenizer_config.json", "{"), "reading its tokenizer"),
    "a broken generation config": (written("generation_config.json", "{"), "generation_config"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_what_is_not_whole_is_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change, told = SPOILT[name]
    change(copy_of(LLAMA, tmp_path))
    with pytest.raises(InvalidParameter, match=f"^base_model: '{LLAMA}' is not allowed(?s:.*){told}"):
        _load(tmp_path, LLAMA)
    assert "this ran" not in capsys.readouterr().out


def test_tied_weights_are_not_missing(tmp_path: Path) -> None:
    """T5's encoder and decoder read the one embedding that is stored."""
    names = set(load_file(copy_of(T5, tmp_path) / "model.safetensors"))
    assert "encoder.embed_tokens.weight" not in names
    _load(tmp_path, T5)


def test_what_is_left_over_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tensors(lambda found: found.update({"more.weight": torch.ones(3)}))(copy_of(LLAMA, tmp_path))
    with caplog.at_level(logging.WARNING, "caikit_pt"):
        _load(tmp_path, LLAMA)
    assert "no place for, and they are left out: more.weight" in caplog.text


def test_a_decoder_begins_with_a_token_that_there_is(tmp_path: Path) -> None:
    changed("config.json", decoder_start_token_id=99_999)(copy_of(T5, tmp_path))
    with pytest.raises(InvalidParameter, match="decoder_start_token_id is one of its 2048 tokens, not 99999"):
        _load(tmp_path, T5)


def test_a_directory_that_is_a_link_to_itself(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InvalidParameter, match="base_model: 'loop'"):
        locate("loop", Settings(base_models_dir=str(tmp_path)))


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), MemoryError()])
def test_no_memory_is_no_fault_of_the_model(
    tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise error

    copy_of(LLAMA, tmp_path)
    monkeypatch.setattr(torch.nn.Module, "to", full)
    with pytest.raises(OutOfMemory, match=f"base model {LLAMA}"):
        _load(tmp_path, LLAMA)


# ---- a tokenizer that knows more than the model ----


@pytest.fixture
def base(tmp_path: Path, request: pytest.FixtureRequest) -> BaseModel:
    """An embedded model whose tokenizer has one token more than there are embeddings."""
    from transformers import AutoTokenizer

    name = getattr(request, "param", LLAMA)
    directory = copy_of(name, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.add_tokens(["<extra>"])
    tokenizer.save_pretrained(directory)
    return _load(tmp_path, name)


MANY = [GenerationTrainRecord(input=f"the kettle {n} is good", output="good") for n in range(3)]
BAD = GenerationTrainRecord(input="the <extra> kettle", output="good")
BAD_OUTPUT = GenerationTrainRecord(input="the kettle", output="<extra>")


@pytest.mark.parametrize("base", [LLAMA, T5], indirect=True)
def test_a_token_without_an_embedding_is_refused_by_text_and_place(base: BaseModel) -> None:
    place = base.text.tokenizer("the <extra> kettle")["input_ids"].index(2048) + 1
    with pytest.raises(UnknownToken, match=rf"^text: '<extra>' .*; token {place} has id 2048") as refused:
        base.text.source_ids("the <extra> kettle")
    assert refused.value.status == "INVALID_ARGUMENT"


@pytest.mark.parametrize("bad", [BAD, BAD_OUTPUT])
def test_a_record_with_such_a_token_is_refused_by_number(base: BaseModel, bad: Any) -> None:
    plan = _plan(base, [*MANY, bad])
    for refuse in (lambda: preflight(plan), lambda: tune(plan, base)):
        with pytest.raises(InvalidRecord, match=r"train_stream: record 4 with token “<extra>” .*id 2048"):
            refuse()


def test_so_is_a_text_to_start_from(base: BaseModel) -> None:
    with pytest.raises(UnknownToken, match=r"^tuning_config\.prompt_tuning_init_text: '<extra>'"):
        _plan(base, MANY, prompt_tuning_init_method="TEXT", prompt_tuning_init_text="good <extra>")


@pytest.mark.parametrize("method", ["RANDOM", "SAMPLE_VOCAB"])
def test_the_rest_of_such_a_model_is_used(base: BaseModel, method: str) -> None:
    model = PeftPromptTuning(tune(_plan(base, MANY, prompt_tuning_init_method=method), base), base)
    assert model.run("the kettle", max_new_tokens=2)


def test_what_is_put_around_each_text_needs_an_embedding(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    directory = copy_of(LLAMA, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(directory, eos_token="<end>")
    tokenizer.save_pretrained(directory)
    with pytest.raises(InvalidParameter, match="it has 2048, and '<end>' would be number 2049"):
        _load(tmp_path, LLAMA)


# ---- helpers ----


def _load(root: Path, name: str) -> BaseModel:
    """As a request does it: what is known before a weight is read first."""
    checkpoint = locate(name, Settings(base_models_dir=str(root)))
    _ = checkpoint.fingerprint, checkpoint.tokenizer, checkpoint.generation_config
    return load(checkpoint, "float32", "cpu")


def _plan(base: BaseModel, records: list[Any], **request: Any) -> TuningPlan:
    quick = {"num_virtual_tokens": 3, "num_epochs": 1, **request}
    return make_plan({"base_model": base.checkpoint.name, **quick}, records, None, Settings(), base)
