"""bench/replicas asks what it says that it asks."""

from __future__ import annotations

from collections import Counter

import pytest

from bench.replicas.routing import _counted
from bench.replicas.traffic import Traffic, traffic
from bench.serving.checkpoint import make_models
from bench.serving.load import Load
from bench.training.shapes import Shape
from caikit_pt.base_model.family import CAUSAL
from caikit_pt.base_model.model import BaseModel

LLAMA = Shape("toy-llama", CAUSAL.name, 2, 32, 48, 4, 8, 200, kv_heads=2)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return make_models(LLAMA, tmp_path_factory.mktemp("models") / LLAMA.name, "float32", "cpu").base


def load_of(base: BaseModel, requests: int, prompts: int) -> Load:
    words = base.weights.model.get_input_embeddings().weight
    return Load(words, requests, shortest=3, longest=9, new=4, virtual_tokens=3, prompts=prompts)


def test_the_table_has_a_row_for_each_traffic(base: BaseModel) -> None:
    own = base.serving.prompts
    shown = traffic(base, load_of(base, 6, 1), (2, 5), 1)
    assert shown.count("| even |") == shown.count("| skewed |") == 2
    assert "of the fastest one's tokens/s" in shown
    assert base.serving.prompts is own


@pytest.mark.parametrize("skewed", [False, True])
def test_skewed_traffic_asks_a_few_prompts_most_of_the_time(base: BaseModel, skewed: bool) -> None:
    asked = Traffic(base, load_of(base, 2000, 50), skewed, 1).of_round(0).args[0]  # type: ignore[attr-defined]
    part = base.checkpoint.prompt_parts[0]
    counted = Counter(id(request.prompt.tensors[part]) for request in asked)
    assert len(counted) == 50
    (_, most), *_ = counted.most_common(1)
    assert (most > 350) == skewed
    assert (most < 80) == (not skewed)


def test_counts_are_read_from_the_metrics() -> None:
    page = (
        'x_total 1\ncaikit_pt_prompt_cache_hits_total{model="a"} 3.0\ncaikit_pt_prompt_cache_hits_total 4\n'
    )
    assert (_counted(page, "hits"), _counted(page, "misses")) == (7, 0)
