"""A stand-in for the server: it answers at once, with whatever a test wants, and counts who asks."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
from caikit.runtime.service_factory import ServicePackageFactory as Factory

from caikit_pt.parameters.generation import GENERATION_PARAMETERS
from caikit_pt.parameters.table import ParameterTable
from caikit_pt.parameters.tuning import TUNING_PARAMETERS
from caikit_pt.runtime import tuning_messages as messages
from caikit_pt.runtime.tuning_rpcs import service

HOSTILE = "</title><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{7*7}}"
TOKEN = "the-token"
_EPOCH = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@dataclass
class StandIn:
    """The services of one process. `trainings` are what is listed, the first the latest."""

    trainings: list[dict[str, Any]] = field(default_factory=list)
    events: dict[str, list[messages.TrainingEvent]] = field(default_factory=dict)
    points: dict[str, dict[str, Any]] = field(default_factory=dict)
    answer: str = "negative"
    needs_token: bool = False
    calls: Counter[str] = field(default_factory=Counter)
    watches: int = 0
    trained: list[Any] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    port: int = 0

    def start(self, port: int = 0) -> StandIn:
        """Returns when it answers."""
        self._stopping = threading.Event()
        self._server = grpc.server(ThreadPoolExecutor(80))
        kinds = Factory.ServiceType
        inference, training = (
            Factory.get_service_package(kind) for kind in (kinds.INFERENCE, kinds.TRAINING)
        )
        service().registration_function(self, self._server)
        inference.registration_function(_Rest(self), self._server)
        training.registration_function(_Rest(self), self._server)
        management = Factory.get_service_package(kinds.TRAINING_MANAGEMENT)
        management.registration_function(_Rest(self), self._server)
        self.port = self._server.add_insecure_port(f"localhost:{port}")
        self._server.start()
        return self

    def stop(self) -> None:
        """At once."""
        self._stopping.set()
        self._server.stop(0.2).wait()

    def add(self, id: str, **told: Any) -> None:
        """A training in front of the others, with the events that it has had."""
        known = {"training_id": id, "model_name": f"name-{id}", "state": "RUNNING", "base_model": "tiny-t5"}
        self.trainings.insert(0, {**known, "makes": "prompt", "submitted": _EPOCH, "started": _EPOCH, **told})
        self.events[id] = []
        self.happens(id, "state", state="QUEUED")
        self.happens(id, "state", state="RUNNING")

    def happens(self, id: str, kind: str, **told: Any) -> None:
        """Another event of it."""
        number = len(self.events[id]) + 1
        time = _EPOCH + timedelta(seconds=number)
        self.events[id].append(messages.TrainingEvent(number=number, time=time, kind=kind, **told))

    def progresses(self, id: str, step: int, steps: int, losses: Sequence[float]) -> None:
        """It has come to `step`."""
        progress = messages.TrainingProgress(
            step=step, steps=steps, epoch=1, loss=losses[-1], learning_rate=0.3, eta_seconds=3.0
        )
        first = step - len(losses) + 1
        data = {"points": [[first + n, loss] for n, loss in enumerate(losses)]}
        self.happens(id, "progress", progress=progress, data=data)

    # ---- TuningService ----

    def ListTrainings(self, request: Any, context: Any) -> Any:
        self._asked("ListTrainings", context)
        found = [
            one
            for one in self.trainings
            if (not request.states or one["state"] in request.states)
            and (not request.model_name or one["model_name"] == request.model_name)
        ]
        first, size = int(request.page_token or 0), request.page_size or 100
        more = str(first + size) if len(found) > first + size else ""
        page = [messages.Training(**one) for one in found[first : first + size]]
        return messages.ListTrainingsResponse(trainings=page, next_page_token=more).to_proto()

    def GetTraining(self, request: Any, context: Any) -> Any:
        self._asked("GetTraining", context)
        found = next((one for one in self.trainings if one["training_id"] == request.training_id), None)
        if found is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"No training has the id {request.training_id!r}")
        assert found is not None
        return messages.Training(**{"points": self.points.get(request.training_id), **found}).to_proto()

    def WatchTraining(self, request: Any, context: Any) -> Iterator[Any]:
        self._asked("WatchTraining", context)
        if request.training_id not in self.events:
            context.abort(grpc.StatusCode.NOT_FOUND, f"No training has the id {request.training_id!r}")
        self.watches += 1
        at = request.from_event
        try:
            while context.is_active() and not self._stopping.is_set():
                for event in self.events[request.training_id][at:]:
                    yield event.to_proto()
                    at += 1
                found = next(one for one in self.trainings if one["training_id"] == request.training_id)
                if found["state"] in ("COMPLETED", "CANCELED", "ERRORED"):
                    return
                time.sleep(0.05)
            if self._stopping.is_set():
                context.abort(grpc.StatusCode.UNAVAILABLE, "The server stops")
        finally:
            self.watches -= 1

    def CheckTraining(self, request: Any, context: Any) -> Any:
        self._asked("CheckTraining", context)
        self._refuse(request, context)
        records = len(request.parameters.train_stream.jsondata.data)
        report = {
            "records": records, "validation_records": 0, "updates": 40, "updates_per_epoch": 2,
            "seconds": 12.5, "device_memory_bytes": 8259072,
            "warnings": [f"{records} records are few to learn from"],
            "source_tokens": {"median": 7, "p90": 7, "longest": 7, "limit": 256, "cut": 0},
            "parameters": {"num_epochs": 20, "origins": {"num_epochs": "default"}},
        }  # fmt: skip
        return messages.TrainingCheck(problems=[], report=report).to_proto()

    def _refuse(self, request: Any, context: Any) -> None:
        if request.parameters.num_epochs > 10_000:
            text = "num_epochs: 99999 is not allowed. Allowed: a whole number from 1 to 10,000"
            _refused(context, text, "num_epochs")

    def PauseTraining(self, request: Any, context: Any) -> Any:
        return self._becomes(request.training_id, "PAUSED")

    def ResumeTraining(self, request: Any, context: Any) -> Any:
        return self._becomes(request.training_id, "QUEUED")

    def _becomes(self, id: str, state: str) -> Any:
        found = next(one for one in self.trainings if one["training_id"] == id)
        found["state"] = state
        self.happens(id, "state", state=state)
        return messages.Training(**found).to_proto()

    def ListPrompts(self, request: Any, context: Any) -> Any:
        self._asked("ListPrompts", context)
        return messages.ListPromptsResponse(prompts=[_prompt("mood"), _prompt("other")]).to_proto()

    def GetPrompt(self, request: Any, context: Any) -> Any:
        self._asked("GetPrompt", context)
        made = _prompt(request.model_name)
        made.labels = ["negative", HOSTILE]
        made.verdict = VERDICT
        made.parameters = {"num_epochs": 20, "origins": {"num_epochs": "default"}}
        return made.to_proto()

    def RemovePrompt(self, request: Any, context: Any) -> Any:
        self._asked("RemovePrompt", context)
        if request.model_name == "gone":
            context.abort(grpc.StatusCode.NOT_FOUND, "No prompt is called 'gone'")
        self.removed.append(request.model_name)
        return messages.RemovePromptResponse().to_proto()

    def DownloadPrompt(self, request: Any, context: Any) -> Iterator[Any]:
        if request.model_name == "gone":
            context.abort(grpc.StatusCode.NOT_FOUND, "No prompt is called 'gone'")
        for part in (b"first ", b"second"):
            yield messages.Chunk(data=part).to_proto()

    def ListSources(self, request: Any, context: Any) -> Any:
        self._asked("ListSources", context)
        made = messages.Source(name="support/2", version=2, base_model="tiny-t5", tasks=["a", HOSTILE])
        return messages.ListSourcesResponse(sources=[made]).to_proto()

    def GetSource(self, request: Any, context: Any) -> Any:
        return messages.Source(name=request.name, tasks=[HOSTILE], manifest={"note": HOSTILE}).to_proto()

    def Evaluate(self, request: Any, context: Any) -> Iterator[Any]:
        of = len(request.test_stream.jsondata.data)
        yield messages.EvaluationEvent(done=of, of=of, seconds=1.0).to_proto()
        wrong = messages.WrongAnswer(record=1, input=HOSTILE, expected="good", answered=HOSTILE)
        yield messages.EvaluationEvent(done=of, of=of, seconds=1.0, wrong=wrong).to_proto()
        yield messages.EvaluationEvent(done=of, of=of, seconds=1.0, report=REPORT).to_proto()

    def Describe(self, request: Any, context: Any) -> Any:
        self._asked("Describe", context)
        return messages.Description(
            caller=HOSTILE,
            version="9.9",
            base_models=["tiny-llama", "tiny-t5"],
            parameters={
                "tuning": _rows(TUNING_PARAMETERS),
                "generation": _rows(GENERATION_PARAMETERS),
                "source": [],
            },
        ).to_proto()

    def __getattr__(self, name: str) -> Any:
        if name[:1].isupper():
            return lambda request, context: context.abort(grpc.StatusCode.UNIMPLEMENTED, name)
        raise AttributeError(name)

    def _asked(self, name: str, context: Any) -> None:
        self.calls[name] += 1
        told = dict(context.invocation_metadata())
        if self.needs_token and told.get("authorization") != f"Bearer {TOKEN}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "A token is needed")


class _Rest:
    """caikit's own services."""

    def __init__(self, standin: StandIn) -> None:
        self._standin = standin

    def TextGenerationTaskPeftPromptTuningTrain(self, request: Any, context: Any) -> Any:
        from caikit.interfaces.runtime.data_model import TrainingJob

        self._standin._refuse(request, context)
        self._standin.trained.append(request)
        id = request.parameters.training_id
        self._standin.add(id, model_name=request.model_name)
        return TrainingJob(training_id=id, model_name=request.model_name).to_proto()

    def CancelTraining(self, request: Any, context: Any) -> Any:
        from caikit.interfaces.runtime.data_model import TrainingStatusResponse

        self._standin._becomes(request.training_id, "CANCELED")
        return TrainingStatusResponse(training_id=request.training_id).to_proto()

    def ServerStreamingTextGenerationTaskPredict(self, request: Any, context: Any) -> Iterator[Any]:
        from caikit.interfaces.nlp.data_model import FinishReason, TokenStreamDetails

        from caikit_pt.data_model import LabelledTextStreamResult

        whole = ("base: " if request.untuned else "") + self._standin.answer
        for at in range(0, len(whole), 5):
            details = TokenStreamDetails(
                finish_reason=FinishReason.EOS_TOKEN if at + 5 >= len(whole) else FinishReason.NOT_FINISHED,
                generated_tokens=at // 5 + 1,
            )
            yield LabelledTextStreamResult(generated_text=whole[at : at + 5], details=details).to_proto()

    def __getattr__(self, name: str) -> Any:
        return lambda request, context: context.abort(grpc.StatusCode.UNIMPLEMENTED, name)


