"""What a platform's back end does with a server of caikit_pt: train, poll, predict, stream.

The messages and stubs come from the installed package. A client without it generates them from
protos/.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from examples.local_server import ROOT

TERMINAL = ("COMPLETED", "CANCELED", "ERRORED")
POLL_SECONDS = 0.2
PARALLEL = 8


class Client:
    """The RPCs of one server, with plain values in and out. Raises grpc.RpcError as they do."""

    def __init__(self, port: int) -> None:
        import grpc
        from caikit.runtime.service_factory import ServicePackageFactory as Factory

        os.environ.setdefault("CONFIG_FILES", str(ROOT / "runtime_config.yaml"))
        import caikit_pt  # noqa: F401

        self.port = port
        kinds = Factory.ServiceType
        channel = grpc.insecure_channel(f"localhost:{port}")
        training = Factory.get_service_package(kinds.TRAINING)
        inference = Factory.get_service_package(kinds.INFERENCE)
        self.training_messages, self.messages = training.messages, inference.messages
        self._training = training.stub_class(channel)
        self._inference = inference.stub_class(channel)
        self._management = Factory.get_service_package(kinds.TRAINING_MANAGEMENT).stub_class(channel)

    # ---- training ----

    def submit(self, model_name: str, parameters: Mapping[str, Any]) -> str:
        """Sends a train request and returns the id of its job."""
        from google.protobuf import json_format

        request = json_format.ParseDict(
            {"model_name": model_name, "parameters": dict(parameters)},
            self.training_messages.TextGenerationTaskPeftPromptTuningTrainRequest(),
        )
        return str(self._training.TextGenerationTaskPeftPromptTuningTrain(request).training_id)

    def status(self, training_id: str) -> tuple[str, list[str]]:
        """The state of a job, and why it is in it."""
        status = self._management.GetTrainingStatus(_info(training_id))
        state = status.DESCRIPTOR.fields_by_name["state"].enum_type.values_by_number[status.state]
        return state.name, list(status.reasons)

    def cancel(self, training_id: str) -> None:
        """Ends a job."""
        self._management.CancelTraining(_info(training_id))

    def wait(self, training_id: str, on_state: Callable[[str], None] = lambda _: None) -> str:
        """Polls until the job has ended; returns how. Raises RuntimeError where it failed."""
        last = ""
        while last not in TERMINAL:
            time.sleep(POLL_SECONDS)
            state, reasons = self.status(training_id)
            if state != last:
                on_state(state)
            last = state
        if last == "ERRORED":
            raise RuntimeError("; ".join(reasons))
        return last

    def train(
        self,
        model_name: str,
        parameters: Mapping[str, Any],
        on_state: Callable[[str], None] = lambda _: None,
    ) -> str:
        """Tunes a prompt and waits for it; returns how the job ended."""
        return self.wait(self.submit(model_name, parameters), on_state)

    # ---- inference ----

    def predict(self, model_name: str, text: str, **parameters: Any) -> Any:
        """The whole answer, a GeneratedTextResult."""
        return self.predict_within(None, model_name, text, **parameters)

    def predict_within(self, seconds: float | None, model_name: str, text: str, **parameters: Any) -> Any:
        """The whole answer, or DEADLINE_EXCEEDED."""
        request = self.messages.TextGenerationTaskRequest(text=text, **parameters)
        return self._inference.TextGenerationTaskPredict(
            request, timeout=seconds, metadata=_model(model_name)
        )

    def stream(self, model_name: str, text: str, **parameters: Any) -> Iterator[Any]:
        """The answer as it comes, GeneratedTextStreamResults."""
        request = self.messages.ServerStreamingTextGenerationTaskRequest(text=text, **parameters)
        return iter(
            self._inference.ServerStreamingTextGenerationTaskPredict(request, metadata=_model(model_name))
        )

    def tokenize(self, model_name: str, text: str) -> Any:
        """The tokens of a text, a TokenizationResults."""
        request = self.messages.TokenizationTaskRequest(text=text)
        return self._inference.TokenizationTaskPredict(request, metadata=_model(model_name))

    def predict_all(self, model_name: str, texts: Sequence[str], **parameters: Any) -> list[str]:
        """The answers to `texts` without the texts in front, several requests at a time."""

        def ask(text: str) -> str:
            answer = self.predict(model_name, text, preserve_input_text=False, **parameters)
            return str(answer.generated_text)

        with ThreadPoolExecutor(PARALLEL) as pool:
            return list(pool.map(ask, texts))


def _info(training_id: str) -> Any:
    from caikit.interfaces.runtime.data_model import TrainingInfoRequest

    return TrainingInfoRequest(training_id=training_id).to_proto()


def _model(name: str) -> list[tuple[str, str]]:
    return [("mm-model-id", name)]
