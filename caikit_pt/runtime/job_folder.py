"""What a job has on disk: the plan with its records, the snapshots, the artifact until it is published.

    job.json             what was accepted; enough to have the job again without the database
    plan.json            the resolved parameters and the base model
    records.jsonl, validation.jsonl, source.safetensors, initial.safetensors
    snapshots/           of the training (tuning/snapshot.py)
    artifact/            the tuned prompt, until it is published
    log.txt              what the job's process wrote
    outcome.json         how it ended

When a job has ended, only job.json, log.txt and outcome.json stay: training records are the user's.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caikit_pt.base_model.loading.checkpoint import opened
from caikit_pt.errors import BaseModelMismatch, CaikitPtError
from caikit_pt.parameters.tuning import TuningParameters
from caikit_pt.runtime.job import TERMINAL, Job
from caikit_pt.soft_prompt.initial import InitialPrompt
from caikit_pt.soft_prompt.prompt import SoftPrompt
from caikit_pt.soft_prompt.publication import sync, to_disk
from caikit_pt.soft_prompt.source import SourcePrompt
from caikit_pt.tuning.plan import TuningPlan
from caikit_pt.tuning.records import Record, Records

if TYPE_CHECKING:
    import torch

_JOB, _PLAN, _OUTCOME = "job.json", "plan.json", "outcome.json"
_RECORDS, _VALIDATION, _SOURCE = "records.jsonl", "validation.jsonl", "source.safetensors"
_INITIAL = "initial.safetensors"
_KEPT = (_JOB, _OUTCOME, "log.txt")
# Written once, at submission; the rest of a job's row changes.
_ACCEPTED = ("id", "model_name", "path", "digest", "parameters", "submitted", "tenant")


class JobFolder:
    """The folder of one job."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.snapshots = directory / "snapshots"
        self.artifact = directory / "artifact"
        self.log = directory / "log.txt"

    def create(self, job: Job, plan: TuningPlan) -> None:
        """Writes what the job needs; on disk when this returns, and gone where it fails."""
        self.directory.mkdir(parents=True, mode=0o700)
        try:
            _write_records(self.directory / _RECORDS, plan.records)
            if plan.validation is not None:
                _write_records(self.directory / _VALIDATION, plan.validation)
            if plan.source is not None:
                _write_source(self.directory / _SOURCE, plan.source)
            if plan.initial is not None:
                _write_tensors(self.directory / _INITIAL, plan.initial.prompt.tensors)
            _write(self.directory / _PLAN, _described(plan))
            # Last: a folder without it is no job.
            accepted = {name: value for name, value in asdict(job).items() if name in _ACCEPTED}
            _write(self.directory / _JOB, accepted)
            to_disk(self.directory)
            sync(self.directory.parent)
        except BaseException:
            shutil.rmtree(self.directory, ignore_errors=True)
            raise

    def plan(self) -> TuningPlan:
        """The plan as it was accepted.

        Raises BaseModelMismatch where the base model has changed since, CaikitPtError where files are gone.
        """
        try:
            described = json.loads((self.directory / _PLAN).read_text("utf-8"))
            records = _read_records(self.directory / _RECORDS, described["records"])
            validation = _read_records(self.directory / _VALIDATION, described["validation"])
        except (OSError, ValueError, KeyError) as error:
            raise CaikitPtError(
                f"The job's files in state_dir can't be read ({type(error).__name__})"
            ) from error
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
            source=_read_source(self.directory / _SOURCE, described["source"]),
            records=records,
            validation=validation,
            limits={name: (low, high) for name, (low, high) in described["limits"].items()},
            # Jobs that were queued by a release without it have none.
            initial=_read_initial(self.directory / _INITIAL, described.get("initial")),
        )

    @property
    def accepted(self) -> bool:
        """Whether it was ever a whole submission."""
        return (self.directory / _JOB).exists()

    def job(self) -> Job | None:
        """What was accepted, in the state that outcome.json tells; None where this is no job's folder."""
        try:
            accepted = json.loads((self.directory / _JOB).read_text("utf-8"))
            # Jobs that were queued by a release without it have no tenant.
            accepted = {"tenant": "", **accepted}
            job = Job(**{name: accepted[name] for name in _ACCEPTED})
        except (OSError, ValueError, KeyError, TypeError):
            return None
        try:
            outcome = json.loads((self.directory / _OUTCOME).read_text("utf-8"))
        except (OSError, ValueError):
            return job
        return Job(**{**_values(job), **outcome})

    def end(self, job: Job) -> None:
        """Notes how the job has ended, and lets go of all that only its training needed."""
        if job.state not in TERMINAL:
            raise ValueError(f"{job.id} is {job.state}")
        told = {"state": job.state, "reasons": list(job.reasons), "ended": job.ended, "started": job.started}
        try:
            _write(self.directory / _OUTCOME, told)
        finally:
            for path in self.directory.iterdir():
                if path.name not in _KEPT:
                    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def remove(self) -> None:
        """The whole folder."""
        shutil.rmtree(self.directory, ignore_errors=True)


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


def _read_initial(file: Path, described: Mapping[str, Any] | None) -> InitialPrompt | None:
    from caikit_pt.soft_prompt.tensor_file import read_tensors

    if described is None:
        return None
    return InitialPrompt(described["name"], SoftPrompt(read_tensors(file)), tuple(described["labels"]))


def _write(file: Path, value: Any) -> None:
    """In one piece."""
    new = file.with_name(f".{file.name}.new")
    new.write_text(json.dumps(value, ensure_ascii=False) + "\n", "utf-8")
    sync(new)
    os.replace(new, file)
    sync(file.parent)


def _values(job: Job) -> dict[str, Any]:
    return {field.name: getattr(job, field.name) for field in fields(job)}


def folders(root: Path) -> Iterator[JobFolder]:
    """The folders of all jobs under `root`."""
    if root.is_dir():
        yield from (JobFolder(path) for path in sorted(root.iterdir()) if path.is_dir())
