"""Files as people have them: what is read of them, and what is told of those that can't be."""

from __future__ import annotations

import gzip
import json
import os
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from caikit_pt.errors import InvalidRecord, without_excerpts
from caikit_pt.tuning.record_fields import Asked
from caikit_pt.tuning.record_file import rows
from caikit_pt.tuning.records import Records, field_doubts, read_records

LINE = '{"input": "a", "output": "b"}'
TABLE = "input,output\na,b\nà,b\n"


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """Reads a file of this name and contents."""

    def read(name: str, contents: str | bytes, **asked: str) -> Records:
        path = tmp_path / name
        path.write_bytes(contents.encode() if isinstance(contents, str) else contents)
        return read_records(rows(path, name), "train_stream", Asked(**asked))

    return read


def texts(records: Records) -> list[tuple[str, str]]:
    return [(record.input, record.output) for record in records.items]


@pytest.mark.parametrize(
    ("name", "contents"),
    [
        ("plain.jsonl", f"{LINE}\n\n{LINE}"),
        ("plain.json", f"[{LINE},\n {LINE}]"),
        ("plain.csv", "input,output\na,b\na,b\n"),
        ("mark.jsonl", f"\ufeff{LINE}\n{LINE}"),
        ("mark.json", f"\ufeff[{LINE},{LINE}]"),
        ("mark.csv", "\ufeffinput,output\na,b\na,b"),
        ("sixteen.jsonl", f"{LINE}\r\n{LINE}\r\n".encode("utf-16")),
        ("sixteen.json", b"\xfe\xff" + f"[{LINE},{LINE}]".encode("utf-16-be")),
        ("sixteen.csv", "input,output\na,b\na,b".encode("utf-16")),
        ("thirty-two.csv", "input,output\na,b\na,b".encode("utf-32")),
        ("tabs.tsv", "input\toutput\na\tb\na\tb"),
        ("tabs.csv", "input\toutput\na\tb\na\tb"),
        ("semicolons.csv", "input;output\na;b\na;b"),
        ("bars.csv", "input|output\na|b\na|b"),
        ("excel.csv", "\ufeffsep=;\r\ninput;output\r\na;b\r\na;b\r\n"),
        ("commas.tsv", "input\toutput\tmore, and, commas\na\tb\t\na\tb\t"),
        ("letters.csv", " Input , OUTPUT\na,b\na,b"),
        ("letters.jsonl", f"{LINE}\n{LINE}".replace("input", "Input ")),
        ("returns.csv", "input,output\ra,b\ra,b"),
        ("empty-rows.csv", "\ninput,output,\na,b,\n,,\n\na,b,c\n"),
        ("quoted.csv", 'input,output\n"a","b"\n"a","b"'),
        ("packed.jsonl.gz", gzip.compress(f"{LINE}\n{LINE}".encode(), mtime=0)),
        ("packed.csv.gz", gzip.compress(b"input,output\na,b\na,b", mtime=0)),
        ("UP.JSONL", f"{LINE}\n{LINE}"),
        ("Up.Json.GZ", gzip.compress(f"[{LINE},{LINE}]".encode(), mtime=0)),
    ],
)
def test_what_is_read_without_a_word(read: Any, name: str, contents: str | bytes) -> None:
    records = read(name, contents)
    assert texts(records) == [("a", "b")] * 2
    assert field_doubts(records) == []


def test_text_is_taken_as_it_stands(read: Any) -> None:
    """In a table all is text: numbers are labels, and NaN and null are words. JSON's escapes are read."""
    cells = [('two\nlines, and \u2028 "quotes"', "1"), ("x ", "NaN"), ("y", "null"), ("z", "0.50")]
    written = "".join('"{}",{}\n'.format(text.replace('"', '""'), label) for text, label in cells)
    assert texts(read("a.csv", "input,output\n" + written)) == cells
    assert texts(read("a.jsonl", json.dumps({"input": "🙂\n", "output": "\t1"}))) == [("🙂\n", "\t1")]
    assert texts(read("a.csv", "input;output\na, b;c")) == [("a, b", "c")]


