"""A model with which a step of training fails is refused by name, before a job exists and in one."""

from __future__ import annotations

from typing import Any

import pytest

from caikit_pt import GenerationTrainRecord
from caikit_pt.base_model.loading.checkpoint import locate
from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.pool import load
from caikit_pt.base_model.trials.answers import check_answers
from caikit_pt.base_model.trials.training import check_training
from caikit_pt.errors import InvalidParameter
from caikit_pt.settings import Settings
from caikit_pt.tuning.plan import make_plan
from caikit_pt.tuning.tuner import tune
from tests.conftest import BASE_MODELS, LLAMA, T5


def _fails_in_training(base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """As models do whose forward can't be differentiated: answers are right, and a step of training fails."""
    real = base.weights.model.forward

    def failing(*arguments: Any, **keywords: Any) -> Any:
        embedded = (keywords.get(name) for name in ("inputs_embeds", "decoder_inputs_embeds"))
        if any(tensor is not None and tensor.requires_grad for tensor in embedded):
            raise IndexError("tuple index out of range")
        return real(*arguments, **keywords)

    monkeypatch.setattr(base.weights.model, "forward", failing)


@pytest.mark.parametrize(
    ("name", "parts"), [(LLAMA, ["DECODER"]), (T5, ["ENCODER"]), (T5, ["DECODER", "ENCODER"])]
)
def test_a_model_that_cannot_be_trained_is_refused_by_name(
    name: str, parts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(base_models_dir=str(BASE_MODELS))
    base = load(locate(name, settings), "float32", "cpu")
    _fails_in_training(base, monkeypatch)
    check_answers(base.serving)
    request = {"base_model": name, "output_model_types": parts, "num_virtual_tokens": 3}
    plan = make_plan(request, [GenerationTrainRecord(input="a", output="b")], None, settings, base)
    told = (
        f"base_model: '{name}' is not allowed. Allowed: a model that passes this trial: a step of training "
        f"with a soft prompt on the side {' and '.join(sorted(parts))}. "
        "It failed with IndexError: tuple index out of range. Take another base model"
    )
    for refuse in (plan.check_training, lambda: tune(plan, base)):
        with pytest.raises(InvalidParameter) as refused:
            refuse()
        assert str(refused.value).startswith(told)


def test_losses_that_are_no_numbers_are_told_with_the_data_type(monkeypatch: pytest.MonkeyPatch) -> None:
    base = load(locate(LLAMA, Settings(base_models_dir=str(BASE_MODELS))), "bfloat16", "cpu")
    base.training.trains_packed  # noqa: B018
    base.weights.model.get_output_embeddings().weight[5] = float("inf")
    with pytest.raises(InvalidParameter, match="whose losses are finite numbers; in bfloat16"):
        check_training(base.training, ["DECODER"])
