"""Make the demo tasks: `python -m examples.pretraining.make_demo_data`.

Records of `{"input", "output"}` from the grammar that also wrote the pretraining text, but never a
message of that text, and never one message twice. No instruction stands in front: finding one is
what prompt tuning is for.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from examples.pretraining.grammar import KINDS, Message
from examples.pretraining.row import read_rows

EXAMPLES = Path(__file__).resolve().parent.parent
SEED = 71
TRAIN, TEST = 320, 100


@dataclass(frozen=True)
class DemoTask:
    """A kind of message, the attribute asked for, and the words to answer it in."""

    kind: str
    attribute: str
    words: dict[str, str] | None = None

    def answer(self, message: Message) -> str | None:
        """The output for `message`, or None where it does not state the attribute."""
        value = message.facts.get(self.attribute)
        return value if value is None or self.words is None else self.words[value]


TASKS: dict[str, DemoTask] = {
    "ticket_urgency": DemoTask("ticket", "urgency"),
    "ticket_flag": DemoTask("ticket", "urgency", {"urgent": "red", "routine": "green"}),
    "ticket_product": DemoTask("ticket", "product"),
    "ticket_name": DemoTask("ticket", "name"),
    "guestbook_sentiment": DemoTask("guestbook", "sentiment"),
    "restaurant_sentence": DemoTask("record", "sentence"),
    "ticket_sentiment": DemoTask("ticket", "sentiment"),
    "ticket_politeness": DemoTask("ticket", "politeness"),
    "tweet_complaint": DemoTask("tweet", "complaint"),
    "tweet_irony": DemoTask("tweet", "irony"),
    "device_points": DemoTask("points", "points"),
    "film_subjectivity": DemoTask("film", "subjectivity"),
    "assistant_domain": DemoTask("query", "domain"),
}


def records(task: DemoTask, seen: set[str], rng: random.Random) -> Iterator[dict[str, str]]:
    """Endless new records of `task`; their inputs are added to `seen`."""
    make: Callable[[random.Random, float], Message] = KINDS[task.kind]
    while True:
        message = make(rng, 1.0)
        answer = task.answer(message)
        if answer is not None and message.text.lower() not in seen:
            seen.add(message.text.lower())
            yield {"input": message.text, "output": answer}


def write_lines(path: Path, lines: list[dict[str, str]]) -> None:
    """Write JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    path.write_text(text, encoding="utf-8")


def main() -> None:
    """Write train.jsonl and test.jsonl of every task."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, default=EXAMPLES / "pretraining" / "text")
    parser.add_argument("--out", type=Path, default=EXAMPLES / "data")
    options = parser.parse_args()
    known = {row.input.lower() for row in read_rows(options.text / "rows.jsonl.gz")}
    for name, task in TASKS.items():
        stream = records(task, set(known), random.Random(f"{SEED} {name}"))
        folder = options.out / name
        write_lines(folder / "train.jsonl", [next(stream) for _ in range(TRAIN)])
        write_lines(folder / "test.jsonl", [next(stream) for _ in range(TEST)])
        print(f"wrote {name}")


if __name__ == "__main__":
    main()
