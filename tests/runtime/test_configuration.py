"""Settings that no server can start with, and what is told of them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aconfig
import caikit
import grpc
import pytest
import yaml
from caikit.config.config import BASE_CONFIG_PATH, merge_configs

import caikit_pt
from caikit_pt.errors import InvalidParameter
from caikit_pt.runtime import configuration
from caikit_pt.runtime.listening import Listening, ListeningGrpc
from caikit_pt.settings import typed
from caikit_pt.tracking import trackers
from examples.local_server import ROOT, free_port
from tests.runtime.certificates import Authority

Check = Callable[..., list[str]]
WRONG = {
    "apart from where is served": ({"RUNTIME_TRAINING_OUTPUT_DIR": "out"}, "unset, or models as"),
    "ids in the path": ({"RUNTIME_TRAINING_SAVE_WITH_ID": "true"}, "false: a request names a model"),
    "nothing is loaded": ({"RUNTIME_LAZY_LOAD_LOCAL_MODELS": "false"}, "true: a tuned prompt is loaded"),
    "a poll without a pause": ({"RUNTIME_LAZY_LOAD_POLL_PERIOD_SECONDS": "0"}, "from 1 up"),
    "no poll": ({"RUNTIME_LAZY_LOAD_POLL_PERIOD_SECONDS": "off"}, "a number from 1 up"),
    "no training": ({"RUNTIME_SERVICE_GENERATION_ENABLE_TRAINING": "false"}, "max_queued: 0"),
    "HTTP": ({"RUNTIME_HTTP_ENABLED": "true"}, "gRPC alone"),
    "no gRPC": ({"RUNTIME_GRPC_ENABLED": "false"}, "gRPC alone"),
    "a port": ({"RUNTIME_GRPC_PORT": "abc"}, "a whole number from 1 to 65,535"),
    "no threads": ({"RUNTIME_SERVER_THREAD_POOL_SIZE": "0"}, "from 1 up"),
    "a level": ({"LOG_LEVEL": "loud"}, "info"),
    "models that are not there": ({"BASE_MODELS_DIR": "nowhere"}, "a directory that is there"),
    "data that is not there": ({"DATA_STREAMS_FILE_SOURCE_BASE": "nowhere"}, "a directory that is there"),
    "a relative path": ({"BASE_MODELS_DIR": "a/b"}, "relative paths are those of the start, /"),
    "TensorBoard's directory": ({"TRACKING_TENSORBOARD_DIRECTORY": "/proc/x"}, "that this server may write"),
    "the state among the models": ({"STATE_DIR": "models/state"}, "would take its place"),
    "bases among the models": ({"BASE_MODELS_DIR": "models"}, "would take its place"),
    "the models in the state": ({"RUNTIME_LOCAL_MODELS_DIR": "state/models"}, "outside state_dir"),
    "the models everywhere": ({"RUNTIME_LOCAL_MODELS_DIR": "."}, "for tuned prompts alone"),
    "a file for the models": ({"RUNTIME_LOCAL_MODELS_DIR": "file"}, "that this server may write"),
    "half of TLS": ({"RUNTIME_TLS_SERVER_KEY": "file"}, "open without TLS"),
    "a key that is not there": ({"RUNTIME_TLS_SERVER_KEY": "key.pem"}, "a PEM file"),
    "a device": ({"DEVICE": "cuda:99"}, "on this machine"),
    "a policy in the environment": ({"ACCESS": "x"}, "in a file that CONFIG_FILES names"),
    "a number": ({"MAX_QUEUED": "abc"}, "a whole number"),
}


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Check:
    """The check of a server that is started in an empty directory with the environment given."""
    for name in list(os.environ):
        if name.startswith(("RUNTIME_", "CONFIG_FILES")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def check(**environment: str) -> list[str]:
        ports = {"RUNTIME_GRPC_PORT": str(free_port()), "RUNTIME_METRICS_PORT": str(free_port())}
        for name, value in {**ports, **environment}.items():
            monkeypatch.setenv(name, value)
        files = BASE_CONFIG_PATH, str(Path(caikit_pt.__file__).with_name("config.yml"))
        base, ours = (aconfig.Config.from_yaml(file) for file in files)
        config: Any = aconfig.Config(merge_configs(base, ours))
        monkeypatch.setattr(caikit, "get_config", lambda: config)
        return configuration.check()

    return check


def test_the_package_alone_can_start(check: Check, tmp_path: Path) -> None:
    assert check() == []
    assert (tmp_path / "models").is_dir()


@pytest.mark.parametrize("case", WRONG)
def test_settings_that_are_refused(check: Check, tmp_path: Path, case: str) -> None:
    environment, allowed = WRONG[case]
    (tmp_path / "file").touch()
    (tmp_path / "models").mkdir()
    with pytest.raises(InvalidParameter) as error:
        check(**environment)
    assert str(error.value).startswith(("state_dir: ", "runtime.tls.server.cert: ", *environment))
    assert allowed in error.value.allowed
    assert "\n" not in str(error.value)


def test_records_of_other_trainings_are_no_training_files(check: Check, tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match=r"state_dir: 'state' .* outside data_streams\.file_source"):
        check(DATA_STREAMS_FILE_SOURCE_BASE=str(tmp_path))


def test_the_same_directory_in_other_words(check: Check, tmp_path: Path) -> None:
    assert check(RUNTIME_TRAINING_OUTPUT_DIR=str(tmp_path / "models")) == []


def test_no_key_is_told(check: Check) -> None:
    with pytest.raises(InvalidParameter, match="RUNTIME_TLS_SERVER_KEY") as error:
        check(RUNTIME_TLS_SERVER_KEY="a secret")
    assert "secret" not in str(error.value)


MISSING = {
    "TRACKING_MLFLOW_URI": ("http://host:5000", "mlflow", "caikit-pt[mlflow]"),
    "TRACKING_TENSORBOARD_DIRECTORY": ("runs", "tensorboard", "caikit-pt[tensorboard]"),
}


@pytest.mark.parametrize("name", MISSING)
def test_a_tracker_whose_package_is_missing(check: Check, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    value, package, requirement = MISSING[name]
    assert check(**{name: value}) == []
    monkeypatch.setattr(trackers, "find_spec", lambda asked: None if asked == package else object())
    with pytest.raises(InvalidParameter) as error:
        check(**{name: value})
    allowed = f"unset, or with more installed: pip install '{requirement}'"
    assert str(error.value) == f"{name}: '{value}' is not allowed. Allowed: {allowed}"


@pytest.mark.parametrize("name", ["RUNTIME_GRPC_PORT", "RUNTIME_METRICS_PORT"])
def test_a_port_that_is_taken(check: Check, name: str) -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InvalidParameter, match=f"{name}: {port} .* a port that is free"):
            check(**{name: str(port)})


def test_a_port_has_one_server() -> None:
    """With gRPC's own default two would share its callers, and each know half of the trainings."""
    told = yaml.safe_load((ROOT / "caikit_pt" / "config.yml").read_text("utf-8"))
    options = list(told["runtime"]["grpc"]["options"].items())
    first, second = (grpc.server(ThreadPoolExecutor(1), options=options) for _ in range(2))
    port = first.add_insecure_port("127.0.0.1:0")
    with pytest.raises(RuntimeError, match="Failed to bind"):
        second.add_insecure_port(f"127.0.0.1:{port}")
    for server in (first, second):
        server.stop(None).wait()


