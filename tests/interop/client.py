"""A client of caikit-nlp, at work against the server at an address.

Everything it knows is generated from caikit-nlp's own protos. It runs in the peer's environment:

    python -I client.py --stubs DIRECTORY --address HOST:PORT ...

Each step prints a line; the exit status is the number of steps that failed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import time
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RPC_SECONDS = 60
TRAINING_SECONDS = 180
QUEUED, RUNNING, COMPLETED, CANCELED, ERRORED = range(1, 6)
GREEDY, SAMPLING = "GREEDY", "SAMPLING"
SERVICES = (
    "caikit.runtime.Nlp.NlpService",
    "caikit.runtime.Nlp.NlpTrainingService",
    "caikit.runtime.info.InfoService",
    "caikit.runtime.models.ModelManagement",
    "caikit.runtime.training.TrainingManagement",
)
RECORDS = (
    ("The parcel came early and everything works.", "good"),
    ("It broke on the first day.", "bad"),
    ("Friendly people, I will order again.", "good"),
    ("Nobody answers my messages.", "bad"),
    ("Great value, well made.", "good"),
    ("The screen flickers and the box was torn.", "bad"),
    ("Simply the best one I have had.", "good"),
    ("A waste of money.", "bad"),
)
SAVED_CONFIG = """\
module_id: 6655831b-960a-4dc5-8df4-867026e2cd41
module_class: caikit_nlp.modules.text_generation.peft_prompt_tuning.PeftPromptTuning
name: Peft generation
version: 0.1.0
base_model_config: {{}}
base_model_name: {base_model}
eos_token: </s>
has_base_model: false
verbalizer: "{{{{input}}}}"
tuning_type: PROMPT_TUNING
task_type: CAUSAL_LM
trained_torch_dtype: float32
output_model_types: '["DECODER"]'
ENCODER: ""
DECODER: decoder.pt
training_logs: training_logs.jsonl
"""
TEXT = "The battery is empty after an hour."


class StepFailed(Exception):
    """What a client of the peer relies on isn't so."""


def expect(holds: object, otherwise: str) -> None:
    if not holds:
        raise StepFailed(otherwise)


@contextlib.contextmanager
def refused(code: grpc.StatusCode, *words: str) -> Iterator[None]:
    """The call in here is answered with `code`, and its details hold each of `words`."""
    try:
        yield
    except grpc.RpcError as error:
        expect(error.code() == code, f"{error.code().name} for {code.name}: {error.details()}")
        missing = [word for word in words if word not in (error.details() or "")]
        expect(not missing, f"{', '.join(missing)} isn't in: {error.details()}")
    else:
        raise StepFailed(f"accepted; {code.name} expected ({' '.join(words)})")


@dataclass(slots=True)
class Options:
    """What the command line says."""

    stubs: Path
    address: str
    causal: str
    seq2seq: str
    width: int
    file: str
    source: str
    reflected: Path


@dataclass(slots=True)
class Stubs:
    """The generated messages and the services, connected."""

    channel: grpc.Channel
    nlp: Any = field(init=False)
    data: Any = field(init=False)
    jobs: Any = field(init=False)
    common: Any = field(init=False)
    info: Any = field(init=False)
    service: Any = field(init=False)
    training: Any = field(init=False)
    management: Any = field(init=False)
    runtime_info: Any = field(init=False)

    def __post_init__(self) -> None:
        self.nlp = import_module("caikit_runtime_Nlp_pb2")
        self.data = import_module("caikit_data_model_caikit_nlp_pb2")
        self.jobs = import_module("caikit_data_model_runtime_pb2")
        self.common = import_module("caikit_data_model_common_pb2")
        self.info = import_module("caikit_data_model_common_runtime_pb2")
        services = import_module("caikit_runtime_Nlp_pb2_grpc")
        self.service = services.NlpServiceStub(self.channel)
        self.training = services.NlpTrainingServiceStub(self.channel)
        trainings = import_module("caikit_runtime_training_pb2_grpc")
        self.management = trainings.TrainingManagementStub(self.channel)
        infos = import_module("caikit_runtime_info_pb2_grpc")
        self.runtime_info = infos.InfoServiceStub(self.channel)


