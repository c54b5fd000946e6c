"""Who is let in by real servers, over real connections, and what he may do there."""

from __future__ import annotations

import hashlib
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import jwt
import psutil
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from caikit_pt.cli import main
from caikit_pt.client import ServerError, TuningClient
from caikit_pt.errors import InvalidParameter
from examples.local_server import free_port, started, wait_until_serving
from tests.conftest import LLAMA
from tests.runtime.certificates import Authority, Issued
from tests.runtime.secured import Place, environment_of, secured
from tests.runtime.servers import QUICK, RECORDS, wait_for

TOKENS = {name: f"secret-token-of-{name}" for name in ("ada", "bob", "eve", "root", "slow", "ops")}
# What of a token isn't in the name of a principal.
SECRETS = ("secret-token", "Bearer")
KEY = ec.generate_private_key(ec.SECP256R1())
POLICY = [
    {"principals": ["ada", "bob", "cyd", "slow"], "may": ["generate", "tune", "watch", "cancel"],
     "models": ["{principal}-*"]},
    {"principals": ["bob"], "may": ["generate"], "models": ["ada-shared"]},
    {"principals": ["ops"], "may": ["watch"], "models": ["*"]},
    {"principals": ["ops"], "may": ["share"], "models": ["team/*"]},
    {"principals": ["root"], "may": ["generate", "tune", "watch", "cancel", "deploy"], "models": ["*"]},
]  # fmt: skip


def tokens_file(tokens: dict[str, str]) -> str:
    return "".join(
        f"{hashlib.sha256(token.encode()).hexdigest()}: {name}\n" for name, token in tokens.items()
    )


