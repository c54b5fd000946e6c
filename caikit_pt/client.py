"""A client of a server of caikit_pt: tune, watch, ask.

from caikit_pt.client import TuningClient

with TuningClient("localhost:8085") as client:
    id = client.tune("mood", base_model="tiny-t5", records=[{"input": "...", "output": "..."}, ...])
    for event in client.watch(id):
        print(event)
    print(client.generate("mood", "The lamp is a delight!"))
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from caikit_pt.asking import IN_FLIGHT, Asking
from caikit_pt.comparison import comparison
from caikit_pt.errors import CaikitPtError, InvalidParameter, InvalidRecord
from caikit_pt.parameters.tuning import TUNING_PARAMETERS
from caikit_pt.plotting import figure_of
from caikit_pt.progress_bar import ProgressBar
from caikit_pt.tuning.evaluation import Done
from caikit_pt.tuning.record_fields import Asked
from caikit_pt.tuning.record_file import rows
from caikit_pt.tuning.records import Records, field_doubts, read_records

if TYPE_CHECKING:
    import grpc
    from matplotlib.figure import Figure

_LOG = logging.getLogger(__name__)
GivenRecords = Iterable[Mapping[str, Any]] | Path | Records
DEFAULT_ADDRESS = "localhost:8085"
COMPLETED, CANCELED, ERRORED = "COMPLETED", "CANCELED", "ERRORED"
ENDED = (COMPLETED, CANCELED, ERRORED)
# A text to see whether any could be answered.
_PROBE = "a"
# Training records may come inline, and answers be long.
_MESSAGE_BYTES = 2**26
_SECONDS_TO_RECONNECT = 1.0


class ServerError(CaikitPtError):
    """What the server answered instead: `status` is the name of a gRPC status."""

    def __init__(self, status: str, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a training stands. Losses are nats a target token, None where they aren't finite; that of the
    validations is the best so far."""

    step: int
    steps: int
    epoch: int
    loss: float | None
    validation_loss: float | None
    learning_rate: float
    samples_per_second: float
    tokens_per_second: float
    seconds: float
    eta_seconds: float

    def __str__(self) -> str:
        validated = (
            "" if self.validation_loss is None else f", best validation loss {self.validation_loss:.4f}"
        )
        return f"epoch {self.epoch}, loss {_shown(self.loss)}{validated}"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a training; `kind` is state, phase, progress, validation, checkpoint,
    warning, death, verdict, artifact or tracking."""

    number: int
    time: datetime
    kind: str
    text: str
    state: str
    progress: Progress | None
    data: Mapping[str, Any]

    def __str__(self) -> str:
        at = self.progress
        if at is not None:
            return (
                f"update {at.step} of {at.steps}, {at}, {at.samples_per_second:.3g} samples/s, "
                f"about {at.eta_seconds:.0f} s to go"
            )
        if self.kind == "validation":
            scores = ", ".join(
                f"{name} {_shown(value)}" for name, value in sorted(self.data["scores"].items())
            )
            return f"validation at update {self.data['step']}: {scores}{', the best' * self.data['best']}"
        if self.kind == "checkpoint":
            return f"checkpoint at update {self.data['step']}"
        if self.kind == "artifact":
            return f"published as {self.data['model_name']}"
        if self.kind == "verdict":
            return f"the course of the loss: {self.data.get('course', '')}"
        told = ": ".join(filter(None, (self.state, self.text)))
        return told if self.kind in ("state", "phase") else f"{self.kind}: {told}"


@dataclass(frozen=True, slots=True, repr=False)
class Training:
    """A training; `parameters`, `verdict` and `points` only where it was asked for by its id."""

    training_id: str
    model_name: str
    base_model: str
    state: str
    submitted: datetime | None
    started: datetime | None
    ended: datetime | None
    reasons: Sequence[str]
    queued_before: int
    progress: Progress | None
    path: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    verdict: Mapping[str, Any] = field(default_factory=dict)
    points: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)

    def __repr__(self) -> str:
        at = f", update {self.progress.step} of {self.progress.steps}" if self.progress else ""
        return f"<Training {self.training_id!r} of {self.model_name!r}, {self.state}{at}>"

    def plot(self) -> Figure:
        """The loss curves so far, in a notebook as a picture. Raises PlotsUnavailable without matplotlib."""
        return figure_of({self.model_name: self.points}, f"{self.model_name} ({self.state})")


class TuningClient:
    """Every call raises ServerError where the server refuses or can't be reached.

    A `training_id` may also be the Training itself.
    """

    def __init__(self, address: str = DEFAULT_ADDRESS, channel: grpc.Channel | None = None) -> None:
        """A `channel` of one's own is for TLS; it is closed with the client."""
        import grpc

        sizes = [(f"grpc.max_{way}_message_length", _MESSAGE_BYTES) for way in ("send", "receive")]
        self._channel = channel or grpc.insecure_channel(address, sizes)

    def close(self) -> None:
        """Lets go of the connection."""
        self._channel.close()

    def __enter__(self) -> TuningClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- training ----

    def tune(self, model_name: str, **request: Any) -> str:
        """Queues a training and returns its id. Takes what `request_of` takes."""
        return str(self._answer(self._stubs.train, self._train_request(model_name, request)).training_id)

    def check(self, model_name: str, **request: Any) -> dict[str, Any]:
        """What `tune` with the same arguments would do and what it would warn of, without doing it."""
        answer = self._answer(self._stubs.tuning.CheckTraining, self._train_request(model_name, request))
        return _struct(answer, "report")

    def watch(
        self,
        training_id: str | Training,
        from_event: int = 0,
        on_lost: Callable[[ServerError], None] | None = None,
    ) -> Iterator[Event]:
        """Its events behind number `from_event` until it has ended, as they come.

        A server that restarts in between is waited for; `on_lost` is called when the wait begins.
        """
        from caikit_pt.runtime.tuning_messages import WatchTrainingRequest

        id, last, waits = _id_of(training_id), from_event, False
        while True:
            request = WatchTrainingRequest(training_id=id, from_event=last).to_proto()
            try:
                for event in self._events(request):
                    last, waits = event.number, False
                    yield event
                return
            except ServerError as error:
                if error.status not in ("UNAVAILABLE", "CANCELLED") or last == from_event:
                    raise
                if on_lost and not waits:
                    on_lost(error)
                waits = True
                time.sleep(_SECONDS_TO_RECONNECT)

    def wait(self, training_id: str | Training, progress_bar: bool = False) -> Training:
        """The training, when it has ended; until then, with `progress_bar`, a bar with its loss."""
        with ProgressBar() if progress_bar else nullcontext() as bar:
            for event in self.watch(training_id):
                if bar is not None:
                    bar.show(event)
        return self.training(training_id)

    def training(self, training_id: str | Training) -> Training:
        """Everything of one training, as it is now."""
        from caikit_pt.runtime.tuning_messages import GetTrainingRequest

        request = GetTrainingRequest(training_id=_id_of(training_id)).to_proto()
        return _training(self._answer(self._stubs.tuning.GetTraining, request))

    def trainings(
        self,
        states: Sequence[str] = (),
        model_name: str = "",
        submitted_from: datetime | None = None,
        submitted_until: datetime | None = None,
    ) -> Iterator[Training]:
        """All of them, the latest first."""
        from caikit_pt.runtime.tuning_messages import ListTrainingsRequest

        token = ""
        while True:
            asked = ListTrainingsRequest(
                states=list(states),
                model_name=model_name,
                submitted_from=submitted_from,
                submitted_until=submitted_until,
                page_token=token,
            )
            page = self._answer(self._stubs.tuning.ListTrainings, asked.to_proto())
            yield from map(_training, page.trainings)
            token = page.next_page_token
            if not token:
                return

    def compare(self, *training_ids: str | Training) -> dict[str, Any]:
        """Trainings side by side, as `comparison` tells: parameters that differ, validation metrics."""
        return comparison([self.training(id) for id in training_ids])

    def trained_by(self, model_name: str) -> str:
        """The id of the last training that was completed under this name; empty where none is known."""
        last = next(self.trainings((COMPLETED,), model_name), None)
        return last.training_id if last else ""

    def cancel(self, training_id: str | Training) -> str:
        """Ends a training; returns its state, which is another than CANCELED where it had ended before."""
        from caikit.interfaces.runtime.data_model import TrainingInfoRequest

        request = TrainingInfoRequest(training_id=_id_of(training_id)).to_proto()
        answer = self._answer(self._stubs.management.CancelTraining, request)
        return str(answer.DESCRIPTOR.fields_by_name["state"].enum_type.values_by_number[answer.state].name)

    # ---- asking ----

    def generate(self, model_name: str, text: str, **parameters: Any) -> str:
        """The answer to `text`, by default without the text in front. Parameters: docs/parameters.md."""
        return str(self.answer(model_name, text, **parameters)["generated_text"])

    def answer(self, model_name: str, text: str, **parameters: Any) -> dict[str, Any]:
        """All that comes with the answer to `text`, by the names in its message: `finish_reason`, its
        tokens where they are asked for, and more."""
        return _plain(self._answer(self._stubs.predict, self._question(text, parameters), model_name))

    def predict(
        self,
        model_name: str,
        texts: Iterable[str],
        in_flight: int = IN_FLIGHT,
        on_lost: Callable[[CaikitPtError], None] | None = None,
        **parameters: Any,
    ) -> Iterator[dict[str, Any]]:
        """What `answer` has for each of `texts`, in their order, as it comes; `{"error": ...}` for one that
        the server refuses.

        `in_flight` requests are under way at a time, and no more than four times as many texts and answers in
        memory. A server that goes away in between is waited for, ten minutes at the most; `on_lost` is called
        when the wait begins. Raises InvalidParameter for one text alone.
        """
        if isinstance(texts, str):
            raise InvalidParameter("texts", texts, "a list of texts")
        return self._predicted(model_name, texts, in_flight, on_lost, parameters)

    def _predicted(
        self,
        model_name: str,
        texts: Iterable[str],
        in_flight: int,
        on_lost: Callable[[CaikitPtError], None] | None,
        parameters: Mapping[str, Any],
    ) -> Iterator[dict[str, Any]]:
        rpc = self._stubs.predict

        def ask(text: str) -> _Call:
            request = self._question(text, parameters)
            return _Call(rpc.future(request, metadata=_metadata(model_name)))

        asking = Asking(ask, in_flight, on_lost)
        for found in asking.answers(texts):
            yield {"error": f"{found.status}: {found}"} if isinstance(found, CaikitPtError) else found

    def check_predict(self, model_name: str, **parameters: Any) -> None:
        """Raises ServerError where no text could be answered, for the model or a parameter. Costs a token."""
        with closing(self.stream(model_name, _PROBE, **parameters)) as parts:
            try:
                next(parts, None)
            except ServerError as error:
                if not str(error).startswith("text:"):
                    raise

    @property
    def answer_fields(self) -> list[str]:
        """The names of all that can come with an answer."""
        return [field.name for field in self._stubs.answer.fields]

    def stream(self, model_name: str, text: str, **parameters: Any) -> Generator[str, None, None]:
        """The answer as it comes."""
        parameters = {"preserve_input_text": False, **parameters}
        request = self._stubs.messages.ServerStreamingTextGenerationTaskRequest(text=text, **parameters)
        for part in self._stream(self._stubs.stream, request, model_name):
            yield part.generated_text

    # ---- evaluation ----

    def evaluate(
        self,
        model_name: str,
        records: GivenRecords | None = None,
        file: str = "",
        on_progress: Callable[[Done], object] = lambda _: None,
        **request: Any,
    ) -> dict[str, Any]:
        """What a prompt is worth on test records: the report of tuning/evaluation.py.

        Records go along with the request, or lie in a `file` on the server, as for `tune`. Of `request`:
        `against` (another prompt, to compare with), `tuning_task`, `wrong_answers` (so many come back, as
        `wrong`), `input_field`, `output_field`, `max_new_tokens`, `truncate_input_tokens`,
        `labels_only`.
        """
        report: dict[str, Any] = {}
        wrong: list[dict[str, Any]] = []
        message = _evaluation_request(model_name, records, file, request)
        for event in self._stream(self._stubs.tuning.Evaluate, message):
            if event.HasField("wrong"):
                names = event.wrong.DESCRIPTOR.fields_by_name
                wrong.append({name: getattr(event.wrong, name) for name in names})
            elif event.HasField("report"):
                report = _struct(event, "report")
            else:
                on_progress(Done(event.done, event.of, event.seconds))
        return {**report, "wrong": wrong} if request.get("wrong_answers") else report

    # ---- gRPC ----

    def _question(self, text: str, parameters: Mapping[str, Any]) -> Any:
        parameters = {"preserve_input_text": False, **parameters}
        return self._stubs.messages.TextGenerationTaskRequest(text=text, **parameters)

    @cached_property
    def _stubs(self) -> _Stubs:
        return _Stubs(self._channel)

    def _train_request(self, model_name: str, request: Mapping[str, Any]) -> Any:
        from google.protobuf import json_format

        message = self._stubs.training_messages.TextGenerationTaskPeftPromptTuningTrainRequest()
        try:
            json_format.ParseDict({"model_name": model_name, "parameters": request_of(**request)}, message)
        except (json_format.ParseError, InvalidParameter) as error:
            raise ServerError("INVALID_ARGUMENT", str(error)) from error
        return _small_enough(message)

    def _events(self, request: Any) -> Iterator[Event]:
        for message in self._stream(self._stubs.tuning.WatchTraining, request):
            yield Event(
                number=message.number,
                time=message.time.ToDatetime(UTC),
                kind=message.kind,
                text=message.text,
                state=message.state,
                progress=_progress(message),
                data=_struct(message, "data"),
            )

    def _answer(self, rpc: Any, request: Any, model_name: str = "") -> Any:
        import grpc

        try:
            return rpc(request, metadata=_metadata(model_name))
        except grpc.RpcError as error:
            raise _server_error(error) from error

    def _stream(self, rpc: Any, request: Any, model_name: str = "") -> Iterator[Any]:
        import grpc

        call = rpc(request, metadata=_metadata(model_name))
        try:
            yield from call
        except grpc.RpcError as error:
            raise _server_error(error) from error
        finally:
            call.cancel()


