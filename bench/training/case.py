"""What is measured: a model, a data type and a kind of training."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from bench.training.records import Record, make_records
from bench.training.shapes import Shape

if TYPE_CHECKING:
    import torch

FLOAT32, BFLOAT16 = "float32", "bfloat16"
SHORT, LONG = False, True


@dataclass(frozen=True, slots=True)
class Case:
    """One training. An update sees `batch` times `accumulate` records."""

    shape: Shape
    dtype: str = FLOAT32
    long: bool = SHORT
    prompt: int = 20
    batch: int = 8
    accumulate: int = 4
    device: str = "cpu"

    @property
    def window(self) -> int:
        """Records of an update."""
        return self.batch * self.accumulate

    @property
    def torch_dtype(self) -> torch.dtype:
        """The weights' data type."""
        import torch

        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    @property
    def title(self) -> str:
        """In words."""
        targets = "long" if self.long else "short"
        kind = f"{self.shape.name}, {self.dtype}, {targets} targets"
        return f"{kind}, {self.prompt} virtual tokens, batch {self.batch}"

    @property
    def peers(self) -> Case:
        """The same as caikit-nlp trains it: on a CPU it falls back to float32."""
        return replace(self, dtype=FLOAT32) if self.device == "cpu" else self

    def records(self, seed: int = 0) -> list[Record]:
        """The records of one update."""
        return make_records(self.window, self.long, self.shape.vocabulary, seed)

    def to_json(self) -> str:
        """For another process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Case:
        """What `to_json` wrote."""
        fields = json.loads(text)
        return cls(**{**fields, "shape": Shape(**fields["shape"])})
