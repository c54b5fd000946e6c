"""What is on the wire is in protos/: a server that caikit has no part in answers a client of this package."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import torch

from caikit_pt import PeftPromptTuning
from caikit_pt.base_model.model import BaseModel
from caikit_pt.client import TuningClient
from caikit_pt.soft_prompt.artifact import TunedPrompt
from caikit_pt.soft_prompt.prompt import SoftPrompt
from examples.local_server import ROOT
from tests.conftest import BASE_MODELS, LLAMA

TEXT = "The kettle from your shop is dreadful"


@pytest.fixture(scope="module")
def model(llama: BaseModel) -> PeftPromptTuning:
    """A tuned prompt of no training."""
    generator = torch.Generator().manual_seed(3)
    rows = 0.1 * torch.randn(6, llama.checkpoint.hidden_size, generator=generator)
    tuned = TunedPrompt(
        prompt=SoftPrompt({"DECODER": rows}),
        base_model_name=LLAMA,
        base_model_fingerprint=llama.checkpoint.fingerprint,
        verbalizer="Text: {{input}}",
        separator=" Label: ",
        labels=("good", "bad"),
    )
    return PeftPromptTuning(tuned, llama)


@pytest.fixture(scope="module")
def client(model: PeftPromptTuning, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TuningClient]:
    """Of a server without caikit that has `model` under the name of "first"."""
    root = tmp_path_factory.mktemp("plain")
    model.save(str(root / "models" / "first"))
    stubs = root / "stubs"
    stubs.mkdir()
    protos = ROOT / "protos"
    outputs = [f"--python_out={stubs}", f"--grpc_python_out={stubs}"]
    files = [file.name for file in protos.glob("*.proto")]
    protoc = [sys.executable, "-m", "grpc_tools.protoc", f"-I{protos}"]
    subprocess.run([*protoc, *outputs, *files], check=True)
    directories = map(str, (stubs, root / "models", BASE_MODELS))
    command = [sys.executable, "-m", "tests.plain_server", *directories]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            with closing(TuningClient(f"localhost:{int(process.stdout.readline())}")) as client:
                yield client
        finally:
            process.terminate()


@pytest.mark.parametrize("asked", [{}, {"labels_only": False}])
def test_it_answers(client: TuningClient, model: PeftPromptTuning, asked: dict[str, bool]) -> None:
    fields: dict[str, Any] = {"max_new_tokens": 8, "preserve_input_text": False, **asked}
    expected = model.run(TEXT, **fields).generated_text
    assert expected
    assert client.generate("first", TEXT, **fields) == expected
    assert "".join(client.stream("first", TEXT, **fields)) == expected
    whole = model.run(TEXT, **{**fields, "preserve_input_text": True}).generated_text
    assert client.generate("first", TEXT, **{**fields, "preserve_input_text": True}) == whole


def test_it_tells_of_trainings(client: TuningClient) -> None:
    assert [(training.model_name, training.state) for training in client.trainings()] == [
        ("first", "COMPLETED")
    ]
