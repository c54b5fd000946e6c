"""The steps from caikit-nlp's loop to caikit_pt: each does what the one above does, and one thing better."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from bench.training import models
from bench.training.case import FLOAT32, Case
from bench.training.peer import PeerLoop, PeerOptions
from bench.training.plain import (
    PlainCausal,
    PlainCausalRight,
    PlainCausalShared,
    PlainLoop,
    PlainSeq2Seq,
)
from bench.training.product import ProductLoop
from bench.training.records import Record


class Loop(Protocol):
    """A training that has been set up."""

    def run(self) -> None:
        """Trains."""


@dataclass(frozen=True, slots=True)
class Step:
    """One way to train."""

    name: str
    make: Callable[[Case, Sequence[Record]], Loop]
    # The peer takes the same time for all rows, and much of it: one micro-batch will do.
    one_batch: bool = False


def _peer(options: PeerOptions) -> Callable[[Case, Sequence[Record]], Loop]:
    return lambda case, records: PeerLoop(case, models.model(case), records, options)


def _plain(kind: type[PlainLoop], frozen: bool = False) -> Callable[[Case, Sequence[Record]], Loop]:
    def make(case: Case, records: Sequence[Record]) -> Loop:
        network = models.model(case)
        return kind(case, models.freeze(network) if frozen else network, records)

    return make


def _product(packable: bool) -> Callable[[Case, Sequence[Record]], Loop]:
    return lambda case, records: ProductLoop(models.base(case, packable), records, case.window, case.prompt)


PEER = Step("caikit-nlp's loop", _peer(PeerOptions()), one_batch=True)
PADDED = Step("caikit_pt, rows padded", _product(packable=False))
PRODUCT = Step("caikit_pt", _product(packable=True))

_PEERS = [
    Step("padding to the longest row of a batch", _peer(PeerOptions(pad_to_limits=False))),
    Step("rows of one length in a batch", _peer(PeerOptions(pad_to_limits=False, random_order=False))),
    Step(
        "no checkpointing",
        _peer(PeerOptions(pad_to_limits=False, random_order=False, checkpointing=False)),
    ),
]
_CAUSAL = [
    Step("logits and loss at target tokens only", _plain(PlainCausal)),
    Step("padding behind, a plain causal mask", _plain(PlainCausalRight)),
    Step("the prompt's keys and values once an update", _plain(PlainCausalShared)),
]
_CAUSAL_FROZEN = Step("products by oneDNN", _plain(PlainCausalShared, frozen=True))
_SEQ2SEQ = [Step("logits and loss at target tokens only, no dropout", _plain(PlainSeq2Seq))]
_SEQ2SEQ_FROZEN = Step("products by oneDNN", _plain(PlainSeq2Seq, frozen=True))


def ladder(case: Case) -> list[Step]:
    """Every step of `case`, the peer's loop first."""
    own, frozen = (_CAUSAL, _CAUSAL_FROZEN) if case.shape.causal else (_SEQ2SEQ, _SEQ2SEQ_FROZEN)
    # Where oneDNN isn't what torch takes anyway.
    products = [frozen] if case.dtype == FLOAT32 and case.device == "cpu" else []
    return [PEER, *_PEERS, *own, *products, PADDED, PRODUCT]


def ends(case: Case) -> list[Step]:
    """The peer's loop and caikit_pt alone."""
    return [PEER, PADDED, PRODUCT]


def case_of(case: Case, step: Step) -> Case:
    """The case that `step` is measured in where the table says `case`."""
    return case.peers if step is PEER else case
