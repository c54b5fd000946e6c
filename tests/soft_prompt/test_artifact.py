"""A tuned prompt on disk: what is in it, what it refuses, and that it shares its base."""

from __future__ import annotations

import gc
import os
import threading
import time
from pathlib import Path
from typing import Any

import caikit
import grpc
import pytest
import torch
import yaml
from caikit.runtime.types.caikit_runtime_exception import CaikitRuntimeException
from safetensors.torch import load_file, save_file

from caikit_pt import PeftPromptTuning
from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.pool import POOL
from caikit_pt.soft_prompt import history, publication
from caikit_pt.soft_prompt.artifact import TunedPrompt
from caikit_pt.soft_prompt.prompt import SoftPrompt
from caikit_pt.soft_prompt.publication import replacing


def tuned_on(base: BaseModel, parts: tuple[str, ...] = (), tokens: int = 5) -> TunedPrompt:
    """A prompt that nobody tuned."""
    generator = torch.Generator().manual_seed(3)
    return TunedPrompt(
        prompt=SoftPrompt(
            {
                part: torch.randn(tokens, base.checkpoint.hidden_size, generator=generator)
                for part in parts or base.checkpoint.prompt_parts[:1]
            }
        ),
        base_model_name=base.checkpoint.name,
        base_model_fingerprint=base.checkpoint.fingerprint,
        verbalizer="Say: {{input}}",
        tuning_parameters={"learning_rate": 0.3, "origins": {"learning_rate": "request"}},
        verdict={"kept": {"epoch": 2}},
        initial={
            part: torch.randn(tokens, base.checkpoint.hidden_size, generator=generator)
            for part in parts or base.checkpoint.prompt_parts[:1]
        },
        training_logs=[{"name": "loss", "data": {"epoch": 1, "step": 1, "value": 1.5, "timestamp": "now"}}],
    )


@pytest.fixture
def saved(tmp_path: Path, base: BaseModel) -> Path:
    PeftPromptTuning(tuned_on(base), base).save(str(tmp_path / "saved"))
    return tmp_path / "saved"


def edit(saved: Path, **changes: Any) -> None:
    """Changes entries of config.yml."""
    file = saved / "config.yml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **changes}))


def test_what_is_saved_is_what_is_loaded(saved: Path, base: BaseModel) -> None:
    loaded = caikit.load(str(saved))
    expected = tuned_on(base)
    assert loaded.base is base
    assert set(loaded.tuned.prompt.tensors) == set(expected.prompt.tensors)
    for part, tensor in expected.prompt.tensors.items():
        assert torch.equal(loaded.tuned.prompt.tensors[part], tensor)
    assert loaded.tuned.verbalizer == expected.verbalizer
    assert list(loaded.tuned.training_logs) == list(expected.training_logs)
    assert dict(loaded.tuned.verdict) == dict(expected.verdict)
    assert set(loaded.tuned.initial) == set(expected.initial)
    assert all(torch.equal(loaded.tuned.initial[part], rows) for part, rows in expected.initial.items())
    assert dict(loaded.tuned.tuning_parameters) == dict(expected.tuning_parameters)


def test_encoder_and_decoder_lie_apart(tmp_path: Path, t5: BaseModel) -> None:
    tuned = tuned_on(t5, ("ENCODER", "DECODER"))
    PeftPromptTuning(tuned, t5).save(str(tmp_path / "both"))
    for part in ("ENCODER", "DECODER"):
        stored = load_file(tmp_path / "both" / f"{part.lower()}.safetensors")
        assert list(stored) == ["prompt"]
        assert torch.equal(stored["prompt"], tuned.prompt.tensors[part])
    assert set(caikit.load(str(tmp_path / "both")).tuned.prompt.tensors) == {"ENCODER", "DECODER"}


def test_the_weights_of_the_base_are_not_in_it(saved: Path) -> None:
    assert sum(file.stat().st_size for file in saved.iterdir()) < 20_000


def test_many_prompts_share_one_copy_of_their_base(saved: Path) -> None:
    gc.collect()
    before = len(POOL)
    loaded = [caikit.load(str(saved)) for _ in range(5)]
    assert len(POOL) == before
    assert len({model.base.weights.model.get_input_embeddings().weight.data_ptr() for model in loaded}) == 1