def _id_of(training: str | Training) -> str:
    """Raises InvalidParameter."""
    if isinstance(training, Training):
        return training.training_id
    if not isinstance(training, str):
        raise InvalidParameter("training_id", training, "the id of a training, or a Training")
    return training


def request_of(
    base_model: str = "",
    records: GivenRecords | None = None,
    file: str = "",
    validation_records: GivenRecords | None = None,
    validation_file: str = "",
    **parameters: Any,
) -> dict[str, Any]:
    """The parameters of a train request as JSON has them.

    Records go along with the request (mappings, or the Path of a file here), or lie in a `file` under the
    server's `file_source_base`; `input_field` and `output_field` name their fields where those are others
    than README's Data has. `parameters` are those of docs/parameters.md, those of tuning_config among
    them; with `prompt_tuning_init_prompt` the `base_model` may be left out. Raises InvalidParameter.
    """
    asked = Asked(parameters.get("input_field") or "", parameters.get("output_field") or "")
    told: dict[str, Any] = {"base_model": base_model} if base_model else {}
    told["train_stream"] = _stream_of(records, file, "train_stream", asked)
    if validation_records is not None or validation_file:
        told["val_stream"] = _stream_of(validation_records, validation_file, "val_stream", asked)
    config: dict[str, Any] = {}
    paths = {parameter.name: parameter.path for parameter in TUNING_PARAMETERS}
    for name, value in parameters.items():
        if value is not None:
            (config if paths.get(name) else told)[name] = value
    return {**told, "tuning_config": config}


