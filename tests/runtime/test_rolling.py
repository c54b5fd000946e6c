"""Two servers that restart in turns while clients ask: no answer is lost, none is another one's.

`make rolling` asks more, and does it behind nginx, too.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from caikit_pt.base_model.model import BaseModel
from caikit_pt.client import ServerError, TuningClient
from caikit_pt.module import PeftPromptTuning
from caikit_pt.soft_prompt.artifact import TunedPrompt
from caikit_pt.soft_prompt.prompt import SoftPrompt
from examples.local_server import ROOT
from tests.conftest import LLAMA
from tests.runtime.nginx import NGINX, nginx
from tests.runtime.servers import Server

CLIENTS = int(os.environ.get("ROLLING_CLIENTS", "16"))
# Of each client. Restarts go on for as long as they ask, and there are two at least.
REQUESTS = int(os.environ.get("ROLLING_REQUESTS", "60"))
TEXTS = ("the kettle is dreadful", "the lamp from your shop", "I want my money back")
# Each with its seed: they answer differently.
PROMPTS = {"first": 0, "second": 2}
ASKED: dict[str, Any] = {"max_new_tokens": 4, "min_new_tokens": 4}


def save(base: BaseModel, seed: int, directory: Path) -> None:
    """A prompt of twelve tokens."""
    ids = torch.randint(20, 400, (12,), generator=torch.Generator().manual_seed(seed)).tolist()
    tuned = TunedPrompt(
        prompt=SoftPrompt({base.checkpoint.prompt_parts[0]: base.weights.embed(ids).float()}),
        base_model_name=base.checkpoint.name,
        base_model_fingerprint=base.checkpoint.fingerprint,
        verbalizer="{{input}}",
    )
    PeftPromptTuning(tuned, base).save(str(directory))


@pytest.fixture
def two(tmp_path: Path, llama: BaseModel) -> Iterator[list[Server]]:
    """Servers with the same two prompts, which answer differently."""
    config = tmp_path / "preload.yml"
    config.write_text(f"preload: [{LLAMA}]\n")
    files = f"{ROOT / 'runtime_config.yaml'},{config}"
    servers = []
    for name in ("a", "b"):
        directory = tmp_path / name
        directory.mkdir()
        # While one is away the other has all clients.
        streams = {"MAX_STREAMS": CLIENTS, "MAX_STREAMS_PER_CLIENT": CLIENTS}
        servers.append(Server(directory, CONFIG_FILES=files, DRAIN_SECONDS=1, **streams))
        for prompt, seed in PROMPTS.items():
            save(llama, seed, directory / "models" / prompt)
    try:
        for server in servers:
            server.start().close()
        yield servers
    finally:
        for server in servers:
            server.close()


@dataclass
class Told:
    """What clients were told, of so many requests."""

    right: int = 0
    wrong: list[str] = field(default_factory=list)
    lost: Counter[str] = field(default_factory=Counter)
    longest: float = 0.0
    restarts: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.right} right, {len(self.wrong)} wrong, {self.lost.total()} lost of {CLIENTS} clients x "
            f"{REQUESTS} requests in {self.seconds:.0f} s, with {self.restarts} restarts; the longest took "
            f"{self.longest:.2f} s. {dict(self.lost) or ''}"
        )


def expected(address: str) -> dict[tuple[str, str], str]:
    with TuningClient(address) as client:
        return {
            (prompt, text): client.generate(prompt, text, **ASKED) for prompt in PROMPTS for text in TEXTS
        }


def ask_while_restarting(address: str, servers: list[Server]) -> Told:
    """All clients ask `address` while each of `servers` in turn is ended and started, again and again."""
    answers = expected(address)
    assert all(answers["first", text] != answers["second", text] for text in TEXTS)
    told, lock, done = Told(), threading.Lock(), threading.Event()

    def ask(number: int) -> None:
        draw = random.Random(number)
        with TuningClient(address) as client:
            for count in range(REQUESTS):
                question = draw.choice([*PROMPTS]), draw.choice(TEXTS)
                began = time.monotonic()
                try:
                    if count % 3:
                        answer = client.generate(*question, **ASKED)
                    else:
                        answer = "".join(client.stream(*question, **ASKED))
                except ServerError as error:
                    with lock:
                        told.lost[f"{error.status}: {error}"] += 1
                    continue
                with lock:
                    told.longest = max(told.longest, time.monotonic() - began)
                    if answer == answers[question]:
                        told.right += 1
                    else:
                        told.wrong.append(answer)

    def restart() -> None:
        while not done.is_set() or told.restarts < len(servers):
            server = servers[told.restarts % len(servers)]
            server.process.terminate()
            assert server.process.wait(60) == 0
            server.start().close()
            told.restarts += 1
            done.wait(1.0)

    began = time.monotonic()
    with ThreadPoolExecutor(CLIENTS + 1) as pool:
        restarting = pool.submit(restart)
        for asking in [pool.submit(ask, number) for number in range(CLIENTS)]:
            asking.result()
        told.seconds = time.monotonic() - began
        done.set()
        restarting.result()
    print(told)
    return told


def check(told: Told) -> None:
    assert not told.lost
    assert not told.wrong
    assert told.right == CLIENTS * REQUESTS
    assert told.restarts >= 2


def test_a_client_of_two_addresses_loses_nothing(two: list[Server]) -> None:
    address = f"ipv4:{','.join(f'127.0.0.1:{server.port}' for server in two)}"
    check(ask_while_restarting(address, two))


def test_a_client_that_chooses_by_the_prompt_loses_nothing(two: list[Server]) -> None:
    check(ask_while_restarting(",".join(f"127.0.0.1:{server.port}" for server in two), two))


@pytest.mark.skipif(NGINX is None, reason="nginx isn't installed")
def test_clients_of_nginx_lose_nothing(two: list[Server], tmp_path: Path) -> None:
    with nginx(tmp_path, [server.port for server in two]) as port:
        check(ask_while_restarting(f"127.0.0.1:{port}", two))