def test_another_base_is_refused_with_both_fingerprints(saved: Path, base: BaseModel) -> None:
    other = "sha256:" + "1" * 64
    edit(saved, base_model_fingerprint=other)
    with pytest.raises(CaikitRuntimeException) as error:
        PeftPromptTuning.load(str(saved))
    assert error.value.status_code is grpc.StatusCode.FAILED_PRECONDITION
    assert other in error.value.message
    assert base.checkpoint.fingerprint in error.value.message


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"ENCODER": "../../x.safetensors", "DECODER": "../../x.safetensors"}, "stays inside"),
        ({"ENCODER": "/etc/passwd", "DECODER": "/etc/passwd"}, "stays inside"),
        ({"ENCODER": "gone.safetensors", "DECODER": "gone.safetensors"}, "gone.safetensors"),
        ({"ENCODER": None, "DECODER": None}, "no soft prompt"),
        ({"verbalizer": None}, "verbalizer"),
        ({"format_version": 99}, "format_version 99"),
        ({"format_version": "abc"}, "format_version abc"),
    ],
)
def test_damage_is_named(saved: Path, changes: dict[str, Any], named: str) -> None:
    edit(saved, **changes)
    with pytest.raises(CaikitRuntimeException) as error:
        PeftPromptTuning.load(str(saved))
    assert error.value.status_code is grpc.StatusCode.DATA_LOSS
    assert named in error.value.message


BOMB = "".join(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 12))


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", "empty"),
        ("- a\n- b\n", "empty"),
        ("1: 2\n", "names"),
        ("verbalizer: x\n", "module_id"),
        ("a: [", "no YAML"),
        ("a: 2020-99-99", "no YAML"),
        (b"\xff\xfe\x00", "no YAML"),
        ("a: &a [*a]", "aliases"),
        ("a0: &a0 [x]\n" + BOMB, "aliases"),
        ("a: " + "[" * 500 + "]" * 500, "in one another"),
        ("module_id: x\n" * 100_000, "1,048,576 bytes"),
        ("labels: [" + "a," * 200_000 + "]", "100,000 values"),
    ],
)
def test_a_config_that_caikit_would_choke_on_is_damage(saved: Path, content: str | bytes, named: str) -> None:
    """Nested aliases took half a minute, and an empty file was an INTERNAL error."""
    (saved / "config.yml").write_bytes(content if isinstance(content, bytes) else content.encode())
    began = time.process_time()
    for load in (PeftPromptTuning.load, caikit.load):
        with pytest.raises(CaikitRuntimeException, match=named) as error:
            load(str(saved))
        assert error.value.status_code is grpc.StatusCode.DATA_LOSS
    assert time.process_time() - began < 10


def test_aliases_as_yaml_itself_writes_them_are_read(saved: Path, base: BaseModel) -> None:
    same = ["a", "b"]
    edit(saved, labels=same, tuning_parameters={"one": same, "other": same})
    assert "*id001" in (saved / "config.yml").read_text()
    assert list(caikit.load(str(saved)).tuned.labels) == same


@pytest.mark.parametrize(
    "name",
    [
        "config.yml",
        "encoder.safetensors",
        "decoder.pt",
        history.TRAINING_LOGS,
        history.VERDICT,
        history.INITIAL,
    ],
)
@pytest.mark.parametrize("kind", ["pipe", "device", "directory"])
def test_what_is_no_file_is_not_waited_for(saved: Path, name: str, kind: str) -> None:
    """A pipe hung the request, and with it a thread of the server."""
    if name.endswith((".safetensors", ".pt")) and name != history.INITIAL:
        edit(saved, ENCODER=name, DECODER=None)
    file = saved / name
    file.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "directory":
        file.mkdir()
    else:
        file.symlink_to("/dev/zero")
    if name in (history.TRAINING_LOGS, history.VERDICT, history.INITIAL):
        tuned = PeftPromptTuning.load(str(saved)).tuned
        told = {
            history.TRAINING_LOGS: tuned.training_logs,
            history.VERDICT: tuned.verdict,
            history.INITIAL: tuned.initial,
        }
        assert not told[name]
        return
    with pytest.raises(CaikitRuntimeException) as error:
        PeftPromptTuning.load(str(saved))
    assert error.value.status_code is grpc.StatusCode.DATA_LOSS
    assert name in error.value.message