@pytest.mark.parametrize(
    ("name", "contents", "pair", "told"),
    [
        ("a.jsonl", '{"prompt": "a", "completion": "b"}', ("a", "b"), "prompt as input and completion as"),
        ("a.csv", "Text;Label\na;1", ("a", "1"), "Text as input and Label as output"),
        ("a.jsonl", '{"instruction": "a", "response": "b"}', ("a", "b"), "instruction as input and resp"),
        ("a.jsonl", '{"text": "a", "label": "b"}', ("a", "b"), "text as input and label as output"),
        (
            "a.json",
            '[{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]',
            ("a", "b"),
            "messages, the user's as input and the assistant's as output",
        ),
    ],
)
def test_other_pairs_are_read_and_told_of(
    read: Any, name: str, contents: str, pair: tuple[str, str], told: str
) -> None:
    records = read(name, contents)
    assert texts(records) == [pair]
    (doubt,) = field_doubts(records)
    assert doubt.startswith("1 records of train_stream are read with " + told)
    assert records.classification == ("abel" in told)


def test_labels_are_the_products_own(read: Any) -> None:
    records = read("a.jsonl", '{"text": "a", "labels": ["b", "c"]}\n{"text": "a", "labels": "bc"}')
    assert texts(records) == [("a", "b,c"), ("a", "bc")]
    assert records.classification
    assert field_doubts(records) == []


def test_input_and_output_come_before_other_pairs(read: Any) -> None:
    records = read("a.jsonl", '{"instruction": "do", "input": "a", "output": "b", "response": "r"}')
    assert texts(records) == [("a", "b")]
    assert [doubt.split(" (")[0][-44:] for doubt in field_doubts(records)] == [
        "have a field 'instruction', which nothing reads"[-44:],
        "have a field 'response', which nothing reads"[-44:],
    ]


def test_fields_that_are_named(read: Any) -> None:
    named = read("a.csv", "q,a,input\nx,y,z", input="Q", output="a")
    assert texts(named) == [("x", "y")]
    assert [doubt for doubt in field_doubts(named) if "read with" in doubt] == []
    assert texts(read("a.jsonl", '{"q": "x", "output": "y"}', input="q")) == [("x", "y")]
    with pytest.raises(InvalidRecord, match=r"line 1, column 1: fields “input”, “output” .* the field 'q'"):
        read("a.csv", "input,output\nx,y", input="q")