def _stream_of(records: GivenRecords | None, file: str, stream: str, asked: Asked) -> dict[str, Any]:
    if file and records is not None:
        raise InvalidParameter(stream, file, "records or a file on the server, and not both")
    if file:
        return {"file": {"filename": file}}
    if not isinstance(records, Records):
        given = rows(records, str(records)) if isinstance(records, Path) else _given(records, stream)
        records = read_records(given, stream, asked)
        for doubt in field_doubts(records):
            _LOG.warning(doubt)
    data = [{"input": record.input, "output": record.output} for record in records.items]
    return {"jsondata": {"data": data}}


def _given(records: Iterable[Any] | None, stream: str) -> Iterator[Any]:
    """Raises InvalidRecord for what holds none."""
    allowed = "a pathlib.Path, or records, such as [{'input': TEXT, 'output': TEXT}]"
    if isinstance(records, (str, bytes, Mapping)) or not isinstance(records, Iterable | None):
        raise InvalidRecord(stream, f"a value of type {type(records).__name__}", allowed)
    for number, record in enumerate(records or (), start=1):
        if (
            not isinstance(record, Mapping)
            and not hasattr(record, "output")
            and not hasattr(record, "labels")
        ):
            found = f"record {number}, a value of type {type(record).__name__},"
            raise InvalidRecord(stream, found, allowed)
        yield record