def test_a_prompt_that_is_no_number_is_not_served(saved: Path) -> None:
    (file,) = saved.glob("*coder.safetensors")
    save_file({"prompt": torch.full((5, 128), float("inf"))}, file)
    with pytest.raises(CaikitRuntimeException, match="finite"):
        PeftPromptTuning.load(str(saved))


def test_a_missing_base_model_is_named(saved: Path) -> None:
    edit(saved, base_model_name="no-such-model")
    with pytest.raises(CaikitRuntimeException, match="no-such-model"):
        PeftPromptTuning.load(str(saved))


def test_prompts_that_caikit_nlp_saved_are_served(tmp_path: Path, llama: BaseModel) -> None:
    """Its layout: torch files, no fingerprint, the same module id."""
    tensor = torch.randn(4, llama.checkpoint.hidden_size, generator=torch.Generator().manual_seed(1))
    torch.save(tensor, tmp_path / "decoder.pt")
    config = {
        "module_id": "6655831b-960a-4dc5-8df4-867026e2cd41",
        "base_model_name": llama.checkpoint.name,
        "verbalizer": "{{input}}",
        "tuning_type": "PROMPT_TUNING",
        "task_type": "CAUSAL_LM",
        "has_base_model": False,
        "DECODER": "decoder.pt",
        "ENCODER": "",
        "output_model_types": '["DECODER"]',
    }
    (tmp_path / "config.yml").write_text(yaml.safe_dump(config))
    loaded = caikit.load(str(tmp_path))
    assert torch.equal(loaded.tuned.prompt.tensors["DECODER"], tensor)
    assert loaded.run("hello").generated_tokens > 0


def test_a_broken_history_does_not_stop_serving(saved: Path) -> None:
    (saved / "training_logs.jsonl").write_text("{half")
    (saved / "verdict.json").write_text("[1")
    (saved / "initial.safetensors").write_text("[1")
    assert dict(PeftPromptTuning.load(str(saved)).tuned.verdict) == {}
    assert list(PeftPromptTuning.load(str(saved)).tuned.training_logs) == []
    assert dict(PeftPromptTuning.load(str(saved)).tuned.initial) == {}


def test_a_job_that_ends_between_two_renames_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where two names can't be exchanged in one step. A cancel can strike anywhere."""
    monkeypatch.setattr(publication, "_swap", lambda *_: False)
    target = tmp_path / "model"
    with replacing(target) as directory:
        (directory / "config.yml").write_text("old")
    real, calls = Path.rename, iter([True, False, True])

    def rename(self: Path, other: Path) -> Path:
        if not next(calls):
            raise RuntimeError("cancelled")
        return real(self, other)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(RuntimeError, match="cancelled"), replacing(target):
        pass
    assert (target / "config.yml").read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_name_is_there_at_every_moment_while_it_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "model"
    seen: list[bool] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            seen.append((target / "config.yml").is_file())

    with replacing(target) as directory:
        (directory / "config.yml").write_text("first")
    watcher = threading.Thread(target=look)
    watcher.start()
    for number in range(100):
        with replacing(target) as directory:
            (directory / "config.yml").write_text(str(number))
    done.set()
    watcher.join()
    assert seen
    assert all(seen)
    assert list(tmp_path.iterdir()) == [target]


def test_what_is_no_model_is_not_replaced(tmp_path: Path, base: BaseModel) -> None:
    """`save` deleted whatever stood at the path."""
    model = PeftPromptTuning(tuned_on(base), base)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("one")
    (tmp_path / "file").write_text("two")
    for name in ("thesis", "file"):
        with pytest.raises(CaikitRuntimeException, match="empty directory"):
            model.save(str(tmp_path / name))
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "one"
    assert (tmp_path / "file").read_text() == "two"
    (tmp_path / "empty").mkdir()
    model.save(str(tmp_path / "empty"))
    model.save(str(tmp_path / "empty"))


def write_half(target: Path) -> None:
    with replacing(target) as directory:
        (directory / "file").write_text("new")
        raise RuntimeError("half way")


def test_a_failed_save_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with replacing(target) as directory:
        (directory / "config.yml").write_text("old")
    with pytest.raises(RuntimeError, match="half way"):
        write_half(target)
    assert (target / "config.yml").read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
    with replacing(target) as directory:
        (directory / "other").write_text("new")
    assert [file.name for file in target.iterdir()] == ["other"]
    assert list(tmp_path.iterdir()) == [target]
