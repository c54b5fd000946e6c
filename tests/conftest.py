"""What all tests share: the embedded models, caikit's settings, and one real server process."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from caikit_pt.base_model.loading.checkpoint import Checkpoint, locate
from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.pool import POOL
from caikit_pt.settings import Settings
from examples.grpc_client import Client
from examples.local_server import ROOT, server
from tests.whole import leave_out, unknown

BASE_MODELS = ROOT / "examples" / "base_models"
LLAMA, T5 = "tiny-llama", "tiny-t5"
SETTINGS = Settings(base_models_dir=str(BASE_MODELS))
# Of every server that a test starts: what that costs is three seconds of a processor, and many train nothing.
os.environ.setdefault("PREPARE_TRAININGS", "false")
# Seen in transformers and torch, and in MLflow with SQLAlchemy 2.1; not in this project.
FOREIGN_WARNINGS = (
    "ignore:.*torch.jit.script.*:DeprecationWarning",
    "ignore:The ``noload`` loader strategy:DeprecationWarning",
)


# Files of few tests that take minutes: begun last, one of them would go on alone.
LONG_FILES = (
    "test_command_line.py",
    "test_jobs.py",
    "test_drain.py",
    "test_service.py",
    "test_sharing.py",
    "test_crew.py",
    "test_source_tuner.py",
    "test_decode.py",
    "test_leftovers.py",
    "test_ray.py",
    "test_browser.py",
    "test_source_jobs.py",
    "test_engine.py",
    "test_readme.py",
    "test_on_device.py",
    "test_source_training.py",
    "test_gpu.py",
    "test_endings.py",
    "test_workers.py",
    "test_growing_batches.py",
    "test_edges.py",
    "test_search.py",
    "test_serving.py",
    "test_source_trial.py",
    "test_target_loss.py",
    "test_scarce.py",
    "test_kubernetes.py",
    "test_attacks.py",
    "test_fuzz.py",
    "test_rolling.py",
    "test_snapshot.py",
)
_ORDER = {name: place for place, name in enumerate(LONG_FILES)}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long files first, and of some tests a part. Before any of them are deselected."""
    is_part = config.getoption("lf", False) or any("::" in argument for argument in config.args)
    if not is_part and (names := unknown(items)):
        raise pytest.UsageError(f"tests/whole.py keeps what isn't there: {', '.join(names)}")
    leave_out(items)
    items.sort(key=lambda item: _ORDER.get(item.path.name, len(_ORDER)))


def pytest_configure(config: pytest.Config) -> None:
    """Filters for warnings of other projects, narrowly."""
    for line in FOREIGN_WARNINGS:
        config.addinivalue_line("filterwarnings", line)


@pytest.fixture(scope="session", autouse=True)
def caikit_settings() -> None:
    """In this process: the settings of runtime_config.yaml that don't depend on where one stands."""
    import caikit

    import caikit_pt  # noqa: F401

    caikit.configure(config_dict={"base_models_dir": str(BASE_MODELS)})


@pytest.fixture(scope="session")
def llama() -> BaseModel:
    """The embedded causal model."""
    return POOL.get(locate(LLAMA, SETTINGS), "float32", "cpu")


@pytest.fixture(scope="session")
def t5() -> BaseModel:
    """The embedded seq2seq model."""
    return POOL.get(locate(T5, SETTINGS), "float32", "cpu")


@pytest.fixture(params=[LLAMA, T5])
def base(request: pytest.FixtureRequest, llama: BaseModel, t5: BaseModel) -> BaseModel:
    """Each of the embedded models in turn."""
    return llama if request.param == LLAMA else t5