class Client:
    """The steps, in the order in which they stand here. A step returns what is worth reading."""

    def __init__(self, options: Options, stubs: Stubs) -> None:
        self.options = options
        self.stubs = stubs

    # ---- what a platform asks first ----

    def step_health(self) -> str:
        health = health_pb2_grpc.HealthStub(self.stubs.channel)
        answer = health.Check(health_pb2.HealthCheckRequest(), timeout=RPC_SECONDS)
        expect(answer.status == health_pb2.HealthCheckResponse.SERVING, f"status {answer.status}")
        return "SERVING"

    def step_reflection(self) -> str:
        """Lists the services, and keeps what they say about their messages."""
        database = ProtoReflectionDescriptorDatabase(self.stubs.channel)
        names = sorted(database.get_services())
        missing = sorted(set(SERVICES) - set(names))
        expect(not missing, f"not listed: {', '.join(missing)}")
        files: dict[str, FileDescriptorProto] = {}
        for name in names:
            _collect(database, database.FindFileContainingSymbol(name), files)
        reflected = FileDescriptorSet(file=files.values())
        self.options.reflected.write_bytes(reflected.SerializeToString())
        return f"{len(names)} services in {len(files)} files"

    def step_runtime_info(self) -> str:
        answer = self.stubs.runtime_info.GetRuntimeInfo(
            self.stubs.info.RuntimeInfoRequest(), timeout=RPC_SECONDS
        )
        expect("caikit" in answer.python_packages, f"packages {dict(answer.python_packages)}")
        return f"caikit {answer.python_packages['caikit']}"

    # ---- a client that sets what it must, and nothing else ----

    def step_train_required_fields(self) -> str:
        """What isn't set takes its default: 100 virtual tokens, 20 epochs."""
        return self._train("interop-plain", base_model=self.options.causal)

    def step_predict_required_fields(self) -> str:
        answer = self._predict("interop-plain")
        expect(answer.generated_text.startswith(TEXT), f"no input text in {answer.generated_text!r}")
        expect(1 <= answer.generated_tokens <= 20, f"{answer.generated_tokens} generated tokens")
        expect(answer.input_token_count > 0, "no input_token_count")
        expect(not answer.tokens and not answer.input_tokens, "token details nobody asked for")
        return f"{answer.generated_tokens} tokens, finish reason {answer.finish_reason}"

    def step_stream_required_fields(self) -> str:
        whole = self._predict("interop-plain").generated_text
        parts = list(self._stream("interop-plain"))
        joined = "".join(part.generated_text for part in parts)
        expect(joined == whole, f"streamed {joined!r}, predicted {whole!r}")
        expect(parts[-1].details.finish_reason, "no finish reason in the last message")
        return f"{len(parts)} messages"

    def step_tokenize(self) -> str:
        request = self.stubs.nlp.TokenizationTaskRequest(text=TEXT)
        answer = self.stubs.service.TokenizationTaskPredict(
            request, timeout=RPC_SECONDS, metadata=_model("interop-plain")
        )
        expect(answer.token_count == len(answer.results) > 0, f"{answer.token_count} tokens")
        wrong = [token for token in answer.results if TEXT[token.start : token.end] != token.text]
        expect(not wrong, f"offsets of {wrong[:1]}")
        return f"{answer.token_count} tokens"

    def step_models_info(self) -> str:
        request = self.stubs.info.ModelInfoRequest()
        answer = self.stubs.runtime_info.GetModelsInfo(request, timeout=RPC_SECONDS)
        names = [model.name for model in answer.models]
        expect("interop-plain" in names, f"models {names}")
        return f"{len(names)} model" + "s" * (len(names) != 1)

    # ---- a client that sets everything ----

    def step_train_every_field(self) -> str:
        return self._train(
            "interop-every",
            val_stream=self._records(),
            tuning_config=self.stubs.data.TuningConfig(
                num_virtual_tokens=8,
                prompt_tuning_init_text="Is the customer happy?",
                prompt_tuning_init_method="TEXT",
                prompt_tuning_init_source_model="",
                output_model_types=["DECODER"],
            ),
            base_model=self.options.causal,
            device="cpu",
            tuning_type="PROMPT_TUNING",
            num_epochs=2,
            learning_rate=0.1,
            verbalizer="Review: {{input}} Verdict:",
            batch_size=4,
            max_source_length=64,
            max_target_length=8,
            accumulate_steps=2,
            torch_dtype="float32",
            silence_progress_bars=True,
            seed=7,
        )

    def step_predict_every_field(self) -> str:
        """Sampled twice with one seed, and streamed once: the same answer each time."""
        fields = self._every_field()
        answers = [self._predict("interop-every", **fields) for _ in range(2)]
        answer = answers[0]
        expect(answers[1].generated_text == answer.generated_text, "one seed, two answers")
        streamed = list(self._stream("interop-every", **fields))
        joined = "".join(part.generated_text for part in streamed)
        expect(joined == answer.generated_text, f"streamed {joined!r} for {answer.generated_text!r}")
        expect(answer.seed == fields["seed"], f"seed {answer.seed}")
        expect(answer.generated_tokens <= fields["max_new_tokens"], "too many tokens")
        expect(not answer.generated_text.startswith(TEXT), "preserve_input_text false is ignored")
        expect(len(answer.tokens) == answer.generated_tokens, f"{len(answer.tokens)} token details")
        expect(all(token.logprob <= 0 < token.rank for token in answer.tokens), "logprobs or ranks")
        expect(answer.input_tokens, "no input_tokens")
        return f"{answer.generated_tokens} tokens, finish reason {answer.finish_reason}"

    def step_train_from_a_file(self) -> str:
        """The second member of the oneof that training data comes in."""
        reference = self.stubs.common.FileReference(filename=self.options.file)
        stream = self.stubs.nlp.DataStreamSourceGenerationTrainRecord(file=reference)
        return self._train("interop-file", train_stream=stream, base_model=self.options.causal, num_epochs=1)

    def step_seq2seq(self) -> str:
        trained = self._train("interop-seq2seq", base_model=self.options.seq2seq, num_epochs=2)
        answer = self._predict("interop-seq2seq")
        expect(not answer.generated_text.startswith(TEXT), "an encoder's text isn't continued")
        return f"{trained}; {answer.generated_tokens} tokens"

    def step_source_prompt_both_names(self) -> str:
        """AVERAGE_SOURCE is the studio's name, AVERAGE_SOURCE_TASKS is peft's and caikit-nlp's."""
        for method in ("AVERAGE_SOURCE", "AVERAGE_SOURCE_TASKS"):
            config = self.stubs.data.TuningConfig(
                prompt_tuning_init_method=method,
                prompt_tuning_init_source_model=self.options.source,
            )
            self._train(
                f"interop-{method.lower().replace('_', '-')}",
                base_model=self.options.causal,
                tuning_config=config,
                tuning_type="MULTITASK_PROMPT_TUNING",
                num_epochs=1,
            )
        return "both accepted"

    def step_deploy_a_saved_prompt(self) -> str:
        """A prompt in the files that caikit-nlp saves, sent, served and taken away again."""
        torch, tensor = import_module("torch"), io.BytesIO()
        torch.save(torch.zeros(8, self.options.width), tensor)
        config = SAVED_CONFIG.format(base_model=self.options.causal)
        files = {"config.yml": config.encode(), "decoder.pt": tensor.getvalue()}
        request = self.stubs.jobs.DeployModelRequest(
            model_id="interop-deployed",
            model_files=[self.stubs.common.File(filename=name, data=data) for name, data in files.items()],
        )
        answer = self._manage("DeployModel", request, self.stubs.info.ModelInfo)
        expect(answer.name == "interop-deployed", f"deployed {answer.name!r}")
        self._predict("interop-deployed", max_new_tokens=1)
        request = self.stubs.jobs.UndeployModelRequest(model_id="interop-deployed")
        self._manage("UndeployModel", request, self.stubs.jobs.UndeployModelRequest)
        with refused(grpc.StatusCode.NOT_FOUND):
            self._predict("interop-deployed")
        return "served, then NOT_FOUND"

    # ---- jobs ----

    def step_poll(self) -> str:
        """States on the way, and what a finished job says."""
        states: list[int] = []
        status = self._finish(self._submit("interop-polled", self._parameters()), states)
        expect(status.state == COMPLETED, f"state {status.state}: {list(status.reasons)}")
        expect(set(states) <= {QUEUED, RUNNING, COMPLETED}, f"states {states}")
        expect(status.HasField("submission_timestamp"), "no submission_timestamp")
        expect(status.HasField("completion_timestamp"), "no completion_timestamp")
        taken = status.completion_timestamp.ToDatetime() - status.submission_timestamp.ToDatetime()
        expect(0 <= taken.total_seconds() < TRAINING_SECONDS, f"took {taken}")
        return f"states {' '.join(map(str, dict.fromkeys(states)))}"

    def step_cancel(self) -> str:
        parameters = self._parameters(num_epochs=10_000)
        job = self._submit("interop-cancelled", parameters)
        while self._status(job).state == QUEUED:
            time.sleep(0.1)
        expect(self._status(job).state == RUNNING, f"state {self._status(job).state}")
        request = self.stubs.jobs.TrainingInfoRequest(training_id=job.training_id)
        answer = self.stubs.management.CancelTraining(request, timeout=RPC_SECONDS)
        expect(answer.training_id == job.training_id, f"training_id {answer.training_id}")
        status = self._finish(job)
        expect(status.state == CANCELED, f"state {status.state}")
        with refused(grpc.StatusCode.NOT_FOUND):
            self._predict("interop-cancelled")
        return "CANCELED, not served"

    def step_unknown_names(self) -> str:
        """A job, or a model, that there isn't."""
        request = self.stubs.jobs.TrainingInfoRequest(training_id="no-such-training")
        for call in (self.stubs.management.GetTrainingStatus, self.stubs.management.CancelTraining):
            with refused(grpc.StatusCode.NOT_FOUND):
                call(request, timeout=RPC_SECONDS)
        with refused(grpc.StatusCode.NOT_FOUND):
            self._predict("no-such-model")
        return "NOT_FOUND"

    # ---- presence ----

    def step_zero_is_not_unset(self) -> str:
        """An optional field that is set to 0 arrives as 0, and is refused by its name."""
        zeros = ("num_epochs", "learning_rate", "batch_size", "accumulate_steps")
        lengths = ("max_source_length", "max_target_length")
        for name in (*zeros, *lengths):
            with refused(grpc.StatusCode.INVALID_ARGUMENT, name):
                self._submit("interop-refused", self._parameters(**{name: 0}))
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "seed"):
            self._submit("interop-refused", self._parameters(seed=-1))
        for name in ("tuning_type", "torch_dtype", "device", "base_model", "verbalizer"):
            with refused(grpc.StatusCode.INVALID_ARGUMENT, name):
                self._submit("interop-refused", self._parameters(**{name: "nonsense"}))
        return "12 fields refused by name"

    def step_generation_fields_refused(self) -> str:
        """A value out of range is refused by its own name: no field stands in another's place."""
        wrong: dict[str, Any] = {
            "max_new_tokens": -1,
            "min_new_tokens": -1,
            "truncate_input_tokens": -1,
            "decoding_method": "nonsense",
            "top_k": -1,
            "top_p": 2.0,
            "typical_p": 2.0,
            "temperature": -1.0,
            "repetition_penalty": -1.0,
            "max_time": -1.0,
        }
        for name, value in wrong.items():
            with refused(grpc.StatusCode.INVALID_ARGUMENT, name):
                self._predict("interop-plain", **{name: value})
            with refused(grpc.StatusCode.INVALID_ARGUMENT, name):
                list(self._stream("interop-plain", **{name: value}))
        return f"{len(wrong)} fields refused by name, unary and streaming"

    # ---- what the steps share ----

    def _train(self, name: str, **parameters: Any) -> str:
        """Trains, and predicts once with what was trained."""
        job = self._submit(name, self._parameters(**parameters))
        status = self._finish(job)
        expect(status.state == COMPLETED, f"state {status.state}: {list(status.reasons)}")
        self._predict(name, max_new_tokens=1)
        return "COMPLETED and served"

    def _parameters(self, **parameters: Any) -> Any:
        """Train parameters: what a client must set, and `parameters`."""
        required = {
            "base_model": self.options.causal,
            "train_stream": self._records(),
            "tuning_config": self.stubs.data.TuningConfig(),
        }
        kind = self.stubs.nlp.TextGenerationTaskPeftPromptTuningTrainParameters
        return kind(**(required | parameters))

    def _records(self) -> Any:
        record = self.stubs.data.GenerationTrainRecord
        inline = self.stubs.nlp.DataStreamSourceGenerationTrainRecordJsonData(
            data=[record(input=text, output=label) for text, label in RECORDS]
        )
        return self.stubs.nlp.DataStreamSourceGenerationTrainRecord(jsondata=inline)

    def _submit(self, name: str, parameters: Any) -> Any:
        request = self.stubs.nlp.TextGenerationTaskPeftPromptTuningTrainRequest(
            model_name=name, parameters=parameters
        )
        job = self.stubs.training.TextGenerationTaskPeftPromptTuningTrain(request, timeout=RPC_SECONDS)
        expect(job.training_id, "no training_id")
        expect(job.model_name == name, f"model_name {job.model_name!r}")
        return job

    def _status(self, job: Any) -> Any:
        request = self.stubs.jobs.TrainingInfoRequest(training_id=job.training_id)
        status = self.stubs.management.GetTrainingStatus(request, timeout=RPC_SECONDS)
        expect(status.training_id == job.training_id, f"training_id {status.training_id!r}")
        return status

    def _finish(self, job: Any, states: list[int] | None = None) -> Any:
        """The status of `job` once it is over; each state seen goes into `states`."""
        deadline = time.monotonic() + TRAINING_SECONDS
        while time.monotonic() < deadline:
            status = self._status(job)
            if states is not None:
                states.append(status.state)
            if status.state in (COMPLETED, CANCELED, ERRORED):
                return status
            time.sleep(0.1)
        raise StepFailed(f"not over after {TRAINING_SECONDS} s")

    def _predict(self, model: str, **fields: Any) -> Any:
        request = self.stubs.nlp.TextGenerationTaskRequest(text=TEXT, **fields)
        return self.stubs.service.TextGenerationTaskPredict(
            request, timeout=RPC_SECONDS, metadata=_model(model)
        )

    def _stream(self, model: str, **fields: Any) -> Iterator[Any]:
        request = self.stubs.nlp.ServerStreamingTextGenerationTaskRequest(text=TEXT, **fields)
        parts: Iterator[Any] = self.stubs.service.ServerStreamingTextGenerationTaskPredict(
            request, timeout=RPC_SECONDS, metadata=_model(model)
        )
        return parts

    def _manage(self, method: str, request: Any, answer: Any) -> Any:
        """Calls caikit's ModelManagement, which has messages but no service in rendered protos."""
        call = self.stubs.channel.unary_unary(
            f"/caikit.runtime.models.ModelManagement/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        return call(request, timeout=RPC_SECONDS)

    def _every_field(self) -> dict[str, Any]:
        decay = self.stubs.data.ExponentialDecayLengthPenalty(start_index=2, decay_factor=1.05)
        return {
            "max_new_tokens": 12,
            "min_new_tokens": 6,
            "truncate_input_tokens": 32,
            "decoding_method": SAMPLING,
            "top_k": 40,
            "top_p": 0.95,
            "typical_p": 0.95,
            "temperature": 0.9,
            "repetition_penalty": 1.1,
            "max_time": 30.0,
            "exponential_decay_length_penalty": decay,
            "stop_sequences": ["\n\n", "###"],
            "seed": 2**63 + 1,
            "preserve_input_text": False,
            "input_tokens": True,
            "generated_tokens": True,
            "token_logprobs": True,
            "token_ranks": True,
            "include_stop_sequence": False,
        }


def _model(name: str) -> tuple[tuple[str, str], ...]:
    return (("mm-model-id", name),)


def _collect(database: Any, file: FileDescriptorProto, files: dict[str, FileDescriptorProto]) -> None:
    """Adds `file` and all that it imports to `files`."""
    if file.name in files:
        return
    files[file.name] = file
    for name in file.dependency:
        _collect(database, database.FindFileByName(name), files)


def _line(name: str, step: Callable[[], str]) -> bool:
    """Runs one step and prints how it went; false where it failed."""
    started = time.monotonic()
    try:
        result, text = "ok", step()
    except StepFailed as reason:
        result, text = "FAILED", str(reason)
    except grpc.RpcError as error:
        result, text = "FAILED", f"{error.code().name}: {error.details()}"
    print(f"  {name:<28} {result:<6} {time.monotonic() - started:6.2f} s  {text}", flush=True)
    return result != "FAILED"


def _options() -> Options:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--stubs", type=Path, required=True, help="the generated client")
    parser.add_argument("--address", required=True, help="HOST:PORT of the server")
    parser.add_argument("--causal", required=True, help="a decoder-only base model")
    parser.add_argument("--seq2seq", required=True, help="an encoder-decoder base model")
    parser.add_argument("--width", type=int, required=True, help="hidden size of the causal model")
    parser.add_argument("--file", required=True, help="a training file that the server has")
    parser.add_argument("--source", required=True, help="a source prompt that the server has")
    parser.add_argument("--reflected", type=Path, required=True, help="where reflection's answer goes")
    return Options(**vars(parser.parse_args()))


def main() -> int:
    options = _options()
    sys.path.insert(0, str(options.stubs))
    with grpc.insecure_channel(options.address) as channel:
        client = Client(options, Stubs(channel))
        steps = [name for name in vars(Client) if name.startswith("step_")]
        done = [_line(name[5:].replace("_", " "), getattr(client, name)) for name in steps]
    return done.count(False)


if __name__ == "__main__":
    sys.exit(main())