@pytest.mark.parametrize(
    ("name", "contents", "told", "expected"),
    [
        # (file, line, column; what stands there), what was expected
        ("a.csv", TABLE.encode("cp1252"), "line 3, column 1: byte 0xE0", "iconv -f WINDOWS-1252 -t UTF-8"),
        (
            "a.jsonl",
            LINE.encode() + b'\n{"input": "The caf\xe9"}',
            'line 2, column 19: byte 0xE9 behind “{"input": "The caf”',
            "text in UTF-8, or in UTF-16 with a byte order mark",
        ),
        ("a.csv", TABLE.encode("utf-16-le"), "line 1, column 2: a NUL", "UTF-16 without its mark"),
        ("a.csv", TABLE.encode("utf-16")[:-1], "line 3, column 4: byte 0x0A", "text in UTF-8"),
        ("a.jsonl", "\n" + LINE[:-5], "line 2, column 25: the end, which isn't JSON", "a record a line"),
        ("a.jsonl", f"{LINE} {LINE}", 'line 1, column 31: “{"input": "a", "outp…”', "a record a line"),
        ("a.jsonl", f"[{LINE}]", 'line 1, column 1: “[{"input": "a", "out…”', "belongs into a .json file"),
        ("a.jsonl", "[" * 100_000, "line 1, column 1: “[[[[[[[[[[[[[[[[[[[[…”", "a record a line"),
        ("a.json", LINE, 'line 1, column 1: “{"input": "a", "outp…”', "belongs into a .jsonl file"),
        ("a.json", f"[{LINE},\n 3]", "line 2, column 2: “3”", "a record of the array"),
        ("a.json", f"[{LINE}\n{LINE}]", 'line 2, column 1: “{"input": "a", "outp…”', ", or ]"),
        ("a.json", f"[{LINE}] []", "line 1, column 33: “[]”", "nothing behind the array"),
        ("a.json", f"[{LINE},\n{LINE[:-2]}", "line 2, column 26: “\"b”, which isn't JSON", "in an array"),
        ("a.json", "", "line 1, column 1: the end", "an array of records"),
        ("a.csv", "input output\na b", "line 1, column 1: “input output”", "a header of two names or more"),
        ("a.csv", "a,b\nc,d", "line 1, column 1: fields “a”, “b”", "the fields input and output"),
        ("a.csv", "input,output\na,b\na,b,c d", "line 3, column 3: “c d”", "2 cells, as the header has"),
        ("a.csv", 'input,output\n"x\ny",b\na', "line 4, column 2: no cell", "2 cells, as the header has"),
        ("a.csv", 'input,output\n"a"x,b', 'line 2, column 3: “"x,b”', "quotes in it twice"),
        ("a.csv", 'input,output\na,"b\nc,d', 'line 2, column 3: “"b”', "quotes in it twice"),
        ("a.csv", "input,output,input\na,b,c", "line 1, column 3: “input”", "each name once"),
        ("a.csv", "input,output\na, ", "line 2, column 2 (output): “ ”", "not empty"),
        ("a.jsonl", '{"input": "a", "output": null}', "line 1, column 26 (output): null", "not empty"),
        ("a.json", '[{"input":\n "a", "output": ""}]', "line 2, column 17 (output): “”", "not empty"),
        ("a.jsonl", '{"input": "a", "output": NaN}', "line 1, column 26 (output): NaN", "text"),
        (
            "a.jsonl",
            '{"input": 7, "output": "b"}',
            "column 11 (input): the number “7”, without quotes",
            "text",
        ),
        ("a.jsonl", '{"input": "a", "output": ["b"]}', "column 26 (output): a list, “['b']”", "text"),
        ("a.jsonl", '{"input": "a", "output": {}}', "column 26 (output): an object", "text"),
        ("a.jsonl", '{"input": "a\\u0000", "output": "b"}', "(input): “a\\x00” with a NUL", "without NUL"),
        ("a.jsonl", '{"input": "a\\ud83d", "output": "b"}', "half a character, \\ud83d", "in a pair"),
        (
            "a.jsonl",
            '{"output": "x", "input": "a", "output": "b"}',
            "column 41: the key “output”",
            "each key once",
        ),
        ("a.jsonl", '{"text": "a", "labels": []}', "column 25 (labels): a list", "text"),
        (
            "a.jsonl",
            '{"prompt": "a", "completion": "b", "text": "a", "label": "b"}',
            "fields “prompt”, “completion”, “text”, “label”",
            "input_field and output_field say which",
        ),
        ("a.jsonl", '{"Input": "a", "INPUT": "b", "output": "c"}', "“Input”, “INPUT”", "'input' once"),
        (
            "a.jsonl",
            '{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]}',
            "column 14 (messages): messages of “system, user”",
            "two messages",
        ),
        ("a.jsonl.gz", LINE, "line 1, column 1: what gunzip can't read", "or a name without .gz"),
        (
            "a.jsonl.gz",
            gzip.compress(LINE.encode(), mtime=0)[:-9],
            "the end of what gunzip",
            "a whole gzip file",
        ),
        ("a.txt", LINE, "a.txt", ".parquet"),
    ],
)
def test_what_is_refused_is_told_with_its_place(
    read: Any, name: str, contents: str | bytes, told: str, expected: str
) -> None:
    with pytest.raises(InvalidRecord) as refusal:
        read(name, contents)
    assert str(refusal.value).startswith(f"train_stream: {name}")
    assert told in str(refusal.value.value)
    assert expected in refusal.value.allowed
    assert "\n" not in str(refusal.value)


