"""What became of somebody in a contest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from caikit_pt.parameters.tuning import TuningParameters


@dataclass(slots=True)
class Trial:
    """What became of a candidate: by the updates of the rungs that it reached, the loss that judged it.

    Who has none at the first rung had diverged before.
    """

    parameters: TuningParameters
    losses: dict[int, float] = field(default_factory=dict)

    def to_dict(self, varied: Mapping[str, Any], kept: bool) -> dict[str, Any]:
        """Plain values: what was `varied`; None for a loss that is no finite number."""
        return {
            **varied,
            "losses": [
                {"step": step, "loss": loss if math.isfinite(loss) else None}
                for step, loss in self.losses.items()
            ],
            "kept": kept,
        }
