"""Disks that are full, files that are gone or damaged while they are served: who is concerned is told, over
real gRPC, and nobody else notices."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from caikit_pt.base_model.model import BaseModel
from caikit_pt.client import CANCELED, COMPLETED, ServerError, TuningClient
from tests.conftest import BASE_MODELS, LLAMA, T5
from tests.runtime.servers import QUICK, RECORDS, Server, wait_for
from tests.runtime.test_rolling import save

TEXT = "the kettle is dreadful"
WAITING = "Waiting to be published: No space left on device"
# What is done to the directory of a prompt.
Damage = Callable[[Path], object]


def clear(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def replaced(name: str, content: bytes) -> Damage:
    return lambda model: (model / name).write_bytes(content)


def gone(name: str) -> Damage:
    return lambda model: clear(model / name)


def a_directory(name: str) -> Damage:
    def damage(model: Path) -> None:
        clear(model / name)
        (model / name).mkdir()

    return damage


def cut(name: str) -> Damage:
    return lambda model: (model / name).write_bytes((model / name).read_bytes()[:100])


def narrow(model: Path) -> None:
    file = model / "decoder.safetensors"
    save_file({"prompt": load_file(file)["prompt"][:, :8].contiguous()}, file)


def of_another(name: str) -> Damage:
    def damage(model: Path) -> None:
        config = model / "config.yml"
        config.write_text(config.read_text().replace(f"base_model_name: {LLAMA}", f"base_model_name: {name}"))

    return damage


def prompt(name: str, value: str) -> Damage:
    """Another value in config.yml."""

    def damage(model: Path) -> None:
        config = model / "config.yml"
        lines = [line for line in config.read_text().splitlines() if not line.startswith(f"{name}:")]
        config.write_text("\n".join([*lines, f"{name}: {value}"]))

    return damage


def both(one: Damage, other: Damage) -> Damage:
    return lambda model: (one(model), other(model))


OURS = b"module_id: 6655831b-960a-4dc5-8df4-867026e2cd41\n"
# What has become of a tuned prompt's files, the status, and what of the text says so.
DAMAGES: dict[str, tuple[Damage, str, str]] = {
    "no config": (gone("config.yml"), "NOT_FOUND", "not found"),
    "an empty config": (replaced("config.yml", b""), "DATA_LOSS", "config.yml"),
    "a config of bytes": (replaced("config.yml", b"\xff\xfe\x00"), "DATA_LOSS", "config.yml"),
    "a config that ends": (replaced("config.yml", OURS), "DATA_LOSS", "config.yml"),
    "a config that is no YAML": (replaced("config.yml", OURS + b"a: [b"), "DATA_LOSS", "config.yml"),
    "a config of bytes behind ours": (replaced("config.yml", OURS + b"\xff\xfe"), "DATA_LOSS", "config.yml"),
    "a config that is a directory": (a_directory("config.yml"), "NOT_FOUND", "not found"),
    "no tensor": (gone("decoder.safetensors"), "DATA_LOSS", "decoder.safetensors"),
    "a tensor cut short": (cut("decoder.safetensors"), "DATA_LOSS", "decoder.safetensors"),
    "a tensor that is a directory": (a_directory("decoder.safetensors"), "DATA_LOSS", "decoder.safetensors"),
    "a tensor of another width": (narrow, "FAILED_PRECONDITION", "width 8"),
    "no loss curve": (gone("training_logs.jsonl"), "", ""),
    "a verdict of bytes": (replaced("verdict.json", b"\xff"), "", ""),
    "a verdict that is a directory": (a_directory("verdict.json"), "", ""),
    "initial rows that are a directory": (a_directory("initial.safetensors"), "", ""),
    "a base model that is not there": (of_another("nowhere"), "FAILED_PRECONDITION", "nowhere"),
    "a base model that is cut short": (of_another("cut-short"), "FAILED_PRECONDITION", "cut-short"),
    "a base model without weights": (of_another("no-weights"), "FAILED_PRECONDITION", "no-weights"),
    "a base model without a tokenizer": (
        both(of_another("no-tokenizer"), prompt("base_model_fingerprint", "null")),
        "FAILED_PRECONDITION",
        "no-tokenizer",
    ),
    "labels that are none": (prompt("labels", "[1, 2]"), "DATA_LOSS", "labels"),
    "a name of a base model that is a number": (
        prompt("base_model_name", "7"),
        "DATA_LOSS",
        "base_model_name",
    ),
}


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, llama: BaseModel, base_models: Path
) -> Iterator[tuple[Server, TuningClient]]:
    """A server with a prompt that is whole, and one for each damage."""
    server = Server(
        tmp_path_factory.mktemp("edges"), BASE_MODELS_DIR=base_models, RUNTIME_LAZY_LOAD_POLL_PERIOD_SECONDS=1
    )
    for name in ("whole", "to-remove", *(f"damaged-{number}" for number in range(len(DAMAGES)))):
        save(llama, 0, server.models / name)
    with server.start() as client:
        yield server, client
    server.close()


@pytest.mark.parametrize("damage", DAMAGES)
def test_who_asks_for_a_damaged_prompt_is_told_what_is_wrong(
    served: tuple[Server, TuningClient], damage: str
) -> None:
    server, client = served
    name = f"damaged-{list(DAMAGES).index(damage)}"
    act, status, text = DAMAGES[damage]
    act(server.models / name)
    whole = client.generate("whole", TEXT, max_new_tokens=3)
    for _ in range(2):
        if not status:
            assert client.generate(name, TEXT, max_new_tokens=3) == whole
            continue
        for ask in (client.generate, lambda *asked: list(client.stream(*asked))):
            with pytest.raises(ServerError) as error:
                ask(name, TEXT)
            assert (error.value.status, text in str(error.value)) == (status, True), str(error.value)
            assert str(server.models) not in str(error.value)
    assert client.generate("whole", TEXT, max_new_tokens=3) == whole


def test_a_prompt_that_is_removed_while_it_is_served_is_gone_soon(
    served: tuple[Server, TuningClient],
) -> None:
    server, client = served
    assert client.generate("to-remove", TEXT, max_new_tokens=3)
    stream = client.stream("to-remove", TEXT, max_new_tokens=200, min_new_tokens=200)
    next(stream)
    shutil.rmtree(server.models / "to-remove")
    assert len(list(stream)) == 199

    def is_gone() -> bool:
        try:
            client.generate("to-remove", TEXT, max_new_tokens=3)
        except ServerError as error:
            return error.status == "NOT_FOUND"
        return False

    wait_for(is_gone, 20)
    assert client.generate("whole", TEXT, max_new_tokens=3)


def test_a_base_model_that_is_lost_while_it_is_served(tmp_path: Path, llama: BaseModel) -> None:
    """What is in memory is served; what would have to be read isn't, until the files are back."""
    bases = tmp_path / "bases"
    shutil.copytree(BASE_MODELS / LLAMA, bases / LLAMA)
    server = Server(tmp_path, BASE_MODELS_DIR=bases)
    for name in ("loaded", "later"):
        save(llama, 0, server.models / name)
    try:
        with server.start() as client:
            answer = client.generate("loaded", TEXT, max_new_tokens=3)
            (bases / LLAMA).rename(bases / "away")
            with pytest.raises(ServerError, match=LLAMA) as error:
                client.generate("later", TEXT, max_new_tokens=3)
            assert error.value.status == "FAILED_PRECONDITION"
            assert client.generate("loaded", TEXT, max_new_tokens=3) == answer
            with pytest.raises(ServerError, match="base_model: 'tiny-llama' is not allowed") as error:
                client.tune("new", base_model=LLAMA, records=RECORDS, **QUICK)
            assert error.value.status == "INVALID_ARGUMENT"
            (bases / "away").rename(bases / LLAMA)
            assert client.generate("later", TEXT, max_new_tokens=3) == answer
    finally:
        server.close()


def _waits(client: TuningClient, id: str) -> bool:
    return WAITING in client.training(id).reasons


def test_a_disk_that_is_full_holds_up_no_other_training(tmp_path: Path) -> None:
    """The one slot was kept by the training that was done, and others waited for it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a small file system can't be mounted here")
    server = Server(tmp_path, RUNTIME_LOCAL_MODELS_DIR=disk / "models", SLOTS=1)
    try:
        with server.start() as client:
            filler = disk / "filler"
            with pytest.raises(OSError, match="No space left"):
                filler.write_bytes(bytes(4 << 20))
            ids = [
                client.tune(name, base_model=T5, records=RECORDS, **QUICK) for name in ("one", "two", "three")
            ]
            watched = client.watch(ids[0])
            assert any(WAITING in str(event) for event in watched)
            for id in ids:
                wait_for(partial(_waits, client, id), 120)
            assert client.cancel(ids[1]) == CANCELED
            filler.unlink()
            for id in (ids[0], ids[2]):
                assert client.wait(id).state == COMPLETED
            assert client.training(ids[1]).state == CANCELED
            assert client.generate("three", TEXT, max_new_tokens=2)
    finally:
        server.close()
        subprocess.run(["umount", "-l", str(disk)], check=True)
