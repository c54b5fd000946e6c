"""The training itself: what one example looks like, what an update sees, and what comes out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from caikit_pt.base_model.frozen import BaseModel, TrainingBatch
from caikit_pt.errors import InvalidRecord, TrainingDiverged
from caikit_pt.tuning.examples import make_examples
from caikit_pt.tuning.plan import TuningPlan, make_plan
from caikit_pt.tuning.progress import Progress
from caikit_pt.tuning.records import Record, Records
from caikit_pt.tuning.tuner import tune
from tests.conftest import SETTINGS
from tests.perturbation import SEED

WORDS = ("kettle", "lamp", "desk", "chair", "mixer")
RECORDS = Records(
    tuple(Record(f"the {word} is {mood}", mood) for word in WORDS for mood in ("good", "bad")), False
)


def plan(base: BaseModel, **request: Any) -> TuningPlan:
    quick = {"num_virtual_tokens": 4, "num_epochs": 2, "batch_size": 2}
    request = {"base_model": base.checkpoint.name, **quick, **request}
    return make_plan(request, RECORDS.items, None, SETTINGS)


def test_what_is_too_small_to_count_costs_a_training_nothing(llama: BaseModel) -> None:
    if not torch.set_flush_denormal(False):
        pytest.skip("this processor always reckons with denormals")
    seen: list[float] = []
    tune(plan(llama, num_epochs=1), llama, lambda _: seen.append(float(torch.tensor(1e-40) * 1.0)))
    assert set(seen) == {0.0}
    assert float(torch.tensor(1e-40) * 1.0) > 0.0


def test_a_target_ends_with_eos_and_holds_nothing_else_special(base: BaseModel) -> None:
    examples = make_examples(RECORDS, base, plan(base, separator="").parameters)
    special = set(base.tokenizer.all_special_ids)
    for record, example in zip(RECORDS.items, examples.items, strict=True):
        assert example.target[-1] == base.end_id
        assert not special & set(example.target[:-1])
        assert base.tokenizer.decode(example.target[:-1]).strip() == record.output
        assert example.source == base.source_ids(record.input)


def test_a_causal_source_does_not_end_before_its_target(llama: BaseModel) -> None:
    source = make_examples(RECORDS, llama, plan(llama).parameters).items[0].source
    assert source[-1] != llama.end_id


def test_cuts_keep_the_beginning_and_are_counted(base: BaseModel) -> None:
    long = Records(
        (Record("one two three four five six seven", "eight nine ten eleven"), RECORDS.items[0]), False
    )
    parameters = plan(base, max_source_length=6, max_target_length=2, separator="").parameters
    examples = make_examples(long, base, parameters)
    whole = base.source_ids(long.items[0].input)
    cut = examples.items[0]
    assert len(cut.source) == 6
    assert cut.source[:5] == whole[:5]
    assert (cut.source[-1] == base.end_id) == (whole[-1] == base.end_id)
    assert cut.target == [*base.target_ids(long.items[0].output)[:2], base.end_id]
    assert examples.cut_sources >= 1
    assert examples.cut_targets >= 1


def test_a_long_text_is_cut_before_it_is_tokenised(base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten million characters kept the RPC for half a minute. The tokens are those of the whole."""
    text = "".join(f"the {word} number {n} is good, " for n in range(300) for word in WORDS)
    parameters = plan(base, max_source_length=50, max_target_length=20, separator="").parameters
    whole = base.source_ids(text), base.target_ids(text)
    read: list[int] = []

    def counted(real: Callable[[str], list[int]]) -> Callable[[str], list[int]]:
        def ids(given: str) -> list[int]:
            read.append(len(given))
            return real(given)

        return ids

    for name in ("source_ids", "target_ids"):
        monkeypatch.setattr(base, name, counted(getattr(base, name)))
    long = Records((Record(text, text), Record(text * 300, text * 300)), False)
    examples = make_examples(long, base, parameters)
    assert max(read) < len(text)
    assert examples.items[0] == examples.items[1]
    assert examples.items[0].source == base.cut_source(whole[0], 50)
    assert examples.items[0].target == [*whole[1][:20], base.end_id]
    assert (examples.cut_sources, examples.cut_targets) == (2, 2)