def web_token(name: str, **changed: Any) -> str:
    claims = {"sub": name, "iss": "https://issuer", "aud": "caikit_pt", "exp": time.time() + 600, **changed}
    return jwt.encode(claims, KEY, "ES256")


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Place]:
    """A server with TLS, tokens, JWTs, a policy and quotas, which logs all it can."""
    directory = tmp_path_factory.mktemp("secured")
    certificate, key = authority.issue("localhost").write(directory, "server")
    (directory / "tokens").write_text(tokens_file(TOKENS))
    (directory / "keys.pem").write_bytes(
        KEY.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    jwt = {
        "keys": str(directory / "keys.pem"),
        "issuer": "https://issuer",
        "audience": "caikit_pt",
    }
    with secured(
        directory,
        grpc.ssl_channel_credentials(authority.certificate),
        runtime={
            "grpc": {"port": 0},
            "metrics": {"enabled": False},
            "tls": {"server": {"key": str(key), "cert": str(certificate)}},
        },
        access={"tokens_file": str(directory / "tokens"), "jwt": jwt, "policy": POLICY},
        quotas={"each": {"tokens_per_minute": 3000, "training_records": 20, "stored_mib": 50}},
        max_streams_per_client=2,
        log={"level": "debug4"},
    ) as place:
        yield place


def channel_to(address: str, credentials: grpc.ChannelCredentials) -> Any:
    """One that says nothing of types."""
    return grpc.secure_channel(address, credentials)


def client_of(place: Place, authority: Authority, token: str = "") -> TuningClient:
    return TuningClient(place.address, ca=authority.certificate, token=token)


@pytest.fixture(scope="module")
def clients(place: Place, authority: Authority) -> Iterator[dict[str, TuningClient]]:
    """One of each who has a token."""
    made = {name: client_of(place, authority, token) for name, token in TOKENS.items()}
    yield made
    for client in made.values():
        client.close()


@pytest.fixture(scope="module")
def training(clients: dict[str, TuningClient]) -> str:
    """One of ada's, which has ended."""
    ada = clients["ada"]
    id = ada.tune("ada-x", base_model=LLAMA, records=RECORDS, training_id="adas", **QUICK)
    assert ada.wait(id).state == "COMPLETED"
    return id


def refusal(ask: Any) -> tuple[str, str]:
    with pytest.raises(ServerError) as error:
        ask()
    return error.value.status, str(error.value)


# ---- who ----


def test_nobody_without_a_token_that_is_known(place: Place, authority: Authority) -> None:
    for token in ("", "wrong", "secret-token-of-ad", web_token("cyd", aud="others")):
        with client_of(place, authority, token) as client:
            for ask in (
                lambda client=client: client.generate("ada-x", "hello"),
                lambda client=client: list(client.stream("ada-x", "hello")),
                lambda client=client: list(client.trainings()),
                lambda client=client: client.training("adas"),
            ):
                status, text = refusal(ask)
                assert status == "UNAUTHENTICATED"
                assert text == (
                    "This server doesn't know who asks. Give a token that it knows, as metadata "
                    "`authorization: Bearer TOKEN` (TuningClient(token=...); caikit-pt --token-file FILE)"
                )


def test_a_json_web_token(place: Place, authority: Authority) -> None:
    with client_of(place, authority, web_token("cyd")) as client:
        assert list(client.trainings()) == []
    with client_of(place, authority, web_token("cyd", exp=time.time() - 100)) as client:
        status, text = refusal(lambda: list(client.trainings()))
    assert (status, "has expired" in text) == ("UNAUTHENTICATED", True)


def test_reflection_is_for_those_who_are_known(place: Place, authority: Authority) -> None:
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    credentials = grpc.ssl_channel_credentials(authority.certificate)
    asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
    with channel_to(place.address, credentials) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        with pytest.raises(grpc.RpcError) as error:
            list(stub.ServerReflectionInfo(iter(asked)))
        assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
        who = [("authorization", f"Bearer {TOKENS['eve']}")]
        assert list(stub.ServerReflectionInfo(iter(asked), metadata=who))


def test_the_message_of_a_stranger_is_not_read(place: Place, authority: Authority) -> None:
    """He is refused before it comes: nobody waits for it."""
    credentials = grpc.ssl_channel_credentials(authority.certificate)
    with channel_to(place.address, credentials) as channel:
        rpc = channel.stream_unary("/caikit.runtime.Nlp.NlpService/TextGenerationTaskPredict")
        began = time.monotonic()

        def never() -> Iterator[bytes]:
            time.sleep(20)
            yield b""

        with pytest.raises(grpc.RpcError) as error:
            rpc(never())
        assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert time.monotonic() - began < 15


def test_a_token_that_is_withdrawn_and_one_that_is_new(place: Place, authority: Authority) -> None:
    file = place.directory / "tokens"

    def publish(tokens: dict[str, str]) -> None:
        new = file.with_name("new")
        new.write_text(tokens_file(tokens))
        os.replace(new, file)

    with client_of(place, authority, "secret-token-new") as client:
        assert refusal(lambda: list(client.trainings()))[0] == "UNAUTHENTICATED"
        publish({**TOKENS, "eve": "secret-token-new"})
        assert list(client.trainings()) == []
    with client_of(place, authority, TOKENS["eve"]) as client:
        assert refusal(lambda: list(client.trainings()))[0] == "UNAUTHENTICATED"
    publish(TOKENS)


# ---- what ----


def test_models_of_others_are_not_there(clients: dict[str, TuningClient], training: str) -> None:
    assert clients["ada"].generate("ada-x", "hello", max_new_tokens=2) is not None
    bob = clients["bob"]
    nothing = refusal(lambda: clients["root"].generate("ada-none", "hello"))
    assert nothing == ("NOT_FOUND", "Model 'ada-none' not found")
    for ask in (
        lambda name: bob.generate(name, "hello"),
        lambda name: list(bob.stream(name, "hello")),
        lambda name: bob.evaluate(name, RECORDS),
        lambda name: bob.evaluate("bob-x", RECORDS, against=name),
        lambda name: bob.tune(name, base_model=LLAMA, records=RECORDS, **QUICK),
        lambda name: bob.check(name, base_model=LLAMA, records=RECORDS, **QUICK),
        lambda name: bob.tune("bob-x", records=RECORDS, prompt_tuning_init_prompt=name),
    ):
        for name in ("ada-x", "ada-none"):
            assert refusal(lambda ask=ask, name=name: ask(name)) == (
                "NOT_FOUND",
                f"Model '{name}' not found",
            )


def test_what_is_seen_and_not_allowed_is_told(clients: dict[str, TuningClient]) -> None:
    status, text = refusal(
        lambda: clients["bob"].tune("ada-shared", base_model=LLAMA, records=RECORDS, **QUICK)
    )
    assert (status, text) == (
        "PERMISSION_DENIED",
        "bob may not tune 'ada-shared'. Ask for the right in access.policy",
    )
    assert refusal(lambda: clients["ops"].generate("ada-x", "hello"))[0] == "PERMISSION_DENIED"


def test_who_may_share_no_sources_trains_none(clients: dict[str, TuningClient]) -> None:
    """Trainings of everybody start from them: that one may tune prompts of the name isn't enough."""

    def asked(who: str, name: str) -> tuple[str, str]:
        tasks = {"one": RECORDS, "two": RECORDS}
        return refusal(lambda: clients[who].train_source(name, LLAMA, tasks, num_epochs=1))

    told = "ada may not share 'ada-x'. Ask for the right in access.policy"
    assert asked("ada", "ada-x") == ("PERMISSION_DENIED", told)
    assert asked("ada", "team/x")[0] == asked("ada", "bob-x")[0] == "NOT_FOUND"
    # He may, and there is no directory for it.
    status, text = asked("ops", "team/x")
    assert (status, "setting source_prompt_base" in text) == ("INVALID_ARGUMENT", True)


def details(place: Place, authority: Authority, token: str, model: str) -> list[bytes]:
    """What an error says to programs, but for the id of the request."""
    credentials = grpc.ssl_channel_credentials(authority.certificate)
    who = [("authorization", f"Bearer {token}"), ("mm-model-id", model), ("x-request-id", "same")]
    with channel_to(place.address, credentials) as channel:
        rpc = channel.unary_unary("/caikit.runtime.Nlp.NlpService/TextGenerationTaskPredict")
        with pytest.raises(grpc.RpcError) as error:
            rpc(b"", metadata=who)
    status = rpc_status.from_call(error.value)  # type: ignore[arg-type]
    return [detail.value for detail in status.details]


def test_programs_see_no_difference_either(place: Place, authority: Authority, training: str) -> None:
    missing = details(place, authority, TOKENS["root"], "ada-none")
    assert details(place, authority, TOKENS["bob"], "ada-x") == missing
    assert details(place, authority, TOKENS["bob"], "ada-none") == missing


def test_trainings_of_others_are_not_there(clients: dict[str, TuningClient], training: str) -> None:
    bob, ops = clients["bob"], clients["ops"]
    for ask in (bob.training, bob.cancel, lambda id: list(bob.watch(id))):
        for id in (training, "nothing"):
            assert refusal(lambda ask=ask, id=id: ask(id)) == ("NOT_FOUND", f"Unknown training_id: '{id}'")
    assert ops.training(training).state == "COMPLETED"
    assert refusal(lambda: ops.cancel(training))[0] == "PERMISSION_DENIED"
    assert clients["ada"].cancel(training) == "COMPLETED"


def test_the_status_of_others_trainings_is_not_there(
    place: Place, authority: Authority, clients: dict[str, TuningClient], training: str
) -> None:
    from caikit.interfaces.runtime.data_model import TrainingInfoRequest

    connection = clients["bob"]._connection
    rpc = connection.stubs.management.GetTrainingStatus
    for id in (training, "nothing"):
        request = TrainingInfoRequest(training_id=id).to_proto()
        assert refusal(lambda request=request: connection.answer(rpc, request)) == (
            "NOT_FOUND",
            f"Unknown training_id: '{id}'",
        )


def test_lists_hold_what_one_may_see(clients: dict[str, TuningClient], training: str) -> None:
    bob = clients["bob"]
    assert list(bob.trainings()) == []
    assert list(bob.trainings(model_name="ada-x")) == []
    assert [one.training_id for one in clients["ada"].trainings()] == [training]
    assert training in {one.training_id for one in clients["ops"].trainings()}


def test_source_prompts_are_for_who_may_tune_any_model(clients: dict[str, TuningClient]) -> None:
    """They are about no model, and nobody may write there by an RPC."""
    for name in ("ada", "root"):
        assert list(clients[name].sources()) == []
        assert refusal(lambda name=name: clients[name].source("mine"))[0] == "INVALID_ARGUMENT"
    for ask in (lambda: list(clients["ops"].sources()), lambda: clients["ops"].source("mine")):
        assert refusal(ask) == (
            "PERMISSION_DENIED",
            "ops may not tune any model, as this RPC wants it. Ask for the right in access.policy",
        )
    # What is no name is refused before it is looked up, or anybody asks for the setting.
    assert "1 to 200 letters" in refusal(lambda: clients["ada"].source("../mine"))[1]


def test_an_id_that_is_taken_says_no_more(clients: dict[str, TuningClient], training: str) -> None:
    status, text = refusal(
        lambda: clients["bob"].tune("bob-x", base_model=LLAMA, records=RECORDS, training_id=training, **QUICK)
    )
    assert (status, text) == (
        "INVALID_ARGUMENT",
        "training_id: 'adas' is not allowed. Allowed: a new id; this one is taken",
    )


def test_what_there_is_of_all_is_for_those_who_may_deploy_all(place: Place, authority: Authority) -> None:
    credentials = grpc.ssl_channel_credentials(authority.certificate)
    with channel_to(place.address, credentials) as channel:
        rpc = channel.unary_unary("/caikit.runtime.info.InfoService/GetModelsInfo")
        for name, allowed in (("ada", False), ("ops", False), ("root", True)):
            who = [("authorization", f"Bearer {TOKENS[name]}")]
            if allowed:
                rpc(b"", metadata=who)
                continue
            with pytest.raises(grpc.RpcError) as error:
                rpc(b"", metadata=who)
            assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED


# ---- how much ----


def test_a_training_of_too_many_records(clients: dict[str, TuningClient]) -> None:
    for ask in (clients["ada"].tune, clients["ada"].check):
        status, text = refusal(lambda ask=ask: ask("ada-y", base_model=LLAMA, records=RECORDS * 3, **QUICK))
        assert (status, text) == (
            "RESOURCE_EXHAUSTED",
            "quotas.each.training_records: this training has 24 records, and 20 is allowed.",
        )


def test_tokens_are_used_up(
    place: Place, authority: Authority, clients: dict[str, TuningClient], training: str
) -> None:
    """And the program is told when to come again. Others have their own."""
    slow = clients["slow"]
    id = slow.tune("slow-x", base_model=LLAMA, records=RECORDS, **QUICK)
    assert slow.wait(id).state == "COMPLETED"

    def ask_on() -> None:
        for _ in range(100):
            slow.generate("slow-x", "word " * 150, max_new_tokens=1)

    with pytest.raises(ServerError) as error:
        ask_on()
    assert error.value.status == "RESOURCE_EXHAUSTED"
    assert "quotas.each.tokens_per_minute: all tokens of this minute are used" in str(error.value)
    cause: Any = error.value.__cause__
    status = rpc_status.from_call(cause)
    retry = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(retry) for detail in status.details)
    assert 0 < retry.retry_delay.ToTimedelta().total_seconds() < 60
    assert clients["ada"].generate("ada-x", "hello", max_new_tokens=1) is not None


