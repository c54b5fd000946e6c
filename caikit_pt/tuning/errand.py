"""What the workers of a training are sent for: the losses of rows, and their gradients in soft prompts.

It is cut into shares of much the same work, whoever does how many of them. What a share comes to depends on
nothing else, and shares are added in their order: so the sum has the same bits whoever is there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING, Any

from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.row import PromptTensors, TrainingBatch
from caikit_pt.tuning.batches import shares
from caikit_pt.tuning.losses import Lessons, backward, gradient_type, losses, step_for

if TYPE_CHECKING:
    import torch

_LENGTH = Struct("<Q")


@dataclass(frozen=True, slots=True)
class Taught:
    """`Lessons` without a step: `teachers`, and of each of an errand's prompts the number of its own."""

    teachers: Sequence[PromptTensors]
    prompts: list[int]
    terms: dict[str, Any]

    @classmethod
    def of(cls, lessons: Lessons) -> Taught:
        """Those of `lessons`, with no teacher that nobody has."""
        numbers = sorted(set(lessons.prompts))
        return cls(
            [lessons.teachers[number] for number in numbers],
            [numbers.index(number) for number in lessons.prompts],
            {
                "tokens": lessons.tokens,
                "temperature": lessons.temperature,
                "states": lessons.states,
                "layers": list(lessons.layers),
            },
        )

    def lessons(self, base: BaseModel, prompts: Sequence[int], batch: TrainingBatch) -> Lessons:
        """Those of `batch`, whose rows are behind the `prompts` with these numbers."""
        teachers = [self.teachers[self.prompts[number]] for number in prompts]
        return Lessons(step_for(base, teachers, batch), range(len(teachers)), **self.terms)


@dataclass(frozen=True, slots=True)
class Errand:
    """The rows of `batch`, each behind one of `prompts`, in `count` shares. Without `weights` of the rows
    only their losses are wanted."""

    prompts: Sequence[PromptTensors]
    batch: TrainingBatch
    count: int
    weights: Sequence[float] = ()
    taught: Taught | None = None

    def shares(self, base: BaseModel, numbers: range) -> torch.Tensor:
        """What the shares with these numbers add to the gradients of all prompts, one behind another, and
        then to the losses of all rows [B] (nats): [n, N] in the `gradient_type`, on the CPU."""
        import torch

        cut = self._cut(base)
        found = torch.zeros(len(numbers), self._numbers + len(self.batch.sources), dtype=gradient_type(base))
        for own, number in zip(found, numbers, strict=True):
            if cut[number]:
                own.copy_(self._share(base, cut[number]))
        return found

    def _share(self, base: BaseModel, rows: range) -> torch.Tensor:
        import torch

        dtype = gradient_type(base)
        owners = [self.batch.prompt_of_rows[row] for row in rows]
        # A pass has the prompts that it has rows of, and no others.
        used = sorted(set(owners))
        prompts = [self._on_device(base, self.prompts[owner]) for owner in used]
        batch = TrainingBatch(
            [self.batch.sources[row] for row in rows],
            [self.batch.targets[row] for row in rows],
            [used.index(owner) for owner in owners],
        )
        seen = self._computed(base, prompts, batch, used, rows)
        own = dict(zip(used, prompts, strict=True)) if self.weights else {}
        found = [
            _gradient(own[number]) if number in own else torch.zeros(_numbers(prompt), dtype=dtype)
            for number, prompt in enumerate(self.prompts if self.weights else ())
        ]
        of_rows = torch.zeros(len(self.batch.sources), dtype=dtype)
        of_rows[rows.start : rows.stop] = seen.to(dtype).cpu()
        return torch.cat([*found, of_rows])

    def split(self, told: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The gradients and the losses of what shares have come to together."""
        return told[: self._numbers], told[self._numbers :]

    def to_bytes(self) -> bytes:
        """For other processes: nothing pickled."""
        from safetensors.torch import save

        prompts = [*self.prompts, *(self.taught.teachers if self.taught else ())]
        plain = {
            "sources": list(map(list, self.batch.sources)),
            "targets": list(map(list, self.batch.targets)),
            "prompts": list(self.batch.prompts),
            "count": self.count,
            "weights": list(self.weights),
            "taught": self.taught and {"prompts": self.taught.prompts, "terms": self.taught.terms},
            # In their order, which tensors in a file haven't got.
            "parts": list(map(list, prompts)),
            "own": len(self.prompts),
        }
        tensors = {
            f"{number}.{part}": tensor.detach().cpu().contiguous()
            for number, prompt in enumerate(prompts)
            for part, tensor in prompt.items()
        }
        told = json.dumps(plain).encode()
        return _LENGTH.pack(len(told)) + told + save(tensors)

    @classmethod
    def from_bytes(cls, told: bytes) -> Errand:
        """What `to_bytes` had."""
        from safetensors.torch import load

        (length,) = _LENGTH.unpack(told[: _LENGTH.size])
        plain = json.loads(told[_LENGTH.size : _LENGTH.size + length])
        tensors = load(told[_LENGTH.size + length :])
        prompts = [
            {part: tensors[f"{number}.{part}"] for part in parts}
            for number, parts in enumerate(plain["parts"])
        ]
        own, taught = plain["own"], plain["taught"]
        return cls(
            prompts[:own],
            TrainingBatch(plain["sources"], plain["targets"], plain["prompts"]),
            plain["count"],
            plain["weights"],
            Taught(prompts[own:], **taught) if taught else None,
        )

    @property
    def _numbers(self) -> int:
        """Of the gradients."""
        return sum(map(_numbers, self.prompts)) if self.weights else 0

    def _cut(self, base: BaseModel) -> list[range]:
        batch = self.batch
        rows = zip(batch.sources, batch.targets, batch.prompt_of_rows, strict=True)
        costs = [
            base.training.positions(len(source), len(target), self.prompts[owner])
            for source, target, owner in rows
        ]
        return shares(costs, self.count)

    def _computed(
        self,
        base: BaseModel,
        prompts: Sequence[PromptTensors],
        batch: TrainingBatch,
        used: Sequence[int],
        rows: range,
    ) -> torch.Tensor:
        if not self.weights:
            return losses(base, prompts, batch)
        lessons = self.taught.lessons(base, used, batch) if self.taught else None
        return backward(base, prompts, batch, self.weights[rows.start : rows.stop], lessons)

    def _on_device(self, base: BaseModel, prompt: PromptTensors) -> PromptTensors:
        """Its tensors as leaves."""
        device, learns = base.weights.device, bool(self.weights)
        # Not the same tensors: these get a gradient of their own.
        return {part: one.detach().to(device).requires_grad_(learns) for part, one in prompt.items()}


def _numbers(prompt: PromptTensors) -> int:
    return sum(tensor.numel() for tensor in prompt.values())


def _gradient(prompt: PromptTensors) -> torch.Tensor:
    """Of all its parts, one behind another; zeros for one that no loss hangs on. [N] on the CPU."""
    import torch

    found = [torch.zeros_like(one) if one.grad is None else one.grad for one in prompt.values()]
    return torch.cat([one.flatten() for one in found]).cpu()
