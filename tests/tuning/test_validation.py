"""What a training is judged by: the records held out, when they are looked at, and what is kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from caikit.interfaces.nlp.data_model import ClassificationTrainRecord

from caikit_pt.base_model.frozen import BaseModel
from caikit_pt.errors import InvalidParameter
from caikit_pt.module import PeftPromptTuning
from caikit_pt.tuning.estimate import Estimate
from caikit_pt.tuning.examples import make_examples
from caikit_pt.tuning.exams import Validated
from caikit_pt.tuning.learner import Learner, gradients
from caikit_pt.tuning.losses import losses
from caikit_pt.tuning.plan import TuningPlan
from caikit_pt.tuning.records import Record, Records, read_records
from caikit_pt.tuning.tuner import tune
from caikit_pt.tuning.validation import Scores, Validation
from caikit_pt.tuning.verdict import sentences

from .training import PAIRS, curve, plan

HELD_OUT = PAIRS[12:]
# Everything is the other way round: the better the training goes, the worse this gets.
CONTRADICTING = [
    {"input": pair["input"], "output": "bad" if pair["output"] == "good" else "good"} for pair in PAIRS
]


def many(count: int) -> list[dict[str, str]]:
    return [{"input": f"number {n}", "output": "odd" if n % 2 else "even"} for n in range(count)]


# ---- which records ----


@pytest.mark.parametrize(
    ("records", "held_out"), [(2, 0), (49, 0), (50, 5), (51, 6), (400, 40), (1999, 200), (5000, 200)]
)
def test_what_is_held_out_by_default(llama: BaseModel, records: int, held_out: int) -> None:
    planned = plan(llama, many(records))
    assert len(planned.validation or ()) == held_out
    assert len(planned.records) == records - held_out


def test_a_share_that_is_asked_for_is_as_asked(llama: BaseModel) -> None:
    assert len(plan(llama, many(5000), validation_share=0.5).validation or ()) == 2500
    assert len(plan(llama, many(10), validation_share=0.25).validation or ()) == 3
    assert plan(llama, many(5000), validation_share=0.0).validation is None
    stream = plan(llama, many(100), many(7), validation_share=0.0)
    assert (len(stream.records), len(stream.validation or ())) == (100, 7)
    assert stream.parameters.validation_share == 0


def test_a_split_is_drawn_by_the_seed_and_no_record_is_in_both(llama: BaseModel) -> None:
    first, again = plan(llama, many(100)), plan(llama, many(100))
    other = plan(llama, many(100), seed=74)
    assert (first.records, first.validation) == (again.records, again.validation)
    assert first.validation != other.validation
    assert _inputs(first.records).isdisjoint(_inputs(first.validation))
    order = [record.input for record in (first.validation or first.records).items]
    assert order == sorted(order, key=lambda text: int(text.split()[1]))


@pytest.mark.parametrize("seed", range(5))
def test_the_same_input_goes_one_way(seed: int) -> None:
    """Each of ten inputs six times: what a training has seen is no test of it."""
    records = read_records([pair for pair in many(10) for _ in range(6)], "train_stream")
    for count in (1, 6, 20, 30):
        kept, held = records.split(count, seed)
        assert len(kept) + len(held) == 60
        assert _inputs(kept).isdisjoint(_inputs(held))
        assert len(held) == max(6, count // 6 * 6)


def test_an_input_that_is_nearly_all_there_is_stays_in_the_training() -> None:
    items = [*(Record("the same", str(n)) for n in range(90)), *(Record(f"{n}", "rare") for n in range(10))]
    for seed in range(5):
        kept, held = Records(tuple(items), False).split(10, seed)
        assert (len(kept), len(held)) == (90, 10)
    kept, held = Records(tuple(items[:5]), False).split(2, 1)
    assert (len(kept), len(held)) == (3, 2)


@pytest.mark.parametrize(
    ("request_", "count", "has_stream", "field"),
    [
        ({"validation_share": 0.2}, 20, True, "validation_share"),
        ({"validation_share": 0.2}, 1, False, "validation_share"),
        ({"search": "auto"}, 1, False, "search"),
        ({"validation_steps": 3}, 1, False, "validation_steps"),
        ({"validation_steps": 3, "validation_share": 0.0}, 60, False, "validation_steps"),
        ({"early_stopping_patience": 3, "validation_share": 0.0}, 60, False, "early_stopping_patience"),
        ({"search": "auto", "validation_share": 0.0}, 60, False, "search"),
    ],
)
def test_what_does_not_go_together_is_refused(
    llama: BaseModel, request_: dict[str, Any], count: int, has_stream: bool, field: str
) -> None:
    with pytest.raises(InvalidParameter) as refusal:
        plan(llama, many(count), many(3) if has_stream else None, **request_)
    assert refusal.value.field == field


@pytest.mark.parametrize("request_", [{"search": "auto"}, {"early_stopping_patience": 2}])
def test_who_needs_held_out_records_gets_them_from_few(llama: BaseModel, request_: dict[str, Any]) -> None:
    planned = plan(llama, many(20), **request_)
    assert (len(planned.records), len(planned.validation or ())) == (18, 2)


# ---- when ----


@pytest.mark.parametrize(
    ("request_", "steps"),
    [({}, [2, 4, 6]), ({"validation_steps": 4}, [4, 6]), ({"validation_steps": 5}, [5, 6])],
)
def test_validations_come_after_every_epoch_or_every_so_many_updates(
    base: BaseModel, request_: dict[str, Any], steps: list[int]
) -> None:
    told: list[Validated] = []
    planned = plan(base, validation=HELD_OUT, num_epochs=3, **request_)
    tuned = tune(planned, base, on_validation=told.append)
    seen = [entry["data"]["step"] for entry in tuned.training_logs if entry["name"] == "validation_loss"]
    assert seen == steps
    for name in ("validation_perplexity", "validation_accuracy", "validation_macro_f1"):
        assert len(curve(tuned, name)) == len(steps)
    assert curve(tuned, "validation_perplexity") == pytest.approx(
        [math.exp(loss) for loss in curve(tuned, "validation_loss")]
    )
    assert [one.step for one in told] == steps
    assert [one.scores["loss"] for one in told] == curve(tuned, "validation_loss")
    assert [one.scores["macro_f1"] for one in told] == curve(tuned, "validation_macro_f1")
    assert next(one for one in reversed(told) if one.best).step == tuned.verdict["kept"]["step"]


def test_no_validation_records_no_validation(base: BaseModel) -> None:
    tuned = tune(plan(base), base)
    assert {entry["name"] for entry in tuned.training_logs} == {"loss"}
    assert "validation" not in tuned.verdict
    assert tuned.verdict["kept"] == {"epoch": 2, "step": 4}


# ---- what is kept ----


@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "residual"])
def test_the_best_prompt_is_kept_and_not_the_last(base: BaseModel, kind: str) -> None:
    """Judged by the opposite of what it learns, the best prompt is an early one."""
    request = {"reparameterization": kind} if kind == "residual" else {"tuning_type": kind}
    planned = plan(base, PAIRS, CONTRADICTING, num_epochs=24, tuning_task="generation", **request)
    tuned = tune(planned, base)
    seen = curve(tuned, "validation_loss")
    assert min(seen) < seen[-1]
    assert _validation_loss(planned, base, tuned.prompt.tensors) == pytest.approx(min(seen), rel=1e-5)
    assert tuned.verdict["validation"]["tuned"]["loss"]["value"] == pytest.approx(min(seen), rel=1e-5)
    epoch = 1 + seen.index(min(seen))
    assert tuned.verdict["kept"] == {"epoch": epoch, "step": 4 * epoch}
    assert any(f"after epoch {epoch}, update {4 * epoch}." in line for line in sentences(tuned.verdict))


@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "residual"])
def test_of_labels_the_mean_of_the_last_quarter_is_kept(base: BaseModel, kind: str) -> None:
    """Against every prompt after an update, as another learner makes them."""
    asked: dict[str, Any] = {"reparameterization": kind} if kind == "residual" else {"tuning_type": kind}
    planned = plan(base, PAIRS, HELD_OUT, num_epochs=4, tuning_task="classification", **asked)
    seen: list[dict[str, torch.Tensor]] = []
    known: list[Learner] = []

    def kept(base: BaseModel, learners: Sequence[Learner], batches: Sequence[Any]) -> list[torch.Tensor]:
        if known:
            seen.append({part: rows.clone() for part, rows in known[0].prompt.finished().tensors.items()})
        known[:] = learners
        return gradients(base, learners, batches)

    tuned = tune(planned, base, gradients=kept)
    seen.append(dict(known[0].prompt.finished().tensors))
    assert tuned.verdict["kept"] == {"epoch": 4, "step": 16, "mean_of": 4}
    assert any(
        "mean of the prompts after the last 4 updates, up to epoch 4, update 16." in line
        for line in sentences(tuned.verdict)
    )
    for part, rows in tuned.prompt.tensors.items():
        expected = torch.stack([prompt[part] for prompt in seen[12:]]).double().mean(0)
        torch.testing.assert_close(rows.double(), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("more", "fewer", "both", "is_mean"),
    [
        # Records that the mean alone, that the prompt with the lowest loss alone, and that both have right.
        (0, 0, 1, True),
        (0, 7, 8, True),
        (0, 8, 9, False),
        (2, 12, 11, True),
        # Twice as much is more than chance however few there are.
        (0, 3, 2, False),
        (0, 3, 3, True),
    ],
)
def test_the_lowest_loss_of_labels_counts_where_its_answers_are_clearly_better(
    llama: BaseModel, more: int, fewer: int, both: int, is_mean: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_mean, of_lowest = [1.0] * more + [0.0] * fewer, [0.0] * more + [1.0] * fewer
    answers = iter([of_mean + [1.0] * both, of_lowest + [1.0] * both])
    monkeypatch.setattr(Validation, "right", lambda *_: next(answers))
    tuned = tune(plan(llama, PAIRS, HELD_OUT, num_epochs=2, tuning_task="classification"), llama)
    assert ("mean_of" in tuned.verdict["kept"]) == is_mean


def test_a_mean_that_has_learnt_the_opposite_is_not_kept(base: BaseModel) -> None:
    planned = plan(base, PAIRS, CONTRADICTING, num_epochs=24, tuning_task="classification")
    tuned = tune(planned, base)
    seen = curve(tuned, "validation_loss")
    assert tuned.verdict["kept"] == {
        "epoch": 1 + seen.index(min(seen)),
        "step": 4 + 4 * seen.index(min(seen)),
    }
    right = [tuned.verdict["validation"][name]["accuracy"]["value"] for name in ("tuned", "initial")]
    assert right[0] >= right[1] / 2


@pytest.mark.parametrize("patience", [1, 2])
def test_a_training_of_labels_that_ends_early_keeps_what_there_is(
    llama: BaseModel, patience: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its last quarter that is the lowest loss, in it the mean of what was made of the quarter."""
    script = iter([5.0, 4.0, 4.5, 4.6])
    real = Validation.scores

    def scripted(self: Validation, prompt: Any, answered: int = 4, *_: Any) -> Scores:
        value = next(script, 1.0)
        return Scores(Estimate(value, value, value), real(self, prompt, answered).metrics)

    monkeypatch.setattr(Validation, "scores", scripted)
    monkeypatch.setattr(Validation, "right", lambda *_: [1.0])
    asked: dict[str, Any] = {"num_epochs": 5, "early_stopping_patience": patience}
    tuned = tune(plan(llama, PAIRS, HELD_OUT, tuning_task="classification", **asked), llama)
    # Of 20 updates the last quarter begins with the 16th, where patience 2 ends.
    expected = {1: {"epoch": 2, "step": 8}, 2: {"epoch": 4, "step": 16, "mean_of": 1}}[patience]
    assert tuned.verdict["kept"] == expected


