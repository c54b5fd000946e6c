"""Rows join a batch that is under way, in pieces, and leave it in any order: each is what it is alone.

Every family, in float64, so that what is left of a difference is rounding; the orders are hypothesis's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from caikit_pt.base_model.layers import static_slots, static_timeline
from caikit_pt.base_model.layers.timeline import Timeline
from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.row import Row
from caikit_pt.base_model.serving.batch import Batch, Decoding

from .answers import DECODER_ONLY, ROUNDING, soft_prompt, words
from .cases import every_serving_case
from .families import Zoo
from .precision import everything_in_float64

# Nothing that can be served in batches is left out of them; what these have besides keys can't be shifted.
LONE_FAMILIES = ("lfm2",)
_ORDERS = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)


@dataclass(frozen=True, slots=True)
class Join:
    """Rows of so many virtual tokens, words and tokens of an answer, read in pieces of `columns`."""

    rows: Sequence[tuple[int, int, int]]
    columns: int


@dataclass(frozen=True, slots=True)
class Leave:
    """The row of this number, counted round and round, goes."""

    row: int


_ROW = st.tuples(st.integers(0, 12), st.integers(1, 14), st.integers(0, 3))
_EVENTS = st.one_of(
    st.builds(Join, st.lists(_ROW, min_size=1, max_size=3), st.integers(1, 20)),
    st.builds(Leave, st.integers(0, 5)),
    st.just(None),
)
every_order = given(events=st.lists(_EVENTS, min_size=3, max_size=14))


@every_serving_case
@every_order
@_ORDERS
def test_a_row_is_what_it_is_alone(
    zoo: Zoo, family: str, parts: tuple[str, ...], events: list[Join | Leave | None]
) -> None:
    base = zoo.model(family, "float64")
    with torch.inference_mode(), everything_in_float64():
        assert base.serving.serves_batched
        if not base.serving.rows_join:
            events = _all_at_once(events, parts)
        _Company(base, parts).live_through(events)


@every_serving_case
@every_order
@settings(_ORDERS, max_examples=6)
def test_a_row_is_what_it_is_alone_where_steps_have_few_shapes(
    zoo: Zoo, family: str, parts: tuple[str, ...], events: list[Join | Leave | None]
) -> None:
    """As on an accelerator, with so few columns that rows have to be moved; one batch after another in the
    same store."""
    base = zoo.model(family, "float64")
    with torch.inference_mode(), everything_in_float64(), _few_columns():
        if not base.serving.rows_join:
            events = _all_at_once(events, parts)
        for _ in range(2):
            _Company(base, parts, base.serving.static_batch()).live_through(events)


@pytest.mark.parametrize("family", LONE_FAMILIES)
def test_what_has_a_state_is_served_alone(zoo: Zoo, family: str, caplog: pytest.LogCaptureFixture) -> None:
    base = zoo.model(family)
    assert not base.serving.serves_batched
    assert "is served one request at a time" in caplog.text


def test_a_timeline_that_is_shifted_is_noticed(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: a row that moves into a gap forgets its first position."""
    base = zoo.model("llama", "float64")
    leave = Timeline.leave

    def forgetful(line: Timeline, index: int) -> None:
        leave(line, index)
        if index < len(line):
            line.lengths[index] -= 1

    monkeypatch.setattr(Timeline, "leave", forgetful)
    with torch.inference_mode(), everything_in_float64(), pytest.raises(AssertionError):
        _Company(base, DECODER_ONLY).live_through([Join([(3, 4, 0), (2, 6, 0)], 20), Leave(0), None])


@contextmanager
def _few_columns() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(static_timeline, "_FEWEST_COLUMNS", 4)
        patch.setattr(static_timeline, "_HEADROOM", 2)
        patch.setattr(static_slots, "_FEWEST_COLUMNS", 2)
        yield


class _Company:
    """A batch beside its rows, each alone and read the plain way."""

    def __init__(self, base: BaseModel, parts: Sequence[str], batch: Batch | None = None) -> None:
        self._base, self._parts = base, parts
        self._batch = batch or base.serving.new_batch()
        self._alone: list[Decoding] = []
        self._tokens: list[int] = []
        self._count = 0

    def live_through(self, events: Sequence[Join | Leave | None]) -> None:
        for event in events:
            if isinstance(event, Join):
                self._join(event)
            elif isinstance(event, Leave) and self._alone:
                self._leave(event.row % len(self._alone))
            self._step()

    def _join(self, event: Join) -> None:
        rows = [self._row(*sizes) for sizes in event.rows]
        prefill = self._base.serving.prefill(rows)
        while prefill.columns:
            prefill.advance(event.columns)
        joined = [self._base.serving.start([row]) for row in rows]
        for seen, alone in zip(prefill.logits, joined, strict=True):
            _assert_same(seen, alone)
        self._batch.join(prefill)
        self._alone += joined
        self._tokens += prefill.logits.argmax(dim=-1).tolist()

    def _leave(self, index: int) -> None:
        self._batch.leave(index)
        everything: tuple[list[Any], ...] = (self._alone, self._tokens)
        for rows in everything:
            last = rows.pop()
            if index < len(rows):
                rows[index] = last

    def _step(self) -> None:
        if not self._alone:
            return
        logits = self._batch.advance(torch.tensor(self._tokens))
        for token, alone, seen in zip(self._tokens, self._alone, logits, strict=True):
            alone.advance(torch.tensor([token]))
            _assert_same(seen, alone)
        self._tokens = logits.argmax(dim=-1).tolist()

    def _row(self, virtual: int, text: int, answer: int) -> Row:
        self._count += 1
        prompt = {
            part: soft_prompt(self._base, virtual, seed=10 * self._count + side)
            for side, part in enumerate(self._parts)
            if virtual
        }
        ids = self._base.text.source_ids(words(text, seed=self._count))
        return Row(prompt, ids, self._base.text.target_ids(words(answer, seed=-self._count)))


def _all_at_once(events: list[Join | Leave | None], parts: Sequence[str]) -> list[Join | Leave | None]:
    """What a decoder with absolute positions allows: rows alike on its side start together."""
    joins = [event for event in events if isinstance(event, Join)] or [Join([(2, 3, 1), (2, 5, 1)], 9)]
    virtual, _, answer = joins[0].rows[0]
    alike = [
        (virtual if set(parts) & set(DECODER_ONLY) else some, text, answer)
        for join in joins
        for some, text, _ in join.rows
    ]
    return [Join(alike, 9), *(event for event in events if not isinstance(event, Join))]


def _assert_same(seen: torch.Tensor, alone: Decoding) -> None:
    difference = float((seen - alone.logits[0]).abs().max())
    assert difference <= ROUNDING, f"a logit differs by {difference:.1e}"
