"""All requests to one base model, whatever their prompts, in one batch that changes at every step.

The plain loop: read some of what waits, give every running row a token, tell who waits for it.
A request is answered as it would be alone.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from caikit_pt.base_model.loading.memory import is_out_of_memory
from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.serving.batch import Batch, Prefill
from caikit_pt.errors import AnswerNotFinite, OutOfMemory
from caikit_pt.serving.generation import Generation
from caikit_pt.serving.request import Request
from caikit_pt.serving.scheduler import Limits, Scheduler
from caikit_pt.serving.statistics import Statistics
from caikit_pt.serving.witness import shown

if TYPE_CHECKING:
    from caikit_pt.base_model.layers.parcel import Parcel
    from caikit_pt.serving.sampling import Sampling
    from caikit_pt.serving.wishes import Told, Wishes

_LOG = logging.getLogger(__name__)


class _Running:
    """A batch and the requests whose rows it holds, in the same order."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.generations: list[Generation] = []
        # Whether something has failed in the batch that nobody can go on after.
        self.spoilt = False
        self._sampling: Sampling | None = None

    def wishes(self, parcel: Parcel) -> Wishes:
        """What its requests want of the next step."""
        from caikit_pt.serving.wishes import Wishes

        wishes = Wishes([each.request for each in self.generations], parcel, self._sampling)
        self._sampling = wishes.sampling
        return wishes

    def leave(self, index: int) -> None:
        self.batch.leave(index)
        # Who leaves may come back, having got tokens elsewhere.
        self._sampling = None
        last = self.generations.pop()
        if index < len(self.generations):
            self.generations[index] = last