@pytest.mark.parametrize("kind", ["free", "several labels"])
def test_of_free_answers_the_lowest_loss_is_kept(llama: BaseModel, kind: str) -> None:
    def several(records: Sequence[dict[str, str]]) -> list[Any]:
        return [ClassificationTrainRecord(text=one["input"], labels=[one["output"], "x"]) for one in records]

    records = (PAIRS, HELD_OUT) if kind == "free" else (several(PAIRS), several(HELD_OUT))
    task = {"tuning_task": "generation"} if kind == "free" else {}
    assert "mean_of" not in tune(plan(llama, *records, **task), llama).verdict["kept"]


@pytest.mark.parametrize("patience", [0, 1, 2, 3])
def test_a_training_ends_after_so_many_validations_without_a_better_loss(
    llama: BaseModel, patience: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = iter([5.0, 4.0, 4.5, 3.0, 3.0, math.nan, 3.5, 2.0, 2.5, 2.4])

    def scripted(self: Validation, prompt: Any, *_: Any) -> Scores:
        value = next(script, 1.0)
        return Scores(Estimate(value, value, value), {})

    monkeypatch.setattr(Validation, "scores", scripted)
    asked: dict[str, Any] = {
        "num_epochs": 8,
        "early_stopping_patience": patience,
        "tuning_task": "generation",
    }
    planned = plan(llama, validation=HELD_OUT, **asked)
    tuned = tune(planned, llama)
    # Without patience all eight epochs; with one it is the third that is worse; with two the sixth; with
    # three the seventh.
    ended = {0: 8, 1: 3, 2: 6, 3: 7}[patience]
    best = {0: 8, 1: 2, 2: 4, 3: 4}[patience]
    assert len(curve(tuned, "validation_loss")) == ended
    assert len(curve(tuned)) == 2 * ended
    assert tuned.verdict["kept"] == {"epoch": best, "step": 2 * best}


def test_early_stopping_of_a_real_training(base: BaseModel) -> None:
    planned = plan(base, PAIRS, CONTRADICTING, num_epochs=20, early_stopping_patience=2)
    tuned = tune(planned, base)
    seen = curve(tuned, "validation_loss")
    assert len(seen) == seen.index(min(seen)) + 3 < 20


# ---- the scores ----


def test_answers_are_those_that_a_server_gives(base: BaseModel) -> None:
    """Token for token the code that serves, also behind a verbalizer; here without a label set."""
    planned = plan(
        base, PAIRS, HELD_OUT, num_epochs=12, verbalizer="It says {{input}}", tuning_task="generation"
    )
    tuned = tune(planned, base)
    assert planned.validation is not None
    examples = make_examples(planned.validation, base, planned.parameters)
    validation = Validation(base, planned.validation, examples, "generation")
    longest = max(len(example.target) for example in examples.items)
    served = PeftPromptTuning(tuned, base)
    expected = [
        served.run(record.input, max_new_tokens=longest + 1, preserve_input_text=False).generated_text
        for record in planned.validation.items
    ]
    # Asked in an order of their own, so that a look at some of a sorted stream is a fair one.
    drawn = validation._drawn
    assert sorted(drawn) == list(range(len(expected))) != drawn
    answers = [answer.text for answer in validation.answers(tuned.prompt, len(expected))]
    assert answers == [expected[index] for index in drawn]
    right = [
        answer.strip() == record.output
        for answer, record in zip(expected, planned.validation.items, strict=True)
    ]
    scores = validation.scores(tuned.prompt)
    assert scores.metrics["accuracy"].value == pytest.approx(sum(right) / len(right))


def test_losses_of_several_prompts_are_those_of_each(base: BaseModel) -> None:
    planned = plan(base, validation=HELD_OUT)
    tuned = tune(planned, base)
    assert planned.validation is not None
    examples = make_examples(planned.validation, base, planned.parameters)
    validation = Validation(base, planned.validation, examples, "generation")
    other = {part: 2 * tensor for part, tensor in tuned.prompt.tensors.items()}
    rows = validation.row_losses([tuned.prompt.tensors, other, {}])
    together = [validation.loss(row) for row in rows]
    for prompt, seen in zip((tuned.prompt.tensors, other, {}), together, strict=True):
        assert seen.value == pytest.approx(_validation_loss(planned, base, prompt), rel=1e-5)
        assert seen.low < seen.value < seen.high


# ---- helpers ----


def _inputs(records: Records | None) -> set[str]:
    return {record.input for record in records.items} if records else set()


def _validation_loss(planned: TuningPlan, base: BaseModel, prompt: Any) -> float:
    assert planned.validation is not None
    examples = make_examples(planned.validation, base, planned.parameters)
    batch = examples.batch(range(len(examples)))
    return float(losses(base, [prompt], batch).sum()) / batch.target_tokens
