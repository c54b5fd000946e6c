"""Many tuned prompts and many clients at once, over real gRPC: each gets the answer it would get alone."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch

from caikit_pt.base_model.model import BaseModel
from caikit_pt.module import PeftPromptTuning
from caikit_pt.soft_prompt.artifact import TunedPrompt
from caikit_pt.soft_prompt.prompt import SoftPrompt
from examples.grpc_client import Client
from examples.local_server import server

PROMPTS, CLIENTS = 32, 64
# `make soak` asks for 2,000.
REQUESTS = int(os.environ.get("SOAK_REQUESTS", "300"))
WORDS = ["the", "kettle", "from", "your", "shop", "is", "dreadful", "and", "I", "want", "money", "back"]
LONG = {"max_new_tokens": 900, "min_new_tokens": 900}


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, llama: BaseModel, t5: BaseModel
) -> Iterator[tuple[Client, int]]:
    """A server with 32 prompts of 1 to 40 tokens, and room for 16 rows and 40 that wait."""
    models = tmp_path_factory.mktemp("serving") / "models"
    models.mkdir()
    for number in range(PROMPTS):
        base = (llama, t5)[number % 2]
        _save(base, number, models / f"prompt-{number}")
    settings = {
        "MAX_BATCH_SIZE": "16",
        "MAX_WAITING_REQUESTS": "60",
        "MAX_PREFILL_TOKENS": "128",
        # Three quarters of which are one client's.
        "RUNTIME_SERVER_THREAD_POOL_SIZE": "140",
    }
    with server(models, {**settings, "BASE_MODELS_DIR": str(llama.checkpoint.directory.parent)}) as port:
        yield Client(port), port


def test_no_client_gets_another_ones_answer(served: tuple[Client, int]) -> None:
    """Each answer is compared with its serial run: greedy and sampled, unary and streaming."""
    client, port = served
    requests = [_request(number) for number in range(REQUESTS)]
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [Client(port) for _ in range(CLIENTS)]
        together = list(
            pool.map(
                lambda number: _ask(clients[number % CLIENTS], requests[number], stream=number % 3 == 0),
                range(REQUESTS),
            )
        )
    alone = [_ask(client, request, stream=False) for request in requests]
    wrong = [number for number in range(REQUESTS) if together[number] != alone[number]]
    print(f"{len(wrong)} wrong of {REQUESTS} requests from {CLIENTS} clients over {PROMPTS} prompts")
    assert not wrong
    assert len({answer for answer, *_ in alone}) > REQUESTS / 2, "answers that are all alike tell nothing"


def test_the_first_token_comes_before_the_last_is_made(served: tuple[Client, int]) -> None:
    client, _ = served
    began = time.monotonic()
    stream = client.stream("prompt-0", "the kettle is dreadful", **LONG)
    next(stream)
    first = time.monotonic() - began
    rest = sum(1 for _ in stream)
    whole = time.monotonic() - began
    assert rest == 899
    assert first < whole / 3


def test_a_client_that_goes_away_frees_its_place(served: tuple[Client, int]) -> None:
    """16 long answers fill the batch; when their readers leave, the next request needn't wait for them."""
    client, _ = served
    streams: list[Any] = [client.stream(f"prompt-{2 * n}", "the kettle", **LONG) for n in range(16)]
    for stream in streams:
        next(stream)
    for stream in streams:
        stream.cancel()
    began = time.monotonic()
    client.predict("prompt-0", "the kettle", max_new_tokens=3)
    assert time.monotonic() - began < 5


def test_a_unary_client_that_goes_away_frees_its_place(served: tuple[Client, int]) -> None:
    client, port = served

    def hurry(_: int) -> grpc.StatusCode:
        with pytest.raises(grpc.RpcError) as caught:
            Client(port).predict_within(0.7, "prompt-0", "the kettle", **LONG)
        return caught.value.code()

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(hurry, range(16))) == {grpc.StatusCode.DEADLINE_EXCEEDED}
    began = time.monotonic()
    client.predict("prompt-0", "the kettle", max_new_tokens=3)
    assert time.monotonic() - began < 5