@pytest.fixture
def checkpoint(base: BaseModel) -> Checkpoint:
    """The checkpoint of `base`."""
    return base.checkpoint


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server publishes."""
    return tmp_path_factory.mktemp("server") / "models"


@pytest.fixture(scope="session")
def source_prompts(tmp_path_factory: pytest.TempPathFactory, t5: BaseModel, llama: BaseModel) -> Path:
    """A `source_prompt_base` with a source for each embedded model, and some that are of no use."""
    root = tmp_path_factory.mktemp("source_prompts")
    for model in (t5, llama):
        write_source(root / f"{model.checkpoint.name}-good", model.checkpoint, default=True)
    write_source(root / "other-base", t5.checkpoint, fingerprint="sha256:" + "0" * 64)
    write_source(root / "narrow", t5.checkpoint, width=8)
    (root / "broken.safetensors").write_bytes(b"nothing that safetensors would write")
    (root / "escape.safetensors").symlink_to("/etc/passwd")
    return root


def write_source(
    stem: Path, checkpoint: Checkpoint, tokens: int = 6, width: int = 0, **manifest: object
) -> None:
    """A source prompt of two tasks with a manifest beside it."""
    import torch
    from safetensors.torch import save_file

    width = width or checkpoint.hidden_size
    generator = torch.Generator().manual_seed(5)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    tensors = {
        "prompt_embeddings": draw(tokens, width),
        "prefix_task_cols": 1 + 0.1 * draw(2, tokens, 1),
        "prefix_task_rows": 1 + 0.1 * draw(2, 1, width),
    }
    save_file(tensors, stem.with_name(stem.name + ".safetensors"))
    described = {
        "base_model": checkpoint.name,
        "fingerprint": checkpoint.fingerprint,
        "tasks": ["first", "second"],
        **manifest,
    }
    stem.with_name(stem.name + ".json").write_text(json.dumps(described))


@pytest.fixture(scope="session")
def base_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `base_models_dir` with the embedded models, and some that are of no use."""
    from safetensors.torch import load_file, save_file
    from transformers import BertConfig, BertForSequenceClassification, MambaConfig

    root = tmp_path_factory.mktemp("base_models")
    for name in (LLAMA, T5, "no-weights", "no-tokenizer", "cut-short", "recurrent", "not-whole"):
        shutil.copytree(BASE_MODELS / (name if name == LLAMA else T5), root / name)
    (root / "no-weights" / "model.safetensors").unlink()
    (root / "no-tokenizer" / "tokenizer.json").unlink()
    weights = root / "cut-short" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    tensors = load_file(root / "not-whole" / "model.safetensors")
    del tensors["decoder.block.0.layer.2.DenseReluDense.wo.weight"]
    save_file(tensors, root / "not-whole" / "model.safetensors", metadata={"format": "pt"})
    MambaConfig(architectures=["MambaForCausalLM"]).save_pretrained(root / "recurrent")
    config = BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    BertForSequenceClassification(config).save_pretrained(root / "classifier")
    return root


@pytest.fixture(scope="session")
def training_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `file_source_base` with good files, and some that are of no use."""
    root = tmp_path_factory.mktemp("training_data")
    for task in ("ticket_sentiment", "tweet_complaint"):
        shutil.copytree(ROOT / "examples" / "data" / task, root / task)
    (root / "numbers.jsonl").write_text('{"input": "a", "output": "b"}\n{"input": "c", "output": 0}\n')
    (root / "half.jsonl").write_text('{"input": "a", "output": "b"}\n{"input": "c", "out')
    (root / "text.txt").write_text("a secret")
    (root / "bare").write_text("a secret")
    return root


@pytest.fixture(scope="session")
def client(
    models_dir: Path, source_prompts: Path, base_models: Path, training_data: Path
) -> Iterator[Client]:
    """A client of a real server process that lives as long as the tests."""
    models_dir.mkdir()
    settings = {
        "SOURCE_PROMPT_BASE": str(source_prompts),
        "BASE_MODELS_DIR": str(base_models),
        "DATA_STREAMS_FILE_SOURCE_BASE": str(training_data),
    }
    with server(models_dir, settings) as port:
        yield Client(port)
