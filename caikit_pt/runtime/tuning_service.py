"""caikit_pt.TuningService: what caikit's own services can't express of trainings, on the same port."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

from caikit_pt.call import current as current_call
from caikit_pt.errors import CaikitPtError, InvalidParameter, InvalidRecord, ServerStopping
from caikit_pt.parameters.table import Parameter
from caikit_pt.runtime import job as kinds
from caikit_pt.runtime import prompts, source_request, sources
from caikit_pt.runtime.description import described
from caikit_pt.runtime.job import STATES, Event, Job
from caikit_pt.runtime.trainer import PromptTuningTrainer, reasons
from caikit_pt.runtime.training_quotas import TrainingQuotas
from caikit_pt.runtime.tuning_messages import (
    Chunk,
    DetokenizeRequest,
    DetokenizeResponse,
    DownloadPromptRequest,
    EvaluateRequest,
    EvaluationEvent,
    GetPromptRequest,
    GetSourceRequest,
    GetTrainingRequest,
    ListPromptsRequest,
    ListSourcesRequest,
    ListTrainingsRequest,
    ListTrainingsResponse,
    PauseTrainingRequest,
    RemovePromptRequest,
    RemovePromptResponse,
    ResumeTrainingRequest,
    TokenizeRequest,
    TokenizeResponse,
    Training,
    TrainingCheck,
    TrainingEvent,
    TrainingProgress,
    WatchTrainingRequest,
    WrongAnswer,
)
from caikit_pt.tuning.evaluation import Done, Evaluation
from caikit_pt.tuning.outcome import in_words
from caikit_pt.turns import at_work

if TYPE_CHECKING:
    from caikit_pt.module import PeftPromptTuning

# The number of a job.
_PAGE_TOKEN = re.compile(r"[0-9]{1,18}")
_PAGE, _LARGEST_PAGE = 100, 1000
_MOST_POINTS = 10_000
# A watcher looks whether its client is still there, and whether another process has changed the job.
_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_BETWEEN_STEPS = 0.5
WRONG_ANSWERS = Parameter(
    "wrong_answers", int, "Wrong answers that come back at the most.", 0, low=0, high=1_000_000
)
_Answer = TypeVar("_Answer")


@contextmanager
def _told(context: Any) -> Iterator[None]:
    """The status and text of a CaikitPtError reach the client."""
    import grpc
    from caikit.runtime.types.caikit_runtime_exception import CaikitRuntimeException

    try:
        yield
    except CaikitRuntimeException as error:
        context.abort(error.status_code, error.message)
    except CaikitPtError as error:
        context.abort(grpc.StatusCode[error.status], str(error))


def _answering(rpc: Callable[..., _Answer]) -> Callable[..., _Answer]:
    """An RPC whose errors are told."""

    @wraps(rpc)
    def answer(self: Any, request: Any, context: Any) -> _Answer:
        with _told(context):
            return rpc(self, request, context)
        raise AssertionError("abort raises")

    return answer


class TuningServicer:
    """Answers from the trainer's store."""

    def __init__(self, trainer: PromptTuningTrainer) -> None:
        self._trainer, self._store = trainer, trainer.store
        self._stopping = False

    def stop(self) -> None:
        """The server waits for no watcher. They may watch again when it is back. Evaluations go on: they
        are answers under way."""
        self._stopping = True

    @_answering
    def ListTrainings(self, request: Any, context: Any) -> Any:
        """Raises InvalidParameter for a time, a state, a page size or a token that there isn't."""
        for field in ("submitted_from", "submitted_until"):
            _check_moment(field, getattr(request, field))
        asked = ListTrainingsRequest.from_proto(request)
        states = sorted(set(asked.states or ()))
        for state in states:
            if state not in STATES:
                raise InvalidParameter("states", state, ", ".join(STATES))
        size = _page_size(asked.page_size)
        if asked.page_token and not _PAGE_TOKEN.fullmatch(asked.page_token):
            raise InvalidParameter("page_token", asked.page_token, "next_page_token of an earlier answer")
        found = self._store.search(
            states=states,
            model_name=asked.model_name or "",
            since=_seconds(asked.submitted_from),
            until=_seconds(asked.submitted_until),
            before=int(asked.page_token or 0),
            limit=size + 1,
            names=_visible(),
        )
        more = str(found[size - 1].number) if len(found) > size else ""
        ahead = self._store.queue.before(found[:size])
        trainings = [self._training(job, ahead) for job in found[:size]]
        return ListTrainingsResponse(trainings=trainings, next_page_token=more).to_proto()

    @_answering
    def GetTraining(self, request: Any, context: Any) -> Any:
        """Raises UnknownJob."""
        return self._whole(self._trainer.job(GetTrainingRequest.from_proto(request).training_id))

    def _whole(self, job: Job) -> Any:
        """All that GetTraining tells."""
        training = self._training(job, self._store.queue.before([job]))
        training.parameters = dict(job.parameters)
        for event in self._store.events(job, kinds=[kinds.VERDICT]):
            training.verdict = dict(event.data)
            found = event.data.get("outcome", {})
            training.outcome, training.outcome_text = found.get("found"), in_words(found)
        training.points = self._points(job)
        return training.to_proto()

    def WatchTraining(self, request: Any, context: Any) -> Iterator[Any]:
        """Raises UnknownJob, and StateUnavailable where the store can't be read now or ServerStopping where
        the server ends: clients come again.

        Reads from the store at the client's pace; no training waits for it.
        """
        with _told(context):
            yield from self._events(request, context)

    def _events(self, request: Any, context: Any) -> Iterator[Any]:
        asked = WatchTrainingRequest.from_proto(request)
        job = self._trainer.job(asked.training_id)
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
                raise ServerStopping("The server stops; the training goes on when it is back")
            self._store.wait_for_change(seen, _SECONDS_BETWEEN_LOOKS)

    @_answering
    def CheckTraining(self, request: Any, context: Any) -> Any:
        """Raises InvalidParameter for what the train RPC refuses."""
        from caikit.runtime.utils.servicer_util import build_caikit_library_request_dict

        from caikit_pt.module import PeftPromptTuning
        from caikit_pt.paths import check_plain_name

        check_plain_name(request.model_name)
        with at_work():
            parameters = build_caikit_library_request_dict(
                request.parameters, PeftPromptTuning.TRAIN_SIGNATURE
            )
        parameters.pop("training_id", None)
        checked = self._trainer.look_through(PeftPromptTuning.plan(**parameters), request.model_name)
        return TrainingCheck(problems=list(checked.warnings), report=checked.to_dict()).to_proto()

    @_answering
    def TrainSource(self, request: Any, context: Any) -> Any:
        """Raises InvalidParameter for what may not be; the field of a task is told as tasks.NAME.FIELD."""
        from caikit.interfaces.runtime.data_model import TrainingJob

        job = self._trainer.train_source(
            request.name,
            source_request.parameters_of(request),
            source_request.tasks_of(request),
            request.default,
            request.training_id,
        )
        return TrainingJob(training_id=job.id, model_name=job.model_name).to_proto()

    @_answering
    def CheckSourceTraining(self, request: Any, context: Any) -> Any:
        """Raises InvalidParameter for what TrainSource refuses."""
        checked = self._trainer.look_through_source(
            request.name, source_request.parameters_of(request), source_request.tasks_of(request)
        )
        return TrainingCheck(problems=list(checked.warnings), report=checked.to_dict()).to_proto()

    @_answering
    def ListSources(self, request: Any, context: Any) -> Any:
        """Raises InvalidParameter for a page size or a token that there isn't."""
        asked = ListSourcesRequest.from_proto(request)
        size = _page_size(asked.page_size)
        return sources.listed(asked.base_model, size, asked.page_token).to_proto()

    @_answering
    def GetSource(self, request: Any, context: Any) -> Any:
        """Raises InvalidSourcePrompt where there is none, and where it isn't whole."""
        return sources.found(GetSourceRequest.from_proto(request).name).to_proto()

    @_answering
    def PauseTraining(self, request: Any, context: Any) -> Any:
        """Raises UnknownJob, NotAllowed. Returns when the device of the training is free."""
        return self._whole(self._trainer.pause(PauseTrainingRequest.from_proto(request).training_id))

    @_answering
    def ResumeTraining(self, request: Any, context: Any) -> Any:
        """Raises UnknownJob, NotAllowed."""
        return self._whole(self._trainer.resume(ResumeTrainingRequest.from_proto(request).training_id))

    @_answering
    def ListPrompts(self, request: Any, context: Any) -> Any:
        """Raises InvalidParameter for a page size or a token that there isn't."""
        asked = ListPromptsRequest.from_proto(request)
        size = _page_size(asked.page_size)
        return prompts.listed(asked.base_model, size, asked.page_token).to_proto()

    @_answering
    def GetPrompt(self, request: Any, context: Any) -> Any:
        """Raises UnknownModel where there is none."""
        return prompts.found(GetPromptRequest.from_proto(request).model_name).to_proto()

    @_answering
    def RemovePrompt(self, request: Any, context: Any) -> Any:
        """Raises UnknownModel where there is none, StateUnavailable."""
        prompts.remove(RemovePromptRequest.from_proto(request).model_name)
        return RemovePromptResponse().to_proto()

    def DownloadPrompt(self, request: Any, context: Any) -> Iterator[Any]:
        """Raises UnknownModel where there is none."""
        with _told(context):
            for data in prompts.archive(DownloadPromptRequest.from_proto(request).model_name):
                yield Chunk(data=data).to_proto()

    @_answering
    def Tokenize(self, request: Any, context: Any) -> Any:
        """Raises InvalidParameter for a text of more characters than is ever served."""
        asked, prompt = TokenizeRequest.from_proto(request), _published(request.model_name, "model_name")
        special = request.add_special_tokens if request.HasField("add_special_tokens") else True
        ids = prompt.token_ids(asked.text, special)
        return TokenizeResponse(ids=ids, tokens=prompt.pieces_of(ids)).to_proto()

    @_answering
    def Detokenize(self, request: Any, context: Any) -> Any:
        """Raises InvalidParameter for an id that there isn't."""
        asked, prompt = DetokenizeRequest.from_proto(request), _published(request.model_name, "model_name")
        return DetokenizeResponse(text=prompt.text_of(asked.ids or ())).to_proto()

    @_answering
    def Describe(self, request: Any, context: Any) -> Any:
        """Of this server."""
        return described(self._trainer.shared_id).to_proto()

    @_answering
    def ListNodes(self, request: Any, context: Any) -> Any:
        """Of the executor that there is."""
        return self._trainer.nodes().to_proto()

    def Evaluate(self, request: Any, context: Any) -> Iterator[Any]:
        """Raises InvalidParameter for what can't be evaluated, and NOT_FOUND for a prompt that isn't there.

        A client that leaves ends the work.
        """
        with _told(context):
            most = WRONG_ANSWERS.check(request.wrong_answers)
            evaluation = _evaluation(request, self._trainer.quotas)
            done = Done(0, 0, 0.0)
            for done in self._heard(evaluation.run(), context):
                yield EvaluationEvent(done=done.done, of=done.of, seconds=done.seconds).to_proto()
            if not context.is_active():
                return
            progress = asdict(done)
            for wrong in evaluation.wrong(most):
                yield EvaluationEvent(**progress, wrong=WrongAnswer(**asdict(wrong))).to_proto()
            yield EvaluationEvent(**progress, report=evaluation.report()).to_proto()

    def _heard(self, steps: Iterator[Done], context: Any) -> Iterator[Done]:
        """Those of `steps` that a client is told of, as long as it listens; the last is one of them."""
        told = -_SECONDS_BETWEEN_STEPS
        for done in steps:
            if not context.is_active():
                return
            if done.seconds >= told + _SECONDS_BETWEEN_STEPS or done.done == done.of:
                told = done.seconds
                yield done

    def _training(self, job: Job, ahead: Mapping[str, int]) -> Training:
        before = ahead.get(job.id, 0) if job.state == kinds.QUEUED else 0
        return Training(
            training_id=job.id,
            model_name=job.model_name,
            state=job.state,
            submitted=_moment(job.submitted),
            started=_moment(job.started),
            ended=_moment(job.ended),
            reasons=reasons(self._store, job, before, self._trainer.why_not),
            queued_before=before,
            progress=_progress(job.progress) if job.progress else None,
            base_model=job.parameters["base_model"],
            path=self._store.published_as(job),
            makes=job.makes,
            tasks=[task["name"] for task in job.parameters.get("tasks", ())],
        )

    def _points(self, job: Job) -> dict[str, Any]:
        """The loss curves so far, of long ones some points. What was done again is told once."""
        losses: dict[int, float | None] = {}
        validation: dict[int, float | None] = {}
        after = 0
        while events := self._store.events(job, after=after, kinds=[kinds.PROGRESS, kinds.VALIDATION]):
            for event in events:
                if event.kind == kinds.VALIDATION:
                    # Teachers of a source have losses of their own alone.
                    if "loss" in event.data["scores"]:
                        validation[event.data["step"]] = event.data["scores"]["loss"]
                else:
                    losses.update({int(step): loss for step, loss in event.data["points"]})
            after = events[-1].number
        return {
            name: _thinned([list(point) for point in sorted(curve.items())])
            for name, curve in (("loss", losses), ("validation_loss", validation))
        }


