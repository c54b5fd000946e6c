"""The parameters of a train request: defaults, presets, and rules that take two to break."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from caikit_pt.errors import InvalidParameter
from caikit_pt.parameters.presets import preset
from caikit_pt.parameters.tuning import TUNING_PARAMETERS, check_request, resolve
from examples.local_server import ROOT

PRESETS = yaml.safe_load((ROOT / "caikit_pt" / "config.yml").read_text())["tuning_presets"]
# As the parameter document, the studio page and caikit-nlp have them.
DEFAULTS = {
    "tuning_type": "PROMPT_TUNING",
    "num_epochs": 20,
    "learning_rate": 0.3,
    "batch_size": 8,
    "accumulate_steps": 1,
    "max_source_length": 256,
    "max_target_length": 128,
    "verbalizer": "{{input}}",
    "prompt_tuning_init_method": "RANDOM",
    "num_virtual_tokens": 100,
    "seed": 73,
}
RANGES: Mapping[str, tuple[float, float]] = {
    "num_epochs": (1, 10_000),
    "batch_size": (1, 1024),
    "accumulate_steps": (1, 1024),
    "num_virtual_tokens": (1, 4096),
}
GRANITE = "ibm/granite-13b-instruct-v2"


def test_defaults() -> None:
    assert {name: TUNING_PARAMETERS[name].default for name in DEFAULTS} == DEFAULTS


def test_ranges_include_their_ends() -> None:
    for name, (low, high) in RANGES.items():
        parameter = TUNING_PARAMETERS[name]
        assert (parameter.check(low), parameter.check(high)) == (low, high)
        for beyond in (low - 1, high + 1):
            with pytest.raises(InvalidParameter):
                parameter.check(beyond)


def test_the_order_of_precedence_and_where_each_value_came_from() -> None:
    decided: dict[str, Any] = {
        "num_epochs": (7, "preset"),
        "batch_size": (4, "preset"),
        "output_model_types": (("DECODER",), "causal model"),
        "device": ("cpu", "this machine"),
        "torch_dtype": ("float32", "device cpu"),
        "tuning_task": ("generation", "the type of the records"),
        "validation_share": (0.0, "default"),
    }
    parameters = resolve({"base_model": "m", "num_epochs": 3}, decided, {})
    assert (parameters.num_epochs, parameters.origins["num_epochs"]) == (3, "request")
    assert (parameters.batch_size, parameters.origins["batch_size"]) == (4, "preset")
    assert (parameters.seed, parameters.origins["seed"]) == (73, "default")
    assert parameters.task_learning_rate == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("model", "task", "expected"),
    [
        (GRANITE, "classification", (8, 32, 6e-4, 20)),
        (GRANITE, "generation", (16, 16, 2e-4, 20)),
        (GRANITE, "summarization", (8, 1, 2e-4, 40)),
        ("google/Flan-T5-XL-3b", "classification", (16, 16, 0.3, 20)),
        ("google/flan-t5-xl", "summarization", (16, 16, 0.3, 20)),
    ],
)
def test_the_studios_tables_are_the_first_presets(model: str, task: str, expected: tuple[float, ...]) -> None:
    values = preset(PRESETS, model, task)
    names = ("batch_size", "accumulate_steps", "learning_rate", "num_epochs")
    assert tuple(values[name][0] for name in names) == expected
    assert all(origin.startswith("preset ") for _, origin in values.values())


def test_a_default_beyond_the_limits_becomes_what_they_allow() -> None:
    limits = {"num_epochs": (1, 5), "learning_rate": (0.00001, 0.1)}
    decided: dict[str, Any] = {
        "output_model_types": (("DECODER",), "causal model"),
        "device": ("cpu", "this machine"),
        "torch_dtype": ("float32", "device cpu"),
        "tuning_task": ("generation", "the type of the records"),
        "learning_rate": (0.3, "preset x / y"),
        "validation_share": (0.0, "default"),
    }
    parameters = resolve({"base_model": "m"}, decided, limits)
    assert (parameters.num_epochs, parameters.origins["num_epochs"]) == (5, "tuning_limits")
    assert parameters.learning_rate == 0.1


def test_no_preset_for_other_models() -> None:
    assert preset(PRESETS, "tiny-t5", "classification") == {}


def test_both_names_of_the_average() -> None:
    for name in ("AVERAGE_SOURCE", "AVERAGE_SOURCE_TASKS"):
        request = {"base_model": "m", "tuning_type": "MULTITASK_PROMPT_TUNING"}
        given = check_request({**request, "prompt_tuning_init_method": name}, {})
        assert given["prompt_tuning_init_method"] == "AVERAGE_SOURCE"


def test_limits_of_a_product_narrow_a_request() -> None:
    studio = {"batch_size": (1, 16), "learning_rate": (0.00001, 0.5)}
    check_request({"base_model": "m", "batch_size": 16, "learning_rate": 0.5}, studio)
    with pytest.raises(InvalidParameter, match="from 1 to 16"):
        check_request({"base_model": "m", "batch_size": 17}, studio)
    with pytest.raises(InvalidParameter, match=r"up to 0\.5"):
        check_request({"base_model": "m", "learning_rate": 0.6}, studio)
