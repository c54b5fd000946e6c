"""A vLLM server on the same checkpoint, asked through this project's own backend for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from bench.serving.contenders import Answers
from bench.serving.load import Load
from caikit_pt.base_model.loading.checkpoint import Checkpoint
from caikit_pt.serving.backends import backend_for, base_for
from caikit_pt.serving.request import Request
from caikit_pt.settings import Remote, Settings
from tests.vllm.server import server


class Vllm:
    """Answers loads; the CPU seconds are those of the server's processes alone."""

    def __init__(self, checkpoint: Checkpoint, address: str, process: int) -> None:
        remote = Remote(base_model="*", vllm=(address,), model=checkpoint.name)
        settings = Settings(base_models_dir=str(checkpoint.directory.parent), backends=(remote,))
        self._base = base_for(checkpoint, settings)
        self._backend = backend_for(self._base, settings)
        self._process = psutil.Process(process)

    def __call__(self, load: Load) -> Answers:
        part = self._base.checkpoint.prompt_parts[0]
        under_way = [
            self._backend.submit(Request(self._base.text, load.prompt(number, part), text, load.parameters))
            for number, text in enumerate(load.texts)
        ]
        return [generation.result().generated for generation in under_way]

    def clock(self) -> float:
        """CPU seconds so far."""
        spent = 0.0
        for process in (self._process, *self._process.children(recursive=True)):
            times = process.cpu_times()
            spent += times.user + times.system
        return spent


@contextmanager
def served(checkpoint: Checkpoint, environment: Path, scratch: Path) -> Iterator[Vllm | None]:
    """None where vLLM isn't installed in `environment` (`make vllm` does)."""
    python = environment / "bin" / "python"
    if not os.access(python, os.X_OK):
        yield None
        return
    with server(python, scratch / "vllm.log", checkpoint.directory) as (address, process):
        yield Vllm(checkpoint, address, process)
