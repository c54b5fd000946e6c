"""The trainer that caikit's train RPC hands a request to: what it accepts is on disk before the RPC returns.

A request is checked before a job exists, so that a bad one is refused by the RPC itself.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import logging
import os
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aconfig
import caikit
from caikit.core.data_model import JobStatus
from caikit.core.exceptions.caikit_core_exception import CaikitCoreException, CaikitCoreStatusCode
from caikit.core.model_management.job_base import JobInfo
from caikit.core.model_management.model_trainer_base import ModelTrainerBase, ModelTrainerFutureBase

from caikit_pt import call, settings
from caikit_pt.errors import (
    CaikitPtError,
    InvalidParameter,
    NotAllowed,
    StateUnavailable,
    TooManyJobs,
    UnknownJob,
)
from caikit_pt.module import PeftPromptTuning
from caikit_pt.parameters.table import REQUEST
from caikit_pt.paths import check_plain_name
from caikit_pt.runtime import job as kinds
from caikit_pt.runtime.executors.node import Node
from caikit_pt.runtime.job import COMPLETED, PAUSED, PROMPT, QUEUED, RUNNING, SOURCE, TERMINAL, Job
from caikit_pt.runtime.job_store import JobStore
from caikit_pt.runtime.loaded import forget
from caikit_pt.runtime.making import Plan
from caikit_pt.runtime.makings import PROMPTS, SOURCES
from caikit_pt.runtime.state_directory import StateDirectory
from caikit_pt.runtime.training_quotas import TrainingQuotas
from caikit_pt.runtime.tuning_messages import ListNodesResponse
from caikit_pt.runtime.tuning_messages import Node as NodeMessage
from caikit_pt.soft_prompt.publication import check_replaceable
from caikit_pt.soft_prompt.source_library import SourceLibrary
from caikit_pt.status import caikit_errors
from caikit_pt.tuning.plan import TuningPlan
from caikit_pt.tuning.preflight import Preflight
from caikit_pt.tuning.source_plan import SourcePlan, TaskData, make_source_plan
from caikit_pt.tuning.source_preflight import SourcePreflight
from caikit_pt.turns import in_turn

_SECONDS_BETWEEN_LOOKS = 1.0
_LOG = logging.getLogger(__name__)
_UNGUARDED = (
    "this is caikit's own server, started as `python -m caikit.runtime`: what caikit_pt guards isn't guarded "
    "here. It listens at every address; whoever reaches it may tune, read, cancel and load any model; the "
    "settings access, listen_host, max_connections, max_streams_per_client, model_management_rpcs and the "
    "quotas of requests count for nothing, and certificates aren't renewed. Start `caikit-pt serve` instead "
    "(docs/security.md)"
)


class PromptTuningTrainer(ModelTrainerBase):
    """Accepts trainings, and answers for every one that was ever accepted."""

    name = "PROMPT_TUNING"

    def __init__(self, config: aconfig.Config, instance_name: str) -> None:
        """Takes on nothing yet: caikit makes a trainer in each client, too. In a server it starts at once."""
        self._name = instance_name
        self._starting = threading.Lock()
        self._state: StateDirectory | None = None
        if _serves():
            _LOG.warning(_UNGUARDED)
            self.start()

    def start(self) -> None:
        """Takes over what an earlier server of the same `state_dir` has left. Raises StateUnavailable."""
        with self._starting:
            if self._state is None:
                self._state = StateDirectory(settings.current(), forget)
                atexit.register(self.stop)

    @property
    def store(self) -> JobStore:
        """Every job that was ever accepted."""
        return self._opened.store

    @property
    def quotas(self) -> TrainingQuotas:
        """What trainings and evaluations may take."""
        return self._opened.quotas

    @property
    def _opened(self) -> StateDirectory:
        self.start()
        assert self._state is not None
        return self._state

    def stop(self) -> None:
        """Every training keeps a snapshot and is queued again; less than ten seconds."""
        if self._state is not None:
            self._state.stop()

    def train(
        self,
        module_class: type[PeftPromptTuning],
        *args: Any,
        save_path: Any = None,
        model_name: str | None = None,
        save_with_id: bool = False,
        external_training_id: str | None = None,
        training_id: str | None = None,
        **kwargs: Any,
    ) -> JobFuture:
        """Checks the request and queues the job. Raises CaikitRuntimeException for a bad request."""
        with caikit_errors():
            check_plain_name(model_name or "")
            if not isinstance(save_path, str):
                raise InvalidParameter(
                    "output_path",
                    "an S3 path",
                    "unset; trained models are published in runtime.training.output_dir",
                )
            id = check_plain_name(external_training_id or training_id or str(uuid.uuid4()), "training_id")
            # No `runtime.training.output_dir`: where prompts are served from.
            root = save_path or caikit.get_config().runtime.local_models_dir
            parts = [root, *([id] if save_with_id else []), str(model_name)]
            check_replaceable(Path(*parts), "model_name")
            plan = module_class.plan(*args, **kwargs)
            path = os.path.abspath(os.path.join(*parts))
            job = _job(PROMPT, id, str(model_name), path, plan, plan.to_dict())
            return self._future(self._opened.accept(job, plan))

    def train_source(
        self,
        name: str,
        request: Mapping[str, Any],
        tasks: Sequence[TaskData],
        default: bool = False,
        training_id: str = "",
    ) -> Job:
        """Checks a request for a source prompt, which `make_source_plan` takes, and queues the job.

        Raises InvalidSourcePrompt for a `name` that nothing can be published as, and what `make_source_plan`
        and `StateDirectory.accept` raise.
        """
        id = check_plain_name(training_id or str(uuid.uuid4()), "training_id")
        path, plan = _source(name, request, tasks)
        job = _job(SOURCE, id, name, str(path), plan, {**plan.to_dict(), "default": default})
        return self._opened.accept(job, plan)

    def look_through(self, plan: TuningPlan, model_name: str) -> Preflight:
        """What the train RPC would do with `plan`, or refuse. Raises CaikitRuntimeException."""
        with caikit_errors():
            check_replaceable(Path(caikit.get_config().runtime.local_models_dir, model_name), "model_name")
            return self._opened.look_through(PROMPTS, plan)

    def look_through_source(
        self, name: str, request: Mapping[str, Any], tasks: Sequence[TaskData]
    ) -> SourcePreflight:
        """What `train_source` would do, or refuse. Raises what that does."""
        _, plan = _source(name, request, tasks)
        return self._opened.look_through(SOURCES, plan)

    def get_model_future(self, training_id: str) -> JobFuture:
        """The job with this id. Raises CaikitCoreException: NOT_FOUND, or as those of the job itself."""
        try:
            with _store_errors():
                return self._future(self.job(training_id))
        except UnknownJob as error:
            raise CaikitCoreException(CaikitCoreStatusCode.NOT_FOUND, str(error)) from error

    def job(self, id: str) -> Job:
        """Raises UnknownJob, for one that the caller may not watch, too."""
        job = self.store.find(id)
        if job is None or not call.may("watch", job.model_name):
            raise UnknownJob(id)
        return job

    @property
    def is_first(self) -> bool:
        """Whether what one of many servers does is this one's."""
        return self._opened.is_first

    @property
    def shared_id(self) -> str:
        """The same at all servers that share their jobs with this one; empty where it has them for itself."""
        return self._opened.shared_id

    @property
    def why_not(self) -> str:
        """Why no job can begin now, whichever; empty where one can."""
        return self._opened.supervisor.executor.why_not()

    def nodes(self) -> ListNodesResponse:
        """Where jobs are run, and how many run and wait."""
        found, problem = list[Node](), self.why_not
        try:
            found = list(self._opened.supervisor.executor.nodes())
        except OSError as error:
            problem = problem or str(error)
        return ListNodesResponse(
            executor=settings.current().executor.kind,
            problem=problem,
            running=self.store.count([RUNNING]),
            queued=self.store.count([QUEUED]),
            nodes=[_node(one) for one in found],
        )

    def cancel(self, id: str) -> None:
        """Ends a job and returns when its device is free. One that has ended stays as it is.

        Raises UnknownJob, NotAllowed.
        """
        self._opened.supervisor.cancel(self._to_change(id))

    def pause(self, id: str) -> Job:
        """Stops a job behind a snapshot until it is resumed, and returns when its device is free; as it is
        then. One that has ended stays so. Raises UnknownJob, NotAllowed, TooManyJobs."""
        job = self._to_change(id)
        paused, most = self.store.count([PAUSED]), settings.current().max_queued
        # Those of one would be in everybody's way.
        if paused >= most and job.state not in (PAUSED, *TERMINAL):
            raise TooManyJobs(
                f"{paused} trainings are paused, as many as max_queued allows. Resume or cancel some"
            )
        self._opened.supervisor.pause(job)
        return self.job(id)

    def resume(self, id: str) -> Job:
        """Queues a job that is paused, at its old place; as it is then. Raises UnknownJob, NotAllowed, and
        what its submission raised where nothing can be published under its name any more."""
        job = self._to_change(id)
        if job.state == PAUSED:
            _check_target(job)
        self._opened.supervisor.resume(job)
        later = self.store.search([COMPLETED], job.model_name, limit=1)
        if job.state == PAUSED and job.makes == PROMPT and later and later[0].number > job.number:
            text = "Its name has been trained again since; when it is done, its prompt takes that one's place"
            self.store.add_event(id, kinds.WARNING, {"text": text})
        return self.job(id)

    def _to_change(self, id: str) -> Job:
        """Raises UnknownJob, NotAllowed."""
        job = self.job(id)
        if asked := call.current():
            asked.principal.check("cancel", job.model_name)
        return job

    def _future(self, job: Job) -> JobFuture:
        return JobFuture(self, job, self._name)


