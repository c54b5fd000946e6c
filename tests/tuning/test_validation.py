"""What a training is judged by: the records held out, answers as a server gives them, and losses."""

from __future__ import annotations

from typing import Any

import pytest

from caikit_pt.base_model.model import BaseModel
from caikit_pt.errors import InvalidParameter
from caikit_pt.module import PeftPromptTuning
from caikit_pt.soft_prompt.prompt import SoftPrompt
from caikit_pt.tuning.examples import make_examples
from caikit_pt.tuning.exams import Validated
from caikit_pt.tuning.records import Record, Records, read_records
from caikit_pt.tuning.tuner import tune
from caikit_pt.tuning.validation import Validation, held_out

from .training import HELD_OUT, PAIRS, plan, validation_loss


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


# ---- the scores ----


def test_answers_are_those_that_a_server_gives(base: BaseModel) -> None:
    """Token for token the code that serves, also behind a verbalizer; here without a label set."""
    planned = plan(
        base, PAIRS, HELD_OUT, num_epochs=12, verbalizer="It says {{input}}", tuning_task="generation"
    )
    tuned = tune(planned, base)
    assert planned.validation is not None
    examples = make_examples(planned.validation, base.text, planned.parameters)
    validation = Validation(base, planned.validation, examples, "classification")
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
    examples = make_examples(planned.validation, base.text, planned.parameters)
    validation = Validation(base, planned.validation, examples, "generation")
    other = {part: 2 * tensor for part, tensor in tuned.prompt.tensors.items()}
    rows = validation.row_losses([tuned.prompt.tensors, other, {}])
    together = [validation.loss(row) for row in rows]
    for prompt, seen in zip((tuned.prompt.tensors, other, {}), together, strict=True):
        assert seen.value == pytest.approx(validation_loss(planned, base, prompt), rel=1e-5)
        assert seen.low < seen.value < seen.high


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
@pytest.mark.parametrize("task", ["classification", "generation"])
def test_the_metric_is_that_of_all_records_however_they_are_split(
    llama: BaseModel, share: float, task: str
) -> None:
    """It was that of the validation records: accuracy of 40 of them, exact match of 16 or 6 of the same."""
    validation = held_out(plan(llama, many(60), validation_share=share, tuning_task=task), llama)
    assert validation is not None
    for some in (validation, validation.draw(2)):
        assert set(some.scores(SoftPrompt({})).metrics) == {"accuracy", "macro_f1"}


@pytest.mark.parametrize(
    ("trained", "names"), [(4, {"exact_match", "rouge_l"}), (60, {"accuracy", "macro_f1"})]
)
@pytest.mark.parametrize("records", [1, 6, 40])
def test_the_metric_is_the_same_however_many_records_a_stream_has(
    llama: BaseModel, trained: int, names: set[str], records: int
) -> None:
    """Beside four records to train on it was exact match by 1, and accuracy by 40."""
    planned = plan(llama, many(trained), many(records), tuning_task="generation")
    validation = held_out(planned, llama)
    assert validation is not None
    assert set(validation.scores(SoftPrompt({})).metrics) == names


def test_free_texts_that_look_like_labels_in_a_few_records_are_free_texts(llama: BaseModel) -> None:
    """A validation stream of eight records has but two of the many outputs."""
    free = [{"input": f"number {n}", "output": f"it is {n}"} for n in range(60)]
    validation = held_out(plan(llama, free, many(8), tuning_task="generation"), llama)
    assert validation is not None
    assert set(validation.scores(SoftPrompt({})).metrics) == {"exact_match", "rouge_l"}


# ---- what is told ----


@pytest.mark.parametrize("request_", [{}, {"validation_steps": 1}, {"early_stopping_patience": 1}])
def test_progress_knows_the_validation_of_its_own_update(base: BaseModel, request_: dict[str, Any]) -> None:
    """The last one showed the best loss from before the last validation."""
    losses: list[float] = []
    told: list[tuple[float | None, float | None]] = []
    tune(
        plan(base, validation=HELD_OUT, num_epochs=4, **request_),
        base,
        lambda at: told.append((at.validation_loss, min(losses, default=None))),
        on_validation=lambda found: losses.append(found.scores["loss"]),
    )
    assert told[-1][0] is not None
    assert all(seen == known for seen, known in told)


def test_how_many_were_answered_is_told(llama: BaseModel) -> None:
    """All losses, and answers to 32 records: 0.5312 on the way, and 0.475 in the end."""
    found: list[Validated] = []
    tune(plan(llama, many(20), many(40), num_epochs=1), llama, on_validation=found.append)
    assert {(one.answers, one.records) for one in found} == {(32, 40)}
    share = found[-1].scores["accuracy"]
    assert share * 32 == round(share * 32)


# ---- helpers ----


def _inputs(records: Records | None) -> set[str]:
    return {record.input for record in records.items} if records else set()
