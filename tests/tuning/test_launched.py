"""Workers that torchrun has launched: each gets the prompt that one of them leads."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from caikit_pt import train_source
from caikit_pt.base_model.model import BaseModel
from caikit_pt.errors import InvalidParameter
from caikit_pt.tuning import launched
from caikit_pt.tuning.crew import Crew
from examples.local_server import ROOT, free_port
from tests.conftest import BASE_MODELS

from .crews import tuned_by
from .training import PAIRS, plan

PROGRAM = """
import os, sys
import caikit
import caikit_pt
from caikit_pt import PeftPromptTuning
from tests.tuning.training import PAIRS

caikit.configure(config_dict={"base_models_dir": sys.argv[1]})
for seed in (1, 2):
    tuned = PeftPromptTuning.train(
        base_model="tiny-llama", train_stream=PAIRS[:10], val_stream=PAIRS[14:], num_epochs=2, batch_size=5,
        tuning_config={"num_virtual_tokens": 4}, seed=seed,
    )
    tuned.save(f"{sys.argv[2]}/{os.environ['RANK']}-{seed}")
"""


def test_each_gets_the_prompt(llama: BaseModel, tmp_path: Path) -> None:
    launch(tmp_path, ["--standalone", "--nproc-per-node", "2"])
    check(llama, tmp_path)


def test_each_of_two_nodes_gets_the_prompt(llama: BaseModel, tmp_path: Path) -> None:
    """Which know nothing of each other but an address."""
    place = f"127.0.0.1:{free_port()}"
    node = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-endpoint", place]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: launch(tmp_path, node), range(2)))
    check(llama, tmp_path)


def launch(folder: Path, options: list[str]) -> None:
    (folder / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "torch.distributed.run", *options]
    ended = subprocess.run(
        [*command, str(folder / "program.py"), str(BASE_MODELS), str(folder)],
        cwd=ROOT,
        # The program is elsewhere, and reads records of the tests.
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr


def check(llama: BaseModel, folder: Path) -> None:
    for seed in (1, 2):
        asked = plan(llama, validation=PAIRS[14:], seed=seed)
        alone = tuned_by(Crew(2), asked, llama)
        both = [load_file(folder / f"{rank}-{seed}" / "decoder.safetensors")["prompt"] for rank in (0, 1)]
        assert torch.equal(*both)
        # Other threads and kernels than here may have other last digits.
        assert torch.allclose(both[0], alone.prompt.tensors["DECODER"], atol=1e-2)


def test_who_stands_for_itself_is_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """WORLD_SIZE alone is set by other things, too."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert (launched.workers(), launched.leads(), launched.device("cuda")) == (1, True, "cuda")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert launched.workers() == 1
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "1")
    assert (launched.workers(), launched.leads()) == (2, False)
    assert (launched.device("cuda"), launched.device("cpu")) == ("cuda:1", "cpu")
    with pytest.raises(InvalidParameter, match="WORLD_SIZE: 2 is not allowed"):
        train_source("tiny-llama", {})
