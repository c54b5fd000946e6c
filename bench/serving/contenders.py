"""Who answers a load. Each returns the new token ids of every request."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

from bench.serving.checkpoint import FIRST_WORD
from bench.serving.load import Load
from caikit_pt.base_model.frozen import BaseModel
from caikit_pt.serving.engine import Engine
from caikit_pt.serving.scheduler import Limits
from caikit_pt.serving.sequence import Sequence

Answers = list[list[int]]
Contender = Callable[[Load], Answers]

ONE_BY_ONE = "one by one, generate()"
STATIC = "static batches of 8, generate()"
CONTINUOUS = "transformers' continuous batching"
OURS = "caikit_pt"
VLLM = "vLLM"
_STATIC_ROWS = 8


def contenders(base: BaseModel, network: Any, vllm: Contender | None = None) -> dict[str, Contender]:
    """Those that can serve the family; `network` is transformers' own copy of the model."""
    found: dict[str, Contender] = {
        ONE_BY_ONE: lambda load: one_by_one(base, network, load),
        STATIC: lambda load: static(base, network, load),
    }
    if base.continues_text:
        found[CONTINUOUS] = Continuous(network)
    if vllm is not None:
        found[VLLM] = vllm
    found[OURS] = lambda load: ours(base, load)
    return found


def one_by_one(base: BaseModel, network: Any, load: Load) -> Answers:
    """A request after the other through transformers' generate()."""
    return [_generated(base, network, load, [number])[0] for number in range(load.requests)]


def static(base: BaseModel, network: Any, load: Load) -> Answers:
    """Batches of eight, texts of like length together, padded in front."""
    order = sorted(range(load.requests), key=lambda number: len(load.texts[number]))
    answers: dict[int, list[int]] = {}
    for start in range(0, len(order), _STATIC_ROWS):
        numbers = order[start : start + _STATIC_ROWS]
        answers.update(zip(numbers, _generated(base, network, load, numbers), strict=True))
    return [answers[number] for number in range(load.requests)]


def ours(base: BaseModel, load: Load) -> Answers:
    """The engine that serves, without its thread."""
    sequences = sequences_of(base, load)
    for _ in steps(base, sequences):
        pass
    return [sequence.generated for sequence in sequences]


def sequences_of(base: BaseModel, load: Load) -> list[Sequence]:
    """The requests of `load` as the engine takes them."""
    part = base.checkpoint.prompt_parts[0]
    return [
        Sequence(base, load.prompt(number, part), text, load.parameters)
        for number, text in enumerate(load.texts)
    ]


def steps(base: BaseModel, sequences: list[Sequence]) -> Iterator[None]:
    """Yields after each step of an engine that answers `sequences`."""
    engine = Engine(base, Limits(rows=max(64, len(sequences)), waiting=len(sequences)))
    for sequence in sequences:
        engine.submit(sequence)
    while engine.busy:
        engine.step()
        yield


def by_round(run: Callable[..., Answers], *arguments: Any) -> Answers:
    """`run` with all but the last of `arguments`, the load as it is in the round that is the last."""
    *others, load, number = arguments
    return run(*others, load.of_round(number))


class Continuous:
    """transformers' continuous batching, with the settings that suit it on a CPU.

    It takes no embeddings: in front of each text stand as many ordinary tokens as the prompt has.
    """

    def __init__(self, network: Any) -> None:
        self._network = network

    def __call__(self, load: Load) -> Answers:
        from transformers import GenerationConfig
        from transformers.generation.configuration_utils import ContinuousBatchingConfig

        # It warns at each call that the manager stays.
        logging.getLogger("ContinuousBatchingLogger").setLevel(logging.ERROR)
        config: Any = ContinuousBatchingConfig
        plain: Any = GenerationConfig
        generation = plain(max_new_tokens=load.new, do_sample=False, eos_token_id=-1, pad_token_id=1)
        found = self._network.generate_batch(
            [
                [3 + number % load.prompts] * load.virtual_tokens + text
                for number, text in enumerate(load.texts)
            ],
            generation_config=generation,
            continuous_batching_config=config(
                num_blocks=256, page_size=32, max_batch_tokens=512, use_cuda_graph=False
            ),
            progress_bar=False,
            persistent_manager=True,
            warmup=False,
        )
        return [list(one.generated_tokens) for one in found.values()]


def _in_front(load: Load, number: int) -> list[int]:
    return [FIRST_WORD + number % load.prompts] * load.virtual_tokens


def _generated(base: BaseModel, network: Any, load: Load, numbers: list[int]) -> Answers:
    import torch

    part = base.checkpoint.prompt_parts[0]
    embed = network.get_input_embeddings()
    rows = []
    for number in numbers:
        tensor = load.prompt(number, part).tensors[part].to(base.device, base.dtype)
        rows.append(torch.cat([tensor, embed(torch.tensor(load.texts[number], device=base.device))]))
    longest = max(len(row) for row in rows)
    embeds = torch.stack([torch.nn.functional.pad(row, (0, 0, longest - len(row), 0)) for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=base.device)
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
