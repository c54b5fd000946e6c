"""An evaluation against values worked out by hand, and its answers against those that are served."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from contextvars import copy_context
from dataclasses import replace
from random import Random
from typing import Any

import pytest
import torch

from caikit_pt.base_model.model import BaseModel
from caikit_pt.call import Call, begin
from caikit_pt.errors import InvalidParameter, InvalidRecord, QuotaExceeded, TooManyRequests, WaitedTooLong
from caikit_pt.parameters.generation import GenerationParameters
from caikit_pt.principal import Principal
from caikit_pt.serving.backend import Backend
from caikit_pt.serving.backends import backend_for
from caikit_pt.serving.generation import Generation
from caikit_pt.serving.labels import Labels
from caikit_pt.serving.request import Request, Token
from caikit_pt.soft_prompt.prompt import SoftPrompt
from caikit_pt.tuning.contender import Answers, Contender
from caikit_pt.tuning.evaluation import Evaluation
from caikit_pt.tuning.metrics import macro_f1
from caikit_pt.tuning.records import read_records
from caikit_pt.tuning.verbalizer import Verbalizer
from tests.conftest import SETTINGS

# Ten records: six of one label, four of the other.
OUTPUTS = ["good"] * 6 + ["bad"] * 4
ANSWERS = ["good", "good", "good", "good ", "bad", "gray", "bad", "bad", "bad", "good"]
OTHERS = ["good", "bad", "bad", "good", "good", "good", "good", "good", "bad", "good"]
RECORDS = [{"input": f"number {index}", "output": output} for index, output in enumerate(OUTPUTS)]


class Scripted(Backend):
    """Answers at once, by the text that is asked about; what it hasn't heard of with nothing."""

    def __init__(self, base: BaseModel, answers: Mapping[str, str]) -> None:
        self.base, self.requests = base, 0
        self.known = {tuple(base.text.source_ids(text)): answer for text, answer in answers.items()}

    def submit(self, request: Request) -> Generation:
        self.requests += 1
        generation = Generation(request)
        answer = self.known[tuple(request.row.ids)] if request.row.prompt else ""
        for token in [*self.base.text.target_ids(answer), self.base.text.end_id]:
            if not request.finished:
                request.extend(token, None)
        generation.tell()
        return generation

    def input_tokens(self, request: Request) -> list[Token]:
        raise AssertionError("nobody asks")


def scripted(base: BaseModel, answers: Sequence[str], name: str = "mood") -> Contender:
    """Gives `answers` to RECORDS."""
    asked = dict(zip((record["input"] for record in RECORDS), answers, strict=False))
    return contender(base, Scripted(base, asked), name)


def contender(
    base: BaseModel, backend: Backend | None = None, name: str = "mood", verbalizer: str = "{{input}}"
) -> Contender:
    """With a prompt made of words."""
    part = base.checkpoint.prompt_parts[0]
    return Contender(
        model_name=name,
        base=base,
        backend=backend or backend_for(base, SETTINGS),
        prompt=SoftPrompt(
            {part: base.weights.embed(base.text.source_ids("the kettle is good")).float().cpu()}
        ),
        verbalizer=Verbalizer(verbalizer),
    )


def evaluated(
    tuned: Contender, records: Any = RECORDS, task: str = "classification", **options: Any
) -> Evaluation:
    """One that has run."""
    evaluation = Evaluation(tuned, read_records(records, "test_stream"), task, **options)
    for _ in evaluation.run():
        pass
    return evaluation


@pytest.fixture(scope="module")
def report(t5: BaseModel) -> dict[str, Any]:
    """Of ANSWERS, beside OTHERS."""
    return evaluated(scripted(t5, ANSWERS), against=scripted(t5, OTHERS, "other")).report()