class Engine:
    """Answers requests, a step at a time. One thread steps; any thread may submit."""

    def __init__(self, base: BaseModel, limits: Limits) -> None:
        self.base = base
        self.statistics = Statistics()
        self._scheduler = Scheduler(base, limits)
        self._running: list[_Running] = []
        self._reading: list[Generation] = []
        self._prefill: Prefill | None = None
        self._wishes: Wishes | None = None

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._running or self._reading or len(self._scheduler))

    @property
    def running(self) -> int:
        """Requests that are read or get tokens."""
        return len(self._reading) + len(self._running_now())

    @property
    def waiting(self) -> int:
        """Requests whose turn hasn't come."""
        return len(self._scheduler)

    @property
    def oldest(self) -> float | None:
        """When the one that has waited the longest arrived (time.monotonic()); None where nobody waits."""
        return self._scheduler.oldest

    @property
    def kv_usage(self) -> float:
        """The share of the room for keys and values that is promised to running rows, from 0 to 1."""
        return self._scheduler.usage(self._running_now())

    def submit(self, request: Request) -> Generation:
        """Takes a request on. Raises TooManyRequests, and InvalidParameter where it can never run."""
        generation = Generation(request, self.statistics.ended)
        self._scheduler.add(generation)
        return shown(generation)

    def step(self) -> None:
        """Reads some of what waits, and gives every running row a token."""
        import torch

        began = time.monotonic()
        with torch.inference_mode():
            self._scheduler.drop()
            self._drop_cancelled()
            self._make_way()
            self._read()
            rows = sum(len(running.generations) for running in self._running)
            for running in list(self._running):
                self._guarded(running.generations, partial(self._advance, running))
            self._running = [running for running in self._running if running.generations]
        self.statistics.stepped(time.monotonic() - began, rows)

    def give_up(self, error: BaseException) -> None:
        """Ends every request with `error`."""
        all_of_them = [*self._reading, *self._running_now(), *self._scheduler.clear()]
        self._reading, self._prefill, self._wishes, self._running = [], None, None, []
        for generation in all_of_them:
            generation.fail(error)

    # ---- reading ----

    def _read(self) -> None:
        """Reads for as long as running rows may wait for it; without these, until some run."""
        while True:
            if not self._reading:
                self._reading = self._scheduler.take(self._running_now())
            if not self._reading:
                return
            self._guarded(self._reading, self._read_on)
            if self._running:
                return

    def _read_on(self) -> None:
        """Goes on with the micro-batch at hand, and lets it join when it is read."""
        from caikit_pt.serving.wishes import Wishes

        rows = len(self._reading)
        if self._prefill is None:
            self._prefill = self.base.serving.prefill([each.request.so_far for each in self._reading])
            # In the parcel of the first pass, for the last.
            self._wishes = Wishes([each.request for each in self._reading], self._prefill.parcel)
        prefill, wishes = self._prefill, self._wishes
        assert wishes is not None
        prefill.advance(max(1, self._scheduler.read_positions // rows))
        if prefill.columns:
            return
        told = wishes.read(prefill.logits)
        # Before they join: what isn't finite never gets to where others run.
        if self._set_apart(self._reading, told):
            return
        running = self._batch_for(self._reading)
        try:
            running.batch.join(prefill)
        except BaseException:
            # Half of what is held may have moved: nobody can go on in it.
            running.spoilt = True
            raise
        running.generations += self._reading
        joined = range(len(running.generations) - rows, len(running.generations))
        self.statistics.read(self._reading)
        self._reading, self._prefill, self._wishes = [], None, None
        self._take(running, joined, told)

    def _batch_for(self, joining: Sequence[Generation]) -> _Running:
        """The batch that `joining` may join; a new one where there is none."""
        company = [each for each in self._running if not any(one.alone for one in each.generations)]
        if company and self.base.serving.rows_join and not joining[0].alone:
            return company[0]
        self._running.append(_Running(self.base.serving.new_batch()))
        return self._running[-1]

    # ---- running ----

    def _advance(self, running: _Running) -> None:
        """A token for every row."""
        import torch

        from caikit_pt.base_model.layers.parcel import Parcel

        if not running.generations:
            return
        parcel = Parcel(self.base.weights.device)
        tokens = parcel.add(torch.tensor([each.request.generated[-1] for each in running.generations]))
        wishes = running.wishes(parcel)
        parcel.send()
        told = wishes.read(running.batch.advance(tokens()))
        if not self._set_apart(running.generations, told):
            self._take(running, range(len(running.generations)), told)

    def _take(self, running: _Running, rows: Sequence[int], told: Sequence[Told]) -> None:
        """Extends `rows` by what they were told; who is finished leaves. What fails earlier has taken nothing
        from anybody."""
        generations = [running.generations[row] for row in rows]
        for generation, each in zip(generations, told, strict=True):
            try:
                if each.token is not None:
                    generation.request.take(each.token, each.worths)
                else:
                    generation.request.take_label(each.shares, each.worths)
            except Exception as error:  # of one request's text
                generation.fail(error)
        self.statistics.took(generations)
        for row in reversed(rows):
            generation = running.generations[row]
            if generation.ended or generation.request.finished:
                running.leave(row)
            elif generation.request.is_elsewhere:
                running.leave(row)
                self._scheduler.put_last(generation)
            elif generation.request.outgrows_its_keys(self.base):
                running.leave(row)
                self._scheduler.put_back([generation])
        for generation in generations:
            if not generation.ended:
                generation.tell()

    def _make_way(self) -> None:
        """Rows leave for tenants who have fewer; they come back, and are read again, in their turn."""
        for late in self._scheduler.those_late(self._running_now()):
            running = next(one for one in self._running if late in one.generations)
            running.leave(running.generations.index(late))
            late.gave_way = True
            self._scheduler.put_last(late)
        self._running = [running for running in self._running if running.generations]

    def _drop_cancelled(self) -> None:
        for running in list(self._running):
            for row in reversed(range(len(running.generations))):
                if running.generations[row].cancelled:
                    running.generations[row].fail()
                    running.leave(row)
            if not running.generations:
                self._running.remove(running)

    # ---- failing ----

    def _guarded(self, generations: list[Generation], act: Callable[[], None]) -> None:
        """Does `act`; where it fails, the requests it was for are tried again in less company."""
        try:
            act()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # whatever a model, a prompt or a text brings about
            if is_out_of_memory(error):
                self._shrink(list(generations))
            else:
                self._separate(list(generations), error)

    def _shrink(self, generations: list[Generation]) -> None:
        """Fewer rows run from now on; those that have to leave are the next to be read again."""
        others = [each for each in (*self._reading, *self._running_now()) if each not in generations]
        rows = max(1, len(others) or len(generations) // 2)
        _LOG.warning(
            "out of memory with %d rows; %d at once from now on", len(others) + len(generations), rows
        )
        self._withdraw(generations)
        self.base.serving.give_room()
        if others or len(generations) > 1:
            self._scheduler.shrink(rows)
            self._scheduler.put_back(generations)
        else:
            generations[0].fail(OutOfMemory("The device has no room for this request, not even alone"))

    def _separate(self, generations: list[Generation], error: BaseException) -> None:
        """What has failed together is tried alone; what has failed alone, fails."""
        self._withdraw(generations)
        if len(generations) == 1:
            _LOG.error("a request failed", exc_info=error)
            # Whoever keeps the error would keep the batch and all its memory with its frames.
            generations[0].fail(error.with_traceback(None))
            return
        _LOG.warning("%d requests failed together, and are tried alone", len(generations), exc_info=error)
        for generation in generations:
            generation.alone = True
        self._scheduler.put_back(generations)

    def _set_apart(self, together: Sequence[Generation], told: Sequence[Told]) -> bool:
        """Whether logits of some of those that were computed `together` aren't finite; then nobody takes any.

        Those are tried alone, since they may have it from others, and fail where they were alone. Whoever
        they shared a batch with is read again, and nothing that they shared is used again: what a mask hides
        is multiplied by nought, which is nan of what isn't finite.
        """
        bad = [generation for generation, each in zip(together, told, strict=True) if not each.finite]
        if not bad:
            return False
        self._withdraw(bad)
        self.base.serving.forget_stores()
        _LOG.warning("scores of %d of %d requests aren't finite", len(bad), len(together))
        again = [generation for generation in bad if not generation.alone]
        for generation in bad:
            if generation.alone:
                generation.fail(AnswerNotFinite(_not_finite(self.base)))
            generation.alone = True
        self._scheduler.put_back(again)
        return True

    def _running_now(self) -> list[Generation]:
        return [each for running in tuple(self._running) for each in tuple(running.generations)]

    def _withdraw(self, generations: Sequence[Generation]) -> None:
        """They are neither read nor running any more; who was read or ran with them is read again."""
        if any(each in generations for each in self._reading):
            others = [each for each in self._reading if each not in generations]
            self._reading, self._prefill, self._wishes = [], None, None
            self._scheduler.put_back(others)
        for running in list(self._running):
            if running.spoilt or any(each in generations for each in running.generations):
                running.generations = [each for each in running.generations if each not in generations]
                self._abandon(running)

    def _abandon(self, running: _Running) -> None:
        """Its batch is used no more; those in it are read again."""
        self._running.remove(running)
        running.batch.discard()
        self._scheduler.put_back(running.generations)


def _not_finite(base: BaseModel) -> str:
    """What is told of an answer that isn't one."""
    dtype = str(base.weights.dtype).removeprefix("torch.")
    return (
        f"With this soft prompt and text {base.checkpoint.name} computes scores in {dtype} that aren't "
        "finite numbers, so there is no answer. Serve it with another torch_dtype (the setting torch_dtype: "
        "bfloat16 or float32), or tune the prompt again"
    )


def generate(base: BaseModel, requests: Sequence[Request]) -> Iterator[None]:
    """Extends `requests` by a token each and yields, until all are finished, in the caller's thread.

    Where an answer's scores aren't finite it is an empty one. Raises what else a request fails with.
    """
    limits = Limits(
        rows=max(1, len(requests)), waiting=len(requests), wait_seconds=math.inf, attention_bytes=math.inf
    )
    engine = Engine(base, limits)
    generations = [engine.submit(request) for request in requests]
    while engine.busy:
        engine.step()
        yield
    for generation in generations:
        if isinstance(generation.error, AnswerNotFinite):
            generation.request.forget()
        elif generation.error:
            raise generation.error
