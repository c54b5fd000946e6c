"""The plan of a tuning, in files.

plan.json            the resolved parameters and the base model
records.jsonl, validation.jsonl, source.safetensors, initial.safetensors, starts.safetensors
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caikit_pt.base_model.loading.checkpoint import opened
from caikit_pt.errors import BaseModelMismatch, CaikitPtError
from caikit_pt.parameters.tuning import TuningParameters
from caikit_pt.runtime.json_file import read_json, write_json
from caikit_pt.soft_prompt.initial import InitialPrompt
from caikit_pt.soft_prompt.prompt import SoftPrompt
from caikit_pt.soft_prompt.source import SourcePrompt
from caikit_pt.soft_prompt.source_start import SourceStart
from caikit_pt.tuning.plan import TuningPlan
from caikit_pt.tuning.records import Record, Records

if TYPE_CHECKING:
    import torch

PLAN = "plan.json"
_RECORDS, _VALIDATION, _SOURCE = "records.jsonl", "validation.jsonl", "source.safetensors"
_INITIAL, _STARTS = "initial.safetensors", "starts.safetensors"


def write_plan(directory: Path, plan: TuningPlan) -> None:
    """Raises OSError."""
    _write_records(directory / _RECORDS, plan.records)
    if plan.validation is not None:
        _write_records(directory / _VALIDATION, plan.validation)
    if plan.source is not None:
        _write_source(directory / _SOURCE, plan.source)
    if plan.initial is not None:
        _write_tensors(directory / _INITIAL, plan.initial.prompt.tensors)
    if plan.starts:
        _write_tensors(directory / _STARTS, _numbered(plan.starts))
    write_json(directory / PLAN, _described(plan))


def read_plan(directory: Path) -> TuningPlan:
    """The plan as it was written.

    Raises BaseModelMismatch where the base model has changed since, CaikitPtError where files are gone.
    """
    try:
        described = read_json(directory / PLAN)
        records = _read_records(directory / _RECORDS, described["records"])
        validation = _read_records(directory / _VALIDATION, described["validation"])
    except (OSError, ValueError, KeyError) as error:
        raise unreadable(error) from error
    checkpoint = opened(described["base_model"]["name"], Path(described["base_model"]["directory"]))
    if checkpoint.fingerprint != described["base_model"]["fingerprint"]:
        raise BaseModelMismatch(
            f"The base model {checkpoint.name} has other weights than when this training was accepted. "
            "Submit it again."
        )
    assert records is not None
    return TuningPlan(
        parameters=_parameters(described["parameters"]),
        checkpoint=checkpoint,
        source=_read_source(directory / _SOURCE, described["source"]),
        records=records,
        validation=validation,
        limits={name: (low, high) for name, (low, high) in described["limits"].items()},
        # Jobs that were queued by a release without it have none.
        initial=_read_initial(directory / _INITIAL, described.get("initial")),
        starts=tuple(_read_starts(directory / _STARTS, described.get("starts", ()))),
    )


def unreadable(error: Exception) -> CaikitPtError:
    """What to raise where a file of a plan is gone, or isn't what was written."""
    return CaikitPtError(f"The job's files in state_dir can't be read ({type(error).__name__})")


def _described(plan: TuningPlan) -> dict[str, Any]:
    checkpoint = plan.checkpoint
    return {
        "parameters": plan.parameters.to_dict(),
        "base_model": {
            "name": checkpoint.name,
            "directory": str(checkpoint.directory),
            "fingerprint": checkpoint.fingerprint,
        },
        "records": _described_records(plan.records),
        "validation": plan.validation and _described_records(plan.validation),
        "source": plan.source and _described_source(plan.source),
        "initial": plan.initial and {"name": plan.initial.name, "labels": list(plan.initial.labels)},
        "starts": [{**start.to_dict(), "parts": list(start.prompt.tensors)} for start in plan.starts],
        "limits": {name: list(bounds) for name, bounds in plan.limits.items()},
    }


def _described_records(records: Records) -> dict[str, Any]:
    return {
        "classification": records.classification,
        "several_labels": records.several_labels,
        "stream": records.stream,
        "count": len(records),
    }


def _parameters(values: Mapping[str, Any]) -> TuningParameters:
    known = {field.name for field in fields(TuningParameters)}
    plain = {name: value for name, value in values.items() if name in known}
    return TuningParameters(**{**plain, "output_model_types": tuple(plain["output_model_types"])})


def _write_records(file: Path, records: Records) -> None:
    with file.open("w", encoding="utf-8") as output:
        for record in records.items:
            output.write(json.dumps([record.input, record.output, record.number]) + "\n")


def _read_records(file: Path, described: Mapping[str, Any] | None) -> Records | None:
    """Raises ValueError where there are other than as many as were written."""
    if described is None:
        return None
    with file.open(encoding="utf-8") as lines:
        items = tuple(Record(*json.loads(line)) for line in lines)
    if len(items) != described["count"]:
        raise ValueError(f"{file.name} is cut short")
    return Records(
        items,
        described["classification"],
        described["stream"],
        several_labels=described.get("several_labels", described["classification"]),
    )


def _write_source(file: Path, source: SourcePrompt) -> None:
    tensors = {"shared": source.shared, "columns": source.columns, "rows": source.rows}
    _write_tensors(file, {name: tensor for name, tensor in tensors.items() if tensor is not None})


def _write_tensors(file: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    from safetensors.torch import save

    file.write_bytes(save({name: tensor.contiguous() for name, tensor in tensors.items()}))


def _described_source(source: SourcePrompt) -> dict[str, Any]:
    return {"name": source.name, "submodules": source.submodules, "tasks": list(source.tasks)}


def _read_source(file: Path, described: Mapping[str, Any] | str | None) -> SourcePrompt | None:
    from caikit_pt.soft_prompt.tensor_file import read_tensors

    if described is None:
        return None
    tensors = read_tensors(file)
    if isinstance(described, str):
        return _of_earlier_release(described, tensors["shared"], tensors.get("tasks"))
    return SourcePrompt(
        described["name"],
        tensors["shared"],
        tensors.get("columns"),
        tensors.get("rows"),
        described["submodules"],
        tuple(described["tasks"]),
    )


def _of_earlier_release(name: str, shared: torch.Tensor, tasks: torch.Tensor | None) -> SourcePrompt:
    """A source whose task matrices [N, P, H] were kept whole: each is the identity times itself."""
    import torch

    if tasks is None:
        return SourcePrompt(name, shared)
    identity = torch.eye(len(shared)).expand(len(tasks), -1, -1)
    return SourcePrompt(name, shared, identity, tasks)


def _numbered(starts: Sequence[SourceStart]) -> dict[str, torch.Tensor]:
    """The rows of each by number and side."""
    return {
        f"{number}.{part}": rows
        for number, start in enumerate(starts)
        for part, rows in start.prompt.tensors.items()
    }


def _read_starts(file: Path, described: Sequence[Mapping[str, Any]]) -> Iterator[SourceStart]:
    from caikit_pt.soft_prompt.tensor_file import read_tensors

    tensors = read_tensors(file) if described else {}
    for number, one in enumerate(described):
        prompt = SoftPrompt({part: tensors[f"{number}.{part}"] for part in one["parts"]})
        yield SourceStart(one["source"], one["method"], prompt, one["task"], one["task_name"])


def _read_initial(file: Path, described: Mapping[str, Any] | None) -> InitialPrompt | None:
    from caikit_pt.soft_prompt.tensor_file import read_tensors

    if described is None:
        return None
    return InitialPrompt(described["name"], SoftPrompt(read_tensors(file)), tuple(described["labels"]))
