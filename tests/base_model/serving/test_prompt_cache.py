"""The keys and values of soft prompts: known by content, within a budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Thread

import torch

from caikit_pt.base_model.serving.prompt_cache import PromptCache, PromptCells

BYTES = 2 * 4 * 4  # keys and values of one number for each of four positions


def test_a_prompt_is_computed_once_however_it_comes() -> None:
    calls: list[torch.Tensor] = []
    cache, prompt = PromptCache(), torch.randn(4, 3)
    first = get(cache, prompt, computed(calls))
    assert get(cache, prompt.clone(), computed(calls)) is first
    assert len(calls) == 1


def test_a_prompt_that_was_rewritten_in_place_is_another() -> None:
    """A cache by id, as in transformers' continuous batching, serves the old one."""
    calls: list[torch.Tensor] = []
    cache, prompt = PromptCache(), torch.randn(4, 3)
    get(cache, prompt, computed(calls))
    prompt.data.mul_(2)
    assert torch.equal(get(cache, prompt, computed(calls))[0][0][0, :, 0], prompt[:, 0])
    assert len(calls) == 2


def test_the_same_numbers_in_another_shape_are_another() -> None:
    calls: list[torch.Tensor] = []
    cache, prompt = PromptCache(), torch.zeros(4, 3)
    for other in (prompt, prompt.view(6, 2), prompt.bfloat16(), prompt.view(torch.int32)):
        get(cache, other, computed(calls))
    assert len(calls) == 4


def test_the_budget_holds_and_the_least_used_goes() -> None:
    calls: list[torch.Tensor] = []
    cache = PromptCache(3 * BYTES)
    prompts = [torch.full((4, 3), float(number)) for number in range(4)]
    for prompt in prompts[:3]:
        get(cache, prompt, computed(calls))
    get(cache, prompts[0], computed(calls))
    get(cache, prompts[3], computed(calls))
    assert (len(cache), cache.bytes) == (3, 3 * BYTES)
    calls.clear()
    for number in (0, 2, 3):
        get(cache, prompts[number], computed(calls))
    assert not calls
    get(cache, prompts[1], computed(calls))
    assert len(calls) == 1


def test_what_is_larger_than_the_budget_is_computed_each_time() -> None:
    calls: list[torch.Tensor] = []
    cache = PromptCache(BYTES - 1)
    for _ in range(2):
        get(cache, torch.zeros(4, 3), computed(calls))
    assert (len(calls), len(cache), cache.bytes) == (2, 0, 0)


def test_ten_thousand_prompts_at_random_take_no_more_than_the_budget() -> None:
    cache = PromptCache(100 * BYTES)
    generator = torch.Generator().manual_seed(0)
    for number in torch.randint(10_000, (5_000,), generator=generator).tolist():
        prompt = torch.full((4, 3), float(number))
        assert torch.equal(get(cache, prompt, computed([]))[0][0][0, :, 0], prompt[:, 0])
        assert cache.bytes <= 100 * BYTES
    cache.clear()
    assert (len(cache), cache.bytes) == (0, 0)


def test_of_many_each_that_is_missing_is_computed_once() -> None:
    cache = PromptCache()
    prompts = [torch.full((4, 3), float(number)) for number in (1, 2, 1, 3)]
    get(cache, prompts[3], computed([]))
    asked: list[list[int]] = []

    def compute(places: Sequence[int]) -> list[PromptCells]:
        asked.append(list(places))
        return [computed([])(prompts[place]) for place in places]

    prompts.append(prompts[0])
    classes = [False, False, False, False, True]
    found = cache.get(list(zip(prompts, classes, strict=True)), compute)
    # One in front of rows of the other length class is another.
    assert asked == [[0, 1, 4]]
    assert [cells[0][0][0, 0, 0] for cells in found] == [1, 2, 1, 3, 1]
    assert found[0] is found[2] is not found[4]
    assert (cache.hits, cache.misses, len(cache)) == (2, 4, 4)


def test_more_than_the_budget_at_once_are_all_returned() -> None:
    cache = PromptCache(2 * BYTES)
    prompts = [torch.full((4, 3), float(number)) for number in range(5)]
    found = cache.get(
        [(prompt, False) for prompt in prompts],
        lambda places: [computed([])(prompts[place]) for place in places],
    )
    assert [cells[0][0][0, 0, 0] for cells in found] == [0, 1, 2, 3, 4]
    assert (len(cache), cache.bytes) == (2, 2 * BYTES)


def test_threads_may_ask_at_once() -> None:
    cache = PromptCache(5 * BYTES)

    def ask() -> None:
        for number in range(200):
            get(cache, torch.full((4, 3), float(number % 9)), computed([]))

    threads = [Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.bytes == len(cache) * BYTES <= 5 * BYTES


def get(
    cache: PromptCache, prompt: torch.Tensor, compute: Callable[[torch.Tensor], PromptCells]
) -> PromptCells:
    """Of one prompt alone."""
    return cache.get([(prompt, False)], lambda _: [compute(prompt)])[0]


def computed(calls: list[torch.Tensor]) -> Callable[[torch.Tensor], PromptCells]:
    """Computes keys and values of one layer that are the prompt's first column; notes who asked."""

    def compute(prompt: torch.Tensor) -> PromptCells:
        calls.append(prompt)
        cells = prompt.float()[None, :, :1].clone()
        return [(cells, cells.clone())]

    return compute
