"""A server whose callers say who they are, with OpenAI's API in front of it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai

from caikit_pt.client import TuningClient
from tests.conftest import BASE_MODELS, LLAMA, T5
from tests.runtime.servers import QUICK, RECORDS, Server
from tests.web.site import site

ADA, BOB = "ada-has-a-long-token", "bob-has-another"
CHATTY = "chatty-llama"
TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'] }}: {{ message['content'] }}{{ eos_token }}\n"
    "{% endfor %}"
    "{% if messages[0]['content'] == 'refuse' %}{{ raise_exception('It has to make sense') }}{% endif %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


@dataclass(frozen=True)
class Place:
    """Where both are."""

    address: str
    server: Server
    files: Path

    def client(self, token: str = ADA, model: str = "") -> openai.OpenAI:
        """Theirs, unmodified."""
        path = f"/models/{model}/v1" if model else "/v1"
        return openai.OpenAI(base_url=self.address + path, api_key=token, max_retries=0)

    def later(self, token: str = ADA) -> openai.AsyncOpenAI:
        """The one that doesn't wait."""
        return openai.AsyncOpenAI(base_url=f"{self.address}/v1", api_key=token, max_retries=0)

    def tune(self, **names: str) -> None:
        """Publishes prompts by name over base models."""
        with TuningClient(f"localhost:{self.server.port}", token=ADA) as client:
            begun = [
                client.tune(
                    name.replace("_", "-"),
                    base_model=base,
                    tuning_task="generation" if name.startswith("free") else "classification",
                    records=RECORDS,
                    **QUICK,
                )
                for name, base in names.items()
            ]
            assert {client.wait(id).state for id in begun} == {"COMPLETED"}


@contextmanager
def place(directory: Path, **settings: Any) -> Iterator[Place]:
    """Both, until they have ended."""
    bases = directory / "bases"
    bases.mkdir()
    for base in (LLAMA, T5):
        shutil.copytree(BASE_MODELS / base, bases / base)
    shutil.copytree(BASE_MODELS / LLAMA, bases / CHATTY)
    told = bases / CHATTY / "tokenizer_config.json"
    told.write_text(json.dumps({**json.loads(told.read_text()), "chat_template": TEMPLATE}))
    tokens = directory / "tokens"
    callers = {"ada": ADA, "bob": BOB}
    tokens.write_text(
        "".join(f"{hashlib.sha256(token.encode()).hexdigest()}: {name}\n" for name, token in callers.items())
    )
    server = Server(
        directory, BASE_MODELS_DIR=bases, ACCESS_TOKENS_FILE=tokens, LISTEN_HOST="localhost", **settings
    )
    server.start().close()
    try:
        files = directory / "web"
        limits = {"max_file_mib": 1, "max_files_mib": 2}
        with site(f"localhost:{server.port}", asks_who=True, directory=str(files), **limits) as address:
            yield Place(address, server, files)
    finally:
        server.close()
