"""Names that lead elsewhere, in every field that holds a name."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from attacks.attack import REFUSED, UNKNOWN, Attack
from attacks.target import GOOD, RECORDS, T5, Target

NAMES = {
    "a parent": "../outside/model",
    "the root": "/etc",
    "a parent of something": "good/../../outside/model",
    "itself": ".",
    "above itself": "..",
    "a hidden one": ".good",
    "a backslash": "..\\outside",
    "an escape": "%2e%2e%2foutside",
    "a drive": "C:\\outside",
    "an address": "file:///etc/passwd",
    "5,000 letters": "x" * 5000,
    # What metadata can't hold.
    "a nul": "good\0",
    "a line break": "good\n",
    "another direction": "\u202egood",
}

Door = tuple[str, Callable[[Target], object], tuple[str, ...]]


def _by_metadata(name: str) -> Iterator[Door]:
    yield "generate", lambda target: target.raw.predict(name, "hello"), UNKNOWN
    yield "stream", lambda target: list(target.raw.stream(name, "hello")), UNKNOWN
    yield "tokenize", lambda target: target.raw.tokenize(name, "hello"), UNKNOWN


def _by_message(name: str) -> Iterator[Door]:
    either = (*REFUSED, *UNKNOWN)
    yield "evaluate", lambda target: target.client.evaluate(name, RECORDS), either
    yield (
        "evaluate against",
        lambda target: target.client.evaluate(GOOD, RECORDS, against=name),
        either,
    )
    yield "model_name", lambda target: target.submit(name), REFUSED
    yield "base_model", lambda target: target.submit(base_model=name), REFUSED
    yield "init prompt", lambda target: target.submit(prompt_tuning_init_prompt=name), either
    yield "training_id", lambda target: target.submit(training_id=name), REFUSED
    yield "source prompt", lambda target: _with_source(target, name), REFUSED
    yield "source prompt that is shown", lambda target: target.client.source(name), REFUSED
    for kind, stream in {
        "file": {"file": {"filename": name}},
        "list of files": {"list_of_files": {"files": [name]}},
        "directory": {"directory": {"dirname": name, "extension": "jsonl"}},
    }.items():
        for field in ("train_stream", "val_stream"):
            yield f"{field}: {kind}", _submitting(field, stream), REFUSED
    yield "training", lambda target: target.client.training(name), UNKNOWN
    yield "watch", lambda target: list(target.client.watch(name)), UNKNOWN
    yield "status", lambda target: target.raw.status(name), UNKNOWN
    yield "cancel", lambda target: target.raw.cancel(name), UNKNOWN


def _submitting(field: str, value: object) -> Callable[[Target], object]:
    return lambda target: target.submit("attacked", **{field: value})


def _with_source(target: Target, name: str) -> object:
    config = {"prompt_tuning_init_method": "AVERAGE_SOURCE", "prompt_tuning_init_source_model": name}
    return target.submit(base_model=T5, tuning_type="MULTITASK_PROMPT_TUNING", tuning_config=config)


ATTACKS = [
    Attack(f"{door}: {what}", act, statuses)
    for what, name in NAMES.items()
    for doors in ((_by_metadata, _by_message) if name.isascii() and name.isprintable() else (_by_message,))
    for door, act, statuses in doors(name)
]
