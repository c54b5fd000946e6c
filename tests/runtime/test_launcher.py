"""The server by the package's own settings, in an empty directory, and the edges of its wire."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import grpc
import httpx2
import pytest
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from prometheus_client.parser import text_string_to_metric_families

from caikit_pt.client import COMPLETED, ServerError, TuningClient
from caikit_pt.errors import shown
from examples.local_server import ROOT, free_port, running
from tests.conftest import BASE_MODELS, LLAMA
from tests.runtime.servers import QUICK, RECORDS

LONG = "n" * 5000
BAD_IDS = [
    LONG,
    "..",
    "/etc",
    "../models/first",
    ".",
    ".first.new",
    "first/../first",
    "//",
    "a/" * 500,
    "junk",
]


def environment(**settings: str) -> dict[str, str]:
    """Nobody's settings but these. PYTHONPATH stands for an installed package."""
    others = {
        name: value for name, value in os.environ.items() if not name.startswith(("RUNTIME_", "CONFIG_"))
    }
    return {**others, "PYTHONPATH": str(ROOT), **settings}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("alone")


@contextmanager
def serving(directory: Path, **settings: str) -> Iterator[int]:
    """A server in `directory`, with these settings alone (and ports that are free); its port."""
    port = free_port()
    ports = {"RUNTIME_GRPC_PORT": str(port)}
    settings.setdefault("RUNTIME_METRICS_PORT", str(free_port()))
    with running(environment(**settings, **ports), port, directory / "log", directory):
        yield port


@pytest.fixture(scope="module")
def metrics_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def port(directory: Path, metrics_port: int) -> Iterator[int]:
    """A server whose only setting is BASE_MODELS_DIR (and ports that are free)."""
    settings = {"BASE_MODELS_DIR": str(BASE_MODELS), "RUNTIME_METRICS_PORT": str(metrics_port)}
    with serving(directory, **settings, BASE_MODEL_DIR="a slip") as port:
        yield port


@pytest.fixture(scope="module")
def managed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """A server that lets its models be managed, and its directory, with a file beside the models."""
    directory = tmp_path_factory.mktemp("managed")
    (directory / "victim").mkdir()
    (directory / "victim" / "config.yml").write_text("not a model")
    with serving(directory, BASE_MODELS_DIR=str(BASE_MODELS), MODEL_MANAGEMENT_RPCS="true") as port:
        yield port, directory


@pytest.fixture(scope="module")
def client(port: int) -> Iterator[TuningClient]:
    with TuningClient(f"localhost:{port}") as client:
        yield client


def test_one_setting_makes_a_working_server(client: TuningClient, directory: Path) -> None:
    id = client.tune("first", base_model=LLAMA, records=RECORDS, **QUICK)
    assert [event.state for event in client.watch(id)][-1] == COMPLETED
    assert client.generate("first", "The chair is awful", max_new_tokens=3)
    assert (directory / "models" / "first" / "config.yml").is_file()


def test_the_log_of_a_start(port: int, directory: Path) -> None:
    log = (directory / "log").read_text()
    assert "Multiple tasks" not in log
    assert "BASE_MODEL_DIR sets nothing here. Was BASE_MODELS_DIR meant?" in log
    start = log.partition("serving grpc on port")[0].splitlines()
    assert len(start) <= 6, start
    told = "\n".join(start)
    assert f"gRPC on port {port} without TLS, metrics on port" in told
    assert "tuned prompts: models; jobs: state" in told
    assert f"base models: tiny-llama, tiny-t5 (in {BASE_MODELS})" in told


def test_the_metrics_of_a_server(client: TuningClient, directory: Path, metrics_port: int) -> None:
    """Over HTTP, behind an answer to a prompt whose name a client has made up."""
    with pytest.raises(ServerError):
        client.generate("made-up-by-a-client", "hello")
    told = httpx2.get(f"http://localhost:{metrics_port}/metrics").text
    assert "made-up-by-a-client" not in told
    assert "model_id" not in told
    samples = {sample.name for family in text_string_to_metric_families(told) for sample in family.samples}
    assert {"caikit_pt_jobs", "caikit_pt_prompts", "caikit_pt_refusals_total"} <= samples
    assert re.search(r'^caikit_pt_disk_free_bytes\{directory="models"\} [1-9]', told, re.MULTILINE)
    if (directory / "models" / "first").is_dir():
        # The test above has tuned it and asked it.
        assert re.search(
            r'^vllm:generation_tokens_total\{engine="0",model_name="tiny-llama"\} [1-9]', told, re.MULTILINE
        )