def test_a_text_of_few_tokens_is_read_whole(base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long: characters that a tokenizer leaves out are no tokens."""
    real = base.source_ids
    monkeypatch.setattr(base, "source_ids", lambda text: real(text.replace("\u200b", "")))
    text = "\u200b" * 100_000 + "kettle"
    assert base.first_source_ids(text, 20) == real("kettle")


def test_a_source_without_a_token_is_refused_by_its_number(
    base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some tokenizers leave out characters, and of a text of these nothing is left."""
    real = base.source_ids
    monkeypatch.setattr(base, "source_ids", lambda text: real("" if text == "\u200b" else text))
    pairs = [{"input": f"thing {n}", "output": "good"} for n in range(20)]
    pairs[3]["input"] = pairs[8]["input"] = "\u200b"
    request = {"base_model": base.checkpoint.name, "validation_share": 0.5}
    planned = make_plan(request, pairs, None, SETTINGS)
    with pytest.raises(InvalidRecord, match=r"2 records whose input has no token \(record 4, 9\)") as refusal:
        tune(planned, base)
    assert refusal.value.field == "train_stream"
    held_out = make_plan({"base_model": base.checkpoint.name}, pairs[:3], pairs, SETTINGS)
    with pytest.raises(InvalidRecord, match=r"record 4, 9") as refusal:
        tune(held_out, base)
    assert refusal.value.field == "val_stream"


def losses(tuned: Any, name: str = "loss") -> list[float]:
    return [entry["data"]["value"] for entry in tuned.training_logs if entry["name"] == name]


def test_training_lowers_the_loss(base: BaseModel) -> None:
    values = losses(tune(plan(base, num_epochs=12, seed=SEED), base))
    assert sum(values[-5:]) < 0.5 * sum(values[:5])


def test_the_loss_of_an_update_is_the_mean_over_its_target_tokens(base: BaseModel) -> None:
    """However the window is cut into batches, the update is the same."""
    request = {"num_epochs": 2, "seed": 5}
    whole = tune(plan(base, batch_size=10, **request), base)
    parts = tune(plan(base, batch_size=3, accumulate_steps=4, **request), base)
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-5)
    for part, tensor in whole.prompt.tensors.items():
        torch.testing.assert_close(parts.prompt.tensors[part], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("tuning_type", ["PROMPT_TUNING", "MULTITASK_PROMPT_TUNING"])
def test_a_seed_gives_the_same_bits_whatever_the_global_state(base: BaseModel, tuning_type: str) -> None:
    first = tune(plan(base, tuning_type=tuning_type), base)
    torch.manual_seed(12345)
    torch.rand(7)
    state = torch.get_rng_state()
    second = tune(plan(base, tuning_type=tuning_type), base)
    other = tune(plan(base, tuning_type=tuning_type, seed=74), base)
    for part, tensor in first.prompt.tensors.items():
        assert torch.equal(tensor, second.prompt.tensors[part])
        assert not torch.equal(tensor, other.prompt.tensors[part])
    assert losses(first) == losses(second)
    assert torch.equal(state, torch.get_rng_state())


def test_progress_counts_updates_and_has_an_eta(base: BaseModel) -> None:
    seen: list[Progress] = []
    tune(plan(base), base, seen.append)
    assert [progress.step for progress in seen] == list(range(1, 11))
    assert {progress.steps for progress in seen} == {10}
    assert seen[-1].eta_seconds == 0
    assert seen[4].eta_seconds == pytest.approx(seen[4].seconds)


def test_a_validation_loss_is_the_mean_over_all_target_tokens(base: BaseModel) -> None:
    request = {"base_model": base.checkpoint.name, "num_virtual_tokens": 3, "num_epochs": 1, "batch_size": 3}
    planned = make_plan(request, RECORDS.items, RECORDS.items[:7], SETTINGS)
    tuned = tune(planned, base)
    examples = make_examples(Records(RECORDS.items[:7], False), base, planned.parameters)
    whole = examples.batch(list(range(7)))
    with torch.no_grad():
        rows = base.padded_losses([tuned.prompt.tensors] * 7, whole)
    expected = float(rows.sum()) / whole.target_tokens
    assert losses(tuned, "validation_loss") == [pytest.approx(expected, rel=1e-5)]


def test_a_gradient_that_is_no_number_ends_the_training_too(
    llama: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last update's gradient shows in no later loss: a prompt of NaN was published."""

    def finite_loss_infinite_gradient(prompts: Any, batch: TrainingBatch) -> torch.Tensor:
        rows = torch.stack([tensor.sum() for prompt in prompts for tensor in prompt.values()])
        # The root of zero: its gradient is infinite, and times zero no number.
        return 1 + (rows * 0).clamp(min=0).sqrt()

    monkeypatch.setattr(llama, "trains_packed", False)
    monkeypatch.setattr(llama, "padded_losses", finite_loss_infinite_gradient)
    with pytest.raises(TrainingDiverged, match="gradient is not finite"):
        tune(plan(llama, num_epochs=5, batch_size=10), llama)


def test_what_looks_like_a_special_token_in_a_target_is_text(base: BaseModel) -> None:
    for token in base.tokenizer.all_special_tokens:
        ids = base.target_ids(f"a {token} b")
        assert not set(base.tokenizer.all_special_ids) & set(ids)


def test_a_loss_that_is_no_number_ends_the_training(
    llama: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = llama.padded_losses

    def no_number(prompts: Any, batch: TrainingBatch) -> torch.Tensor:
        return real(prompts, batch) * math.nan

    monkeypatch.setattr(llama, "trains_packed", False)
    monkeypatch.setattr(llama, "padded_losses", no_number)
    with pytest.raises(TrainingDiverged, match=r"loss is not finite at update 5 of 10.*learning_rate"):
        tune(plan(llama), llama)
