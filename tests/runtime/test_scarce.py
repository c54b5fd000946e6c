"""Base models that memory has no room for together."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from caikit_pt.base_model.model import BaseModel
from caikit_pt.client import ServerError, TuningClient
from tests.conftest import BASE_MODELS, LLAMA, T5
from tests.runtime.scarce_server import LARGE, SECONDS_UNASKED
from tests.runtime.servers import Server
from tests.runtime.test_rolling import save

LONG = {"max_new_tokens": 400, "min_new_tokens": 400}


class Scarce(Server):
    program = "tests.runtime.scarce_server"


@pytest.fixture
def server(tmp_path: Path, llama: BaseModel, t5: BaseModel) -> Iterator[Server]:
    bases = Path(shutil.copytree(BASE_MODELS, tmp_path / "base_models"))
    shutil.copytree(bases / LLAMA, bases / LARGE)
    server = Scarce(tmp_path, BASE_MODELS_DIR=bases)
    for base in (llama, t5):
        save(base, 0, server.models / base.checkpoint.name)
    config = (server.models / LLAMA / "config.yml").read_text()
    shutil.copytree(server.models / LLAMA, server.models / LARGE)
    (server.models / LARGE / "config.yml").write_text(config.replace(LLAMA, LARGE))
    yield server
    server.close()


@pytest.fixture
def client(server: Server) -> Iterator[TuningClient]:
    with server.start() as client:
        yield client


def loads(server: Server) -> list[str]:
    """Base models, as they were loaded."""
    return re.findall(r"^loaded (\S+)$", server.log.read_text(), re.MULTILINE)


def refused(client: TuningClient, name: str) -> None:
    with pytest.raises(ServerError, match=f"No memory for base model {name}") as error:
        client.generate(name, "the kettle")
    assert (error.value.status, error.value.retry_seconds) == ("RESOURCE_EXHAUSTED", 5.0)


def test_a_base_model_that_nobody_asks_makes_room(client: TuningClient, server: Server) -> None:
    answers = []
    for name in (LLAMA, T5, LLAMA, T5):
        answers.append(client.generate(name, "the kettle"))
        time.sleep(SECONDS_UNASKED + 0.2)
    assert answers[:2] == answers[2:]
    assert loads(server) == [LLAMA, T5, LLAMA, T5]


def test_two_that_are_asked_do_not_throw_each_other_out(client: TuningClient, server: Server) -> None:
    """Each request for one loaded it anew, and threw out the other."""
    answer = client.generate(LLAMA, "the kettle")
    for _ in range(5):
        refused(client, T5)
        assert client.generate(LLAMA, "the kettle") == answer
    assert loads(server) == [LLAMA]


def test_one_that_never_has_room_throws_nobody_out(client: TuningClient, server: Server) -> None:
    """Whoever had a prompt over it emptied the server, and was refused nevertheless."""
    answer = client.generate(LLAMA, "the kettle")
    time.sleep(SECONDS_UNASKED + 0.2)
    refused(client, LARGE)
    assert client.generate(LLAMA, "the kettle") == answer
    assert loads(server) == [LLAMA]


def test_one_that_is_asked_stays_and_the_other_is_refused(client: TuningClient) -> None:
    under_way = client.stream(LLAMA, "the kettle", **LONG)
    next(iter(under_way))
    with pytest.raises(
        ServerError, match="No memory for base model tiny-t5: its weights take 5 MiB"
    ) as error:
        client.generate(T5, "the kettle")
    assert error.value.status == "RESOURCE_EXHAUSTED"
    rest = "".join(under_way)
    assert rest == client.generate(LLAMA, "the kettle", **LONG)[-len(rest) :], "nobody else has lost anything"
    time.sleep(SECONDS_UNASKED + 0.2)
    assert client.generate(T5, "the kettle") is not None
