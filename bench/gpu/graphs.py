"""The engine as a worker has it, with CUDA graphs or without: only here is known how to ask for them."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from bench.gpu.row import NotThere

if TYPE_CHECKING:
    from caikit_pt.base_model.model import BaseModel
    from caikit_pt.serving.engine import Engine

_SWITCH = "cuda_graphs"


def engine(base: BaseModel, rows: int, waiting: int, graphs: bool) -> Engine:
    """An engine of so many rows. Raises NotThere where it is to have graphs and can't."""
    from caikit_pt.serving.engine import Engine
    from caikit_pt.serving.worker import limits
    from caikit_pt.settings import Settings

    asked = limits(base, Settings())
    known = any(field.name == _SWITCH for field in fields(asked))
    if graphs and not known:
        raise NotThere(f"the engine has no {_SWITCH}")
    if graphs and base.weights.device.type != "cuda":
        raise NotThere("a CPU has no CUDA graphs")
    switch: dict[str, Any] = {_SWITCH: graphs} if known else {}
    return Engine(base, replace(asked, rows=rows, waiting=waiting, **switch))


def way(graphs: bool) -> str:
    """In words."""
    return "with CUDA graphs" if graphs else "without CUDA graphs"