def test_of_many_bad_records_the_first_is_told_and_the_others_by_number(read: Any) -> None:
    lines = [LINE, *['{"input": "a", "output": ""}'] * 7, LINE]
    with pytest.raises(
        InvalidRecord, match=r"line 2, .*“”; 7 records can't be used \(record 2, 3, 4, 5, 6, …"
    ):
        read("a.jsonl", "\n".join(lines))


def test_all_rows_of_other_lengths_are_told_at_once(read: Any) -> None:
    """One hid the next, and each took another upload to find."""
    rows_of = ["a,b", "a,b,c", "", "a,b", "a", "a,b", *["x,y,z"] * 8]
    with pytest.raises(InvalidRecord) as refusal:
        read("a.csv", "input,output\n" + "\n".join(rows_of))
    told = str(refusal.value)
    assert "a.csv, line 3, column 3: “c”; 9 more rows are like it, in line 6, 8, 9, 10, … is not" in told
    with pytest.raises(InvalidRecord) as refusal:
        read("a.csv", "input,output\na,b\na,b,c\n")
    assert "more rows" not in str(refusal.value)


@pytest.mark.parametrize(
    ("contents", "found", "expected"),
    [
        (gzip.compress(LINE.encode(), mtime=0), "a file that is packed by gzip", "ends in .gz"),
        (b"PK\x03\x04 and so on", "a file that is packed by zip, as .zip and .xlsx are", "saved as CSV"),
    ],
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.json"])
def test_what_is_packed_under_the_name_of_a_text(
    read: Any, name: str, contents: bytes, found: str, expected: str
) -> None:
    """It was "byte 0x8B"."""
    with pytest.raises(InvalidRecord) as refusal:
        read(name, contents)
    assert f"{name}, line 1, column 1: {found}" in str(refusal.value.value)
    assert expected in refusal.value.allowed


def test_a_table_without_a_header_is_told_where_one_goes(read: Any) -> None:
    with pytest.raises(InvalidRecord) as refusal:
        read("a.csv", "The lamp is great,good\nThe desk is awful,bad\n")
    assert "The first line of a table is its header" in refusal.value.allowed


def test_no_more_than_an_excerpt_is_told_and_none_in_a_log(read: Any) -> None:
    secret = "swordfish " * 9
    with pytest.raises(InvalidRecord) as refusal:
        read("a.jsonl", json.dumps([secret]))
    assert "swordfish" in str(refusal.value)
    assert secret[:20] not in str(refusal.value)
    assert "swordfish" not in without_excerpts(str(refusal.value))
    with pytest.raises(InvalidRecord) as refusal:
        read("a.csv", f"input,output\na,b,” {secret}")
    assert "swordfish" not in without_excerpts(str(refusal.value))


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "csv.gz"])
def test_a_file_is_never_in_memory_whole(tmp_path: Path, kind: str) -> None:
    """Nor where its bytes are read in pieces that end within a character, a line end and a record."""
    count, text = 10_000, "ünïcode 🙂 " * 20
    record = json.dumps({"input": text, "output": "b"}, ensure_ascii=False)
    written = {
        "jsonl": "\r\n".join([record] * count),
        "json": "[" + ",\r\n".join([record] * count) + "]",
        "csv": "input,output\r\n" + f"{text},b\r\n" * count,
    }[kind.removesuffix(".gz")].encode()
    path = tmp_path / f"a.{kind}"
    path.write_bytes(gzip.compress(written, 1) if kind.endswith("gz") else written)
    size = len(written)
    del written
    tracemalloc.start()
    try:
        assert {(row.fields["input"], row.fields["output"]) for row in rows(path, path.name)} == {(text, "b")}
        assert tracemalloc.get_traced_memory()[1] < size / 2
        assert sum(1 for _ in rows(path, path.name)) == count
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv"])
def test_a_record_longer_than_a_piece(read: Any, kind: str) -> None:
    text = "long " * 200_000
    contents = {
        "jsonl": json.dumps({"input": text, "output": "b"}),
        "json": json.dumps([{"input": text, "output": "b"}, {"input": "a", "output": "b"}]),
        "csv": f"input,output\n{text},b",
    }[kind]
    assert texts(read(f"a.{kind}", contents))[0] == (text, "b")