def test_one_too_many_is_refused_and_the_others_are_served(served: tuple[Client, int]) -> None:
    """16 rows and 60 that wait: of 95 at once some are told to come again."""
    client, _ = served

    def ask(_: int) -> str:
        try:
            client.predict("prompt-0", "the kettle", max_new_tokens=120, min_new_tokens=120)
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # noqa: PT017
            return error.details() or ""
        return "answered"

    with ThreadPoolExecutor(95) as pool:
        told = list(pool.map(ask, range(95)))
    assert 60 <= told.count("answered") < 95
    assert all("max_waiting_requests" in text for text in told if text != "answered")


def test_a_slow_reader_gets_all_of_it(served: tuple[Client, int]) -> None:
    client, _ = served
    stream = client.stream("prompt-1", "the kettle is dreadful", max_new_tokens=60, min_new_tokens=60)
    next(stream)
    time.sleep(1.0)
    quick = client.predict("prompt-1", "the kettle is dreadful", max_new_tokens=60, min_new_tokens=60)
    parts = list(stream)
    assert len(parts) == 59
    assert quick.generated_text.endswith("".join(part.generated_text for part in parts))


def test_a_prompt_beyond_float16_fails_and_nobody_else(
    tmp_path: Path, llama: BaseModel, t5: BaseModel
) -> None:
    """Its rows were nan, and whoever had their place next got an answer made of that."""
    models = tmp_path / "models"
    models.mkdir()
    for number, base in enumerate((llama, t5)):
        _save(base, number, models / f"good-{number}")
        _save(base, number, models / f"large-{number}", 1e5)
    settings = {"BASE_MODELS_DIR": str(llama.checkpoint.directory.parent), "TORCH_DTYPE": "float16"}
    fields = {"max_new_tokens": 9, "min_new_tokens": 9}
    with server(models, settings) as port, ThreadPoolExecutor(12) as pool:
        client = Client(port)

        def ask(number: int) -> int:
            """Tokens of the answer; one of three asks a prompt that is too large."""
            name = f"{'large' if number % 3 == 0 else 'good'}-{number % 2}"
            try:
                return int(client.predict(name, f"the kettle {number}", **fields).generated_tokens)
            except grpc.RpcError as error:
                assert error.code() is grpc.StatusCode.FAILED_PRECONDITION  # noqa: PT017
                assert "torch_dtype" in (error.details() or "")  # noqa: PT017
                return 0

        assert list(pool.map(ask, range(18))) == [9 * (number % 3 > 0) for number in range(18)]


# ---- helpers ----


def _save(base: BaseModel, number: int, directory: Path, times: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(number)
    length = 1 + number * 5 % 40
    ids = torch.randint(20, 400, (length,), generator=generator).tolist()
    part = base.checkpoint.prompt_parts[0]
    tuned = TunedPrompt(
        prompt=SoftPrompt({part: times * base.weights.embed(ids).float()}),
        base_model_name=base.checkpoint.name,
        base_model_fingerprint=base.checkpoint.fingerprint,
        verbalizer="{{input}}",
    )
    PeftPromptTuning(tuned, base).save(str(directory))


def _request(number: int) -> tuple[str, str, dict[str, Any]]:
    rng = random.Random(number)
    text = " ".join(rng.choice(WORDS) for _ in range(rng.randrange(1, 30)))
    most = rng.randrange(4, 24)
    fields: dict[str, Any] = {
        "max_new_tokens": most,
        "preserve_input_text": False,
        "min_new_tokens": most // 2,
    }
    if number % 4 == 1:
        fields |= {"decoding_method": "SAMPLING", "seed": number, "top_k": 20, "temperature": 1.3}
    if number % 4 == 2:
        fields |= {"repetition_penalty": 1.3, "stop_sequences": ["ing"]}
    return f"prompt-{rng.randrange(PROMPTS)}", text, fields


def _ask(client: Client, request: tuple[str, str, dict[str, Any]], stream: bool) -> tuple[str, int, int]:
    """The answer, its tokens, and why it ended."""
    name, text, fields = request
    if not stream:
        whole = client.predict(name, text, **fields)
        return whole.generated_text, whole.generated_tokens, whole.finish_reason
    parts = list(client.stream(name, text, **fields))
    last = parts[-1].details
    return "".join(part.generated_text for part in parts), last.generated_tokens, last.finish_reason
