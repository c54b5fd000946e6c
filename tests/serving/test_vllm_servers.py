"""Several equal vLLM servers: who is asked for a prompt, who is passed over, and what is said of it."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from caikit_pt.base_model.loading.checkpoint import locate
from caikit_pt.errors import BackendMismatch, BackendUnavailable, TooManyRequests, WaitedTooLong
from caikit_pt.parameters.generation import GenerationParameters
from caikit_pt.runtime.job_store import JobStore
from caikit_pt.runtime.metrics import Metrics, Place
from caikit_pt.serving.backends import backend_for, base_for
from caikit_pt.serving.generation import Generation
from caikit_pt.serving.request import FinishReason, Request, Step, text_ids
from caikit_pt.serving.vllm_text import VllmModel
from caikit_pt.settings import Remote, Settings
from caikit_pt.soft_prompt.prompt import SoftPrompt
from tests.conftest import BASE_MODELS, LLAMA
from tests.runtime.servers import wait_for
from tests.serving.fake_vllm import Fake, running

TEXT = "The kettle from your shop is dreadful"
PROMPT = SoftPrompt({"DECODER": torch.linspace(-1, 1, 4 * 128).reshape(4, 128)})
PROMPTS = [SoftPrompt({"DECODER": torch.full((2, 128), number / 64)}) for number in range(40)]


@dataclass
class Asked:
    """A base model that some servers answer for, and the setting that says so."""

    settings: Settings
    model: VllmModel

    def submit(self, prompt: SoftPrompt = PROMPT, **request: Any) -> Generation:
        parameters = GenerationParameters.from_request({"max_new_tokens": 3, **request}, None, {})
        ids = text_ids(self.model.text, TEXT, parameters)
        backend = backend_for(self.model, self.settings)
        return backend.submit(Request(self.model.text, prompt, ids, parameters, prefix=TEXT))

    def answer(self, prompt: SoftPrompt = PROMPT, **request: Any) -> Request:
        return self.submit(prompt, **request).result()

    @property
    def up(self) -> list[bool]:
        servers = self.model.text.servers
        return [servers.is_asked(server) for server in servers.all]


def asked(fakes: Sequence[Fake], **more: Any) -> Asked:
    """Each test has addresses of its own, and so a model of its own."""
    remote = Remote(base_model="*", vllm=tuple(fake.address for fake in fakes), model="served")
    settings = Settings(base_models_dir=str(BASE_MODELS), backends=(remote,), **more)
    model = base_for(locate(LLAMA, settings), settings)
    assert isinstance(model, VllmModel)
    return Asked(settings, model)


@pytest.fixture
def fakes() -> Iterator[list[Fake]]:
    with ExitStack() as stack:
        yield [stack.enter_context(running()) for _ in range(3)]


@pytest.fixture
def first(fakes: list[Fake]) -> Fake:
    """The one that PROMPT prefers."""
    return next(fake for fake in fakes if has_grown(fakes, asked(fakes).answer) == [fake])


def has_grown(fakes: Sequence[Fake], ask: Callable[[], object]) -> list[Fake]:
    """Who of `fakes` has heard of what `ask` asks."""
    before = [len(fake.requests) for fake in fakes]
    ask()
    return [fake for fake, number in zip(fakes, before, strict=True) if len(fake.requests) > number]


def choices(fakes: Sequence[Fake]) -> list[Fake]:
    """Whom each of PROMPTS has been answered by."""
    found = []
    there = asked(fakes)
    for prompt in PROMPTS:
        [answered] = has_grown(fakes, lambda prompt=prompt: there.answer(prompt))  # type: ignore[misc]
        found.append(answered)
    return found


# ---- whom a prompt asks ----


def test_prompts_are_spread_and_stay_where_they_are(fakes: list[Fake]) -> None:
    chosen = choices(fakes)
    assert set(chosen) == set(fakes)
    # However they are listed, by whatever process.
    assert choices([*reversed(fakes)]) == chosen
    fewer = choices(fakes[:2])
    moved = {before for before, after in zip(chosen, fewer, strict=True) if before != after}
    assert moved == {fakes[2]}


def test_a_hot_prompt_goes_on_to_the_next(fakes: list[Fake]) -> None:
    """When its own has twice its share."""
    there = asked(fakes)
    for fake in fakes:
        fake.says, fake.pause = [300] * 1000, 0.05
    generations = [there.submit(max_new_tokens=1000) for _ in range(32)]
    wait_for(lambda: sum(len(fake.requests) for fake in fakes) == 32)
    for generation in generations:
        generation.cancel()
    assert sorted(len(fake.requests) for fake in fakes) == [0, 10, 22]


# ---- who fails ----


def test_one_that_is_gone_is_passed_over_and_comes_back(
    fakes: list[Fake], first: Fake, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="caikit_pt.serving.vllm_servers")
    there = asked(fakes)
    whole = there.answer()
    first.end()
    for _ in range(3):
        again = there.answer()
        assert (again.text, again.generated) == (whole.text, whole.generated)
    assert there.up == [fake is not first for fake in fakes]
    [line] = caplog.messages
    assert line == (
        f"the vLLM server at {first.address} can't be reached, or went away (ConnectError). "
        "It is asked last until it is well"
    )
    first.begin_again()
    wait_for(lambda: all(there.up))
    assert has_grown(fakes, there.answer) == [first]
    assert caplog.messages[1:] == [f"the vLLM server at {first.address} is well, and asked again"]
    # Nobody is asked for his health who hasn't failed.
    assert [fake.checks for fake in fakes] == [int(fake is first) for fake in fakes]


def test_one_that_is_unwell_rests(fakes: list[Fake], first: Fake) -> None:
    there = asked(fakes)
    first.refuses, first.health = (500, "EngineDeadError"), 503
    assert first in has_grown(fakes, there.answer)
    wait_for(lambda: first.checks >= 2)
    assert first not in has_grown(fakes, there.answer)
    first.refuses, first.health = None, 200
    wait_for(lambda: all(there.up))
    assert has_grown(fakes, there.answer) == [first]


def test_a_proxy_that_knows_no_health(fakes: list[Fake], first: Fake) -> None:
    there = asked(fakes)
    first.refuses, first.health = (502, "Bad Gateway"), 404
    there.answer()
    assert not all(there.up)
    wait_for(lambda: all(there.up))


@pytest.mark.parametrize(
    "failure", [{"fails": {"message": "out of memory", "code": 500}}, {"breaks_after": 0}], ids=str
)
def test_what_has_read_and_not_begun_is_answered_by_the_next(
    fakes: list[Fake], first: Fake, failure: dict[str, Any]
) -> None:
    there = asked(fakes)
    whole = there.answer()
    vars(first).update(failure)
    assert "".join(step.text for step in there.submit().steps()) == whole.text[len(TEXT) :]
    assert not all(there.up)
    answered = there.answer()
    assert (answered.text, answered.generated) == (whole.text, whole.generated)


def test_an_answer_that_has_begun_is_not_begun_again(fakes: list[Fake], first: Fake) -> None:
    there = asked(fakes)
    first.breaks_after = 2
    told: list[Step] = []
    others = [fake for fake in fakes if fake is not first]

    def read() -> None:
        with pytest.raises(BackendUnavailable, match=f"{first.address} ended an answer early"):
            told.extend(there.submit().steps())

    assert has_grown(others, read) == []
    assert len(told) == 2
    # The next request is somebody else's.
    assert len(has_grown(others, there.answer)) == 1


def test_where_none_answers_all_are_named(fakes: list[Fake], caplog: pytest.LogCaptureFixture) -> None:
    there = asked(fakes)
    fakes[0].end()
    fakes[1].refuses = fakes[2].refuses = (503, "loading")
    fakes[1].health = fakes[2].health = 503
    # The second time none of them is well, and they are asked nevertheless.
    for _ in range(2):
        with pytest.raises(BackendUnavailable) as raised:
            there.answer()
        told = str(raised.value)
        assert told.startswith("No vLLM server answers: ")
        assert f"{fakes[0].address} can't be reached, or went away (ConnectError)" in told
        assert all(f"{fake.address} failed (503): loading" in told for fake in fakes[1:])
        assert there.up == [False] * 3
    assert len([line for line in caplog.messages if "is asked last until it is well" in line]) == 3
    fakes[2].refuses = None
    assert there.answer().finish_reason is FinishReason.MAX_TOKENS


def test_one_that_is_full_is_passed_over_and_asked_next_time(fakes: list[Fake], first: Fake) -> None:
    there = asked(fakes)
    first.refuses = (429, "slow down")
    for _ in range(2):
        assert len(has_grown(fakes, there.answer)) == 2
    assert all(there.up)
    for fake in fakes:
        fake.refuses = (429, "slow down")
    with pytest.raises(TooManyRequests, match="No vLLM server answers"):
        there.answer()


def test_one_that_is_set_up_wrong_is_not_passed_over(fakes: list[Fake], first: Fake) -> None:
    there = asked(fakes)
    first.reads = [7, 8, 9]

    def ask() -> None:
        with pytest.raises(BackendMismatch, match=f"{first.address} reads other tokens"):
            there.answer()

    assert has_grown(fakes, ask) == [first]
    assert all(there.up)


def test_one_that_hangs_costs_a_request_and_no_other(fakes: list[Fake]) -> None:
    there = asked(fakes, max_wait_seconds=2)
    [first] = has_grown(fakes, there.answer)
    first.pause, first.health = 30, 503
    with pytest.raises(WaitedTooLong, match=first.address):
        there.answer()
    assert first not in has_grown(fakes, there.answer)


def test_the_time_of_a_request_is_that_of_all_servers(fakes: list[Fake], first: Fake) -> None:
    there = asked(fakes)
    first.refuses = (500, "EngineDeadError")
    for fake in fakes:
        fake.pause = 30
    assert there.answer(max_time=0.5).finish_reason is FinishReason.TIME_LIMIT


def test_as_many_wait_as_may_wait_for_each(fakes: list[Fake]) -> None:
    there = asked(fakes, max_waiting_requests=1)
    for fake in fakes:
        fake.says, fake.pause = [300] * 1000, 0.05
    generations = [there.submit(max_new_tokens=1000) for _ in range(3)]
    with pytest.raises(TooManyRequests, match="3 requests are under way"):
        there.submit()
    for generation in generations:
        generation.cancel()


# ---- what is known of them ----


def test_a_prompt_is_loaded_where_one_is_there(fakes: list[Fake]) -> None:
    fakes[0].end()
    fakes[1].models, fakes[2].models = {"served": 500}, {"served": 400}
    there = asked(fakes)
    assert there.model.text.context_length == 400
    assert there.up == [False, True, True]
    fakes[0].begin_again()
    wait_for(lambda: all(there.up))


def test_a_prompt_is_not_loaded_where_none_is(fakes: list[Fake]) -> None:
    for fake in fakes:
        fake.end()
    with pytest.raises(BackendUnavailable) as raised:
        asked(fakes)
    assert all(fake.address in str(raised.value) for fake in fakes)


def test_a_prompt_is_not_loaded_where_one_has_other_models(fakes: list[Fake]) -> None:
    fakes[1].models = {"another": 1024}
    with pytest.raises(BackendMismatch, match=f"{fakes[1].address} has no model 'served'; it has another"):
        asked(fakes)


def test_prometheus_is_told(fakes: list[Fake], first: Fake, tmp_path: Path) -> None:
    metrics = Metrics(JobStore(tmp_path), Place({}, lambda: 0))
    there = asked(fakes)
    first.end()
    there.answer()
    [family] = [one for one in metrics.collect() if one.name == "caikit_pt_backend_up"]
    told = {sample.labels["address"]: sample.value for sample in family.samples}
    assert {sample.labels["model_name"] for sample in family.samples} == {LLAMA}
    # Other tests' may be there yet.
    assert [told[fake.address] for fake in fakes] == [float(fake is not first) for fake in fakes]


def test_nobody_is_asked_for_his_health_once_nobody_asks(fakes: list[Fake], first: Fake) -> None:
    there = asked(fakes)
    first.refuses, first.health = (500, "EngineDeadError"), 503
    there.answer()
    checks = there.model.text.servers._checks
    wait_for(lambda: first.checks)
    assert len(checks) == 1
    del there
    gc.collect()
    wait_for(lambda: not checks)
