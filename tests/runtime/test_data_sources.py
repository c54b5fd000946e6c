"""Files that a request names, over real gRPC: one, several, and all of one ending in a directory."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from caikit_pt.client import ServerError, TuningClient
from examples.grpc_client import Client
from tests.conftest import T5
from tests.runtime.servers import RECORDS, Server

PAIRS = [(record["input"], record["output"]) for record in RECORDS]
LINES = "\n".join(map(json.dumps, RECORDS))
FILES: dict[str, bytes] = {
    "plain.jsonl": LINES.encode(),
    "marked.json": b"\xef\xbb\xbf" + json.dumps(RECORDS).encode(),
    "marked.csv": "\n".join(["\ufeffInput ,OUTPUT", *map(",".join, PAIRS)]).encode(),
    "semicolons.csv": "\r\n".join(["input;output", *map(";".join, PAIRS)]).encode(),
    "tabs.tsv": "\n".join(["input\toutput", *map("\t".join, PAIRS)]).encode("utf-16"),
    "UP.JSONL": LINES.encode(),
    "packed.jsonl.gz": gzip.compress(LINES.encode()),
    "pairs.csv": "\n".join(["prompt,completion", *map(",".join, PAIRS)]).encode(),
    "labels.jsonl": "\n".join(json.dumps({"text": one, "label": two}) for one, two in PAIRS).encode(),
    "responses.jsonl": "\n".join(
        json.dumps({"instruction": one, "response": two}) for one, two in PAIRS
    ).encode(),
    "chats.jsonl": "\n".join(
        json.dumps({"messages": [{"role": "user", "content": one}, {"role": "assistant", "content": two}]})
        for one, two in PAIRS
    ).encode(),
    "others.csv": "\n".join(["question,answer", *map(",".join, PAIRS)]).encode(),
}
BROKEN: dict[str, tuple[bytes, str]] = {
    "windows.csv": ("input,output\nx,y\nThe café,b".encode("cp1252"), "line 3, column 8: byte 0xE9"),
    "null.jsonl": (b'\n{"input": "a", "output": null}', "line 2, column 26 (output): null"),
    "cells.csv": (b"input,output\nx,y,z", "line 2, column 3: “z”"),
    "parquet.parquet": (b"PAR1", "parquet"),
}
SECRET = "the password is swordfish"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `file_source_base`."""
    root = tmp_path_factory.mktemp("files") / "root"
    root.mkdir()
    for name, contents in {**FILES, **{name: contents for name, (contents, _) in BROKEN.items()}}.items():
        (root / name).write_bytes(contents)
        alone = root / f"only-{name}"
        alone.mkdir()
        (alone / f"1-{name}").write_bytes(contents)
    (root / "only-plain.jsonl" / "0-more.jsonl").write_text('{"input": "more", "output": "bad"}')
    (root / "secret.jsonl").write_text(json.dumps([SECRET]))
    (root / "linked").mkdir()
    (root.parent / "outside.jsonl").write_text(LINES)
    (root / "linked" / "a.jsonl").symlink_to(root.parent / "outside.jsonl")
    (root / "empty").mkdir()
    return root


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("data"), DATA_STREAMS_FILE_SOURCE_BASE=root)
    made.start().close()
    yield made
    made.close()


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[TuningClient]:
    with TuningClient(f"localhost:{server.port}") as client:
        yield client


def check(client: TuningClient, stream: dict[str, Any], **parameters: Any) -> dict[str, Any]:
    """What the server says of a training on `stream`."""
    message = client._stubs.training_messages.TextGenerationTaskPeftPromptTuningTrainRequest()
    told = {"base_model": T5, "train_stream": stream, **parameters}
    json_format.ParseDict({"model_name": "never", "parameters": told}, message)
    answer = client._connection.answer(client._stubs.tuning.CheckTraining, message)
    return dict(json_format.MessageToDict(answer.report))


def named(name: str) -> dict[str, str]:
    return {"input_field": "question", "output_field": "answer"} if name == "others.csv" else {}


def ending(name: str) -> str:
    return name.partition(".")[2]


