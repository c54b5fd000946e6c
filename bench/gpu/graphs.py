"""The engine as a worker has it, with CUDA graphs or without: only here is known how to ask for them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bench.gpu.row import NotThere

if TYPE_CHECKING:
    from caikit_pt.base_model.model import BaseModel
    from caikit_pt.serving.engine import Engine


def engine(base: BaseModel, rows: int, waiting: int, graphs: bool) -> Engine:
    """An engine of so many rows. Raises NotThere where it is to have graphs and can't."""
    from caikit_pt.serving.engine import Engine
    from caikit_pt.serving.worker import limits
    from caikit_pt.settings import Settings

    if graphs and base.weights.device.type != "cuda":
        raise NotThere("a CPU has no CUDA graphs")
    base.serving.capture_steps(graphs)
    return Engine(base, replace(limits(base, Settings()), rows=rows, waiting=waiting, cuda_graphs=graphs))


def way(graphs: bool) -> str:
    """In words."""
    return "with CUDA graphs" if graphs else "without CUDA graphs"
