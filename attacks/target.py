"""A server to be attacked, with what is to be left alone beside it."""

from __future__ import annotations

import os
import resource
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil

from caikit_pt.client import COMPLETED, TuningClient
from caikit_pt.client.retries import LOST
from examples.grpc_client import Client
from examples.local_server import ROOT, free_port, running

LLAMA, T5 = "tiny-llama", "tiny-t5"
RECORDS = [
    {"input": f"The {thing} is {mood}", "output": answer}
    for thing in ("kettle", "lamp", "desk", "mixer")
    for mood, answer in (("great", "good"), ("awful", "bad"))
]
TRAINING = {"num_virtual_tokens": 4, "num_epochs": 1, "batch_size": 8}
# Somebody else's request waits no longer, whatever is done to the server.
SECONDS_FOR_OTHERS = 10.0
# What a client that means well asks again after, as TuningClient does: it is told to, or was lost on the way.
_COME_AGAIN = ("RESOURCE_EXHAUSTED", *LOST)
GOOD, SECRET = "good", "a secret that no client may read"


@dataclass(frozen=True, slots=True)
class Target:
    """The server's client, its port, its process and its directories."""

    directory: Path
    port: int
    client: TuningClient
    # Sends what it is given, whatever that is.
    raw: Client
    process: psutil.Process

    @property
    def models(self) -> Path:
        """Where prompts are served from."""
        return self.directory / "models"

    @property
    def sources(self) -> Path:
        """SOURCE_PROMPT_BASE."""
        return self.directory / "sources"

    @property
    def records(self) -> Path:
        """Where training files are."""
        return self.directory / "records"

    @property
    def base_models(self) -> Path:
        """BASE_MODELS_DIR."""
        return self.directory / "base_models"

    @property
    def outside(self) -> Path:
        """What no request may reach."""
        return self.directory / "outside"

    def submit(self, name: str = "attacked", **parameters: object) -> str:
        """A train request that is good but for `parameters`."""
        good = {"base_model": LLAMA, "train_stream": {"jsondata": {"data": RECORDS}}, "num_epochs": 1}
        return self.raw.submit(name, {**good, **parameters})

    def answers_others(self) -> bool:
        """Whether a client that means well gets what it always got."""
        deadline = time.monotonic() + SECONDS_FOR_OTHERS
        while (left := deadline - time.monotonic()) > 0:
            try:
                answer = self.raw.predict_within(
                    left, GOOD, "The lamp is great", max_new_tokens=3, preserve_input_text=False
                )
                return bool(answer.generated_text == self._answer)
            except grpc.RpcError as error:
                if error.code().name not in _COME_AGAIN:
                    return False
                time.sleep(0.5)
        return False

    @property
    def _answer(self) -> str:
        return (self.outside / "answer").read_text("utf-8")

    def was_touched(self) -> bool:
        """Whether anything is other than it was outside of what the server is given."""
        beside = {path.name for path in self.directory.iterdir()}
        known = {"models", "sources", "records", "base_models", "outside", "state", "cache", "log"}
        there = {path.name for path in self.outside.rglob("*")}
        return not beside <= known or there != {"answer", "secret.jsonl", "model", "config.yml"}


@contextmanager
def target(directory: Path, **settings: str) -> Iterator[Target]:
    """A server in `directory` with a tuned prompt, and files beside it."""
    for name in ("models", "sources", "records", "base_models", "outside/model"):
        (directory / name).mkdir(parents=True)
    (directory / "outside" / "secret.jsonl").write_text(f'{{"input": "{SECRET}", "output": "x"}}\n')
    (directory / "outside" / "model" / "config.yml").write_text(SECRET)
    for base in (ROOT / "examples" / "base_models").iterdir():
        shutil.copytree(base, directory / "base_models" / base.name)
    port = free_port()
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "RUNTIME_GRPC_PORT": str(port),
        "RUNTIME_METRICS_ENABLED": "false",
        "RUNTIME_LOCAL_MODELS_DIR": str(directory / "models"),
        "STATE_DIR": str(directory / "state"),
        "CACHE_DIR": str(directory / "cache"),
        "BASE_MODELS_DIR": str(directory / "base_models"),
        "SOURCE_PROMPT_BASE": str(directory / "sources"),
        "DATA_STREAMS_FILE_SOURCE_BASE": str(directory / "records"),
        "MODEL_MANAGEMENT_RPCS": "true",
        "MAX_MESSAGE_SECONDS": "2",
        **settings,
    }
    environment.pop("CONFIG_FILES", None)
    with (
        _few_descriptors(),
        running(environment, port, directory / "log", directory) as process,
        TuningClient(f"localhost:{port}") as client,
    ):
        id = client.tune(GOOD, base_model=LLAMA, records=RECORDS, **TRAINING)
        assert [event.state for event in client.watch(id)][-1] == COMPLETED
        answer = client.generate(GOOD, "The lamp is great", max_new_tokens=3)
        (directory / "outside" / "answer").write_text(answer, "utf-8")
        yield Target(directory, port, client, Client(port), psutil.Process(process.pid))


@contextmanager
def _few_descriptors() -> Iterator[None]:
    """What is started inside begins with as many as a service does, and may ask for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, soft), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
