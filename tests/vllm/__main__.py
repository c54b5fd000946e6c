"""The same requests to a real vLLM server and to the engine here: the same greedy tokens, texts and ends.

    python -m tests.vllm

Makes vLLM's environment, starts its OpenAI server for CPUs on the embedded causal model, and exits with 1
where an answer differs. Skips, and says why, where vLLM can't be installed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx2
import torch

from caikit_pt.base_model.language_model import LanguageModel
from caikit_pt.base_model.loading.checkpoint import locate
from caikit_pt.errors import InvalidParameter
from caikit_pt.parameters.generation import GenerationParameters
from caikit_pt.serving.backend import Backend
from caikit_pt.serving.backends import backend_for, base_for
from caikit_pt.serving.generation import Generation
from caikit_pt.serving.request import FinishReason, Request, text_ids
from caikit_pt.settings import Remote, Settings
from caikit_pt.soft_prompt.prompt import SoftPrompt
from examples.local_server import ROOT

from . import environment
from .prefix_cache import alike
from .server import server

MODEL = "tiny-llama"
BASE_MODELS = ROOT / "examples" / "base_models"
TEXTS = (
    "The kettle from your shop is dreadful",
    "hello",
    "  two  spaces\nand lines\n\n",
    "Zürich 漢字 🙂 text",
    "</s> special <s> words",
    "Where is my order? " * 12,
)
REQUESTS: tuple[dict[str, Any], ...] = (
    {},
    {"max_new_tokens": 1},
    {"max_new_tokens": 60, "min_new_tokens": 40},
    {"max_new_tokens": 40, "repetition_penalty": 1.3},
    {"truncate_input_tokens": 12},
    {"min_new_tokens": 3, "stop_sequences": ["e", "at", "q", "y", "."]},
    {"stop_sequences": ["a"], "include_stop_sequence": False},
    {"decoding_method": "SAMPLING", "temperature": 0.0},
    {"generated_tokens": True, "token_logprobs": True},
)
ALIKE = {"max_new_tokens": 12, "min_new_tokens": 12}
LONG = {"max_new_tokens": 900, "min_new_tokens": 900}
VIRTUAL_TOKENS = (1, 8, 30)
LOGPROBS_DIFFER_BY = 1e-3
GENERATED = "vllm:generation_tokens_total"


class Side:
    """The embedded model, answered for by one of the two backends."""

    def __init__(self, settings: Settings) -> None:
        self.base: LanguageModel = base_for(locate(MODEL, settings), settings)
        self.backend: Backend = backend_for(self.base, settings)

    def submit(self, prompt: SoftPrompt, ids: list[int], request: dict[str, Any]) -> Generation:
        parameters = GenerationParameters.from_request(request, None, {})
        return self.backend.submit(Request(self.base.text, prompt, ids, parameters, prefix="The text: "))


def compare(here: Side, there: Side) -> int:
    """Sends everything to both, and returns how many answers differ."""
    cases = [(prompt, text, request) for prompt in _prompts() for text in TEXTS for request in REQUESTS]
    pairs = []
    for prompt, text, request in cases:
        parameters = GenerationParameters.from_request(request, None, {})
        # A cut may fall a little later where the tokens have to be written as text.
        ids = text_ids(there.base.text, text, parameters)
        pairs.append((here.submit(prompt, ids, request), there.submit(prompt, ids, request)))
    different = 0
    for (prompt, text, request), (mine, theirs) in zip(cases, pairs, strict=True):
        one, other = mine.result(), theirs.result()
        if not same(one, other):
            different += 1
            print(f"  {prompt.num_virtual_tokens} virtual tokens, {text[:30]!r}, {request}:")
            print(f"    here  {one.generated} {one.finish_reason}")
            print(f"    vLLM  {other.generated} {other.finish_reason}")
    print(f"{len(cases)} requests at once to each: {different} answers differ")
    return different


def same(one: Request, other: Request) -> bool:
    """Whether two answers are the same, but for the rounding of log-probabilities."""
    close = all(
        a.text == b.text and abs((a.logprob or 0) - (b.logprob or 0)) < LOGPROBS_DIFFER_BY
        for a, b in zip(one.tokens, other.tokens, strict=True)
    )
    told_of = [(step.text, step.generated) for step in one.steps]
    return (
        close
        and one.generated == other.generated
        and (one.text, one.finish_reason) == (other.text, other.finish_reason)
        and told_of == [(step.text, step.generated) for step in other.steps]
    )


def _prompts() -> list[SoftPrompt]:
    """Rows of the size of word embeddings."""
    checkpoint = locate(MODEL, Settings(base_models_dir=str(BASE_MODELS)))
    generator = torch.Generator().manual_seed(4)
    return [
        SoftPrompt({"DECODER": 0.1 * torch.randn(tokens, checkpoint.hidden_size, generator=generator)})
        for tokens in VIRTUAL_TOKENS
    ]


def compare_alike(here: Side, there: Side, address: str) -> int:
    """Sends the server what its prefix cache may mix up, one after the other; returns how many answers differ
    from those of the same requests alone."""
    text = there.base.text.source_ids(TEXTS[-1])
    wrong: Counter[str] = Counter()
    answers: defaultdict[str, set[tuple[int, ...]]] = defaultdict(set)
    before = _counted(address, "vllm:prefix_cache_hits_total")
    for kind, prompt, ids in alike(text, there.base.checkpoint.hidden_size):
        alone = here.submit(prompt, ids, ALIKE).result()
        answers[kind].add(tuple(alone.generated))
        # The second time it is in the cache.
        wrong[kind] += sum(not same(alone, there.submit(prompt, ids, ALIKE).result()) for _ in range(2))
    for kind, number in wrong.items():
        print(f"{kind}: {number} answers differ; {len(answers[kind])} different ones were to come")
    hits = _counted(address, "vllm:prefix_cache_hits_total") - before
    print(f"{hits:.0f} tokens came from the prefix cache")
    return wrong.total() + (hits == 0) + sum(len(several) == 1 for several in answers.values())


def others_work(there: Side, address: str) -> int:
    """What isn't a matter of equal tokens; returns how much of it fails."""
    [prompt, *_] = _prompts()
    ids = there.base.text.source_ids(TEXTS[0])
    sampled: dict[str, Any] = {"decoding_method": "SAMPLING", "temperature": 1.5, "top_k": 50, "top_p": 0.9}
    extreme = {
        "decoding_method": "SAMPLING",
        "temperature": 2.0,
        "top_k": 1_000_000,
        "repetition_penalty": 100.0,
    }
    full = there.submit(prompt, ids, {"max_new_tokens": 5000, "min_new_tokens": 5000}).result()
    late = there.submit(prompt, ids, {**LONG, "max_time": 0.3}).result()
    seeded = [there.submit(prompt, ids, {**sampled, "seed": 7}).result().generated for _ in range(2)]
    checks = {
        "a whole context": full.finish_reason is FinishReason.TOKEN_LIMIT,
        "max_time": late.finish_reason is FinishReason.TIME_LIMIT and len(late.generated) < 900,
        "a seed": seeded[0] == seeded[1],
        "extreme values": bool(there.submit(prompt, ids, extreme).result().generated),
        "a client that leaves": _aborts_when_left(there, prompt, ids, address),
        "a refusal": _refuses(there, prompt, ids),
    }
    for name, good in checks.items():
        print(f"{name}: {'good' if good else 'FAILED'}")
    return sum(not good for good in checks.values())