def test_scores_by_hand(report: Mapping[str, Any]) -> None:
    tuned, other, majority = (report["scores"][name] for name in ("tuned", "against", "majority"))
    # F1 of good: 4 right, 5 answered, 6 expected; of bad: 3 right, 4 answered, 4 expected.
    assert tuned["accuracy"]["value"] == tuned["exact_match"]["value"] == pytest.approx(7 / 10)
    assert tuned["macro_f1"]["value"] == pytest.approx((2 * 4 / (5 + 6) + 2 * 3 / (4 + 4)) / 2)
    assert (tuned["accuracy"]["low"], tuned["accuracy"]["high"]) == pytest.approx((0.3968, 0.8922), abs=1e-4)
    assert other["accuracy"]["value"] == pytest.approx(5 / 10)
    assert other["macro_f1"]["value"] == pytest.approx((2 * 4 / (7 + 6) + 2 * 1 / (3 + 4)) / 2)
    assert majority["accuracy"]["value"] == pytest.approx(6 / 10)
    assert majority["macro_f1"]["value"] == pytest.approx(2 * 6 / (10 + 6) / 2)
    assert report["models"]["majority"] == {"answer": "good", "of": "the test records"}
    assert report["scores"]["untuned"]["accuracy"]["value"] == 0
    assert (report["records"], report["wrong_answers"]) == (10, 3)


def test_the_confusion_matrix_has_a_place_for_what_is_no_label(report: Mapping[str, Any]) -> None:
    assert report["confusion"] == {"labels": ["bad", "good"], "counts": [[3, 1, 0], [1, 4, 1]]}
    assert report["notes"] == ["1 answers are none of the labels"]


def test_who_has_which_records_right(report: Mapping[str, Any]) -> None:
    right = dict(report["differences"]["against"]["right"])
    # Two records that OTHERS have right (5th and 6th), four that ANSWERS have (2nd, 3rd, 7th and 8th).
    assert right.pop("p_value") == pytest.approx(2 * (1 + 6 + 15) / 64)
    assert right == {"both": 3, "only_tuned": 4, "only_other": 2, "neither": 1}
    assert report["differences"]["against"]["accuracy"]["value"] == pytest.approx(0.2)


def test_differences_are_of_the_same_records_drawn_anew(report: Mapping[str, Any]) -> None:
    """The plain way: each resample is asked about both."""
    random, seen = Random(73), []
    stripped = [answer.strip() for answer in ANSWERS]
    for _ in range(1000):
        drawn = random.choices(range(10), k=10)
        labels, ours, theirs = ([texts[index] for index in drawn] for texts in (OUTPUTS, stripped, OTHERS))
        right = [sum(map(str.__eq__, labels, texts)) / 10 for texts in (ours, theirs)]
        seen.append((right[0] - right[1], macro_f1(ours, labels) - macro_f1(theirs, labels)))
    for name, values in zip(("accuracy", "macro_f1"), zip(*seen, strict=True), strict=True):
        found = report["differences"]["against"][name]
        low, high = sorted(values)[25], sorted(values)[-26]
        assert (found["low"], found["high"]) == pytest.approx((low, high), abs=1e-12)
        assert low < found["value"] < high


def test_wrong_answers_are_listed_by_number(t5: BaseModel) -> None:
    evaluation = evaluated(scripted(t5, ANSWERS))
    wrong = [(one.record, one.expected, one.answered) for one in evaluation.wrong(100)]
    assert wrong == [(5, "good", "bad"), (6, "good", "gray"), (10, "bad", "good")]
    assert [one.input for one in evaluation.wrong(2)] == ["number 4", "number 5"]
    assert not list(evaluation.wrong(0))


def test_losses_are_those_of_the_plain_model(base: BaseModel) -> None:
    """Of the untuned base by its logits, a text at a time and without a batch."""
    report = evaluated(scripted(base, ANSWERS)).report()
    sums, counts = [], []
    for record in RECORDS:
        ids = base.text.source_ids(record["input"])
        target = [*base.text.target_ids(record["output"]), base.text.end_id]
        logits = base.serving.plain_logits(ids, target[:-1]).float()
        sums.append(float(torch.nn.functional.cross_entropy(logits, torch.tensor(target), reduction="sum")))
        counts.append(len(target))
    untuned = report["scores"]["untuned"]
    assert untuned["loss"]["value"] == pytest.approx(sum(sums) / sum(counts), rel=1e-4)
    for limit in ("value", "low", "high"):
        assert untuned["perplexity"][limit] == pytest.approx(math.exp(untuned["loss"][limit]))
    difference = report["differences"]["untuned"]["loss"]
    ours = report["scores"]["tuned"]["loss"]["value"]
    assert difference["value"] == pytest.approx(ours - untuned["loss"]["value"])
    assert difference["low"] < difference["value"] < difference["high"]


