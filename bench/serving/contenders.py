"""Who answers a load. Each returns the new token ids of every request."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from inspect import signature
from typing import Any

from bench.serving.checkpoint import Models
from bench.serving.load import Load
from caikit_pt.base_model.model import BaseModel
from caikit_pt.serving.engine import Engine
from caikit_pt.serving.request import Request
from caikit_pt.serving.scheduler import Limits

Answers = list[list[int]]
Contender = Callable[[Load], Answers]

ONE_BY_ONE = "one by one, generate()"
STATIC = "static batches of 8, generate()"
CONTINUOUS = "transformers' continuous batching"
OURS = "caikit_pt"
VLLM = "vLLM"
_STATIC_ROWS = 8
_PAGE = 32
# By its defaults it takes pages for all the memory there is, and is twenty times slower. With 256 pages of 32
# it reads prompts again that other loads have driven out.
_PAGES = {"num_blocks": 1024, "max_batch_tokens": 512, "use_cuda_graph": False}


def contenders(models: Models, vllm: Contender | None = None) -> dict[str, Contender]:
    """Those that can serve the family."""
    found: dict[str, Contender] = {
        ONE_BY_ONE: partial(one_by_one, models),
        STATIC: partial(static, models),
    }
    if models.base.text.continues_text:
        found[CONTINUOUS] = Continuous(models.network)
    if vllm is not None:
        found[VLLM] = vllm
    found[OURS] = partial(ours, models.base)
    return found


def one_by_one(models: Models, load: Load) -> Answers:
    """A request after the other through transformers' generate()."""
    return [generated(models, load, [number])[0] for number in range(load.requests)]


def static(models: Models, load: Load) -> Answers:
    """Batches of eight, texts of like length together, padded in front."""
    order = sorted(range(load.requests), key=lambda number: len(load.texts[number]))
    answers: dict[int, list[int]] = {}
    for start in range(0, len(order), _STATIC_ROWS):
        numbers = order[start : start + _STATIC_ROWS]
        answers.update(zip(numbers, generated(models, load, numbers), strict=True))
    return [answers[number] for number in range(load.requests)]


def ours(base: BaseModel, load: Load) -> Answers:
    """The engine that serves, without its thread."""
    return answered(base, requests_of(base, load))


def answered(base: BaseModel, requests: list[Request], rows: int = 64) -> Answers:
    """The engine's answers, with up to `rows` of the requests running at once."""
    for _ in steps(base, requests, rows):
        pass
    return [request.generated for request in requests]


def requests_of(base: BaseModel, load: Load) -> list[Request]:
    """The requests of `load` as the engine takes them."""
    part = base.checkpoint.prompt_parts[0]
    return [
        Request(base.text, load.prompt(number, part), text, load.parameters)
        for number, text in enumerate(load.texts)
    ]


def steps(base: BaseModel, requests: list[Request], rows: int = 64) -> Iterator[None]:
    """Yields after each step of an engine that answers `requests`."""
    engine = Engine(base, Limits(rows=rows, waiting=len(requests)))
    for request in requests:
        engine.submit(request)
    while engine.busy:
        engine.step()
        yield


def by_round(run: Callable[[Load], Any], load: Load) -> Callable[[int], Callable[[], Any]]:
    """Has `run` answer `load` as it is in a round; what is asked is made before the work begins."""
    return lambda number: partial(run, load.of_round(number))


class Continuous:
    """transformers' continuous batching, on a CPU with the settings that suit it there.

    It takes no embeddings: in front of each text stand the tokens that its prompt is made of.
    """

    def __init__(self, network: Any) -> None:
        self._network = network

    def __call__(self, load: Load) -> Answers:
        from transformers import GenerationConfig
        from transformers.generation.configuration_utils import ContinuousBatchingConfig

        # It warns at each call that the manager stays.
        logging.getLogger("ContinuousBatchingLogger").setLevel(logging.ERROR)
        config: Any = ContinuousBatchingConfig
        # In 5.17 pages are called blocks, as their number still is later.
        size = "page_size" if "page_size" in signature(config).parameters else "block_size"
        pages = {**_PAGES, size: _PAGE}
        plain: Any = GenerationConfig
        found = self._network.generate_batch(
            [load.prompt_ids[number % load.prompts] + text for number, text in enumerate(load.texts)],
            generation_config=plain(
                max_new_tokens=load.new, do_sample=False, eos_token_id=-1, pad_token_id=1
            ),
            continuous_batching_config=config(**pages) if self._network.device.type == "cpu" else config(),
            progress_bar=False,
            persistent_manager=True,
            warmup=False,
        )
        return [list(one.generated_tokens) for one in found.values()]


def generated(models: Models, load: Load, numbers: list[int]) -> Answers:
    """The answers of transformers' generate() to these requests of `load`, in one batch padded in front."""
    import torch

    base, network = models.base, models.network
    part = base.checkpoint.prompt_parts[0]
    embed = network.get_input_embeddings()
    rows = []
    for number in numbers:
        tensor = load.prompt(number, part).tensors[part].to(base.weights.device, base.weights.dtype)
        rows.append(torch.cat([tensor, embed(torch.tensor(load.texts[number], device=base.weights.device))]))
    longest = max(len(row) for row in rows)
    embeds = torch.stack([torch.nn.functional.pad(row, (0, 0, longest - len(row), 0)) for row in rows])
    mask = torch.tensor(
        [[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=base.weights.device
    )
    with torch.inference_mode():
        found = network.generate(
            inputs_embeds=embeds,
            attention_mask=mask,
            max_new_tokens=load.new,
            min_new_tokens=load.new,
            do_sample=False,
            pad_token_id=1,
        )
    return [row[-load.new :] for row in found.tolist()]
