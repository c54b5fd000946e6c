"""Processes that compute together: what the first of them tells, and the sum of what all have computed.

torch.distributed by gloo. What goes over is small, a soft prompt each way, so that it passes through main
memory on GPUs, too.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch
    from torch._C._distributed_c10d import Store

# Of whoever waits to be told something: for as long as it likes who tells, as while it validates.
_FOREVER = timedelta(days=30)
_SECONDS_TO_FORM, _SECONDS_TO_TELL = 20.0, 60.0


_Result = TypeVar("_Result")


class GroupBroken(Exception):
    """Somebody of the group is gone."""


class Group:
    """Number `rank` of `size`; 0 leads. A call that fails raises GroupBroken, and from then on all do."""

    def __init__(self, store: Store | None = None, rank: int = 0, size: int = 1, host: str = "") -> None:
        """Returns when all are there, who meet in `store`, and reach this one at `host`. One alone needs
        neither. Raises GroupBroken."""
        self.rank, self.size = rank, size
        # torch has no types for it.
        self._group: Any = None
        if size > 1:
            assert store is not None, "where there are several they meet somewhere"
            self._group = _tried(lambda: _gloo(store, rank, size, host))

    def tell(self, message: bytes) -> None:
        """Of who leads: to all others, who hear it."""
        import torch

        if self.size > 1:
            self._broadcast(torch.tensor([len(message)]))
            if message:
                self._broadcast(torch.frombuffer(bytearray(message), dtype=torch.uint8))

    def hear(self) -> bytes:
        """What is told next; empty: nothing more will be."""
        import torch

        length = torch.zeros(1, dtype=torch.long)
        self._broadcast(length)
        message = torch.empty(int(length), dtype=torch.uint8)
        if len(message):
            self._broadcast(message)
        return message.numpy().tobytes()

    def own(self, shares: int) -> range:
        """Those of so many shares that this one computes."""
        each = -(-shares // self.size)
        return range(min(self.rank * each, shares), min((self.rank + 1) * each, shares))

    def add(self, parts: torch.Tensor, shares: int, seconds: float = 0) -> torch.Tensor:
        """The sum [N] of all shares, in their order, in float64; of who leads, others get a slice of it.
        `parts` [n, N] are this one's `own`. Whoever hasn't brought his in `seconds` is gone; 0: never.

        Each adds up a slice of the numbers, and who leads gets the slices: however many there are, nobody
        sends or gets more than his own parts.
        """
        import torch
        import torch.distributed as dist

        if self.size == 1:
            return _sum(parts)
        patience = timedelta(seconds=seconds) if seconds else _FOREVER
        each, wide = -(-shares // self.size), -(-parts.shape[1] // self.size)
        padded = parts.new_zeros(each, self.size * wide)
        padded[: len(parts), : parts.shape[1]] = parts
        sent = padded.view(each, self.size, wide).transpose(0, 1).contiguous()
        got = torch.empty_like(sent)
        swap = dist.AllToAllOptions()
        swap.timeout = patience
        self._do(lambda group: group.alltoall_base(got, sent, [], [], swap))
        slice = _sum(got.flatten(0, 1))
        gather = dist.GatherOptions()
        gather.timeout = patience
        slices = [torch.empty_like(slice) for _ in range(self.size)] if self.rank == 0 else []
        self._do(lambda group: group.gather([slices] if slices else [], [slice], gather))
        return torch.cat(slices)[: parts.shape[1]] if slices else slice

    def leave(self) -> None:
        """Others find it broken, unless they were told that it ends."""
        group, self._group = self._group, None
        if group is not None:
            with suppress(RuntimeError):
                group.abort()

    def _broadcast(self, tensor: torch.Tensor) -> None:
        import torch.distributed as dist

        options = dist.BroadcastOptions()
        # Whoever is told waits for it, unless he stands still, or is cut off.
        options.timeout = _FOREVER if self.rank else timedelta(seconds=_SECONDS_TO_TELL)
        self._do(lambda group: group.broadcast([tensor], options))

    def _do(self, what: Callable[[Any], Any]) -> None:
        group = self._group
        if group is None:
            raise GroupBroken("it was left")
        _tried(lambda: what(group).wait())


def meeting_in(file: Path, size: int) -> Store:
    """Where `size` processes of one machine meet: a file that all of them see, nobody else does, and that
    isn't there before."""
    from torch._C._distributed_c10d import FileStore

    return FileStore(str(file), size)


def meeting(host: str, size: int) -> tuple[Store, int]:
    """Where `size` processes of several machines meet, who reach this one at `host`, and its port. Whoever
    else finds that may come, too. Raises GroupBroken."""
    # Who leads listens there alone; left to itself torch does so everywhere.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listens = _tried(lambda: socket.create_server((host, 0), family=family))
    port: int = listens.getsockname()[1]
    return _store(host, port, size, listens.detach()), port


def meeting_at(host: str, port: int, size: int) -> Store:
    """That of who leads. Raises GroupBroken where it is gone."""
    return _store(host, port, size)


def _store(host: str, port: int, size: int, listens: int | None = None) -> Store:
    from torch._C._distributed_c10d import TCPStore

    return _tried(
        lambda: TCPStore(
            host,
            port,
            size,
            listens is not None,
            timedelta(seconds=_SECONDS_TO_FORM),
            wait_for_workers=False,
            master_listen_fd=listens,
        )
    )


def _sum(parts: torch.Tensor) -> torch.Tensor:
    """Of [n, N], one after another, in float64: the order is theirs whoever adds."""
    import torch

    total = parts[0].to(torch.float64)
    for part in parts[1:]:
        total = total + part
    return total


def _tried(do: Callable[[], _Result]) -> _Result:
    try:
        return do()
    except (RuntimeError, OSError) as error:
        raise GroupBroken((str(error) or type(error).__name__).splitlines()[0]) from error


def _gloo(store: Store, rank: int, size: int, host: str) -> Any:
    import torch.distributed

    dist: Any = torch.distributed

    options = dist.ProcessGroupGloo._Options()
    options._timeout = timedelta(seconds=_SECONDS_TO_FORM)
    options._devices = [dist.ProcessGroupGloo.create_device(hostname=host)]
    return dist.ProcessGroupGloo(store, rank, size, options)