def _evaluation_request(
    model_name: str, records: GivenRecords | None, file: str, request: Mapping[str, Any]
) -> Any:
    from google.protobuf import json_format

    from caikit_pt.runtime.tuning_messages import EvaluateRequest

    asked = Asked(request.get("input_field") or "", request.get("output_field") or "")
    told = {name: value for name, value in request.items() if value is not None}
    try:
        told["test_stream"] = _stream_of(records, file, "test_stream", asked)
        message = json_format.ParseDict(
            {"model_name": model_name, **told}, EvaluateRequest.get_proto_class()()
        )
    except (json_format.ParseError, InvalidParameter) as error:
        raise ServerError("INVALID_ARGUMENT", str(error)) from error
    return _small_enough(message)


def _small_enough(message: Any) -> Any:
    """`message`, which may be sent. Raises ServerError."""
    if message.ByteSize() > _MESSAGE_BYTES:
        raise ServerError(
            "RESOURCE_EXHAUSTED",
            f"The records take {message.ByteSize() / 2**20:.0f} MiB, and a request may have "
            f"{_MESSAGE_BYTES // 2**20}: name a file in the server's file_source_base instead",
        )
    return message


class _Stubs:
    """caikit makes messages and stubs of the installed module; it takes a second or two."""

    def __init__(self, channel: grpc.Channel) -> None:
        from caikit.runtime.service_factory import ServicePackageFactory as Factory

        import caikit_pt  # noqa: F401
        from caikit_pt.runtime.tuning_service import service

        kinds = Factory.ServiceType
        training, inference = (
            Factory.get_service_package(kind) for kind in (kinds.TRAINING, kinds.INFERENCE)
        )
        self.training_messages, self.messages = training.messages, inference.messages
        self.train = training.stub_class(channel).TextGenerationTaskPeftPromptTuningTrain
        asked = inference.stub_class(channel)
        self.predict = asked.TextGenerationTaskPredict
        self.answer = inference.descriptor.methods_by_name["TextGenerationTaskPredict"].output_type
        self.stream = asked.ServerStreamingTextGenerationTaskPredict
        self.management = Factory.get_service_package(kinds.TRAINING_MANAGEMENT).stub_class(channel)
        self.tuning = service().client_stub_class(channel)