def pair(directory: Path, name: str = "localhost") -> dict[str, str]:
    """TLS, as variables."""
    certificate, key = Authority().issue(name).write(directory, name)
    return {"RUNTIME_TLS_SERVER_KEY": str(key), "RUNTIME_TLS_SERVER_CERT": str(certificate)}


def test_a_key_and_a_certificate_of_one_another(check: Check, tmp_path: Path) -> None:
    one, other = pair(tmp_path), pair(tmp_path, "other")
    assert check(**one) == []
    with pytest.raises(InvalidParameter, match="the key of RUNTIME_TLS_SERVER_CERT"):
        check(**{**one, "RUNTIME_TLS_SERVER_KEY": other["RUNTIME_TLS_SERVER_KEY"]})


def test_who_is_not_known_is_on_this_machine(check: Check) -> None:
    for host in ("localhost", "127.0.0.1", "::1"):
        assert check(LISTEN_HOST=host) == []
    for host in ("0.0.0.0", "::"):
        with pytest.raises(InvalidParameter, match=r"HOST: .* so that callers have to say who they are"):
            check(LISTEN_HOST=host, ALLOW_INSECURE="false")
        assert check(LISTEN_HOST=host, ALLOW_INSECURE="true") == []
    for host in ("example.org", "x86_64-conda-linux-gnu"):
        with pytest.raises(InvalidParameter, match=r"HOST: .* an IP address of this machine"):
            check(LISTEN_HOST=host)


