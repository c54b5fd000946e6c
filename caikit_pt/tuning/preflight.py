"""What a training would do and what there is to doubt, told before a weight is read.

Numbers of records are told, their texts never.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from caikit_pt.base_model.budget import budget_for
from caikit_pt.base_model.loading.work import tokens_read, weight_bytes, work_of
from caikit_pt.base_model.sides import text_of
from caikit_pt.parameters.tuning import AUTO
from caikit_pt.tuning.batches import updates_per_epoch
from caikit_pt.tuning.examples import cut_warnings, tokens
from caikit_pt.tuning.plan import TuningPlan
from caikit_pt.tuning.records import Records
from caikit_pt.turns import in_turn

# Products of weights run at this share of the speed of one alone. For the rest (attention, norms, softmax),
# each number of a position in a layer takes the time of so many operations: fitted to `bench.jobs`.
_SHARE_OF_THE_PEAK = 0.9
_REST = 22_500
# Numbers that are kept of a position in a layer, in widths of the model: Llama 26, T5 12 (bench.training).
_KEPT_WIDTHS = 26
_SEARCH = 2.7  # trainings
_MATMUL_SIZE = 512
_COUNTED = 4096  # tokens of a text; of a longer one not all, for it is cut


@dataclass(frozen=True, slots=True)
class Lengths:
    """Of the sources or of the targets of a stream, in tokens, before they are cut at `limit`."""

    limit: int
    median: int
    p90: int
    p99: int
    longest: int
    cut: int

    @classmethod
    def of(cls, counts: Sequence[int], limit: int) -> Lengths:
        """Those of `counts`."""
        ordered = sorted(counts)

        def at(share: float) -> int:
            return ordered[max(0, math.ceil(share * len(ordered)) - 1)]

        return cls(limit, at(0.5), at(0.9), at(0.99), ordered[-1], sum(count > limit for count in counts))

    def to_dict(self) -> dict[str, int]:
        """Plain values."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Preflight:
    """`seconds` and `device_memory` (bytes) are predictions: of the training alone, without its validations,
    by the multiply-adds that it needs and the speed of this machine's products. Without `least_memory`
    (bytes of its device) it can't be trained: passes are of one row then, and layers are computed twice."""

    records: int
    validation_records: int
    updates: int
    updates_per_epoch: int
    sources: Lengths
    targets: Lengths
    seconds: float
    device_memory: int
    least_memory: int
    parameters: Mapping[str, Any]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "records": self.records,
            "validation_records": self.validation_records,
            "updates": self.updates,
            "updates_per_epoch": self.updates_per_epoch,
            "source_tokens": self.sources.to_dict(),
            "target_tokens": self.targets.to_dict(),
            "seconds": round(self.seconds, 1),
            "device_memory_bytes": self.device_memory,
            "least_device_memory_bytes": self.least_memory,
            "parameters": dict(self.parameters),
            "warnings": list(self.warnings),
        }


def preflight(plan: TuningPlan, most: int | None = None) -> Preflight:
    """Looks through the records of `plan`, or the first `most` of each stream, which stand for the others.

    Raises InvalidRecord as `tokens` does.
    """
    parameters = plan.parameters
    sources, targets = _token_counts(plan, _first(plan.records, most))
    if plan.validation is not None:
        _token_counts(plan, _first(plan.validation, most))
    share = len(sources) / len(plan.records)
    source = Lengths.of(sources, parameters.max_source_length)
    target = Lengths.of(targets, parameters.max_target_length)
    per_epoch = updates_per_epoch(len(plan.records), parameters.window)
    separator = len(text_of(plan.checkpoint).separator_ids(parameters.separator))
    read = round(sum(min(count, source.limit) + separator for count in sources) / share)
    answered = round(sum(min(count, target.limit) + 1 for count in targets) / share)
    return Preflight(
        records=len(plan.records),
        validation_records=len(plan.validation) if plan.validation else 0,
        updates=per_epoch * parameters.num_epochs,
        updates_per_epoch=per_epoch,
        sources=source,
        targets=target,
        seconds=_seconds(plan, read, answered, per_epoch),
        device_memory=_memory(plan, read + answered),
        least_memory=_least_memory(plan, source, target),
        parameters=parameters.to_dict(),
        warnings=(
            *plan.warnings,
            *cut_warnings(source.cut, target.cut, len(sources)),
            *_unseen(len(sources), len(plan.records)),
        ),
    )


