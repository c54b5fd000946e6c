"""caikit_pt.TuningService: what caikit's own services can't express of trainings, on the same port."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache, wraps
from typing import Any, TypeVar

from caikit_pt.errors import CaikitPtError, InvalidParameter
from caikit_pt.runtime import job as kinds
from caikit_pt.runtime.job import STATES, Event, Job
from caikit_pt.runtime.trainer import PromptTuningTrainer, reasons
from caikit_pt.runtime.tuning_messages import (
    PACKAGE,
    GetTrainingRequest,
    ListTrainingsRequest,
    ListTrainingsResponse,
    Training,
    TrainingCheck,
    TrainingEvent,
    TrainingProgress,
    WatchTrainingRequest,
)

NAME = "TuningService"
_PAGE, _LARGEST_PAGE = 100, 1000
_MOST_POINTS = 10_000
# A watcher looks whether its client is still there, and whether another process has changed the job.
_SECONDS_BETWEEN_LOOKS = 1.0
_Answer = TypeVar("_Answer")


@cache
def service() -> Any:
    """What json_to_service makes of it: registration_function, client_stub_class, descriptor ..."""
    from caikit.runtime.service_factory import ServicePackageFactory
    from py_to_proto.json_to_service import json_to_service

    training = ServicePackageFactory.get_service_package(ServicePackageFactory.ServiceType.TRAINING)
    (train,) = training.descriptor.methods
    rpcs = [
        {
            "name": "WatchTraining",
            "input_type": f"{PACKAGE}.WatchTrainingRequest",
            "output_type": f"{PACKAGE}.TrainingEvent",
            "server_streaming": True,
        },
        {
            "name": "ListTrainings",
            "input_type": f"{PACKAGE}.ListTrainingsRequest",
            "output_type": f"{PACKAGE}.ListTrainingsResponse",
        },
        {
            "name": "GetTraining",
            "input_type": f"{PACKAGE}.GetTrainingRequest",
            "output_type": f"{PACKAGE}.Training",
        },
        {
            # The request of the train RPC, which isn't carried out.
            "name": "CheckTraining",
            "input_type": train.input_type.full_name,
            "output_type": f"{PACKAGE}.TrainingCheck",
        },
    ]
    return json_to_service(name=NAME, package=PACKAGE, json_service_def={"service": {"rpcs": rpcs}})


def _answering(rpc: Callable[..., _Answer]) -> Callable[..., _Answer]:
    """The status and text of a CaikitPtError reach the client."""

    @wraps(rpc)
    def answer(self: Any, request: Any, context: Any) -> _Answer:
        import grpc
        from caikit.runtime.types.caikit_runtime_exception import CaikitRuntimeException

        try:
            return rpc(self, request, context)
        except CaikitRuntimeException as error:
            context.abort(error.status_code, error.message)
        except CaikitPtError as error:
            context.abort(grpc.StatusCode[error.status], str(error))
        raise AssertionError("abort raises")

    return answer


class TuningServicer:
    """Answers from the trainer's store."""

    def __init__(self, trainer: PromptTuningTrainer, most_watchers: int) -> None:
        """Each watcher holds a thread of the server, so not all of these may watch."""
        self._trainer, self._store = trainer, trainer.store
        self._most_watchers = most_watchers
        self._places = threading.BoundedSemaphore(most_watchers)
        self._stopping = False

    def stop(self) -> None:
        """The server waits for no watcher. They may watch again when it is back."""
        self._stopping = True

    @_answering
    def ListTrainings(self, request: Any, context: Any) -> Any:
        """Raises InvalidParameter for a state, a page size or a token that there isn't."""
        asked = ListTrainingsRequest.from_proto(request)
        for state in asked.states or ():
            if state not in STATES:
                raise InvalidParameter("states", state, ", ".join(STATES))
        size = asked.page_size or _PAGE
        if not 1 <= size <= _LARGEST_PAGE:
            raise InvalidParameter("page_size", size, f"1 to {_LARGEST_PAGE}, or unset for {_PAGE}")
        if asked.page_token and not asked.page_token.isdecimal():
            raise InvalidParameter("page_token", asked.page_token, "next_page_token of an earlier answer")
        found = self._store.search(
            states=asked.states or (),
            model_name=asked.model_name or "",
            since=_seconds(asked.submitted_from),
            until=_seconds(asked.submitted_until),
            before=int(asked.page_token or 0),
            limit=size + 1,
        )
        more = str(found[size - 1].number) if len(found) > size else ""
        trainings = [self._training(job) for job in found[:size]]
        return ListTrainingsResponse(trainings=trainings, next_page_token=more).to_proto()

    @_answering
    def GetTraining(self, request: Any, context: Any) -> Any:
        """Raises UnknownJob."""
        job = self._trainer.job(GetTrainingRequest.from_proto(request).training_id)
        training = self._training(job)
        training.parameters = dict(job.parameters)
        for event in self._store.events(job, kinds=[kinds.VERDICT]):
            training.verdict = dict(event.data)
        training.points = self._points(job)
        return training.to_proto()

    def WatchTraining(self, request: Any, context: Any) -> Iterator[Any]:
        """Raises UnknownJob. Reads from the store at the client's pace; no training waits for it."""
        import grpc

        if not self._places.acquire(blocking=False):
            told = f"{self._most_watchers} clients watch trainings, as many as may; GetTraining still answers"
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, told)
        try:
            yield from self._events(request, context)
        finally:
            self._places.release()

    def _events(self, request: Any, context: Any) -> Iterator[Any]:
        import grpc

        asked = WatchTrainingRequest.from_proto(request)
        job = self._find(asked.training_id, context)
        last = asked.from_event
        while context.is_active():
            seen, stopping = self._store.changes, self._stopping
            # The state is read before the events, so that none is missed that came before the end.
            over = self._trainer.job(job.id).ended_for_good
            events = self._store.events(job, after=last)
            for event in events:
                yield _event(event).to_proto()
                last = event.number
            if events:
                continue
            if over:
                return
            if stopping:
                context.abort(
                    grpc.StatusCode.UNAVAILABLE, "The server stops; the training goes on when it is back"
                )
            self._store.wait_for_change(seen, _SECONDS_BETWEEN_LOOKS)

    @_answering
    def CheckTraining(self, request: Any, context: Any) -> Any:
        """Raises InvalidParameter for what the train RPC refuses."""
        from caikit.runtime.utils.servicer_util import build_caikit_library_request_dict

        from caikit_pt.module import PeftPromptTuning
        from caikit_pt.paths import check_model_name

        check_model_name(request.model_name)
        parameters = build_caikit_library_request_dict(request.parameters, PeftPromptTuning.TRAIN_SIGNATURE)
        parameters.pop("training_id", None)
        checked = PeftPromptTuning.preflight(**parameters)
        return TrainingCheck(problems=list(checked.warnings), report=checked.to_dict()).to_proto()

    def _find(self, id: str, context: Any) -> Job:
        return _answering(lambda _self, request, _context: self._trainer.job(request))(self, id, context)

    def _training(self, job: Job) -> Training:
        return Training(
            training_id=job.id,
            model_name=job.model_name,
            state=job.state,
            submitted=_moment(job.submitted),
            started=_moment(job.started),
            ended=_moment(job.ended),
            reasons=reasons(self._store, job),
            queued_before=self._store.ahead_of(job) if job.state == kinds.QUEUED else 0,
            progress=_progress(job.progress) if job.progress else None,
            base_model=job.parameters["base_model"],
            path=job.path,
        )

    def _points(self, job: Job) -> dict[str, Any]:
        """The loss curves so far, of long ones some points. What was done again is told once."""
        losses: dict[int, float | None] = {}
        validation: dict[int, float | None] = {}
        after = 0
        while events := self._store.events(job, after=after, kinds=[kinds.PROGRESS, kinds.VALIDATION]):
            for event in events:
                if event.kind == kinds.VALIDATION:
                    validation[event.data["step"]] = event.data["scores"]["loss"]
                else:
                    losses.update({int(step): loss for step, loss in event.data["points"]})
            after = events[-1].number
        return {
            name: _thinned([list(point) for point in sorted(curve.items())])
            for name, curve in (("loss", losses), ("validation_loss", validation))
        }


def _thinned(points: list[list[float | None]]) -> list[list[float | None]]:
    """At most so many of `points`, at equal distances, the last among them."""
    stride = -(-len(points) // _MOST_POINTS)
    return points[::-1][:: stride or 1][::-1]


def _event(event: Event) -> TrainingEvent:
    data = dict(event.data)
    progress = _progress(event.data) if event.kind == kinds.PROGRESS else None
    if progress:
        data = {"points": data["points"]}
    text = data.pop("text", "") or data.pop("phase", "") or "; ".join(data.pop("reasons", ()))
    return TrainingEvent(
        number=event.number,
        time=_moment(event.time),
        kind=event.kind,
        text=text,
        state=data.pop("state", ""),
        progress=progress,
        data=data or None,
    )


def _progress(data: Any) -> TrainingProgress:
    return TrainingProgress(**{name: data.get(name) for name in TrainingProgress.fields})


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _seconds(moment: datetime | None) -> float:
    """caikit's timestamps are UTC without saying so."""
    if moment is None:
        return 0.0
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