def _page_size(asked: int) -> int:
    """Raises InvalidParameter."""
    size = asked or _PAGE
    if not 1 <= size <= _LARGEST_PAGE:
        raise InvalidParameter("page_size", size, f"1 to {_LARGEST_PAGE}, or unset for {_PAGE}")
    return size


def _visible() -> list[str] | None:
    """What names of models match whose trainings the caller may watch; None: all."""
    call = current_call()
    return None if call is None or call.principal.may_everywhere("watch") else call.principal.globs("watch")


def _evaluation(request: Any, quotas: TrainingQuotas) -> Evaluation:
    """As `PeftPromptTuning.evaluation`, of published prompts. Raises QuotaExceeded."""
    with at_work():
        asked = EvaluateRequest.from_proto(request)
    if asked.test_stream is None:
        raise InvalidRecord("test_stream", "no records", "at least one record")
    against = _published(asked.against, "against") if asked.against else None
    return _published(asked.model_name, "model_name").evaluation(
        quotas.counted(asked.test_stream, request.ByteSize()),
        against,
        tuning_task=asked.tuning_task or None,
        input_field=asked.input_field,
        output_field=asked.output_field,
        max_new_tokens=asked.max_new_tokens or None,
        truncate_input_tokens=asked.truncate_input_tokens,
        # caikit's messages don't know what isn't set.
        labels_only=request.labels_only if request.HasField("labels_only") else None,
        names=(asked.model_name, asked.against),
    )


