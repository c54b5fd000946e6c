"""The keys and values of soft prompts: computed once for each, within a budget of bytes.

They are known by the prompt's content, never by its place in memory or its name: a prompt that is
trained again under the same name is another one.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

# Of every layer, keys and values [heads, P, D].
PromptCells: TypeAlias = "Sequence[tuple[Tensor, Tensor]]"


class PromptCache:
    """What was computed for the prompts that were used last."""

    def __init__(self, budget: int = 2**28) -> None:
        """`budget`: bytes that may be kept. What is larger than all of it is computed each time."""
        self.budget = budget
        self.bytes = 0
        # How often cells were there, and weren't; and of how many positions.
        self.hits = self.misses = 0
        self.positions_found = self.positions_missed = 0
        self._kept: OrderedDict[tuple[bytes, bool], PromptCells] = OrderedDict()
        self._lock = threading.Lock()

    def limit(self, budget: int) -> None:
        """From now on `budget` bytes may be kept."""
        self.budget = budget

    def __len__(self) -> int:
        return len(self._kept)

    def get(
        self, prompt: Tensor, compute: Callable[[Tensor], PromptCells], length_class: bool = False
    ) -> PromptCells:
        """The cells of `prompt` [P, H] in front of rows of one length class, computed if they aren't kept."""
        key = _content(prompt), length_class
        with self._lock:
            if (cells := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                self.hits += 1
                self.positions_found += len(prompt)
                return cells
            self.misses += 1
            self.positions_missed += len(prompt)
        cells = compute(prompt)
        with self._lock:
            if key not in self._kept and _size(cells) <= self.budget:
                self._kept[key] = cells
                self.bytes += _size(cells)
                while self.bytes > self.budget:
                    self.bytes -= _size(self._kept.popitem(last=False)[1])
        return cells

    def clear(self) -> None:
        """Forgets all of them: memory is wanted elsewhere."""
        with self._lock:
            self._kept.clear()
            self.bytes = 0


def _content(prompt: Tensor) -> bytes:
    import torch

    content = hashlib.sha256(repr((tuple(prompt.shape), prompt.dtype)).encode())
    numbers: Any = prompt.detach().cpu().contiguous().view(torch.uint8).numpy()
    content.update(numbers)
    return content.digest()


def _size(cells: PromptCells) -> int:
    return sum(tensor.nbytes for layer in cells for tensor in layer)
