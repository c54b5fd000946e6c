"""Trainings that share their forward passes: each has the result that it has alone."""

from __future__ import annotations

import linecache
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
import torch

from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.pool import POOL
from caikit_pt.base_model.row import TrainingBatch
from caikit_pt.soft_prompt.artifact import TunedPrompt
from caikit_pt.tuning import joining
from caikit_pt.tuning.candidate import Candidate
from caikit_pt.tuning.examples import make_examples
from caikit_pt.tuning.joining import Round, round_of
from caikit_pt.tuning.learner import Learner, gradients
from caikit_pt.tuning.plan import TuningPlan
from caikit_pt.tuning.progress import Progress
from caikit_pt.tuning.tuner import tune

from .training import PAIRS, curve, plan, weights_of

WAIT = 60  # seconds: nothing here takes long unless threads wait for each other
# Adam's first steps are the gradient's sign times the rate: a rounding error next to zero would be a whole
# step. Adafactor's are proportional to it.
JOB: dict[str, Any] = {"learning_rate": 0.01, "optimizer": "adafactor", "num_epochs": 2}
JOBS: list[dict[str, Any]] = [
    {**JOB, "seed": 1},
    {**JOB, "seed": 2, "num_virtual_tokens": 7, "batch_size": 3},
    {**JOB, "seed": 3, "verbalizer": "Text: {{input}} Label:", "num_epochs": 3},
]
# How far rounding takes a loss from what it is alone: relative, by the data type of the base model. T5
# doesn't scale its attention, so that in float32 a last digit counts for more.
ROUNDING = {"float32": 5e-6, "float64": 1e-6}
ROUNDING_OF_T5 = {"float32": 1e-4, "float64": 1e-6}


@pytest.fixture(params=ROUNDING)
def typed(base: BaseModel, request: pytest.FixtureRequest) -> BaseModel:
    """Each embedded model in both types; in float64 only the float32 of prompts and losses rounds."""
    return base if request.param == "float32" else POOL.get(base.checkpoint, "float64", "cpu")


def rounding(base: BaseModel) -> float:
    """That of a loss under `base`."""
    of_family = ROUNDING if base.text.continues_text else ROUNDING_OF_T5
    return of_family[str(base.weights.dtype).removeprefix("torch.")]