@pytest.mark.parametrize(
    ("name", "value"), [("MAX_QUEUED", "abc"), ("RUNTIME_TRAINING_OUTPUT_DIR", "elsewhere"), ("LOG", "debug")]
)
def test_a_start_that_is_refused_ends_in_a_line(tmp_path: Path, name: str, value: str) -> None:
    settings = {"RUNTIME_GRPC_PORT": str(free_port()), "RUNTIME_METRICS_PORT": str(free_port()), name: value}
    ended = subprocess.run(
        [sys.executable, "-m", "caikit_pt.runtime"],
        cwd=tmp_path,
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"caikit_pt: {name}: '{value}' is not allowed. Allowed: ")
    assert ended.stderr.count("\n") == 1


def test_a_client_that_knows_nothing_but_reflection(port: int) -> None:
    with grpc.insecure_channel(f"localhost:{port}") as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        services = list(database.get_services())
        assert {"caikit_pt.TuningService", "grpc.health.v1.Health"} <= set(services)
        pool = descriptor_pool.DescriptorPool(database)
        described = pool.FindServiceByName("caikit_pt.TuningService")
        names = {method.name for method in described.methods}
        assert names == {
            "ListTrainings", "GetTraining", "WatchTraining", "CheckTraining", "ListSources", "GetSource",
            "Evaluate",
            "TrainSource", "CheckSourceTraining",
            "PauseTraining", "ResumeTraining", "ListPrompts", "GetPrompt", "DownloadPrompt",
            "Tokenize", "Detokenize", "Describe", "ListNodes", "RemovePrompt",
        }  # fmt: skip
        assert described.methods_by_name["WatchTraining"].server_streaming

        def call(name: str, **request: Any) -> Any:
            method = described.methods_by_name[name]
            asked = message_factory.GetMessageClass(method.input_type)(**request)
            answer = message_factory.GetMessageClass(method.output_type).FromString
            path = f"/{described.full_name}/{name}"
            return channel.unary_unary(path, type(asked).SerializeToString, answer)(asked)

        listed = call("ListTrainings", page_size=5)
        assert all(training.base_model == LLAMA for training in listed.trainings)
        with pytest.raises(grpc.RpcError) as error:
            call("CheckTraining", model_name="x")
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("id", BAD_IDS)
def test_a_model_id_that_is_none(client: TuningClient, directory: Path, id: str) -> None:
    (directory / "models" / "junk").mkdir(exist_ok=True)
    for ask in (client.generate, lambda *asked: list(client.stream(*asked))):
        with pytest.raises(ServerError) as error:
            ask(id, "hello")
        assert (error.value.status, error.value.reason) == ("NOT_FOUND", "UNKNOWN_MODEL")
        assert error.value.request_id
        assert len(str(error.value)) < 200
        assert str(directory) not in str(error.value)
        assert "config.yml" not in str(error.value)


def test_a_directory_beside_is_no_model(client: TuningClient, directory: Path) -> None:
    """caikit takes an id that isn't in the directory of models for a path from where the server stands."""
    with pytest.raises(ServerError) as error:
        client.generate("models/first", "hello")
    assert error.value.status == "NOT_FOUND"


@pytest.mark.parametrize("id", [LONG, "é" * 5000, "a\0b", "../x"])
def test_a_training_id_that_is_none(client: TuningClient, id: str) -> None:
    for ask in (client.training, client.cancel, lambda id: list(client.watch(id))):
        with pytest.raises(ServerError) as error:
            ask(id)
        assert error.value.status == "NOT_FOUND"
        assert len(str(error.value)) < 200


def test_what_cannot_be_replaced_is_told_before_anything_is_trained(
    client: TuningClient, directory: Path
) -> None:
    """It was trained, and then failed with what was to be reported."""
    (directory / "models" / "a-file").write_text("x")
    (directory / "models" / "a-link").symlink_to("nowhere")
    for name, ask in product(("a-file", "a-link"), (client.tune, client.check)):
        with pytest.raises(ServerError, match=f"model_name: '{name}' is not allowed.*is replaced") as error:
            ask(name, base_model=LLAMA, records=RECORDS, **QUICK)
        assert (error.value.status, error.value.field) == ("INVALID_ARGUMENT", "model_name")