@pytest.mark.parametrize("name", FILES)
def test_a_file(client: TuningClient, name: str) -> None:
    report = check(client, {"file": {"filename": name}}, **named(name))
    assert report["records"] == len(RECORDS)
    told = any("are read with" in warning for warning in report["warnings"])
    assert told == (name.split(".")[0] in ("pairs", "labels", "responses", "chats"))
    # Of the others it shows only by outputs that are few and repeated.
    assert report["parameters"]["tuning_task"] == "classification"
    origin = report["parameters"]["origins"]["tuning_task"]
    assert (origin == "the type of the records") == (name == "labels.jsonl")


def test_a_list_of_files(client: TuningClient) -> None:
    names = [name for name in FILES if name != "others.csv"]
    report = check(client, {"list_of_files": {"files": names}})
    assert report["records"] + report["validation_records"] == len(names) * len(RECORDS)


@pytest.mark.parametrize("name", FILES)
def test_a_directory(client: TuningClient, name: str) -> None:
    stream = {"directory": {"dirname": f"only-{name}", "extension": ending(name)}}
    assert check(client, stream, **named(name))["records"] == len(RECORDS) + (name == "plain.jsonl")


def test_parquet(client: TuningClient, root: Path) -> None:
    """From every source, with the extra that `make test` installs."""
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    (root / "tables").mkdir()
    parquet.write_table(arrow.Table.from_pylist(RECORDS), root / "tables" / "a.PARQUET")
    for stream in (
        {"file": {"filename": "tables/a.PARQUET"}},
        {"list_of_files": {"files": ["tables/a.PARQUET"]}},
        {"directory": {"dirname": "tables", "extension": "parquet"}},
    ):
        assert check(client, stream)["records"] == len(RECORDS)


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_read_is_told_with_its_place(client: TuningClient, name: str) -> None:
    for stream, file in (
        ({"file": {"filename": name}}, name),
        ({"list_of_files": {"files": ["plain.jsonl", name]}}, name),
        ({"directory": {"dirname": f"only-{name}", "extension": ending(name)}}, f"only-{name}/1-{name}"),
    ):
        with pytest.raises(ServerError) as error:
            check(client, stream)
        assert error.value.status == "INVALID_ARGUMENT"
        assert str(error.value).startswith(f"train_stream: {file}")
        assert BROKEN[name][1] in str(error.value)


@pytest.mark.parametrize(
    ("stream", "told"),
    [
        ({"directory": {"dirname": "linked", "extension": "jsonl"}}, "inside"),
        ({"directory": {"dirname": "empty", "extension": "jsonl"}}, "files that end in .jsonl"),
        ({"directory": {"dirname": "only-plain.jsonl", "extension": "txt"}}, ".parquet"),
        (
            {"directory": {"dirname": "only-packed.jsonl.gz", "extension": "jsonl"}},
            "files that end in .jsonl",
        ),
        ({"list_of_files": {"files": ["../outside.jsonl"]}}, "inside"),
    ],
)
def test_what_is_no_source(client: TuningClient, stream: dict[str, Any], told: str) -> None:
    with pytest.raises(ServerError) as error:
        check(client, stream)
    assert error.value.status == "INVALID_ARGUMENT"
    assert told in str(error.value).partition("Allowed: ")[2]


def test_the_files_of_a_directory_come_in_the_order_of_their_names(client: TuningClient) -> None:
    """Records have numbers, which a second look at the directory must not change."""
    stream = {"directory": {"dirname": "only-plain.jsonl", "extension": "jsonl"}}
    report = check(client, {"list_of_files": {"files": ["plain.jsonl"]}}, val_stream=stream)
    assert any(
        "8 records to validate with are trained on, too (record 2, 3" in one for one in report["warnings"]
    )


def test_a_refusal_is_for_the_user_and_not_for_the_log(server: Server) -> None:
    """caikit logs what it refuses, twice, with all that it was told."""
    stream = {"file": {"filename": "secret.jsonl"}}
    with pytest.raises(Exception, match="the password is") as error:
        Client(server.port).submit("never", {"base_model": T5, "train_stream": stream})
    assert "swordfish" not in str(error.value)
    log = server.log.read_text()
    assert "status=INVALID_ARGUMENT reason=INVALID_RECORD field=train_stream" in log
    assert "secret.jsonl" not in log
    assert "the password" not in log