def test_a_client_has_so_many_streams(clients: dict[str, TuningClient], training: str) -> None:
    """One that ends makes room for another."""
    long = {"min_new_tokens": 400, "max_new_tokens": 400, "labels_only": False}
    streams = [clients["root"].stream("ada-x", "hello", **long) for _ in range(2)]
    for stream in streams:
        next(stream)
    status, text = refusal(lambda: next(clients["root"].stream("ada-x", "hello", **long)))
    assert (status, "max_streams_per_client" in text) == ("RESOURCE_EXHAUSTED", True)
    assert next(clients["ada"].stream("ada-x", "hello", max_new_tokens=1)) is not None
    for stream in streams:
        stream.close()

    def may_again() -> bool:
        try:
            return next(clients["root"].stream("ada-x", "hello", max_new_tokens=1)) is not None
        except ServerError:
            return False

    wait_for(may_again)


# ---- secrets and certificates ----


def test_no_token_is_in_the_log(place: Place, authority: Authority, clients: dict[str, TuningClient]) -> None:
    jwt = web_token("cyd")
    for token in (*TOKENS.values(), "secret-token-unknown", jwt):
        with client_of(place, authority, token) as client:
            for ask in (lambda: client.generate("none", "hello"), lambda: client.training("none")):
                with pytest.raises(ServerError) as error:
                    ask()
                assert token not in str(error.value)
    log = place.log
    assert "debug" in log.lower() or "DBG" in log
    for secret in (*SECRETS, jwt, jwt.rpartition(".")[2]):
        assert secret not in log
    for file in (place.directory / "state").rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert not any(secret.encode() in content for secret in (*SECRETS, jwt)), file