def _first(records: Records, most: int | None) -> Records:
    return records if most is None or len(records) <= most else replace(records, items=records.items[:most])


def _unseen(seen: int, records: int) -> list[str]:
    if seen == records:
        return []
    return [f"{seen:,} of {records:,} records were looked through; the others are when their turn comes"]


def _token_counts(plan: TuningPlan, records: Records) -> tuple[list[int], list[int]]:
    """Tokens of each source and target. Raises InvalidRecord as `tokens` does."""
    parameters = plan.parameters
    most_source, most_target = (
        max(_COUNTED, length) for length in (parameters.max_source_length, parameters.max_target_length)
    )
    read = tokens(records, text_of(plan.checkpoint), parameters, most_source, most_target)
    counts = in_turn((len(source), len(target)) for source, target in read)
    sources, targets = zip(*counts, strict=True)
    return list(sources), list(targets)


def _seconds(plan: TuningPlan, sources: int, targets: int, updates: int) -> float:
    """Forward and backward to the inputs cost the same. `sources` and `targets` are tokens an epoch."""
    parameters, work = plan.parameters, work_of(plan.checkpoint)
    prompts = dict.fromkeys(parameters.output_model_types, parameters.num_virtual_tokens)
    encoded, decoded = tokens_read(plan.checkpoint, len(plan.records), sources, targets, prompts, updates)
    products = 4.0 * (work.encoder * encoded + work.decoder * decoded + work.output * targets)
    rest = _REST * (encoded + decoded) * _layers(plan) * plan.checkpoint.hidden_size
    speed = _products_a_second(parameters.device, parameters.torch_dtype)
    once = parameters.num_epochs * (products / _SHARE_OF_THE_PEAK + rest) / speed
    return once * (_SEARCH if parameters.search == AUTO else 1.0)


def _memory(plan: TuningPlan, positions: int) -> int:
    import torch

    parameters = plan.parameters
    budget = budget_for(torch.device(parameters.device).type, plan.checkpoint.hidden_size)
    in_a_pass = min(budget.positions, math.ceil(positions / len(plan.records) * parameters.window))
    weights = work_of(plan.checkpoint).weights * _item_bytes(plan)
    return weights + in_a_pass * _kept(plan, _layers(plan) * _KEPT_WIDTHS)


def _least_memory(plan: TuningPlan, source: Lengths, target: Lengths) -> int:
    """The weights, what each layer is given of the longest row, and what the gradient needs within one."""
    parameters = plan.parameters
    longest = min(source.longest, source.limit) + min(target.longest, target.limit) + 1
    positions = longest + parameters.num_virtual_tokens
    weights = weight_bytes(plan.checkpoint, parameters.torch_dtype)
    return weights + positions * _kept(plan, _layers(plan) + _KEPT_WIDTHS)


def _kept(plan: TuningPlan, widths: int) -> int:
    """Bytes of a position, of so many numbers for each of the model's width."""
    return widths * plan.checkpoint.hidden_size * _item_bytes(plan)


def _item_bytes(plan: TuningPlan) -> int:
    import torch

    return int(getattr(torch, plan.parameters.torch_dtype).itemsize)


def _layers(plan: TuningPlan) -> int:
    return int(getattr(plan.checkpoint.config.get_text_config(), "num_hidden_layers", 0) or 12)


@cache
def _products_a_second(device: str, dtype: str) -> float:
    """Floating-point operations of a frozen layer, measured for some milliseconds."""
    import torch

    from caikit_pt.base_model.layers.linear import freeze_linears

    size = _MATMUL_SIZE
    layer = torch.nn.Sequential(
        torch.nn.Linear(size, size, bias=False, dtype=getattr(torch, dtype), device=device)
    )
    freeze_linears(layer.requires_grad_(False))
    rows = torch.ones(size, size, dtype=getattr(torch, dtype), device=device)
    best = math.inf
    with torch.inference_mode():
        for _ in range(5):
            began = time.perf_counter()
            float(layer(rows)[0, 0])
            best = min(best, time.perf_counter() - began)
    return 2.0 * size**3 / best