def test_answers_are_those_that_are_served(base: BaseModel) -> None:
    """By the engine that others use, behind a verbalizer, and cut where a request would be."""
    tuned = contender(base, verbalizer="It says {{input}}")
    records = [*RECORDS, {"input": "word " * 40, "output": "good"}]
    for truncated in (0, 5):
        evaluation = evaluated(tuned, records, truncate_input_tokens=truncated)
        longest = max(len(base.text.target_ids(output)) for output in OUTPUTS) + 1
        for record, answer in zip(records, evaluation._answers["tuned"].texts, strict=True):
            parameters = GenerationParameters(
                max_new_tokens=longest + 1, truncate_input_tokens=truncated, preserve_input_text=False
            )
            ids = base.text.source_ids(f"It says {record['input']}")
            ids = base.text.keep_last(ids, truncated) if truncated else ids
            assert (
                tuned.backend.submit(Request(base.text, tuned.prompt, ids, parameters)).result().text
                == answer
            )


def test_answers_that_are_confined_to_labels(base: BaseModel) -> None:
    """Also those of the untuned base; a label that the prompt wasn't tuned for is never answered."""
    labels = Labels(base.text, ["good", "bad", "awful"], "", 10)
    records = [*RECORDS, {"input": "number 10", "output": "strange"}]
    evaluation = evaluated(replace(contender(base), labels=labels), records)
    report = evaluation.report()
    assert {one.answered.strip() for one in evaluation.wrong(99)} <= {"good", "bad", "awful"}
    assert report["confusion"]["labels"] == ["awful", "bad", "good", "strange"]
    assert [sum(row) for row in report["confusion"]["counts"]] == [0, 4, 6, 1]
    assert [row[-1] for row in report["confusion"]["counts"]] == [0, 0, 0, 0]
    assert report["scores"]["untuned"]["accuracy"]["value"] > 0
    assert "1 records expect labels that it wasn't tuned for, and never answers" in report["notes"]


def test_another_base_model_is_compared_by_answers(llama: BaseModel, t5: BaseModel) -> None:
    report = evaluated(scripted(t5, ANSWERS), against=scripted(llama, OTHERS, "other")).report()
    assert report["differences"]["against"]["accuracy"]["value"] == pytest.approx(0.2)
    assert not {"loss", "perplexity"} & {*report["scores"]["against"], *report["differences"]["against"]}
    assert {"loss", "perplexity"} < set(report["scores"]["tuned"])
    assert any(note.startswith("loss and perplexity of other are left out: ") for note in report["notes"])


def test_texts_that_are_no_labels(t5: BaseModel) -> None:
    """By the task, and by what the outputs look like; a word of two right is half of ROUGE-L."""
    records = [{**record, "output": f"{record['output']} {index}"} for index, record in enumerate(RECORDS)]
    answers = [f"good {index}" for index in range(10)]
    report = evaluated(scripted(t5, answers), records, "generation").report()
    assert report["scores"]["tuned"]["exact_match"]["value"] == pytest.approx(0.6)
    assert report["scores"]["tuned"]["rouge_l"]["value"] == pytest.approx(0.6 + 0.4 / 2)
    assert not {"accuracy", "macro_f1"} & set(report["scores"]["tuned"])
    assert (report["confusion"], "majority" in report["scores"]) == (None, False)
    assert evaluated(scripted(t5, ANSWERS), RECORDS * 2, "generation").report()["confusion"]
    assert evaluated(scripted(t5, ANSWERS), RECORDS * 2, "summarization").report()["confusion"] is None


def test_one_record(t5: BaseModel) -> None:
    report = evaluated(scripted(t5, ANSWERS), RECORDS[:1]).report()
    assert report["scores"]["tuned"]["loss"] == {
        "value": pytest.approx(report["scores"]["tuned"]["loss"]["value"]),
        "low": None,
        "high": None,
    }
    assert report["differences"]["untuned"]["loss"]["low"] is None
    assert report["differences"]["majority"]["accuracy"]["low"] < 0
    assert report["notes"] == ["of one record there is no telling how sure the numbers are"]