class JobFuture(ModelTrainerFutureBase):
    """A job, for caikit. It holds no state of its own."""

    def __init__(self, trainer: PromptTuningTrainer, job: Job, trainer_name: str) -> None:
        super().__init__(
            trainer_name=trainer_name, training_id=job.id, use_reversible_hash=False, save_path=job.path
        )
        self._trainer = trainer

    def get_info(self) -> JobInfo:
        """The state of the job; where it stands, its warnings and the verdict are among the reasons.

        Raises CaikitCoreException, CONNECTION_ERROR where the jobs can't be read now.
        """
        with _store_errors():
            job = self._trainer.job(self.id)
            told = reasons(self._trainer.store, job, why_not=self._trainer.why_not)
        return JobInfo(
            # caikit knows none that waits until it is resumed.
            status=JobStatus[QUEUED if job.state == PAUSED else job.state],
            errors=[RuntimeError(text) for text in told] or None,
            submission_time=_moment(job.submitted),
            completion_time=_moment(job.ended),
        )

    def cancel(self) -> None:
        """Ends the job. Raises CaikitCoreException, CONNECTION_ERROR where that can't be noted now."""
        with _store_errors():
            self._trainer.cancel(self.id)

    def wait(self) -> None:
        """Until the job has ended."""
        store, seen = self._trainer.store, -1
        while not self._trainer.job(self.id).ended_for_good:
            seen = store.wait_for_change(seen, _SECONDS_BETWEEN_LOOKS)

    def load(self) -> Any:
        """The tuned model, read from where it was published. Raises CaikitPtError where there is none."""
        self.wait()
        job = self._trainer.job(self.id)
        if job.state != COMPLETED:
            raise CaikitPtError("; ".join(job.reasons) or f"The training is {job.state}")
        return caikit.load(job.path)


