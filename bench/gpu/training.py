"""How fast prompts are tuned on one shape, beside peft's loop, and what the host waits for in an update."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

from bench.gpu import ceiling, machine, waits
from bench.gpu.measure import Measure, Part
from bench.gpu.row import Row, judged
from bench.gpu.size import Size

if TYPE_CHECKING:
    from bench.gpu.updates import Updates
    from bench.training.case import Case
    from bench.training.records import Record

PART = "training"
# Shares of the peak of products, measured on the spot.
GOALS = {"llama-8b": 0.5, "t5-xl": 0.4}
_AS_CAIKIT_NLP, _AT_ITS_BEST = "peft's loop as caikit-nlp has it", "peft's loop without needless padding"
_AT_ONCE = 2  # updates of a round, so that the host may run ahead


@dataclass(frozen=True, slots=True)
class Found:
    """Of one contender: records of an update, its seconds, and the memory at its peak, weights included."""

    records: int
    seconds: float
    bytes: int

    def __str__(self) -> str:
        memory = f", {self.bytes / 2**30:.1f} GiB" if self.bytes else ""
        return f"{self.records / self.seconds:,.4g} records/s, {self.seconds * 1e3:,.4g} ms an update{memory}"


class Training:
    """One shape."""

    def __init__(self, size: Size, shape: str) -> None:
        self._size, self._shape = size, shape

    def part(self) -> Part:
        """Ours first: rivals may take all the memory there is."""
        size, first = self._size, self._size.trainings[0]
        load, ours, waited, peer = (size.seconds(full, self._shape) for full in (20, 10, 5, 15))
        measures = [
            self._measure(f"caikit_pt, {_title(*asked)}", ours, partial(self._ours, *asked))
            for asked in size.trainings
        ]
        waiting = Measure(waits.PART, f"an update, {self._shape}", waited, partial(self._waits, *first))
        peers = [
            self._measure(f"{name}, {_title(*first)}", peer, partial(self._peer, name, *first))
            for name in (_AS_CAIKIT_NLP, _AT_ITS_BEST)
        ]
        loaded = Measure(PART, f"{self._shape}: random weights", load, self._load)
        return Part(f"{PART} {self._shape}", [loaded, *measures, waiting, *peers])

    def _measure(self, what: str, seconds: float, run: Callable[[], Iterator[Row]]) -> Measure:
        return Measure(PART, f"{self._shape}: {what}", seconds, run)

    def _load(self) -> Iterator[Row]:
        from bench.training import models

        base = models.base(self._case(*self._size.trainings[0]))
        numbers = sum(weight.numel() for weight in base.weights.model.parameters())
        way = "packed" if base.training.trains_packed else "padded"
        found = f"{numbers / 1e9:.3g}B in {self._size.dtype}, trained {way}"
        yield judged(PART, f"{self._shape}: random weights", found, "packed", base.training.trains_packed)

    def _ours(self, long: bool, prompt: int) -> Iterator[Row]:
        case = self._case(long, prompt)
        updates = self._updates(case)
        updates.update(case.records(seed=0))  # warms up, and finds out how large passes may be
        windows = [case.records(seed=1 + number) for number in range(_AT_ONCE * self._size.rounds)]

        def work(number: int) -> None:
            for window in windows[_AT_ONCE * number :][:_AT_ONCE]:
                updates.update(window)

        found = _found(self._size, case.window, work, _AT_ONCE)
        share, shown = self._share(case, found)
        shown += f", passes of up to {updates.positions:,} positions"
        goal = GOALS.get(self._shape)
        what = f"{self._shape}: caikit_pt, {_title(long, prompt)}"
        if goal is None:
            yield Row(PART, what, f"{found}, {shown}")
        else:
            yield judged(PART, what, f"{found}, {shown}", f"{goal:.0%} of the peak", share >= goal)

    def _waits(self, long: bool, prompt: int) -> Iterator[Row]:
        case = self._case(long, prompt)
        updates, records = self._updates(case), case.records(seed=0)
        updates.update(records)
        what = f"an update, {self._shape}"
        yield waits.row(what, self._size.device, partial(updates.update, records))

    def _peer(self, name: str, long: bool, prompt: int) -> Iterator[Row]:
        from bench.training import models
        from bench.training.peer import PeerLoop, PeerOptions

        case = self._case(long, prompt)
        plain = name == _AS_CAIKIT_NLP
        options = (
            PeerOptions()
            if plain
            else PeerOptions(pad_to_limits=False, random_order=False, checkpointing=False)
        )

        def make(records: list[Record]) -> PeerLoop:
            return PeerLoop(case, models.model(case), records, options)

        make(case.records()[:2]).run()
        # As it pads, all its batches take the same time, and much of it.
        count = case.batch if plain else case.window
        loops = [make(case.records(seed=1 + turn)[:count]) for turn in range(self._size.rounds)]
        found = _found(self._size, count, lambda number: loops[number].run(), 1)
        if plain:
            found = Found(case.window, found.seconds * case.accumulate, found.bytes)
        _, shown = self._share(case, found)
        yield Row(PART, f"{self._shape}: {name}, {_title(long, prompt)}", f"{found}, {shown}")

    def _share(self, case: Case, found: Found) -> tuple[float, str]:
        """Of the peak, the work that an exact training can't do without; and in words."""
        from bench.training.flops import needed

        size = self._size
        rate = needed(case.shape, case.prompt, case.records()) / found.seconds
        share = rate / ceiling.peak(size.device, size.dtype, size.products)
        known = ceiling.nominal(machine.name_of(size)) if size.dtype == "bfloat16" else None
        by_maker = f" ({rate / known.operations:.0%} of the nominal one)" if known else ""
        return share, f"{share:.0%} of the peak{by_maker}"

    def _case(self, long: bool, prompt: int) -> Case:
        from bench.training.case import Case
        from bench.training.shapes import SHAPES

        size = self._size
        return Case(SHAPES[self._shape], size.dtype, long, prompt, size.batch, size.accumulate, size.device)

    def _updates(self, case: Case) -> Updates:
        from bench.gpu.updates import Updates
        from bench.training import models

        return Updates(models.base(case), case)


def _found(size: Size, records: int, work: Callable[[int], object], at_once: int) -> Found:
    """Rounds of `work`, which is `at_once` updates of `records` each."""
    import torch

    from bench.training.clock import seconds

    # The peak of products is measured before, not beside, what is divided by it.
    ceiling.peak(size.device, size.dtype, size.products)
    if size.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    spent = median(seconds(partial(work, number), size.device) for number in range(size.rounds))
    used = torch.cuda.max_memory_allocated() if size.device == "cuda" else 0
    return Found(records, spent / at_once, used)


def _title(long: bool, prompt: int) -> str:
    return f"{'long' if long else 'short'} targets, {prompt} virtual tokens"