def served_certificate(place: Place) -> str:
    return ssl.get_server_certificate(("127.0.0.1", place.port))


def test_a_renewed_certificate_is_served(place: Place, authority: Authority) -> None:
    """Without a new start; half of one isn't, and the log says so."""
    before = served_certificate(place)
    first = Issued(*((place.directory / f"server.{end}").read_bytes() for end in ("crt", "key")))
    half = authority.issue("localhost")
    half_written = place.directory / "half"
    half_written.write_bytes(half.certificate)
    half_written.replace(place.directory / "server.crt")
    assert served_certificate(place) == before
    assert "server.crt changed, and can't be used" in place.log.replace("server.key, ", "")
    half.write(place.directory, "server")
    assert served_certificate(place) == half.certificate.decode()
    first.write(place.directory, "server")
    assert served_certificate(place) == before


# ---- the command line ----


def test_the_command_line_says_who_asks(
    place: Place,
    authority: Authority,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    training: str,
) -> None:
    (tmp_path / "ca").write_bytes(authority.certificate)
    (tmp_path / "token").write_text(f"{TOKENS['ada']}\n")
    command = ["show", training, f"--server={place.address}", f"--ca={tmp_path / 'ca'}"]
    assert main(command) == 1
    assert capfd.readouterr().err.startswith("UNAUTHENTICATED: This server doesn't know who asks")
    assert main([*command, f"--token-file={tmp_path / 'token'}"]) == 0
    monkeypatch.setenv("CAIKIT_PT_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("CAIKIT_PT_CA", str(tmp_path / "ca"))
    capfd.readouterr()
    assert main(["generate", "ada-x", "hello", "--max-new-tokens=1", f"--server={place.address}"]) == 0
    assert main(["health", f"--server={place.address}"]) == 0
    monkeypatch.setenv("CAIKIT_PT_TOKEN_FILE", str(tmp_path / "none"))
    assert main(command) == 2
    assert "the token in" in capfd.readouterr().err


def health(place: Place) -> subprocess.CompletedProcess[str]:
    """By the settings of the server, and nothing else."""
    command = [sys.executable, "-m", "caikit_pt.cli", "health"]
    return subprocess.run(
        command, cwd=place.directory, env=dict(place.environment), capture_output=True, text=True, timeout=90
    )


def test_health_knows_the_settings(place: Place) -> None:
    ended = health(place)
    assert (ended.stdout, ended.returncode) == ("SERVING\n", 0), ended.stderr


# ---- certificates of clients ----


@pytest.fixture(scope="module")
def people() -> Authority:
    return Authority("who people are")


@pytest.fixture(scope="module")
def mutual(
    tmp_path_factory: pytest.TempPathFactory, authority: Authority, people: Authority
) -> Iterator[Place]:
    """A server whose clients have to have certificates; its own authority's stands behind its own."""
    directory = tmp_path_factory.mktemp("mutual")
    own = authority.issue("localhost")
    chained = Issued(own.certificate + authority.certificate, own.key)
    certificate, key = chained.write(directory, "server")
    (directory / "people").write_bytes(people.certificate)
    tls = {
        "server": {"key": str(key), "cert": str(certificate)},
        "client": {"cert": str(directory / "people")},
    }
    policy = [
        {"principals": ["ada"], "may": ["watch"], "models": ["*"]},
        {"principals": ["spiffe://x/*"], "may": ["deploy"], "models": ["*"]},
    ]
    credentials = grpc.ssl_channel_credentials(authority.certificate, own.key, own.certificate)
    with secured(
        directory,
        credentials,
        runtime={"grpc": {"port": 0}, "metrics": {"enabled": False}, "tls": tls},
        access={"policy": policy},
    ) as place:
        yield place


def called(place: Place, authority: Authority, shown: Issued | None, method: str) -> grpc.StatusCode:
    """What becomes of an RPC of a client that shows a certificate."""
    pair = (shown.key, shown.certificate) if shown else (None, None)
    with channel_to(place.address, grpc.ssl_channel_credentials(authority.certificate, *pair)) as channel:
        try:
            channel.unary_unary(method)(b"", timeout=20)
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


LIST, MODELS = "/caikit_pt.TuningService/ListTrainings", "/caikit.runtime.info.InfoService/GetModelsInfo"


def test_a_certificate_says_who_asks(mutual: Place, authority: Authority, people: Authority) -> None:
    ada, program = people.issue("ada"), people.issue("a program", "spiffe://x/program")
    assert called(mutual, authority, ada, LIST) is grpc.StatusCode.OK
    assert called(mutual, authority, ada, MODELS) is grpc.StatusCode.PERMISSION_DENIED
    assert called(mutual, authority, program, MODELS) is grpc.StatusCode.OK
    assert called(mutual, authority, people.issue(""), LIST) is grpc.StatusCode.UNAUTHENTICATED


def test_who_has_none_of_the_right_authority_is_not_let_in(mutual: Place, authority: Authority) -> None:
    """Not even one of the server's own authority, which stands behind its certificate."""
    for stranger in (None, Authority().issue("ada"), authority.issue("ada")):
        assert called(mutual, authority, stranger, LIST) is grpc.StatusCode.UNAVAILABLE


def test_the_servers_own_certificate_is_for_probes(mutual: Place, authority: Authority) -> None:
    pair = [(mutual.directory / f"server.{end}").read_bytes() for end in ("crt", "key")]
    own = Issued(*pair)
    probe = "/grpc.health.v1.Health/Check"
    assert called(mutual, authority, own, probe) is grpc.StatusCode.OK
    assert called(mutual, authority, own, LIST) is grpc.StatusCode.UNAUTHENTICATED
    ended = health(mutual)
    assert (ended.stdout, ended.returncode) == ("SERVING\n", 0), ended.stderr


# ---- where ----


def own_address() -> str:
    """One of this machine's that isn't the loopback."""
    for found in psutil.net_if_addrs().values():
        for one in found:
            if one.family is socket.AF_INET and not one.address.startswith("127."):
                return str(one.address)
    pytest.skip("this machine has no other address")


def refused_at_start(directory: Path, port: int, **settings: Any) -> str:
    process = started(environment_of(directory, port, **settings), directory / "log", directory)
    assert process.wait(90) == 1
    return (directory / "log").read_text()


def test_who_needs_no_name_is_on_this_machine(tmp_path: Path) -> None:
    """Another server can't have its port, and would be told so."""
    from examples.local_server import started

    port, address = free_port(), own_address()
    process = started(environment_of(tmp_path, port), tmp_path / "log", tmp_path)
    try:
        wait_until_serving(process, port)
        assert (
            "no identity configured: only this machine is served; set access.tokens_file"
            in (tmp_path / "log").read_text()
        )
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, port), 5).close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((address, port), 5)
        other = tmp_path / "other"
        other.mkdir()
        assert "a port that is free and may be listened on" in refused_at_start(other, port)
    finally:
        process.terminate()
        process.wait(60)


def test_a_token_is_not_sent_where_others_could_read_it() -> None:
    with pytest.raises(InvalidParameter, match="with TLS") as error:
        TuningClient("example.org:8085", token="hidden")
    assert "hidden" not in str(error.value)
    for given in ({"tls": False}, {"tls": True}):
        TuningClient("example.org:8085", token="hidden", **given).close()  # type: ignore[arg-type]
    TuningClient("localhost:8085", token="hidden").close()


def test_half_a_certificate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match=r"key: '' .* go together"):
        TuningClient(cert=b"x")
    with pytest.raises(InvalidParameter, match=r"ca: .* a PEM file"):
        TuningClient(ca=tmp_path / "none")


def test_the_log_holds_no_secret_at_its_end(place: Place) -> None:
    """Whatever came before in this file."""
    wait_for(lambda: place.log)
    assert not any(secret in place.log for secret in SECRETS)