@contextmanager
def _store_errors() -> Iterator[None]:
    """caikit makes UNAVAILABLE of it, and INTERNAL without a reason of what it doesn't know."""
    try:
        yield
    except NotAllowed as error:
        raise CaikitCoreException(CaikitCoreStatusCode.FORBIDDEN, str(error)) from error
    except StateUnavailable as error:
        raise CaikitCoreException(CaikitCoreStatusCode.CONNECTION_ERROR, str(error)) from error


def reasons(store: JobStore, job: Job, ahead: int | None = None, why_not: str = "") -> list[str]:
    """Why a job is in its state, and what a user should know of it; `ahead` of it are so many, and `why_not`
    is why none can begin now, where the caller knows."""
    tracked = [event.data["text"] for event in store.events(job, kinds=[kinds.TRACKING])]
    if job.ended_for_good:
        return [*job.reasons, *tracked]
    told = [event.data["text"] for event in store.events(job, kinds=[kinds.WARNING, kinds.DEATH])]
    return [*_where_it_stands(store, job, ahead, why_not), *dict.fromkeys(told), *tracked]


def _where_it_stands(store: JobStore, job: Job, ahead: int | None, why_not: str) -> list[str]:
    if job.state == QUEUED:
        if why_not:
            return [f"No training can begin now: {why_not}"]
        told = store.last_event(job, [kinds.STATE, kinds.WAITING_FOR, kinds.DEATH])
        if told and told.kind == kinds.WAITING_FOR:
            return [told.data["text"]]
        ahead = store.queue.before([job]).get(job.id, 0) if ahead is None else ahead
        return [f"{ahead} queued training{' is' if ahead == 1 else 's are'} before it."]
    at = job.progress
    if job.state == PAUSED:
        where = f", at update {at['step']} of {at['steps']}" if at else ""
        return [f"It is paused{where}, and goes on when it is resumed."]
    if not at:
        phases = store.events(job, kinds=[kinds.PHASE])
        return [f"It is {phases[-1].data['phase']}."] if phases else []
    loss = "not finite" if at["loss"] is None else f"{at['loss']:.4f}"
    phase = f" ({at['phase']})" if at.get("phase") else ""
    return [
        f"Epoch {at['epoch']}{phase}, update {at['step']} of {at['steps']}, loss {loss}, "
        f"about {at['eta_seconds']:.0f} s to go."
    ]


