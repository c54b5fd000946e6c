"""All that a server of caikit_pt can be asked, as calls."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from caikit_pt.asking import IN_FLIGHT, Asking
from caikit_pt.client.connection import Call, Connection, Stubs
from caikit_pt.client.message import as_training, plain, struct
from caikit_pt.client.node import Nodes, as_nodes
from caikit_pt.client.prompt import Prompt, as_prompt
from caikit_pt.client.request import GivenRecords, cancel_message, evaluation_message, id_of, train_message
from caikit_pt.client.security import Pem, Security
from caikit_pt.client.server_error import ServerError
from caikit_pt.client.source import Source, as_source
from caikit_pt.client.source_request import source_message
from caikit_pt.client.watch import Watch
from caikit_pt.comparison import comparison
from caikit_pt.errors import CaikitPtError, InvalidParameter
from caikit_pt.progress_bar import ProgressBar
from caikit_pt.training import COMPLETED, PROMPT, Event, Training
from caikit_pt.tuning.evaluation import Done

if TYPE_CHECKING:
    import grpc

DEFAULT_ADDRESS = "localhost:8085"
# A text to see whether any could be answered.
_PROBE = "a"


class TuningClient:
    """Every call raises ServerError where the server refuses or can't be reached.

    A `training_id` may also be the Training itself.
    """

    def __init__(
        self,
        address: str | Sequence[str] = DEFAULT_ADDRESS,
        channel: grpc.Channel | None = None,
        *,
        tls: bool | None = None,
        ca: Pem | None = None,
        cert: Pem | None = None,
        key: Pem | None = None,
        token: str = "",
    ) -> None:
        """`address`: HOST:PORT, or those of several servers of the same prompts, as a list or separated by
        commas: each prompt prefers one of them, which keeps its keys and values (`replicas.py`); trainings
        are the first one's and of those that share a database with it (`knowing.py`). gRPC spreads over those
        of ipv4:HOST:PORT,HOST:PORT or of a name with several.

        With TLS where `tls` says so, or a certificate is given: `ca`, those that the server's is checked by,
        `cert` and `key`, the client's own, each a file or PEM. `token` says who asks.

        A `channel` of one's own is closed with the client. On others what is safe to send twice is sent again
        where a server can't be reached or ends (`retries.py`). Raises InvalidParameter for what contradicts
        itself, and for a token without TLS to another machine, unless `tls` is False.
        """
        self._connection = Connection(address, channel, Security(tls, ca, cert, key, token))

    def close(self) -> None:
        """Lets go of the connection."""
        self._connection.close()

    def __enter__(self) -> TuningClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- training ----

    def tune(self, model_name: str, **request: Any) -> str:
        """Queues a training and returns its id. Takes what `request_of` takes.

        Without a `training_id` it is given one here, by which the server knows a request that comes twice.
        """
        request = {**request, "training_id": request.get("training_id") or str(uuid.uuid4())}
        return str(
            self._connection.answer(self._stubs.train, self._train_message(model_name, request)).training_id
        )

    def train_source(
        self,
        name: str,
        base_model: str,
        tasks: Mapping[str, Any],
        default: bool = False,
        training_id: str = "",
        **parameters: Any,
    ) -> str:
        """Queues the training of a source prompt on several `tasks` by name, and returns its id. It will be
        published as a new version of `name`; `training(id).path` is that then, such as support/1.

        Takes what `caikit_pt.train_source` takes, and of a task also `file` and `validation_file`, which lie
        under the server's `file_source_base`; as the `default` it is what trainings start from that name no
        source. Otherwise as `tune`.
        """
        message = source_message(
            name, base_model, tasks, default, training_id or str(uuid.uuid4()), parameters
        )
        return str(self._connection.answer(self._stubs.tuning.TrainSource, message).training_id)

    def check_source(
        self, name: str, base_model: str, tasks: Mapping[str, Any], **parameters: Any
    ) -> dict[str, Any]:
        """What `train_source` with the same arguments would do and warn of, without doing it."""
        message = source_message(name, base_model, tasks, False, "", parameters)
        return struct(self._connection.answer(self._stubs.tuning.CheckSourceTraining, message), "report")

    def check(self, model_name: str, **request: Any) -> dict[str, Any]:
        """What `tune` with the same arguments would do and what it would warn of, without doing it."""
        answer = self._connection.answer(
            self._stubs.tuning.CheckTraining, self._train_message(model_name, request)
        )
        return struct(answer, "report")

    def watch(
        self,
        training_id: str | Training,
        from_event: int = 0,
        on_lost: Callable[[ServerError], None] | None = None,
    ) -> Iterator[Event]:
        """Its events behind number `from_event` until it has ended, as they come.

        A server that restarts in between, or can't read its jobs for a while, is waited for; `on_lost` is
        called when the wait begins.
        """
        return Watch(self._connection, id_of(training_id), from_event).events(on_lost)

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

        request = GetTrainingRequest(training_id=id_of(training_id)).to_proto()
        return as_training(self._connection.answer(self._stubs.tuning.GetTraining, request))

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
            page = self._connection.answer(self._stubs.tuning.ListTrainings, asked.to_proto())
            yield from map(as_training, page.trainings)
            token = page.next_page_token
            if not token:
                return

    def compare(self, *training_ids: str | Training) -> dict[str, Any]:
        """Trainings side by side, as `comparison` tells: parameters that differ, validation metrics."""
        return comparison([self.training(id) for id in training_ids])

    def trained_by(self, model_name: str) -> str:
        """The id of the last training that was completed under this name; empty where none is known."""
        found = (one for one in self.trainings((COMPLETED,), model_name) if one.makes == PROMPT)
        last = next(found, None)
        return last.training_id if last else ""

    def cancel(self, training_id: str | Training) -> str:
        """Ends a training; returns its state, which is another than CANCELED where it had ended before."""
        answer = self._connection.answer(self._stubs.management.CancelTraining, cancel_message(training_id))
        return str(answer.DESCRIPTOR.fields_by_name["state"].enum_type.values_by_number[answer.state].name)

    def pause(self, training_id: str | Training) -> Training:
        """Stops a training behind a snapshot until `resume`; as it is then. One that has ended stays so."""
        from caikit_pt.runtime.tuning_messages import PauseTrainingRequest

        request = PauseTrainingRequest(training_id=id_of(training_id)).to_proto()
        return as_training(self._connection.answer(self._stubs.tuning.PauseTraining, request))

    def resume(self, training_id: str | Training) -> Training:
        """Queues a training that is paused, at its old place; as it is then. Any other stays as it is."""
        from caikit_pt.runtime.tuning_messages import ResumeTrainingRequest

        request = ResumeTrainingRequest(training_id=id_of(training_id)).to_proto()
        return as_training(self._connection.answer(self._stubs.tuning.ResumeTraining, request))

    # ---- tuned prompts ----

    def prompts(self, base_model: str = "") -> Iterator[Prompt]:
        """Those that one may ask, by name; of one base model by its name."""
        from caikit_pt.runtime.tuning_messages import ListPromptsRequest

        token = ""
        while True:
            asked = ListPromptsRequest(base_model=base_model, page_token=token).to_proto()
            page = self._connection.answer(self._stubs.tuning.ListPrompts, asked)
            yield from map(as_prompt, page.prompts)
            token = page.next_page_token
            if not token:
                return

    def prompt(self, model_name: str) -> Prompt:
        """Everything of one."""
        from caikit_pt.runtime.tuning_messages import GetPromptRequest

        asked = GetPromptRequest(model_name=model_name).to_proto()
        return as_prompt(self._connection.answer(self._stubs.tuning.GetPrompt, asked))

    def remove(self, model_name: str) -> None:
        """Deletes one: nothing is served under its name any more."""
        from caikit_pt.runtime.tuning_messages import RemovePromptRequest

        asked = RemovePromptRequest(model_name=model_name).to_proto()
        self._connection.answer(self._stubs.tuning.RemovePrompt, asked)

    def download(self, model_name: str, file: Path) -> None:
        """All files of a tuned prompt as a tar archive. Raises OSError; nothing is left of half a one."""
        from caikit_pt.runtime.tuning_messages import DownloadPromptRequest

        asked = DownloadPromptRequest(model_name=model_name).to_proto()
        part = file.with_name(f".{file.name}.part")
        try:
            with part.open("wb") as written:
                for chunk in self._connection.stream(self._stubs.tuning.DownloadPrompt, asked):
                    written.write(chunk.data)
            part.replace(file)
        finally:
            part.unlink(missing_ok=True)

    # ---- machines ----

    def nodes(self) -> Nodes:
        """Where trainings are run."""
        from caikit_pt.runtime.tuning_messages import ListNodesRequest

        return as_nodes(self._connection.answer(self._stubs.tuning.ListNodes, ListNodesRequest().to_proto()))

    # ---- source prompts ----

    def sources(self, base_model: str = "") -> Iterator[Source]:
        """Those that a training may start from, by name, the newest version of each first; of one base model
        by its name."""
        from caikit_pt.runtime.tuning_messages import ListSourcesRequest

        token = ""
        while True:
            asked = ListSourcesRequest(base_model=base_model, page_token=token).to_proto()
            page = self._connection.answer(self._stubs.tuning.ListSources, asked)
            yield from map(as_source, page.sources)
            token = page.next_page_token
            if not token:
                return

    def source(self, name: str) -> Source:
        """Everything of one, which the server has read to the last byte: NAME is its newest version, NAME/2
        that one."""
        from caikit_pt.runtime.tuning_messages import GetSourceRequest

        asked = GetSourceRequest(name=name).to_proto()
        return as_source(self._connection.answer(self._stubs.tuning.GetSource, asked))

    # ---- asking ----

    def generate(self, model_name: str, text: str, **parameters: Any) -> str:
        """The answer to `text`, by default without the text in front. Parameters: docs/parameters.md."""
        return str(self.answer(model_name, text, **parameters)["generated_text"])

    def answer(self, model_name: str, text: str, **parameters: Any) -> dict[str, Any]:
        """All that comes with the answer to `text`, by the names in its message: `finish_reason`, its
        tokens where they are asked for, and more."""
        return plain(
            self._connection.answer(self._stubs.predict, self._question(text, parameters), model_name)
        )

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

        def ask(text: str) -> Call:
            return self._connection.call(rpc, self._question(text, parameters), model_name)

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
        for part in self._connection.stream(self._stubs.stream, request, model_name):
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
        message = evaluation_message(model_name, records, file, request)
        for event in self._connection.stream(self._stubs.tuning.Evaluate, message, model_name):
            if event.HasField("wrong"):
                names = event.wrong.DESCRIPTOR.fields_by_name
                wrong.append({name: getattr(event.wrong, name) for name in names})
            elif event.HasField("report"):
                report = struct(event, "report")
            else:
                on_progress(Done(event.done, event.of, event.seconds))
        return {**report, "wrong": wrong} if request.get("wrong_answers") else report

    def _question(self, text: str, parameters: Mapping[str, Any]) -> Any:
        parameters = {"preserve_input_text": False, **parameters}
        return self._stubs.messages.TextGenerationTaskRequest(text=text, **parameters)

    def _train_message(self, model_name: str, request: Mapping[str, Any]) -> Any:
        kind = self._stubs.training_messages.TextGenerationTaskPeftPromptTuningTrainRequest
        return train_message(kind, model_name, request)

    @property
    def _stubs(self) -> Stubs:
        return self._connection.stubs