def test_labels_that_are_never_answered_and_too_many_for_a_matrix(
    t5: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("caikit_pt.tuning.evaluation._MOST_LABELS", 1)
    report = evaluated(scripted(t5, ["good"] * 10)).report()
    assert report["confusion"] is None
    assert report["notes"] == [
        "there is no confusion matrix of 2 labels, only up to 1",
        "1 of 2 labels were never answered",
    ]


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        (["a lamp", "word " * 900], r"test_stream: 1 records that mood can't be asked with \(record 2\)"),
        (["word " * 900] * 3, r"3 records that mood can't be asked with \(record 1, 2, 3\).*truncate_input"),
    ],
)
def test_what_would_be_refused_is_refused_before_anything_is_asked(
    llama: BaseModel, inputs: list[str], told: str
) -> None:
    tuned = scripted(llama, ANSWERS)
    short = replace(tuned.prompt, tensors={"DECODER": torch.zeros(300, llama.checkpoint.hidden_size)})
    records = [{"input": text, "output": "good"} for text in inputs]
    with pytest.raises(InvalidRecord, match=told):
        evaluated(replace(tuned, prompt=short), records)
    with pytest.raises(InvalidParameter, match="tuning_task: 'translation' is not allowed"):
        evaluated(tuned, RECORDS, "translation")
    assert isinstance(tuned.backend, Scripted)
    assert tuned.backend.requests == 0


def test_an_output_that_is_too_long_for_an_answer_is_told(t5: BaseModel) -> None:
    records = [*RECORDS, {"input": "number 1", "output": "good " * 30}]
    evaluation = evaluated(scripted(t5, ANSWERS), records, most_new_tokens=4)
    assert "1 expected outputs are longer than the 4 tokens that mood may answer with" in evaluation.notes


def test_others_may_have_taken_all_the_room(t5: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full queue, a turn that never came, a place that somebody else got and a quota that is used up: it is
    asked again, and every answer is in its place."""
    monkeypatch.setattr("caikit_pt.tuning.contender._NAP", 0.001)
    tuned = scripted(t5, ANSWERS)
    submit, calls = tuned.backend.submit, Counter[str]()

    def busy(request: Request) -> Generation:
        calls["all"] += 1
        if calls["all"] % 3 == 1:
            raise TooManyRequests("later") if calls["all"] % 2 else QuotaExceeded("q", "all", "some", 9.0)
        generation = submit(request)
        if calls["all"] in (2, 6):
            generation.fail(WaitedTooLong("too long"))
        if calls["all"] in (3, 8):
            generation.fail(TooManyRequests("made room"))
        return generation

    monkeypatch.setattr(tuned.backend, "submit", busy)
    evaluation = Evaluation(tuned, read_records(RECORDS, "test_stream"), "classification")
    *_, last = evaluation.run()
    assert evaluation._answers["tuned"].texts == ANSWERS
    assert last.done == last.of == 2 * 2 * len(RECORDS)


def test_losses_take_tokens_and_wait_for_some(t5: BaseModel) -> None:
    spent: list[int] = []
    looks = iter(range(100))

    def check() -> None:
        if not spent and next(looks) < 2:
            raise QuotaExceeded("quotas.each.tokens_per_minute", "none are left", "10", 0.1)

    call = Call("id", "/x", "host", lambda _: True, Principal("ada", ()), spent.append, check)
    tuned = contender(t5)
    records = read_records(RECORDS, "test_stream")
    target = max(len(t5.text.target_ids(output)) + 1 for output in OUTPUTS)
    answers = Answers(tuned, records, target)
    context = copy_context()
    context.run(begin, call)
    done = context.run(lambda: next(each for each in answers.gather() if each))
    assert done == len(RECORDS)
    texts = [t5.text.source_ids(record["input"]) for record in RECORDS]
    assert spent == [sum(map(len, texts)) + sum(answers.target_tokens)]
    assert next(looks) == 3, "it has waited twice"


def test_who_leaves_cancels_what_is_under_way(t5: BaseModel) -> None:
    generations: list[Generation] = []

    class Slow(Scripted):
        def submit(self, request: Request) -> Generation:
            generations.append(Generation(request))
            return generations[-1]

    evaluation = Evaluation(
        contender(t5, Slow(t5, {})), read_records(RECORDS * 10, "test_stream"), "classification"
    )
    steps = evaluation.run()
    while len(generations) < 32:
        next(steps)
    steps.close()  # type: ignore[attr-defined]
    assert len(generations) == 32
    assert all(generation.cancelled for generation in generations)


def test_a_request_that_fails_ends_it(t5: BaseModel) -> None:
    class Broken(Scripted):
        def submit(self, request: Request) -> Generation:
            generation = Generation(request)
            generation.fail(RuntimeError("broken"))
            return generation

    with pytest.raises(RuntimeError, match="broken"):
        evaluated(contender(t5, Broken(t5, {})))