def deployment(id: str, **files: bytes) -> tuple[Any, Any]:
    """Requests that deploy and undeploy a model."""
    from caikit.interfaces.runtime.data_model import DeployModelRequest, UndeployModelRequest

    deploying: Any = DeployModelRequest.get_proto_class()
    file = message_factory.GetMessageClass(deploying.DESCRIPTOR.fields_by_name["model_files"].message_type)
    named = [file(filename=name, data=data) for name, data in files.items()]
    return deploying(model_id=id, model_files=named), UndeployModelRequest.get_proto_class()(model_id=id)


def management(channel: grpc.Channel) -> Any:
    from caikit.runtime.service_factory import ServicePackageFactory as Factory

    return Factory.get_service_package(Factory.ServiceType.MODEL_MANAGEMENT).stub_class(channel)


def refused(rpc: Any, request: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as error:
        rpc(request)
    return error.value.code(), error.value.details() or ""


def test_models_are_managed_where_the_settings_say_so_alone(port: int) -> None:
    deployed, undeployed = deployment("x", **{"config.yml": b"x"})
    with grpc.insecure_channel(f"localhost:{port}") as channel:
        for rpc, request in (
            (management(channel).DeployModel, deployed),
            (management(channel).UndeployModel, undeployed),
        ):
            status, text = refused(rpc, request)
            assert status is grpc.StatusCode.UNIMPLEMENTED
            assert "model_management_rpcs" in text


@pytest.mark.parametrize("id", [LONG, "..", "a\0b", "/etc/x", "../victim", "../pwned"])
def test_a_model_id_to_manage_that_is_none(managed: tuple[int, Path], id: str) -> None:
    deployed, undeployed = deployment(id, **{"config.yml": b"x"})
    with grpc.insecure_channel(f"localhost:{managed[0]}") as channel:
        stub = management(channel)
        assert refused(stub.DeployModel, deployed)[0] is grpc.StatusCode.INVALID_ARGUMENT
        assert refused(stub.UndeployModel, undeployed)[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert (managed[1] / "victim" / "config.yml").is_file()


@pytest.mark.parametrize("name", ["../../evil.txt", "/tmp/evil.txt", "..", "a/b", " x", LONG, ".hidden"])
def test_a_file_to_deploy_stays_in_its_model(managed: tuple[int, Path], name: str) -> None:
    before = set(managed[1].rglob("*"))
    deployed, _ = deployment("good", **{"config.yml": b"module_id: x", name: b"evil"})
    with grpc.insecure_channel(f"localhost:{managed[0]}") as channel:
        assert refused(management(channel).DeployModel, deployed)[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert set(managed[1].rglob("*")) == before


def test_what_is_deployed_and_is_no_prompt_of_ours_is_not_kept(managed: tuple[int, Path]) -> None:
    deployed, _ = deployment("other", **{"config.yml": b"module_id: 00110203-0405-0607-0809-0a0b02dd0e0f"})
    with grpc.insecure_channel(f"localhost:{managed[0]}") as channel:
        status, text = refused(management(channel).DeployModel, deployed)
    assert status is grpc.StatusCode.NOT_FOUND
    assert text == "Model 'other' is no tuned prompt"
    assert not (managed[1] / "models" / "other").exists()


@pytest.mark.parametrize("path", [LONG, "a\0b", "/etc", "victim", "../victim", "models/../victim", "models"])
def test_a_path_to_load_that_is_none(managed: tuple[int, Path], path: str) -> None:
    from caikit.runtime.protobufs import model_runtime_pb2 as messages
    from caikit.runtime.protobufs import model_runtime_pb2_grpc as services

    with grpc.insecure_channel(f"localhost:{managed[0]}") as channel:
        stub = services.ModelRuntimeStub(channel)
        named = {"modelId": "x", "modelPath": path, "modelType": "x"}
        load, predict = messages.LoadModelRequest(**named), messages.PredictModelSizeRequest(**named)
        for rpc, request in ((stub.loadModel, load), (stub.predictModelSize, predict)):
            status, text = refused(rpc, request)
            assert status is grpc.StatusCode.INVALID_ARGUMENT
            # As it was sent.
            assert text.startswith(f"modelPath: {shown(path)} is not allowed")
            assert len(text) < 250
