"""What a suite comes to: measures all of it in one interleaved run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

from bench.training.case import Case
from bench.training.flops import needed
from bench.training.joined import embedded, of_shape
from bench.training.ladder import PEER, PRODUCT, Step, case_of, ends, ladder
from bench.training.memory import peak_memory
from bench.training.peak import MatmulPeak
from bench.training.rounds import Contender, samples_per_second
from bench.training.suite import Suite


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one step in one case. `peak_share` is of the best product of matrices seen in the same run."""

    samples: float  # a second
    tokens: float  # real ones, a second
    times_peer: float
    peak_share: float
    memory: int | None  # bytes above the model's own


@dataclass(frozen=True, slots=True)
class Results:
    """By case and by the name of a step, its figures; by name of a model, rates of two jobs."""

    cases: dict[Case, dict[str, Figures]]
    joined: dict[str, tuple[float, float]]  # in turn, joined
    peaks: dict[str, float]  # operations a second by data type


def measure(suite: Suite, device: str) -> Results:
    """Memory first, while nothing else is loaded, then time."""
    steps = {case: ladder(case) if case in suite.step_by_step else ends(case) for case in suite.cases}
    memory = _memory(suite, steps)
    # A dict, to keep the order: cases can share a peer.
    trained = {(case_of(case, step), step): None for case, of_case in steps.items() for step in of_case}
    dtypes = {case.dtype: case.torch_dtype for case, _ in trained}
    peaks = {name: MatmulPeak(dtype, device) for name, dtype in dtypes.items()}
    jobs = [of_shape(name, device) for name in suite.joined]
    jobs += [embedded(name) for name in suite.joined_embedded]
    contenders = [_contender(case, step) for case, step in trained]
    contenders += [contender for job in jobs for contender in job.contenders()]

    def between(number: int) -> None:
        print(f"round {number + 1} of {suite.rounds}", file=sys.stderr, flush=True)
        for peak in peaks.values():
            peak.measure()

    rates = samples_per_second(contenders, suite.rounds, between)
    best = {name: peak.best for name, peak in peaks.items()}
    cases = {}
    for case, of_case in steps.items():
        peer = rates[case_of(case, PEER), PEER.name]
        cases[case] = {
            step.name: _figures(
                case_of(case, step),
                rates[case_of(case, step), step.name],
                peer,
                best,
                memory.get((case, step.name)),
            )
            for step in of_case
        }
    joined = {job.name: (rates[job.name, "in turn"], rates[job.name, "joined"]) for job in jobs}
    return Results(cases, joined, best)


def _memory(suite: Suite, steps: dict[Case, list[Step]]) -> dict[tuple[Case, str], int | None]:
    found: dict[tuple[Case, str], int | None] = {}
    for case in suite.with_memory:
        for step in steps[case]:
            if step in (PEER, PRODUCT):
                print(f"memory of {step.name}: {case.title}", file=sys.stderr, flush=True)
                found[case, step.name] = peak_memory(case_of(case, step), step)
    return found


def _contender(case: Case, step: Step) -> Contender:
    samples = case.batch if step.one_batch else case.window

    def make(number: int) -> Callable[[], object]:
        records = case.records(seed=max(number, 0))
        return step.make(case, records[:2] if number < 0 else records[:samples]).run

    return Contender((case, step.name), make, samples, case.device)


def _figures(case: Case, rate: float, peer: float, peaks: dict[str, float], memory: int | None) -> Figures:
    records = case.records()
    share = needed(case.shape, case.prompt, records) / len(records) * rate / peaks[case.dtype]
    tokens = sum(record.tokens for record in records) / len(records)
    return Figures(rate, rate * tokens, rate / peer, share, memory)
