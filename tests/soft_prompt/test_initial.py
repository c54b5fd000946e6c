"""A tuned prompt to go on from: what is taken from it, what contradicts it, where it may lie."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from caikit_pt.base_model.model import BaseModel
from caikit_pt.errors import BaseModelMismatch, InvalidParameter
from caikit_pt.soft_prompt.artifact import TunedPrompt
from caikit_pt.soft_prompt.initial import InitialPrompt, Predecessor, published
from caikit_pt.soft_prompt.prompt import SoftPrompt
from caikit_pt.tuning.plan import TuningPlan, make_plan
from tests.conftest import LLAMA, SETTINGS, T5
from tests.tuning.training import PAIRS

ORIGIN = "tuned prompt mood"
KEPT: Mapping[str, Any] = {"max_source_length": 40, "max_target_length": 7, "tuning_task": "summarization"}
OTHER_WEIGHTS = "sha256:" + "0" * 64


def predecessor(base: BaseModel, tokens: int = 5, **changed: Any) -> Predecessor:
    """One that was never trained, for every side that its base model has."""
    generator = torch.Generator().manual_seed(1)
    parts = base.checkpoint.prompt_parts
    shape = tokens, base.checkpoint.hidden_size
    tuned = TunedPrompt(
        prompt=SoftPrompt({part: torch.randn(shape, generator=generator) for part in parts}),
        base_model_name=base.checkpoint.name,
        base_model_fingerprint=base.checkpoint.fingerprint,
        verbalizer="Say: {{input}}",
        separator=" ->",
        tuning_parameters=KEPT,
    )
    return Predecessor("mood", dataclasses.replace(tuned, **changed))


def continued(before: Predecessor, settings: Any = SETTINGS, **request: Any) -> TuningPlan:
    asked = {"prompt_tuning_init_prompt": before.name, **request}
    return make_plan(asked, PAIRS[:12], PAIRS[12:], settings, predecessor=before)


def test_what_a_request_does_not_name_is_taken_over(base: BaseModel) -> None:
    plan = continued(predecessor(base), num_epochs=2)
    expected = {
        **KEPT,
        "base_model": base.checkpoint.name,
        "verbalizer": "Say: {{input}}",
        "separator": " ->",
        "num_virtual_tokens": 5,
        "output_model_types": base.checkpoint.prompt_parts,
        "prompt_tuning_init_method": "TUNED_PROMPT",
    }
    assert {name: getattr(plan.parameters, name) for name in expected} == expected
    assert {plan.parameters.origins[name] for name in expected} == {ORIGIN}
    assert plan.parameters.origins["learning_rate"] == "default"
    assert plan.initial is not None
    assert (plan.initial.name, plan.initial.sha256) == ("mood", predecessor(base).initial.sha256)


def test_what_it_names_is_its_own(base: BaseModel) -> None:
    named = {
        "base_model": base.checkpoint.name,
        "num_virtual_tokens": 5,
        "output_model_types": base.checkpoint.prompt_parts[::-1],
        "verbalizer": "{{input}} ->",
        "separator": "",
        "max_source_length": 50,
        "tuning_task": "classification",
    }
    parameters = continued(predecessor(base), **named).parameters
    assert {name: getattr(parameters, name) for name in named} == named
    assert {parameters.origins[name] for name in named} == {"request"}


def test_labels_stay_those_that_it_had(llama: BaseModel) -> None:
    """What is trained on now may not have all of them."""
    before = predecessor(llama, labels=("mixed", "good"), tuning_parameters={})
    assert continued(before, tuning_task="classification").labels == ("bad", "good", "mixed")
    assert continued(before, tuning_task="generation").labels == ()


def test_a_prompt_of_caikit_nlp_has_kept_nothing(base: BaseModel) -> None:
    name = base.checkpoint.name
    bare: dict[str, Any] = {"tuning_parameters": {}, "base_model_fingerprint": None}
    parameters = continued(
        predecessor(base, **bare, base_model_name=f"/old/{name}"), base_model=name
    ).parameters
    assert (parameters.max_source_length, parameters.origins["max_source_length"]) == (256, "default")
    assert parameters.origins["tuning_task"] != ORIGIN
    with pytest.raises(InvalidParameter, match=r"base_model: .*: a, as the tuned prompt mood was tuned on"):
        continued(predecessor(base, **bare, base_model_name="a"), base_model=name)


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (
            {"num_virtual_tokens": 6},
            "num_virtual_tokens: 6 .*: 5, as the tuned prompt mood has it, or",
        ),
        ({"output_model_types": ["ENCODER"]}, "output_model_types: .*DECODER, ENCODER, as the tuned prompt"),
        (
            {"prompt_tuning_init_method": "RANDOM"},
            "init_method: .*unset together with",
        ),
        ({"prompt_tuning_init_text": "a"}, "init_text: .*unset together with"),
        ({"prompt_tuning_init_source_model": "a"}, "init_source_model: .*unset together with"),
        ({"prompt_tuning_init_task": 1}, "init_task: .*unset together with"),
        ({"base_model": LLAMA}, "base_model: 'tiny-llama' .*tiny-t5, as the tuned prompt mood was tuned on"),
        ({"prompt_tuning_init_method": "TUNED_PROMPT"}, "init_method"),
    ],
)
def test_what_contradicts_it_is_refused(t5: BaseModel, request_: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidParameter, match=told):
        continued(predecessor(t5), **request_)


def test_other_weights_are_refused(t5: BaseModel) -> None:
    changed = predecessor(t5, base_model_fingerprint=OTHER_WEIGHTS)
    with pytest.raises(BaseModelMismatch, match=OTHER_WEIGHTS):
        continued(changed)
    with pytest.raises(InvalidParameter, match=f"base_model: '{T5}'.*{OTHER_WEIGHTS}"):
        continued(changed, base_model=T5)


def test_what_is_taken_over_is_in_range(t5: BaseModel) -> None:
    narrow = dataclasses.replace(SETTINGS, tuning_limits={"num_virtual_tokens": (1, 4)})
    with pytest.raises(InvalidParameter, match="num_virtual_tokens: 5"):
        continued(predecessor(t5), narrow)
    with pytest.raises(InvalidParameter, match="max_source_length: 'long'"):
        continued(predecessor(t5, tuning_parameters={"max_source_length": "long"}))


def test_a_name_does_not_lead_out_of_the_directory_of_models(tmp_path: Path) -> None:
    root, outside = tmp_path / "models", tmp_path / "outside"
    for directory in (root / "mood", root / ".mood.1.new", outside):
        directory.mkdir(parents=True)
        (directory / "config.yml").write_text("{}")
    (root / "away").symlink_to(outside)
    (root / "empty").mkdir()
    assert published("mood", root) == (root / "mood").resolve()
    for name in ("../outside", str(outside), "away", "mood/../../outside", ".", "x\0", "n" * 300):
        with pytest.raises(InvalidParameter, match="prompt_tuning_init_prompt: "):
            published(name, root)
    for name in ("never", "empty", ".mood.1.new"):
        with pytest.raises(InvalidParameter, match="a tuned prompt that is published on this server"):
            published(name, root)


def test_the_digest_is_that_of_the_rows(base: BaseModel) -> None:
    before = predecessor(base).initial
    tensors = {part: rows.clone() for part, rows in before.prompt.tensors.items()}
    assert InitialPrompt("other", SoftPrompt(dict(reversed(tensors.items())))).sha256 == before.sha256
    next(iter(tensors.values()))[0, 0] += 1e-6
    assert InitialPrompt("mood", SoftPrompt(tensors)).sha256 != before.sha256