def _source(name: str, request: Mapping[str, Any], tasks: Sequence[TaskData]) -> tuple[Path, SourcePlan]:
    """Where versions of a source are published, and how one is trained."""
    now = settings.current()
    path = SourceLibrary(now.source_prompt_base, "name").check_target(name)
    return path, make_source_plan(request, tasks, now)


def _job(makes: str, id: str, name: str, path: str, plan: Plan, parameters: Mapping[str, Any]) -> Job:
    """A new one, of whoever asks."""
    return Job(
        id=id,
        model_name=name,
        path=path,
        digest=_digest(plan, name, parameters),
        parameters=parameters,
        submitted=time.time(),
        tenant=call.tenant(),
        makes=makes,
    )


def _check_target(job: Job) -> None:
    """Raises InvalidParameter, InvalidSourcePrompt where something lies there that it can't replace."""
    if job.makes == PROMPT:
        check_replaceable(Path(job.path), "model_name")
    else:
        SourceLibrary(settings.current().source_prompt_base, "name").check_target(job.model_name)


def _digest(plan: Plan, name: str, parameters: Mapping[str, Any]) -> str:
    """Of what was asked: the same request is the same training when it comes again, though meanwhile a source
    may have a newer version, and settings other defaults."""
    hashed = hashlib.sha256(json.dumps([name, _asked(parameters)], sort_keys=True).encode())
    hashed.update(plan.checkpoint.fingerprint.encode())
    for records in plan.streams:
        told = (json.dumps([each.input, each.output]).encode() for each in (records.items if records else ()))
        for one in in_turn(told):
            hashed.update(one)
        hashed.update(b"\n")
    return hashed.hexdigest()


def _asked(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Of resolved `parameters` those that a request has set, as it has set them."""
    origins = parameters["origins"]
    return {
        name: value if origin == REQUEST else origin
        for name, value in parameters.items()
        if (origin := origins.get(name, REQUEST)).startswith(REQUEST) and name != "origins"
    }


def _serves() -> bool:
    """Whether this process is caikit's server, started as `python -m caikit.runtime`."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec is not None and spec.name == "caikit.runtime.__main__"


def _node(node: Node) -> NodeMessage:
    free = node.free
    return NodeMessage(
        name=node.name,
        lives=node.lives,
        cpus=node.all.cpus,
        gpus=node.all.gpus,
        memory_bytes=node.all.memory,
        free_cpus=free.cpus if free else None,
        free_gpus=free.gpus if free else None,
        free_memory_bytes=free.memory if free else None,
        labels=list(node.labels),
        gpu_memory_bytes=node.all.gpu_memory,
    )


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