def _aborts_when_left(there: Side, prompt: SoftPrompt, ids: list[int], address: str) -> bool:
    """Whether the server stops with an answer that nobody reads on, as it says of itself."""
    before = _counted(address, GENERATED)
    steps = there.submit(prompt, ids, LONG).steps()
    next(steps)
    assert isinstance(steps, Generator)
    steps.close()
    # Long enough for all of it.
    time.sleep(10)
    return before < _counted(address, GENERATED) < before + LONG["max_new_tokens"] // 2


def _counted(address: str, metric: str) -> float:
    """What the server has counted since it started."""
    lines = httpx2.get(f"{address}/metrics", trust_env=False).text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(metric))


def _refuses(there: Side, prompt: SoftPrompt, ids: list[int]) -> bool:
    try:
        there.submit(prompt, ids, {"token_ranks": True, "generated_tokens": True})
    except InvalidParameter:
        return True
    return False


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--environment", type=Path, default=ROOT / ".venv-vllm")
    directory = parser.parse_args().environment.absolute()
    try:
        python = environment.prepare(directory)
    except environment.NotToBeHad as error:
        print(f"SKIPPED: vLLM can't be installed here.\n{error}")
        return 0
    with server(python, directory / "server.log", BASE_MODELS / MODEL) as (address, _):
        print(f"vLLM answers at {address}")
        here = Settings(base_models_dir=str(BASE_MODELS), device="cpu", max_waiting_requests=10_000)
        remote = Remote(base_model="*", vllm=(address,), model=MODEL)
        there = Side(Settings(base_models_dir=str(BASE_MODELS), backends=(remote,)))
        engine = Side(here)
        failed = compare(engine, there) + compare_alike(engine, there, address) + others_work(there, address)
        return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