def _refused(context: Any, text: str, field: str) -> None:
    from google.rpc import error_details_pb2, status_pb2
    from grpc_status import rpc_status

    made = status_pb2.Status(code=grpc.StatusCode.INVALID_ARGUMENT.value[0], message=text)
    info = error_details_pb2.ErrorInfo(reason="INVALID_PARAMETER", metadata={"field": field})
    made.details.add().Pack(info)
    context.abort_with_status(rpc_status.to_status(made))


def _prompt(name: str) -> messages.Prompt:
    return messages.Prompt(
        model_name=name, base_model="tiny-t5", num_virtual_tokens=20, verbalizer="{{input}}", separator="\n",
        published=_EPOCH,
    )  # fmt: skip


def _rows(table: ParameterTable) -> list[dict[str, Any]]:
    return [
        {
            "name": one.name, "path": one.path, "type": one.kind.__name__, "meaning": one.meaning,
            "default": list(one.default) if one.many and one.default is not None else one.default,
            "source": one.source, "low": one.low, "high": one.high, "above_low": one.above_low,
            "choices": list(one.choices), "many": one.many,
        }
        for one in table
    ]  # fmt: skip


def estimate(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high}


def curve(steps: int, start: float = 3.2, noise: float = 0.25) -> list[list[float]]:
    """A loss that falls, the same each time."""
    return [
        [step, start * math.exp(-4 * step / steps) + 0.25 + noise * abs(math.sin(step * 12.9898) % 1)]
        for step in range(1, steps + 1)
    ]


