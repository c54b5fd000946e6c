"""Numbers, texts and records that no request needs."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from typing import Any

from attacks.attack import ANSWERED, REFUSED, Attack
from attacks.target import GOOD, Target

MiB = 2**20
_FULL = (*REFUSED, "RESOURCE_EXHAUSTED")


def _asking(text: str = "hello", **parameters: Any) -> Callable[[Target], object]:
    return lambda target: target.raw.predict(GOOD, text, **parameters)


OF_ANSWERS: dict[str, Callable[[Target], object]] = {
    "10**9 tokens": _asking(max_new_tokens=10**9),
    "tokens below nothing": _asking(max_new_tokens=-1),
    "more than may be": _asking(min_new_tokens=100, max_new_tokens=10),
    "a temperature of NaN": _asking(decoding_method="SAMPLING", temperature=float("nan")),
    "a top_p of infinity": _asking(decoding_method="SAMPLING", top_p=float("inf")),
    "a top_k of 2**62": _asking(decoding_method="SAMPLING", top_k=-(2**62)),
    "a penalty of -inf": _asking(repetition_penalty=float("-inf")),
    "100,000 stop sequences": _asking(stop_sequences=["x" * 10] * 100_000),
    "an empty stop sequence": _asking(stop_sequences=[""]),
    "a stop sequence of 3 MiB": _asking(stop_sequences=["x" * 3 * MiB]),
    "no time": _asking(max_time=-1.0),
    "a method that there isn't": _asking(decoding_method="__class__"),
    "no text": _asking(""),
    "a text of 3 MiB": _asking("word " * (3 * MiB // 5)),
    "a text of 15 MiB": _asking("word " * (15 * MiB // 5)),
    "combining marks": _asking("e" + "\u0301" * 200_000),
    "one word of 1 MiB": _asking("x" * MiB),
    "1 MiB of blanks": _asking(" " * MiB),
    "1 MiB of nothing": _asking("\0" * MiB),
}


def _tokenized(text: str) -> Callable[[Target], object]:
    return lambda target: target.raw.tokenize(GOOD, text)


def _training(**parameters: Any) -> Callable[[Target], object]:
    return lambda target: target.submit(**parameters)


OF_TRAININGS: dict[str, Callable[[Target], object]] = {
    "10**9 tokens": _training(tuning_config={"num_virtual_tokens": 10**9}),
    "2**31 - 1 epochs": _training(num_epochs=2**31 - 1),
    "a batch of 10**9": _training(batch_size=10**9),
    "a rate of infinity": _training(learning_rate="Infinity"),
    "a verbalizer of 3 MiB": _training(verbalizer="{{input}}" + "x" * 3 * MiB),
    "a verbalizer that calls": _training(verbalizer="{{input.__class__.__mro__}}"),
    "a separator of 3 MiB": _training(separator="x" * 3 * MiB),
    "no records": _training(train_stream={"jsondata": {"data": []}}),
    "a text to start from of 3 MiB": _training(
        tuning_config={"prompt_tuning_init_method": "TEXT", "prompt_tuning_init_text": "x" * 3 * MiB}
    ),
    "a device": _training(device="cuda:4242"),
    "a type of numbers": _training(torch_dtype="__import__"),
}


def _file(name: str, make: Callable[[Target, str], object]) -> Callable[[Target], object]:
    def act(target: Target) -> object:
        make(target, str(target.records / name))
        return target.submit(train_stream={"file": {"filename": name}})

    return act


def _written(content: bytes) -> Callable[[Target, str], object]:
    def make(_: Target, path: str) -> None:
        with open(path, "wb") as file:
            file.write(content)

    return make


def _swelling(_: Target, path: str) -> None:
    with gzip.open(path, "wb", compresslevel=9) as file:
        for _number in range(256):
            file.write(b"\0" * MiB)


OF_FILES: dict[str, tuple[str, Callable[[Target, str], object]]] = {
    "a link out": (
        "link.jsonl",
        lambda target, path: os.symlink(target.outside / "secret.jsonl", path),
    ),
    "a device": ("zero.jsonl", lambda _, path: os.symlink("/dev/zero", path)),
    "a FIFO": ("fifo.jsonl", lambda _, path: os.mkfifo(path)),
    "a process": ("environ.csv", lambda _, path: os.symlink("/proc/self/environ", path)),
    "an archive that swells": ("bomb.jsonl.gz", _swelling),
    "brackets without an end": ("nested.json", _written(b"[" * 1_000_000)),
    "nested objects": ("deep.jsonl", _written(b'{"a":' * 100_000 + b"1" + b"}" * 100_000)),
    "one line of 64 MiB": ("line.jsonl", _written(b'{"input": "' + b"x" * 2**26)),
    "bytes of no text": ("bytes.csv", _written(os.urandom(100_000))),
    "a number of 10**6 digits": (
        "number.jsonl",
        _written(b'{"input": ' + b"9" * 10**6 + b', "output": "x"}'),
    ),
    "no Parquet": ("a.parquet", _written(b"PAR1" + os.urandom(1000) + b"\xff\xff\xff\x7fPAR1")),
    "nothing": ("empty.jsonl", _written(b"")),
}


ATTACKS = [
    *(Attack(f"answer: {what}", act, _FULL) for what, act in OF_ANSWERS.items()),
    Attack("tokens: a text of 3 MiB", _tokenized("word " * (3 * MiB // 5)), _FULL),
    Attack("tokens: combining marks", _tokenized("e" + "\u0301" * 200_000), (*_FULL, ANSWERED)),
    *(Attack(f"training: {what}", act) for what, act in OF_TRAININGS.items()),
    *(Attack(f"records: {what}", _file(name, make)) for what, (name, make) in OF_FILES.items()),
]