class _Call:
    """A request under way, whose errors are ServerErrors."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self.add_done_callback, self.cancel = call.add_done_callback, call.cancel

    def result(self) -> dict[str, Any]:
        """What `TuningClient.answer` returns. Raises ServerError."""
        import grpc

        try:
            return _plain(self._call.result())
        except grpc.FutureCancelledError as error:
            raise ServerError("CANCELLED", "The request was cancelled") from error
        except grpc.RpcError as error:
            raise _server_error(error) from error


def _training(message: Any) -> Training:
    return Training(
        training_id=message.training_id,
        model_name=message.model_name,
        base_model=message.base_model,
        state=message.state,
        submitted=_moment(message, "submitted"),
        started=_moment(message, "started"),
        ended=_moment(message, "ended"),
        reasons=list(message.reasons),
        queued_before=message.queued_before,
        progress=_progress(message),
        path=message.path,
        parameters=_struct(message, "parameters"),
        verdict=_struct(message, "verdict"),
        points=_struct(message, "points"),
    )


def _progress(message: Any) -> Progress | None:
    if not message.HasField("progress"):
        return None
    found = message.progress
    values: dict[str, Any] = {name: getattr(found, name) for name in Progress.__slots__}
    for name in ("loss", "validation_loss"):
        values[name] = values[name] if found.HasField(name) else None
    return Progress(**values)


def _shown(loss: float | None) -> str:
    return "not finite" if loss is None else f"{loss:.4f}"


def _moment(message: Any, name: str) -> datetime | None:
    return getattr(message, name).ToDatetime(UTC) if message.HasField(name) else None


def _struct(message: Any, name: str) -> dict[str, Any]:
    from google.protobuf import json_format

    return _whole(json_format.MessageToDict(getattr(message, name))) if message.HasField(name) else {}


def _plain(message: Any) -> dict[str, Any]:
    """What `message` holds, without what is unset: enums as names, and numbers as numbers, of 64 bits too."""

    def of(kind: Any, value: Any) -> Any:
        if kind.message_type:
            return _plain(value)
        return kind.enum_type.values_by_number[value].name if kind.enum_type else value

    found: dict[str, Any] = {}
    for one in message.DESCRIPTOR.fields:
        value = getattr(message, one.name)
        if one.is_repeated and one.message_type and one.message_type.GetOptions().map_entry:
            of_values = one.message_type.fields_by_name["value"]
            found |= {one.name: {key: of(of_values, item) for key, item in value.items()}} if value else {}
        elif one.is_repeated:
            found |= {one.name: [of(one, item) for item in value]} if value else {}
        elif not one.has_presence or message.HasField(one.name):
            found[one.name] = of(one, value)
    return found


def _whole(value: Any) -> Any:
    """A Struct has floats only; those without a fraction were whole numbers."""
    if isinstance(value, dict):
        return {name: _whole(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_whole(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _metadata(model_name: str) -> list[tuple[str, str]]:
    return [("mm-model-id", model_name)] if model_name else []


def _server_error(error: Any) -> ServerError:
    return ServerError(error.code().name, error.details() or "")