OUTCOME_TEXT = "Better than the untuned base: accuracy 0.930 against 0.400. Test it."
VERDICT = {
    "outcome": {"found": "better", "sentence": OUTCOME_TEXT.removesuffix(" Test it."), "next": "Test it."},
    "course": "settled",
    "kept": {"epoch": 9, "step": 252},
    "validation_records": 60,
    "validation_digest": "abc",
    "answers": 60,
    "validation": {
        "tuned": {"accuracy": estimate(0.93, 0.84, 0.97), "loss": estimate(0.21, 0.1, 0.4)},
        "initial": {"accuracy": estimate(0.45, 0.33, 0.58), "loss": estimate(3.1, 2.9, 3.4)},
        "untuned": {"accuracy": estimate(0.4, 0.28, 0.53), "loss": estimate(3.3, 3.0, 3.6)},
    },
}
REPORT = {
    "records": 2,
    "task": "classification",
    "models": {"tuned": {"model_name": "mood"}, "untuned": {}, "majority": {"answer": HOSTILE}},
    "scores": {
        "tuned": {"accuracy": estimate(0.5, 0.1, 0.9)},
        "untuned": {"accuracy": estimate(0.0, 0.0, 0.6)},
    },
    "differences": {
        "untuned": {
            "accuracy": estimate(0.5, -0.1, 0.9),
            "right": {"both": 0, "only_tuned": 1, "only_other": 0, "neither": 1, "p_value": 1.0},
        }
    },
    "confusion": {"labels": ["good", HOSTILE], "counts": [[1, 0, 0], [0, 0, 1]]},
    "notes": [HOSTILE],
    "wrong_answers": 1,
}