def _published(name: str, field: str) -> PeftPromptTuning:
    """The prompt that is served under `name`. Raises InvalidParameter where it is something else, and
    CaikitRuntimeException, NOT_FOUND where nothing is."""
    from caikit.runtime.model_management.model_manager import ModelManager

    from caikit_pt.module import PeftPromptTuning

    model = ModelManager.get_instance().retrieve_model(name) if name else None
    if not isinstance(model, PeftPromptTuning):
        raise InvalidParameter(field, name, "the name of a published prompt")
    return model


def _thinned(points: list[list[float | None]]) -> list[list[float | None]]:
    """At most so many of `points`, at equal distances, the last among them."""
    stride = -(-len(points) // _MOST_POINTS)
    return points[::-1][:: stride or 1][::-1]


def _event(event: Event) -> TrainingEvent:
    data = dict(event.data)
    if event.kind == kinds.ARTIFACT:
        # Where that is on this machine, is no client's business.
        data["path"] = data["model_name"]
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


def _check_moment(field: str, moment: Any) -> None:
    """Raises InvalidParameter for what Python's calendar, which has four digits for a year, hasn't got."""
    try:
        moment.ToDatetime()
    except (ValueError, OverflowError):
        told = f"{moment.seconds} s and {moment.nanos} ns"
        allowed = "a time from the year 1 to the year 9999, of up to 999,999,999 ns"
        raise InvalidParameter(field, told, allowed) from None


def _seconds(moment: datetime | None) -> float:
    """caikit's timestamps are UTC without saying so."""
    if moment is None:
        return 0.0
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
