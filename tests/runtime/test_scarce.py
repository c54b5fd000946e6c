"""Base models that memory has no room for together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from caikit_pt.base_model.model import BaseModel
from caikit_pt.client import ServerError, TuningClient
from caikit_pt.module import PeftPromptTuning
from caikit_pt.soft_prompt.artifact import TunedPrompt
from caikit_pt.soft_prompt.prompt import SoftPrompt
from tests.conftest import LLAMA, T5
from tests.runtime.servers import Server

LONG = {"max_new_tokens": 400, "min_new_tokens": 400}


class Scarce(Server):
    program = "tests.runtime.scarce_server"


def save(base: BaseModel, directory: Path) -> None:
    """A prompt of four tokens."""
    part = base.checkpoint.prompt_parts[0]
    tuned = TunedPrompt(
        prompt=SoftPrompt({part: base.weights.embed([20, 21, 22, 23]).float()}),
        base_model_name=base.checkpoint.name,
        base_model_fingerprint=base.checkpoint.fingerprint,
        verbalizer="{{input}}",
    )
    PeftPromptTuning(tuned, base).save(str(directory))


@pytest.fixture
def client(tmp_path: Path, llama: BaseModel, t5: BaseModel) -> Iterator[TuningClient]:
    server = Scarce(tmp_path)
    for base in (llama, t5):
        save(base, server.models / base.checkpoint.name)
    try:
        with server.start() as client:
            yield client
    finally:
        server.close()


def test_a_base_model_that_nobody_asks_makes_room(client: TuningClient) -> None:
    first, second = (client.generate(name, "the kettle") for name in (LLAMA, T5))
    assert [client.generate(name, "the kettle") for name in (LLAMA, T5, LLAMA)] == [first, second, first]


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
    assert client.generate(T5, "the kettle") is not None
