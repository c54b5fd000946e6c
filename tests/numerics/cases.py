"""The families with the sides of the model that get a soft prompt."""

from __future__ import annotations

import pytest

from .answers import BOTH, DECODER_ONLY, ENCODER_ONLY
from .families import (
    CAUSAL_FAMILIES,
    MORE_CAUSAL_FAMILIES,
    MORE_SEQ2SEQ_FAMILIES,
    SEQ2SEQ_FAMILIES,
)

_Case = tuple[str, tuple[str, ...]]
_CAUSAL: list[_Case] = [(family, DECODER_ONLY) for family in CAUSAL_FAMILIES]


def _parametrized(cases: list[_Case]) -> pytest.MarkDecorator:
    names = ["-".join((family, *parts)) for family, parts in cases]
    return pytest.mark.parametrize(("family", "parts"), cases, ids=names)


_EVERY: list[_Case] = [
    *_CAUSAL,
    *((family, parts) for family in SEQ2SEQ_FAMILIES for parts in (ENCODER_ONLY, DECODER_ONLY, BOTH)),
    ("bart_scaled", ENCODER_ONLY),
]
every_case = _parametrized(_EVERY)
every_training_case = _parametrized(
    [
        *_EVERY,
        *((family, DECODER_ONLY) for family in MORE_CAUSAL_FAMILIES),
        *((family, BOTH) for family in MORE_SEQ2SEQ_FAMILIES),
    ]
)
every_serving_case = _parametrized(
    [
        *_EVERY,
        *((family, DECODER_ONLY) for family in MORE_CAUSAL_FAMILIES if family != "lfm2"),
        *((family, BOTH) for family in MORE_SEQ2SEQ_FAMILIES),
    ]
)
# peft's prompt tuning has no decoder half on a seq2seq model: it trains one without using it (D3).
peft_cases = _parametrized([*_CAUSAL, *((family, ENCODER_ONLY) for family in SEQ2SEQ_FAMILIES)])
