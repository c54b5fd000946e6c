"""States of layers are read where they are what the model tells of itself; nothing is in the way before."""

from __future__ import annotations

from typing import Any

import pytest

from caikit_pt.base_model.layers import reading
from caikit_pt.base_model.loading.checkpoint import locate
from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.pool import load
from caikit_pt.base_model.trials import states
from caikit_pt.base_model.trials.states import check_states
from caikit_pt.errors import InvalidParameter
from caikit_pt.settings import Settings
from tests.conftest import BASE_MODELS, LLAMA, T5


@pytest.fixture(params=[LLAMA, T5])
def fresh(request: pytest.FixtureRequest) -> BaseModel:
    """A base model that nobody has looked into."""
    return load(locate(request.param, Settings(base_models_dir=str(BASE_MODELS))), "float32", "cpu")


def test_nothing_is_in_front_of_layers_until_their_states_are_asked_for(fresh: BaseModel) -> None:
    def looked_into() -> int:
        return sum(isinstance(each, reading._ReadLayer) for each in fresh.weights.model.modules())

    layers = fresh.checkpoint.layers
    check_states(fresh.training, [])
    check_states(fresh.training, [layers])
    assert looked_into() == 0
    for _ in range(2):
        check_states(fresh.training, [1, layers])
        assert looked_into() == layers


def test_layers_that_can_not_be_read_are_refused(fresh: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(message: str) -> None:
        with pytest.raises(InvalidParameter, match=rf"state_layers: \[1\] is not allowed.*{message}"):
            check_states(fresh.training, [1])

    with monkeypatch.context() as patch:
        patch.setattr(reading, "_layers", lambda *_: [])
        refused("whose layers can't be read")
    real = states._states

    def spoilt(*arguments: Any) -> Any:
        told, seen = real(*arguments)
        return told, {layer: 1.1 * own for layer, own in seen.items()}

    monkeypatch.setattr(states, "_states", spoilt)
    refused("give other states than it tells of layer 1")


def test_the_last_layer_is_refused_where_the_output_layer_is_the_table_of_words(
    fresh: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(fresh.training), "has_states", False)
    for layers in ([], [fresh.checkpoint.layers], [1, fresh.checkpoint.layers]):
        with pytest.raises(InvalidParameter, match=r"state_weight: .*table of words"):
            check_states(fresh.training, layers)
    check_states(fresh.training, [1])