def test_a_record_beyond_all_measure(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gzip bomb of one line, say."""
    for room in ("record_text", "record_json"):
        monkeypatch.setattr(f"caikit_pt.tuning.{room}.LONGEST", 2**17)
    line = '{"input": "' + "x" * 2**20
    for name in ("a.jsonl.gz", "a.json.gz"):
        contents = gzip.compress((line if name == "a.jsonl.gz" else f"[{line}").encode())
        with pytest.raises(InvalidRecord, match=r"line 1, column \d: “\{\"input\": \"xxx"):
            read(name, contents)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for name in ("no.csv", "no.parquet"):
        with pytest.raises(InvalidRecord, match=f"{name}: a file that can't be read .No such file"):
            list(rows(tmp_path / name, name))


@pytest.mark.parametrize("ending", [".jsonl", ".csv.gz", ".parquet"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, ending: str) -> None:
    """It hung the request that named it."""
    file = tmp_path / f"a{ending}"
    os.mkfifo(file)
    with pytest.raises(InvalidRecord, match=r"can't be read \(not a regular file\)"):
        list(rows(file, file.name))


def test_parquet_without_pyarrow_says_what_to_install(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InvalidRecord, match=r"a\.parquet: .*pip install 'caikit-pt\[parquet\]'"):
        read("a.parquet", b"PAR1")


class TestParquet:
    """With the extra that `make test` installs."""

    @pytest.fixture(autouse=True)
    def pyarrow(self, tmp_path: Path) -> None:
        self.arrow = pytest.importorskip("pyarrow")
        self.file = tmp_path / "a.parquet"

    def read(self, **columns: Any) -> Records:
        from pyarrow import parquet

        parquet.write_table(self.arrow.table(columns), self.file, row_group_size=2)
        return read_records(rows(self.file, "a.parquet"), "train_stream")

    def test_columns_are_fields(self) -> None:
        given = [f"in {n}" for n in range(600)]
        records = self.read(Prompt=given, completion=["b"] * 600, id=list(range(600)))
        assert texts(records) == [(one, "b") for one in given]
        assert len(field_doubts(records)) == 2

    def test_columns_that_nobody_reads_may_be_anything(self) -> None:
        moments = self.arrow.array([1, 2], self.arrow.timestamp("ns"))
        assert texts(self.read(input=["a", "a"], output=["b", "b"], created=moments)) == [("a", "b")] * 2
        with pytest.raises(
            InvalidRecord, match=r"row 1, column 2 \(output\): a value of type timestamp\[ns\]"
        ):
            self.read(input=["a", "a"], output=moments)

    def test_chats(self) -> None:
        turn = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        assert texts(self.read(messages=[turn])) == [("a", "b")]

    @pytest.mark.parametrize(
        ("outputs", "told"),
        [
            (["b", None], "row 2, column 2 (output): null"),
            ([1, 2], "row 1, column 2 (output): the number “1”, without quotes; 2 records"),
            ([0.5, float("nan")], "row 1, column 2 (output): the number “0.5”"),
            ([float("nan"), 1.5], "row 1, column 2 (output): NaN"),
            ([["b"], ["c"]], "row 1, column 2 (output): a list, “['b']”"),
            ([b"b", b"c"], "row 1, column 2 (output): bytes, “b'b'”"),
        ],
    )
    def test_what_is_no_text(self, outputs: list[Any], told: str) -> None:
        with pytest.raises(InvalidRecord) as refusal:
            self.read(input=["a", "a"], output=outputs)
        assert told in str(refusal.value)

    def test_a_file_that_is_none(self) -> None:
        self.file.write_bytes(b"PAR1 and no more")
        with pytest.raises(InvalidRecord, match=r"a\.parquet, row 1: no parquet"):
            list(rows(self.file, "a.parquet"))