def test_an_address_of_another_machine(check: Check) -> None:
    with pytest.raises(InvalidParameter, match=r"HOST: '192\.0\.2\.1' .* an address of this machine"):
        check(LISTEN_HOST="192.0.2.1", ALLOW_INSECURE="true")


def test_tokens_do_not_go_over_the_network_as_they_are(check: Check, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(f"{'0' * 64}: ada\n")
    tokens = {"ACCESS_TOKENS_FILE": str(tmp_path / "tokens")}
    with pytest.raises(
        InvalidParameter, match=r"access\.tokens_file: 'tokens without TLS' .* allow_insecure"
    ):
        check(**tokens)
    assert check(**tokens, LISTEN_HOST="localhost") == []
    assert check(**tokens, LISTEN_HOST="", ALLOW_INSECURE="true") == []
    assert check(**tokens, ALLOW_INSECURE="false", **pair(tmp_path)) == []


def test_what_is_trusted_needs_a_file(check: Check) -> None:
    with pytest.raises(InvalidParameter, match=r"ACCESS_TOKENS_FILE: 'none' .* this server may read"):
        check(ACCESS_TOKENS_FILE="none", LISTEN_HOST="localhost")
    with pytest.raises(InvalidParameter, match=r"ACCESS_JWT_ISSUER: .* with access\.jwt\.keys alone"):
        check(ACCESS_TOKENS_FILE="", ACCESS_JWT_ISSUER="https://issuer")


def listening(tls: dict[str, Any] | None = None, **settings: Any) -> Listening:
    return Listening(typed(settings), tls or {})


def test_where_a_server_listens() -> None:
    tls = {"server": {"key": "k", "cert": "c"}, "client": {"cert": ""}}
    mutual = {**tls, "client": {"cert": "ca"}}
    assert listening().hosts == listening(tls).hosts == ("127.0.0.1", "[::1]")
    assert listening(mutual).hosts == ("[::]",)
    assert listening(tls, access={"tokens_file": "t"}).hosts == ("[::]",)
    assert listening(allow_insecure=True).hosts == ("[::]",)
    assert listening(allow_insecure=True).doubtful
    assert "whoever reaches" in listening(allow_insecure=True).told
    assert listening(listen_host="localhost").told.startswith(
        "no identity configured: only this machine is served"
    )
    assert not listening(mutual).doubtful
    assert "by certificates; served with TLS" in listening(mutual).told


def test_rules_without_an_identity() -> None:
    rule = {"principals": ["*"], "may": ["tune"], "models": ["*"]}
    with pytest.raises(InvalidParameter, match=r"access\.policy: .* rules are for callers that are known"):
        listening(access={"policy": [rule]})


def test_a_socket_of_this_machine_is_where_it_is_said_to_be() -> None:
    asked: list[str] = []

    def add(address: str) -> int:
        asked.append(address)
        return 1

    server = SimpleNamespace(add_insecure_port=add)
    guarded = ListeningGrpc(listening(), None, 100, 50)
    bounds: list[object] = []

    def make(*, maximum_concurrent_rpcs: object, options: list[object]) -> Any:
        bounds.append(maximum_concurrent_rpcs)
        assert options == [("grpc.max_allowed_incoming_connections", 50)]
        return server

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("grpc.server", make)
        guarded.server(maximum_concurrent_rpcs=7)
        made = guarded.server(maximum_concurrent_rpcs=None)
    # What the settings say counts; where they say nothing, RPCs have a bound all the same.
    assert bounds == [7, 100]
    for address in ("unix:///tmp/x", "[::]:8085"):
        made.add_insecure_port(address)
    assert asked == ["unix:///tmp/x", "127.0.0.1:8085", "[::1]:8085"]