class Steps:
    """Counts the steps of a base model, and the soft prompts that they are given."""

    def __init__(self, base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
        self.prompts: list[int] = []
        step = base.training.step

        def counted(prompts: Any, common: Any = ()) -> Any:
            if torch.is_grad_enabled():
                self.prompts.append(len(prompts))
            return step(prompts, common)

        monkeypatch.setattr(base.training, "step", counted)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds wait for everybody, so that what a test counts isn't chance."""
    monkeypatch.setattr(joining.Round, "_deadline", lambda self, wish: time.monotonic() + 0.2)


def together(base: BaseModel, plans: Sequence[TuningPlan], tunings: Sequence[Any] = ()) -> list[TunedPrompt]:
    """The prompts of jobs that begin at once."""
    shared, barrier = Round(), threading.Barrier(len(plans))

    def job(number: int) -> TunedPrompt:
        with shared.member() as compute:
            barrier.wait(WAIT)
            on_update = tunings[number] if tunings else None
            return tune(plans[number], base, on_update, compute)

    with ThreadPoolExecutor(len(plans)) as pool:
        futures = [pool.submit(job, number) for number in range(len(plans))]
        return [future.result(timeout=WAIT) for future in futures]


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("count", [2, 3])
def test_joined_jobs_have_the_results_that_they_have_alone(
    typed: BaseModel, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with other numbers of virtual tokens, batch sizes, verbalizers and updates."""
    base = typed
    plans = [plan(base, **job) for job in JOBS[:count]]
    alone = [tune(planned, base) for planned in plans]
    steps = Steps(base, monkeypatch)
    joined = together(base, plans)
    assert len(steps.prompts) == max(len(curve(one)) for one in alone)
    assert sum(steps.prompts) == sum(len(curve(one)) for one in alone)
    for one, other in zip(alone, joined, strict=True):
        assert curve(other) == pytest.approx(curve(one), rel=rounding(base))
        for part, tensor in one.prompt.tensors.items():
            torch.testing.assert_close(other.prompt.tensors[part], tensor, rtol=0, atol=2 * rounding(base))


def test_gradients_of_learners_in_one_step_are_those_of_each(typed: BaseModel) -> None:
    base = typed
    plans = [plan(base, **job) for job in JOBS]
    examples = [make_examples(planned.records, base.text, planned.parameters) for planned in plans]
    batches = [of.batch(range(1, 3 + number)) for number, of in enumerate(examples)]
    learners = [Candidate.begin(base, planned.parameters, None, 1).learner for planned in plans]
    losses = [float(gradients(base, [one], [batch])[0]) for one, batch in zip(learners, batches, strict=True)]
    alone = _gradients_of(learners)
    joined = [float(loss) for loss in gradients(base, learners, batches)]
    assert joined == pytest.approx(losses, rel=rounding(base))
    for one, other in zip(alone, _gradients_of(learners), strict=True):
        assert float((one - other).norm() / one.norm()) < rounding(base)


def test_a_prompt_of_no_numbers_harms_nobody_beside_it(base: BaseModel) -> None:
    planned = plan(base)
    batch = make_examples(planned.records, base.text, planned.parameters).batch(range(4))
    good, bad = (Candidate.begin(base, planned.parameters, None, 1).learner for _ in range(2))
    (expected,) = gradients(base, [good], [batch])
    alone = _gradients_of([good])
    for broken in (float("nan"), 1e38):
        with torch.no_grad():
            for weight in weights_of(bad.prompt):
                weight.fill_(broken)
        loss, _ = gradients(base, [good, bad], [batch, batch])
        assert float(loss) == pytest.approx(float(expected), rel=rounding(base))
        for one, other in zip(alone, _gradients_of([good]), strict=True):
            assert float((one - other).norm() / one.norm()) < rounding(base)


@pytest.mark.parametrize("fails", ["in its own thread", "in a joined step"])
def test_a_job_that_fails_harms_no_other(base: BaseModel, fails: str) -> None:
    good, bad = plan(base, **JOBS[0]), plan(base, **JOBS[1])
    expected = tune(good, base)
    shared = Round()

    def stop(progress: Progress) -> None:
        if progress.step == 2:
            raise ArithmeticError("no more")

    def fail(base: BaseModel, learners: Sequence[Learner], batches: Sequence[TrainingBatch]) -> Any:
        # A target of no token: nothing to divide by, in the step of all.
        empty = [TrainingBatch(batch.sources, [[] for _ in batch.targets]) for batch in batches]
        return shared._gradients(base, learners, empty)

    def failing() -> None:
        with shared.member() as compute:
            tune(bad, base, stop, compute if fails == "in its own thread" else fail)

    def working() -> TunedPrompt:
        with shared.member() as compute:
            return tune(good, base, gradients=compute)

    with ThreadPoolExecutor(2) as pool:
        broken, whole = pool.submit(failing), pool.submit(working)
        with pytest.raises(ArithmeticError):
            broken.result(WAIT)
        assert curve(whole.result(WAIT)) == pytest.approx(curve(expected), rel=rounding(base))
    assert not shared._members
    assert not shared._wishes


def test_an_exception_at_any_line_leaves_nobody_waiting(
    llama: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread may live on, as that of a notebook whose user interrupts the training.

    Where the exception came between a thread's taking on of everybody's gradients and their computation, or
    behind it, the others waited for as long as the thread lived.
    """
    monkeypatch.setattr(
        joining, "gradients", lambda base, learners, batches: [torch.zeros(()) for _ in learners]
    )
    # Only who has left isn't waited for.
    monkeypatch.setattr(joining.Round, "_deadline", lambda self, wish: time.monotonic() + WAIT)
    line = 0
    while _interrupted_at(line, llama):
        line += 1
    assert line > 30


def test_a_job_that_joins_late_takes_part_and_finds_the_others_unharmed(base: BaseModel) -> None:
    base = POOL.get(base.checkpoint, "float64", "cpu")
    early, late = plan(base, **{**JOBS[0], "num_epochs": 8}), plan(base, **JOBS[1])
    expected = [tune(planned, base) for planned in (early, late)]
    shared, begun = Round(), threading.Event()

    def job(planned: TuningPlan, told: Callable[[Progress], None]) -> TunedPrompt:
        with shared.member() as compute:
            return tune(planned, base, told, compute)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(job, early, lambda _: begun.set())
        assert begun.wait(WAIT)
        second = pool.submit(job, late, lambda _: None)
        joined = [first.result(WAIT), second.result(WAIT)]
    for one, other in zip(expected, joined, strict=True):
        assert curve(other) == pytest.approx(curve(one), rel=1e-5)


def test_a_member_that_never_comes_is_not_waited_for_long(llama: BaseModel) -> None:
    """It may validate for minutes."""
    shared = round_of(llama)
    assert shared is round_of(llama)
    inside, done = threading.Event(), threading.Event()

    def idle() -> None:
        with shared.member():
            inside.set()
            done.wait(WAIT)

    thread = threading.Thread(target=idle)
    thread.start()
    try:
        assert inside.wait(WAIT)
        with shared.member() as compute:
            assert len(curve(tune(plan(llama), llama, gradients=compute))) == 4
    finally:
        done.set()
        thread.join()
    assert not shared._members


@pytest.mark.parametrize("variant", ["plain", "multitask", "residual", "search"])
def test_a_seed_gives_the_same_bits_beside_another_training(base: BaseModel, variant: str) -> None:
    """One that isn't joined, in a thread beside it; no global random state is read or changed."""
    variants: dict[str, dict[str, Any]] = {
        "plain": {},
        "multitask": {"tuning_type": "MULTITASK_PROMPT_TUNING"},
        "residual": {"reparameterization": "residual"},
        "search": {"search": "auto", "num_epochs": 4},
    }
    request = variants[variant]
    alone = tune(plan(base, **request), base)
    with _busy(base):
        torch.manual_seed(99)
        state = torch.get_rng_state()
        beside = tune(plan(base, **request), base)
        assert torch.equal(state, torch.get_rng_state())
    other = tune(plan(base, seed=74, **request), base)
    for part, tensor in alone.prompt.tensors.items():
        assert torch.equal(tensor, beside.prompt.tensors[part])
        assert not torch.equal(tensor, other.prompt.tensors.get(part, tensor + 1)[: len(tensor)])
    assert curve(alone) == curve(beside)
    assert alone.verdict == beside.verdict


# ---- helpers ----


class _busy:
    """Another training that goes on as long as the block."""

    def __init__(self, base: BaseModel) -> None:
        self._base = base
        self._over, self._under_way = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        def told(progress: Progress) -> None:
            self._under_way.set()
            if self._over.is_set():
                raise InterruptedError

        with suppress(InterruptedError):
            tune(plan(self._base, PAIRS, seed=5, num_epochs=1000), self._base, told)

    def __enter__(self) -> None:
        self._thread.start()
        assert self._under_way.wait(WAIT)

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(WAIT)


def _interrupted_at(line: int, base: BaseModel) -> bool:
    """Whether a thread ran so many lines of a round, where it then got an exception; another isn't harmed."""
    shared, updates = Round(), []
    here, interrupted, over = threading.Event(), threading.Event(), threading.Event()

    def patient() -> None:
        with shared.member() as compute:
            here.wait(WAIT)
            for _ in range(2):
                updates.append(compute(base, [Any], [Any]))  # type: ignore[list-item]

    def struck() -> None:
        sys.settrace(_raising_at(line))
        try:
            with shared.member() as compute:
                here.set()
                while not shared._wishes:
                    time.sleep(0.001)
                compute(base, [Any], [Any])  # type: ignore[list-item]
        except KeyboardInterrupt:
            interrupted.set()
        finally:
            sys.settrace(None)
            here.set()
        over.wait(WAIT)

    other, thread = (threading.Thread(target=run, daemon=True) for run in (patient, struck))
    other.start()
    thread.start()
    other.join(5)
    waits = other.is_alive()
    over.set()
    thread.join(WAIT)
    assert not waits, f"with an exception at line {line}"
    assert len(updates) == 2
    assert not shared._members
    assert not shared._wishes
    return interrupted.is_set()


def _raising_at(line: int) -> Callable[..., Any]:
    """Traces the lines of joining.py and raises at this one, counted from 0 in the order they are run."""
    seen: set[tuple[Any, int]] = set()

    def trace(frame: Any, event: str, _: Any) -> Any:
        if frame.f_code.co_filename != joining.__file__:
            return None
        # At a `try:` Python itself never raises, nor at the end of a `with`, which is its line once more.
        is_try = linecache.getline(joining.__file__, frame.f_lineno).strip() == "try:"
        if event == "line" and not is_try and (frame, frame.f_lineno) not in seen:
            if len(seen) == line:
                raise KeyboardInterrupt
            seen.add((frame, frame.f_lineno))
        return trace

    return trace


def _gradients_of(learners: Sequence[Learner]) -> list[torch.Tensor]:
    return [
        weight.grad.clone()
        for learner in learners
        for weight in weights_of(learner.prompt)
        if weight.grad is not None
    ]
