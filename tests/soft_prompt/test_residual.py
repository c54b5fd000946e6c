"""The network around a prompt while it is tuned: nothing at the start, and gone at the end."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from caikit_pt.base_model.model import BaseModel
from caikit_pt.errors import InvalidParameter
from caikit_pt.soft_prompt.artifact import write
from caikit_pt.soft_prompt.initializers import initial_prompt
from caikit_pt.soft_prompt.prompt import SoftPrompt
from caikit_pt.soft_prompt.residual import ResidualPrompt
from caikit_pt.soft_prompt.tensor_file import read_tensors
from caikit_pt.soft_prompt.trainable import trainable
from caikit_pt.tuning.candidate import Candidate
from caikit_pt.tuning.tuner import tune
from tests.numerics.tunings import start_of
from tests.perturbation import SEED
from tests.tuning.training import PAIRS, curve, plan, weights_of

RESIDUAL: dict[str, Any] = {"reparameterization": "residual"}


@pytest.fixture
def initial(base: BaseModel) -> SoftPrompt:
    """What a training of the seed starts from."""
    return initial_prompt(start_of(plan(base, **RESIDUAL), base))


def prompt_of(base: BaseModel, initial: SoftPrompt, seed: int = 1) -> Any:
    prompt = trainable(initial, plan(base, **RESIDUAL).parameters, torch.Generator().manual_seed(seed))
    assert isinstance(prompt, ResidualPrompt)
    return prompt


def test_it_starts_as_the_initial_prompt_bit_for_bit(base: BaseModel, initial: SoftPrompt) -> None:
    prompt = prompt_of(base, initial)
    for part, tensor in initial.tensors.items():
        assert torch.equal(prompt.tensors()[part], tensor)
    candidate = Candidate.begin(base, plan(base, **RESIDUAL).parameters, None, 1)
    for part, tensor in candidate.initial.tensors.items():
        assert torch.equal(candidate.prompt.tensors[part], tensor)
        assert torch.equal(initial.tensors[part], tensor), "the network is drawn after the prompt"


def test_rows_and_network_learn_and_the_network_at_a_rate_of_its_own(base: BaseModel) -> None:
    candidate = Candidate.begin(base, plan(base, **RESIDUAL, learning_rate=0.2).parameters, None, 5)
    prompt = candidate.learner.prompt
    before = [weight.detach().clone() for weight in weights_of(prompt)]
    for _ in range(2):
        candidate.learner.forget_gradients()
        sum(tensor.square().sum() for tensor in prompt.tensors().values()).backward()  # type: ignore[union-attr]
        assert candidate.learner.step(torch.tensor(1.0))
    assert not any(map(torch.equal, weights_of(prompt), before))
    rates = [group["lr"] for group in prompt.parameter_groups()]
    assert rates == pytest.approx([0.2, 0.002])


def test_what_is_finished_is_what_was_trained(base: BaseModel, initial: SoftPrompt) -> None:
    prompt = prompt_of(base, initial)
    with torch.no_grad():
        for number, weight in enumerate(weights_of(prompt)):
            weight += 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(number))
    finished = prompt.finished()
    for part, tensor in prompt.tensors().items():
        assert torch.equal(finished.tensors[part], tensor)
        assert not finished.tensors[part].requires_grad
        assert not torch.equal(finished.tensors[part], initial.tensors[part])


def test_it_trains_and_leaves_a_plain_prompt(base: BaseModel, tmp_path: Any) -> None:
    tuned = tune(plan(base, PAIRS, num_epochs=10, seed=SEED, **RESIDUAL), base)
    losses = curve(tuned)
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    write(tuned, tmp_path)
    (file,) = tmp_path.glob("*coder.safetensors")
    ((name, tensor),) = read_tensors(file).items()
    assert name == "prompt"
    assert tensor.shape == (4, base.checkpoint.hidden_size)


def test_its_generator_is_the_jobs_own(base: BaseModel, initial: SoftPrompt) -> None:
    first = prompt_of(base, initial)
    torch.manual_seed(4)
    state = torch.get_rng_state()
    again, other = prompt_of(base, initial), prompt_of(base, initial, seed=2)
    assert torch.equal(state, torch.get_rng_state())
    assert all(map(torch.equal, weights_of(first), weights_of(again)))
    assert not all(map(torch.equal, weights_of(first), weights_of(other)))


def test_it_is_for_plain_prompts(base: BaseModel) -> None:
    with pytest.raises(InvalidParameter, match=r"reparameterization: 'residual'.*none"):
        plan(base, tuning_type="MULTITASK_PROMPT_TUNING", **RESIDUAL)
