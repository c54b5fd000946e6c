"""Uploaded files: whose they are, how they lie there, and what is refused."""

from __future__ import annotations

import gzip
import io
import json
import os
import stat
from pathlib import Path

import pytest

from caikit_pt.errors import InvalidRecord
from caikit_pt.tuning.record_fields import Asked
from caikit_pt.web.files import FileStore, plain_filename
from caikit_pt.web.job_notes import JobNotes, Note
from caikit_pt.web.refusal import Refused

LINE = b'{"input": "The lamp is great", "output": "good"}\n'


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "web", largest=10_000, most_bytes=40_000)


def add(store: FileStore, content: bytes = LINE, name: str = "train.jsonl", owner: str = "ada") -> str:
    return store.add(owner, name, "fine-tune", io.BytesIO(content)).id


def test_a_file_is_its_callers_own(store: FileStore) -> None:
    id = add(store)
    assert b"".join(store.content("ada", id)) == LINE
    assert [one.id for one in store.all("ada")] == [id]
    assert store.get("ada", id).records == 1
    for other in ("bob", "", "ada/../ada", "ADA"):
        assert store.all(other) == []
        for ask in (store.get, store.content, store.remove):
            with pytest.raises(Refused, match="There is no file") as error:
                ask(other, id)
            assert error.value.status == "NOT_FOUND"
    store.remove("ada", id)
    assert store.all("ada") == []
    with pytest.raises(Refused):
        store.remove("ada", id)


def test_nobody_else_on_the_machine_reads_it(store: FileStore, tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        add(store)
    finally:
        os.umask(old)
    found = list((tmp_path / "web").rglob("*"))
    assert len(found) == 5  # files, the caller's, the file's own, its content, its facts
    for path in [tmp_path / "web", *found]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


@pytest.mark.parametrize(
    "id", ["", "file-", "file-XYZ", "../../etc/passwd", "file-" + "a" * 23 + "/", "file-" + "a" * 25, "."]
)
def test_what_is_no_id_never_becomes_a_path(store: FileStore, tmp_path: Path, id: str) -> None:
    add(store)
    (tmp_path / "content").write_text("a secret")
    for ask in (store.get, store.content, store.remove):
        with pytest.raises(Refused, match="There is no file"):
            ask("ada", id)


@pytest.mark.parametrize(
    "given", ["/etc/train.jsonl", "..\\..\\train.jsonl", "C:\\a\\train.jsonl", "a/train.jsonl"]
)
def test_a_name_has_no_folders(given: str) -> None:
    assert plain_filename(given) == "train.jsonl"


@pytest.mark.parametrize(
    "given", ["", "/", "..", " ", "a\nb.jsonl", "a" * 256, "a\0.jsonl", "\x1b[31m.jsonl"]
)
def test_a_name_that_cant_be_shown_is_refused(store: FileStore, given: str) -> None:
    with pytest.raises(Refused):
        add(store, name=given)


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b"", "no records"),
        (LINE + b'{"input": "a"}\n', "line 2"),
        (LINE + b'{"input": "a", "output": 5}\n', "line 2, column 26"),
        (LINE + b'{"messages": [{"role": "system", "content": "a"}]}\n', "line 2"),
        (b"\xff\xfe\xff", "train.jsonl"),
    ],
)
def test_what_cant_be_trained_on_is_refused_with_its_place(
    store: FileStore, tmp_path: Path, content: bytes, place: str
) -> None:
    with pytest.raises(InvalidRecord, match=place):
        add(store, content)
    # Nothing is left of it, and no path of this machine is told.
    assert not [path for path in (tmp_path / "web").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b'{"prompt": "a", "completion": "b"}\n'),
        (
            "a.jsonl",
            b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}',
        ),
        ("a.CSV", b"text,label\na,b\n"),
        ("a.tsv", b"input\toutput\na\tb\n"),
        ("a.json", b"[" + LINE + b"]"),
    ],
)
def test_whatever_the_reader_knows_is_taken(store: FileStore, name: str, content: bytes) -> None:
    id = add(store, content, name)
    assert len(store.records("ada", id, "training_file", Asked())) == 1


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl.gz", "a.parquet", "jsonl"])
def test_other_files_are_refused(store: FileStore, name: str) -> None:
    """Packed ones, too: a MiB may become a thousand."""
    with pytest.raises(Refused, match=r"ends in .jsonl, .json, .csv, .tsv$") as error:
        add(store, gzip.compress(LINE), name)
    assert error.value.field == "file"


def test_a_file_and_all_of_a_callers_have_their_bounds(store: FileStore) -> None:
    with pytest.raises(Refused, match="more than the"):
        add(store, LINE * 300)
    for _ in range(4):
        # Each counts for more than it has, or a disk would be full of small ones.
        first = add(store)
    with pytest.raises(Refused, match="Delete what isn't needed") as error:
        add(store)
    assert error.value.reason == "FILES_FULL"
    add(store, owner="bob")
    store.remove("ada", first)
    add(store)


def test_an_upload_that_was_cut_short_is_no_file(store: FileStore, tmp_path: Path) -> None:
    """As kill -9 leaves it; it is swept up when it is old."""
    id = add(store)
    folder = next((tmp_path / "web" / "files").iterdir())
    part = folder / ".part-0"
    part.mkdir()
    (part / "content").write_bytes(LINE)
    assert [one.id for one in store.all("ada")] == [id]
    assert part.exists()
    os.utime(part, (1, 1))
    assert [one.id for one in store.all("ada")] == [id]
    assert not part.exists()
    (folder / id / "facts.json").write_text("{")
    assert store.all("ada") == []


def test_notes_are_their_callers_own_and_written_once(tmp_path: Path) -> None:
    notes = JobNotes(tmp_path / "web")
    note = Note("file-1", suffix="a", metadata={"a": "b"}, hyperparameters={"n_epochs": "auto"})
    notes.keep("ada", "ftjob-1", note)
    notes.keep("ada", "ftjob-1", Note("file-2"))
    assert notes.find("ada", "ftjob-1") == note
    assert notes.find("bob", "ftjob-1") is None
    for id in ("../x", "", "a/b", "."):
        notes.keep("ada", id, note)
        assert notes.find("ada", id) is None
    (path,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert json.loads(path.read_text())["training_file"] == "file-1"
    path.write_text("[]")
    assert notes.find("ada", "ftjob-1") is None
    notes.remove("ada", "ftjob-1")
    assert not path.exists()
