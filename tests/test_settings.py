"""Settings as values: what one may hold, and what is told of one that holds something else."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from caikit_pt import config_files
from caikit_pt.client import DEFAULT_ADDRESS
from caikit_pt.errors import InvalidParameter
from caikit_pt.settings import Remote, Settings, Tracking, typed
from examples.local_server import ROOT


def backends(vllm: Any) -> dict[str, Any]:
    return {"backends": [{"base_model": "*", "vllm": vllm, "model": "served"}]}


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a word for a number": ({"max_queued": "abc"}, "max_queued: 'abc' .* a whole number from 0 up"),
    "a negative number": ({"max_queued": -1}, "max_queued: -1 .* from 0 up"),
    "a fraction": ({"slots": 1.5}, "slots: 1.5 .* a whole number"),
    "no time to wait": ({"max_wait_seconds": 0}, "max_wait_seconds: 0 .* above 0"),
    "not a number": ({"retention_days": float("nan")}, "retention_days: nan"),
    "neither true nor false": ({"allow_downloads": "maybe"}, "allow_downloads: 'maybe' .* true or false"),
    "a data type": ({"torch_dtype": "fp16"}, "torch_dtype: 'fp16' .* bfloat16"),
    "a number for a path": ({"base_models_dir": 7}, r"base_models_dir: 7 .* \./NAME"),
    "limits of what isn't there": (
        {"tuning_limits": {"batch": [1, 2]}},
        "tuning_limits: 'batch' .* batch_size",
    ),
    "limits the wrong way round": ({"tuning_limits": {"batch_size": [9, 2]}}, "tuning_limits.batch_size"),
    "one limit": ({"tuning_limits": {"batch_size": 2}}, "tuning_limits.batch_size: 2 .*LOWEST, HIGHEST"),
    "limits as text": ({"tuning_limits": "{}"}, "tuning_limits: '{}' .*LOWEST"),
    "a preset as text": (
        {"tuning_presets": [{"base_model": "*", "tasks": {"default": {"learning_rate": "6e-4"}}}]},
        "tuning_presets, learning_rate: '6e-4' .* a number above 0",
    ),
    "a preset of what has none": (
        {"tuning_presets": [{"base_model": "*", "tasks": {"default": {"seed": 1}}}]},
        "tuning_presets.tasks.default: 'seed' .* num_epochs",
    ),
    "a preset's task": (
        {"tuning_presets": [{"base_model": "*", "tasks": {"chat": {}}}]},
        "tuning_presets.tasks: 'chat' .* default",
    ),
    "trackers as text": ({"tracking": "http://host"}, "tracking: 'http://host' .* a section"),
    "a tracker's address": (
        {"tracking": {"mlflow": {"uri": "mlruns"}}},
        "tracking.mlflow.uri: .* http://HOST:PORT, https:// or sqlite:///FILE",
    ),
    "a number for a directory": (
        {"tracking": {"tensorboard": {"directory": 7}}},
        "tracking.tensorboard.directory: 7 .* text",
    ),
    "another executor": ({"executor": {"kind": "slurm"}}, "executor.kind: 'slurm' .* local, ray, kubernetes"),
    "a slip in an executor": ({"executor": {"gpu": 1}}, "executor: 'gpu' .* gpus"),
    "a label without a value": ({"executor": {"labels": "zone"}}, "executor.labels: 'zone' .* NAME=VALUE"),
    "access as text": ({"access": "x"}, "access: 'x' .* a section"),
    "a slip in access": ({"access": {"token_file": "x"}}, "access: 'token_file' .* tokens_file"),
    "a rule without models": (
        {"access": {"policy": [{"principals": ["*"], "may": ["tune"]}]}},
        r"access.policy: .* \{principals: \[PATTERN",
    ),
    "a rule of text": (
        {"access": {"policy": [{"principals": "ada", "may": ["tune"], "models": ["*"]}]}},
        "access.policy: ",
    ),
    "an action": (
        {"access": {"policy": [{"principals": ["*"], "may": ["train"], "models": ["*"]}]}},
        "access.policy, may: 'train' .* generate, tune, watch, cancel, share, deploy",
    ),
    "a quota that there isn't": ({"quotas": {"each": {"tokens": 1}}}, "quotas.each: 'tokens' .* tokens_per"),
    "a negative quota": ({"quotas": {"all": {"stored_mib": -1}}}, "quotas.all.stored_mib: -1 .* from 0 up"),
    "backends as text": ({"backends": "http://host"}, "backends: 'http://host' .* a list"),
    "a backend without a model": (
        {"backends": [{"base_model": "*", "vllm": "http://a"}]},
        "backends: .* for each",
    ),
    "no address": (backends(["http://a:8000", "b:8000"]), "backends, vllm: 'b:8000' .* http://HOST:PORT"),
    "a missing address": (backends("http://a:8000,"), "backends, vllm: '' .* http://HOST:PORT"),
    "no list of addresses": (backends({"a": 8000}), "backends, vllm: .* http://HOST:PORT"),
    "an address twice": (
        backends("http://a:8000, http://a:8000/"),
        "backends, vllm: 'http://a:8000' .* once",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_a_setting_may_not_hold(case: str) -> None:
    values, told = WRONG[case]
    with pytest.raises(InvalidParameter, match=told):
        typed(values)


@pytest.mark.parametrize(
    ("given", "addresses"),
    [
        ("http://a:8000", ("http://a:8000",)),
        ("http://a:8000, https://b:8000/", ("http://a:8000", "https://b:8000")),
        (["http://a:8000/llama", "http://[::1]:8000"], ("http://a:8000/llama", "http://[::1]:8000")),
    ],
)
def test_servers_of_a_backend(given: Any, addresses: tuple[str, ...]) -> None:
    assert typed(backends(given)).backends == (Remote(base_model="*", vllm=addresses, model="served"),)


def test_credentials_of_a_backend_are_not_told() -> None:
    with pytest.raises(InvalidParameter, match=r"backends, vllm: .*without credentials") as raised:
        typed(backends("https://me:hidden@host:8000"))
    assert "hidden" not in str(raised.value)


@pytest.mark.parametrize(
    "uri", ["https://me:hidden@host", "http://host?token=hidden", "postgresql://me:hidden@db"]
)
def test_no_credentials_in_a_setting(uri: str) -> None:
    with pytest.raises(InvalidParameter, match=r"tracking\.mlflow\.uri") as error:
        typed({"tracking": {"mlflow": {"uri": uri}}})
    assert "hidden" not in str(error.value)


def test_defaults_are_those_of_config_yml() -> None:
    content = yaml.safe_load((ROOT / "caikit_pt" / "config.yml").read_text())
    found = typed(content)
    assert len(found.tuning_presets) == 2
    assert Settings() == replace(found, tuning_presets=()) == typed({})
    assert (Settings().checkpoint_seconds, Settings().max_attempts, Settings().backends) == (60.0, 3, ())
    assert isinstance(Settings().checkpoint_seconds, float)


def test_trackers() -> None:
    told = {"mlflow": {"uri": "http://host:5000", "experiment": ""}, "tensorboard": {"directory": "runs"}}
    assert typed({"tracking": told}).tracking == Tracking(
        mlflow_uri="http://host:5000", mlflow_experiment="caikit_pt", tensorboard_directory="runs"
    )


def test_what_is_unset_has_its_default() -> None:
    assert typed({"max_queued": None, "device": "", "slots": 2}) == Settings(slots=2)


@pytest.mark.parametrize(("text", "truth"), [("yes", True), ("0", False), (1, True), ("False", False)])
def test_words_for_true_and_false(text: object, truth: bool) -> None:
    assert typed({"allow_downloads": text}).allow_downloads is truth


def test_the_example_of_limits_is_what_a_server_has() -> None:
    """caikit reads each file twice and joins the lists: a server with this file ended in a traceback."""
    code = "import caikit_pt.settings as s; print(s.current().tuning_limits['batch_size'])"
    files = f"{ROOT}/runtime_config.yaml,{ROOT}/examples/studio_limits.yaml"
    assert run(code, CONFIG_FILES=files).stdout == "(1, 16)\n"


# ---- names ----

FILES: dict[str, tuple[str, str]] = {
    "a letter too few": ("max_queue: 3", "'max_queue' .* max_queued"),
    "a hyphen": ("state-dir: x", "'state-dir' .* state_dir"),
    "a section forgotten": ("local_models_dir: x", "'local_models_dir' .* runtime.local_models_dir"),
    "a section too many": ("runtime: {max_queued: 3}", "'runtime.max_queued' .* max_queued"),
    "a section's name": ("runtimes: {grpc: {port: 1}}", "'runtimes' .* runtime"),
    "in a section": ("runtime: {grpc: {prot: 1}}", "'runtime.grpc.prot' .* runtime.grpc.port"),
    "a value": ("max_queued: abc", "max_queued in .*: 'abc' .* a whole number"),
    "no section": ("data_streams: 3", "data_streams in .*: 3 .* a section"),
    "an odd number of limits": ("tuning_limits: {batch_size: [1, 2, 3]}", "tuning_limits.batch_size in"),
    "all else gone": ("merge_strategy: override", "merge_strategy in .* merge"),
    "no YAML": ("a: [1", "CONFIG_FILES.* YAML"),
    "no names": ("hello", "CONFIG_FILES.* YAML of lines"),
    "nothing": ("", "CONFIG_FILES.* YAML of lines"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_says_what_no_setting_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, case: str
) -> None:
    content, told = FILES[case]
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    monkeypatch.setenv("CONFIG_FILES", str(file))
    with pytest.raises(InvalidParameter, match=told) as error:
        config_files.check()
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


def test_what_may_be_anothers_is_only_told_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("frobnicate: 1\nruntime: {grpc: {options: {grpc.max_metadata_size: 1}}}\nmax_queued: 4")
    monkeypatch.setenv("CONFIG_FILES", str(file))
    (told,) = config_files.check()
    assert "frobnicate" in told


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("BASE_MODEL_DIR", "BASE_MODELS_DIR"),
        ("CAIKIT_PT_MAX_QUEUED", "MAX_QUEUED"),
        ("state_dir", "STATE_DIR"),
        ("CONFIG_FILE", "CONFIG_FILES"),
        ("RUNTIME_GRPC_PROT", "RUNTIME_GRPC_PORT"),
    ],
)
def test_a_variable_that_is_nearly_a_settings(
    monkeypatch: pytest.MonkeyPatch, variable: str, meant: str
) -> None:
    monkeypatch.delenv("CONFIG_FILES", raising=False)
    assert config_files.check() == []
    monkeypatch.setenv(variable, "x")
    (told,) = config_files.check()
    assert variable in told
    assert told.endswith(f"Was {meant} meant?")


@pytest.mark.parametrize("variable", ["LOG", "RUNTIME_GRPC", "TUNING_PRESETS", "BACKENDS"])
def test_what_no_variable_can_hold(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """caikit puts the text in the place of a whole section, and passes over a list without a word."""
    monkeypatch.delenv("CONFIG_FILES", raising=False)
    monkeypatch.setenv(variable, "debug")
    with pytest.raises(InvalidParameter, match=f"{variable}: 'debug' .* CONFIG_FILES"):
        config_files.check()


def test_files_that_are_not_there_end_the_import_in_a_line() -> None:
    ended = run("import caikit_pt", CONFIG_FILES="not-there.yaml")
    assert ended.returncode == 1
    assert ended.stderr.startswith(
        "caikit_pt: CONFIG_FILES: 'not-there.yaml' is not allowed. Allowed: files that are there"
    )
    assert ended.stderr.count("\n") == 1


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter, in the root of the checkout."""
    import os

    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
    )


def test_the_address_that_clients_ask_by_default_is_that_of_the_settings() -> None:
    """It stands in each, since a client reads no settings of a server."""
    told = yaml.safe_load((ROOT / "caikit_pt" / "config.yml").read_text("utf-8"))
    assert f"localhost:{told['runtime']['grpc']['port']}" == told["web"]["server"] == DEFAULT_ADDRESS
