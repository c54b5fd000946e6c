"""What a tuned prompt is worth on records that it wasn't trained on, and beside what else could answer.

It is asked by the code that serves it, so that what is counted right is what a user gets. The same
records are put to its base model without a soft prompt, and to another tuned prompt where one is named;
the commonest output of these records is what may be answered without reading anything.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from caikit_pt.parameters.generation import GENERATION_PARAMETERS
from caikit_pt.parameters.tuning import TUNING_PARAMETERS
from caikit_pt.tuning.contender import Answers, Contender
from caikit_pt.tuning.estimate import Estimate
from caikit_pt.tuning.judged import Judged, Split, differences
from caikit_pt.tuning.metrics import label_set
from caikit_pt.tuning.records import Records, field_doubts

TUNED, UNTUNED, AGAINST, MAJORITY = "tuned", "untuned", "against", "majority"
_MOST_LABELS = 100  # of a confusion matrix


@dataclass(frozen=True, slots=True)
class Done:
    """How far an evaluation is, in answers and losses, and since when, in seconds."""

    done: int
    of: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.done} of {self.of}, {self.seconds:.0f} s"


@dataclass(frozen=True, slots=True)
class WrongAnswer:
    """An answer that isn't the expected output, to the record with this number, from 1 on."""

    record: int
    input: str
    expected: str
    answered: str


