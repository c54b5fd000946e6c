"""Workers that torchrun or Ray Train has launched, all of which run the same program: the first leads.

    torchrun --nproc-per-node 2 tune.py

Each calls `PeftPromptTuning.train` with the same arguments, and each gets the tuned prompt. Whoever has
launched them begins all of them again where one dies.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from dataclasses import asdict
from itertools import count
from typing import TYPE_CHECKING

from caikit_pt.base_model.model import BaseModel
from caikit_pt.errors import TrainingInterrupted
from caikit_pt.soft_prompt.artifact import TunedPrompt
from caikit_pt.soft_prompt.prompt import SoftPrompt
from caikit_pt.tuning.crew import Crew, Helpers, help_with
from caikit_pt.tuning.group import Group, GroupBroken
from caikit_pt.tuning.snapshot import flattened, restored

if TYPE_CHECKING:
    import torch

_LENGTH = 8
# Each training of a program meets in a place of its own.
_NUMBERS = count(1)


def workers() -> int:
    """How many have been launched, of whom this process is one; 1: it stands for itself."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def leads() -> bool:
    """Whether this one is the first, or stands for itself."""
    return workers() == 1 or os.environ["RANK"] == "0"


def device(planned: str) -> str:
    """Where this one computes, of a training that is planned for a device: each has a GPU of its own."""
    alone = workers() == 1 or not planned.startswith("cuda")
    return planned if alone else f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


class Launched(Helpers):
    """All of them, who meet as torch.distributed's environment variables say."""

    def __init__(self) -> None:
        """Raises GroupBroken where some don't come."""
        from torch._C._distributed_c10d import PrefixStore
        from torch.distributed.rendezvous import rendezvous

        store, rank, size = next(rendezvous("env://"))
        place = PrefixStore(f"caikit_pt.{next(_NUMBERS)}", store)
        self._group = Group(place, rank, size, socket.gethostname())

    def group(self) -> Group:
        """See Helpers."""
        return self._group

    def lost(self, error: GroupBroken) -> None:
        """See Helpers."""
        raise TrainingInterrupted(
            f"A worker of {self._group.size} is gone: whoever has launched them begins again ({error})."
        ) from error

    def tuned(self, base: BaseModel, tune: Callable[[Crew], TunedPrompt]) -> TunedPrompt:
        """What `tune` makes where this process leads; the others help, and get the same."""
        group = self._group
        try:
            if group.rank:
                help_with(base, group)
                return _tuned(group.hear())
            made = tune(Crew(group.size, self))
            group.tell(b"")
            group.tell(_message(made))
            return made
        except GroupBroken as error:
            self.lost(error)
            raise
        finally:
            group.leave()


def _message(tuned: TunedPrompt) -> bytes:
    from safetensors.torch import save

    tensors: dict[str, torch.Tensor] = {}
    plain = {**asdict(tuned), "prompt": dict(tuned.prompt.tensors), "initial": dict(tuned.initial)}
    told = json.dumps(flattened(plain, tensors)).encode()
    return len(told).to_bytes(_LENGTH) + told + save(tensors)


def _tuned(message: bytes) -> TunedPrompt:
    from safetensors.torch import load

    end = _LENGTH + int.from_bytes(message[:_LENGTH])
    plain = restored(json.loads(message[_LENGTH:end]), load(message[end:]))
    return TunedPrompt(**{**plain, "prompt": SoftPrompt(plain["prompt"])})
