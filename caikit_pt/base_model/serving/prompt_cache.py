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
        self,
        prompts: Sequence[tuple[Tensor, bool]],
        compute: Callable[[Sequence[int]], Sequence[PromptCells]],
    ) -> list[PromptCells]:
        """The cells of each prompt [P, H] in front of rows of one length class, the bool.

        `compute` is given the places of those that aren't kept, each prompt once, and returns their cells.
        """
        keys = [(_content(prompt), length_class) for prompt, length_class in prompts]
        found: dict[tuple[bytes, bool], PromptCells] = {}
        missed: dict[tuple[bytes, bool], int] = {}
        with self._lock:
            for place, key in enumerate(keys):
                length = len(prompts[place][0])
                if key in self._kept:
                    found[key] = self._kept[key]
                    self._kept.move_to_end(key)
                if key in found or key in missed:
                    self.hits += 1
                    self.positions_found += length
                else:
                    missed[key] = place
                    self.misses += 1
                    self.positions_missed += length
        if missed:
            computed = zip(missed, compute(list(missed.values())), strict=True)
            with self._lock:
                for key, cells in computed:
                    found[key] = cells
                    self._keep(key, cells)
        return [found[key] for key in keys]

    def _keep(self, key: tuple[bytes, bool], cells: PromptCells) -> None:
        if key not in self._kept and _size(cells) <= self.budget:
            self._kept[key] = cells
            self.bytes += _size(cells)
            while self.bytes > self.budget:
                self.bytes -= _size(self._kept.popitem(last=False)[1])

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