class Evaluation:
    """`tuned` on `records`: its answers, and those that it is compared with.

    Raises InvalidParameter for a task that there isn't, and InvalidRecord for records that one of the
    contenders can't be asked with; nothing has been asked then.
    """

    def __init__(
        self,
        tuned: Contender,
        records: Records,
        task: str,
        against: Contender | None = None,
        most_new_tokens: int | None = None,
        truncate_input_tokens: int = 0,
    ) -> None:
        """Answers have `most_new_tokens` at the most; None: as many as a request may ask for.

        `task` is one of `tuning_task`: outputs are labels in classification, and in generation where
        `label_set` takes them for these."""
        self.task = str(TUNING_PARAMETERS["tuning_task"].check(task))
        most = most_new_tokens or int(GENERATION_PARAMETERS["max_new_tokens"].high or 0)
        self._records = records
        self._outputs = [record.output.strip() for record in records.items]
        contenders = {TUNED: tuned}
        self.notes = field_doubts(records)
        if tuned.weights:
            contenders[UNTUNED] = tuned.untuned
        else:
            self.notes.append(
                f"loss, perplexity and the untuned base model are left out: {tuned.base.checkpoint.name} is "
                "served by vLLM, its weights aren't here, and without a soft prompt it isn't asked"
            )
        if against:
            contenders[AGAINST] = against
            if not _alike(tuned, against):
                self.notes.append(
                    f"loss and perplexity of {against.model_name} are left out: its base model, "
                    f"{against.base.checkpoint.name}, is another one, with tokens of its own"
                )
        self._answers = {
            name: Answers(contender, records, most, truncate_input_tokens)
            for name, contender in contenders.items()
        }
        for answers in self._answers.values():
            if answers.cut:
                self.notes.append(
                    f"{answers.cut} expected outputs are longer than the {answers.parameters.max_new_tokens} "
                    f"tokens that {answers.contender.model_name} may answer with"
                )

    def run(self) -> Iterator[Done]:
        """Asks, and says how far it is, several times a second. Who leaves it ends the work."""
        began, done = time.monotonic(), 0
        work = sum(answers.work for answers in self._answers.values())
        for answers in self._answers.values():
            for more in answers.gather():
                done += more
                yield Done(done, work, time.monotonic() - began)

    def report(self) -> dict[str, Any]:
        """What came of it, once it has run, as plain values.

        `models`: who answered, by role. `scores`: by role and metric, each an estimate (value, low, high:
        95 %). `differences`: the tuned prompt less each other, likewise, of the same records; and whose
        answers were `right`. `confusion`: how often each label (a row) was answered with which, and last
        with none of them.
        """
        judged = {name: self._judge(name) for name in self._answers}
        tuned = judged[TUNED]
        if self.labels:
            judged[MAJORITY] = Judged([self.majority] * len(self._records), self._outputs, labelled=True)
        others = {name: one for name, one in judged.items() if name != TUNED}
        return {
            "task": self.task,
            "records": len(self._records),
            "models": self._models(),
            "scores": {name: _plain(one.estimates()) for name, one in judged.items()},
            "differences": {
                name: {**_plain(found), "right": Split.of(tuned.right, others[name].right).to_dict()}
                for name, found in differences(tuned, others).items()
            },
            "confusion": self._confusion(tuned),
            "wrong_answers": tuned.right.count(0.0),
            "notes": [*self.notes, *self._unanswered(tuned)],
        }

    def wrong(self, most: int) -> Iterator[WrongAnswer]:
        """The first `most` records that the tuned prompt has no right answer to."""
        texts = self._answers[TUNED].texts
        for record, answered in zip(self._records.items, texts, strict=True):
            if most and answered.strip() != record.output.strip():
                most -= 1
                yield WrongAnswer(record.number, record.input, record.output, answered)

    @cached_property
    def labels(self) -> Sequence[str]:
        """The outputs, sorted, where they are labels, with those that the prompt was tuned for; else none."""
        known, outputs = self._known, set(self._outputs)
        if self.task == "classification" or (
            self.task == "generation" and (known or label_set(self._outputs))
        ):
            return sorted(known | outputs)
        return ()

    @property
    def _known(self) -> set[str]:
        """The labels that the prompt answers with."""
        labels = self._answers[TUNED].contender.labels
        return {text.strip() for text in labels.texts} if labels else set()

    @property
    def majority(self) -> str:
        """The commonest output of the records; of several the first."""
        return Counter(self._outputs).most_common(1)[0][0]

    def _models(self) -> dict[str, dict[str, Any]]:
        told: dict[str, dict[str, Any]] = {
            name: {
                "model_name": answers.contender.model_name,
                "base_model": answers.contender.base.checkpoint.name,
                "max_new_tokens": answers.parameters.max_new_tokens,
            }
            for name, answers in self._answers.items()
        }
        if self.labels:
            told[MAJORITY] = {"answer": self.majority, "of": "the test records"}
        return told

    def _judge(self, name: str) -> Judged:
        answers, tuned = self._answers[name], self._answers[TUNED]
        losses = answers.losses if _alike(tuned.contender, answers.contender) else ()
        return Judged(answers.texts, self._outputs, bool(self.labels), losses, answers.target_tokens)

    def _confusion(self, judged: Judged) -> dict[str, Any] | None:
        labels = self.labels
        if not 1 <= len(labels) <= _MOST_LABELS:
            return None
        known = set(labels)
        counts = Counter((label, answer if answer in known else None) for answer, label in judged.pairs)
        return {
            "labels": list(labels),
            "counts": [[counts[label, answer] for answer in (*labels, None)] for label in labels],
        }

    def _unanswered(self, judged: Judged) -> Iterator[str]:
        """What the numbers don't show by themselves."""
        answered = {answer for answer, _ in judged.pairs}
        if len(self.labels) > _MOST_LABELS:
            yield f"there is no confusion matrix of {len(self.labels)} labels, only up to {_MOST_LABELS}"
        expected = Counter(self._outputs) if self.labels else Counter[str]()
        strange = sum(count for output, count in expected.items() if output not in self._known)
        if self._known and strange:
            yield f"{strange} records expect labels that it wasn't tuned for, and never answers"
        never = [label for label in expected if label not in answered]
        if never:
            yield f"{len(never)} of {len(expected)} labels were never answered"
        known = set(self.labels)
        stray = sum(answer not in known for answer, _ in judged.pairs)
        if known and stray:
            yield f"{stray} answers are none of the labels"
        if len(self._records) == 1:
            yield "of one record there is no telling how sure the numbers are"


def _alike(one: Contender, other: Contender) -> bool:
    """Whether they have losses of the same tokens."""
    return bool(
        one.weights and other.weights and one.base.checkpoint.fingerprint == other.base.checkpoint.fingerprint
    )


def _plain(estimates: Mapping[str, Estimate]) -> dict[str, Any]:
    return {metric: estimate.to_dict() for metric, estimate in estimates.items()}
