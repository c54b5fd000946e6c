"""What stands between text and answer: the same tokens in training and in serving, whatever the tokenizer."""

from __future__ import annotations

from pathlib import Path

import caikit
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.text.causal import CausalText
from caikit_pt.errors import InvalidParameter
from caikit_pt.module import PeftPromptTuning
from caikit_pt.parameters.generation import GenerationParameters
from caikit_pt.serving.request import Request
from caikit_pt.soft_prompt.prompt import SoftPrompt
from caikit_pt.tuning.examples import make_examples
from caikit_pt.tuning.records import Record, Records
from caikit_pt.tuning.tuner import tune
from tests.tuning.training import plan

SEPARATORS = ("", "\n", " Label: ", "\nAnswer: ", ":")
RECORDS = Records(
    (Record("the lamp is fine", "good"), Record("the kettle leaks and it hums a lot", "bad")), False
)


@pytest.fixture(scope="module")
def letters() -> PreTrainedTokenizerFast:
    """Of GPT-2's kind: it puts no space in front of a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = "the lamp is good, the lamp is bad. Label: good Label: bad\nAnswer: good\nAnswer: bad\n"
    tokenizer.train_from_iterator([words] * 20, trainer)
    made: PreTrainedTokenizerFast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>"
    )
    return made


@pytest.mark.parametrize("separator", SEPARATORS)
def test_what_is_served_is_what_was_trained(base: BaseModel, separator: str, tmp_path: Path) -> None:
    planned = plan(base, [{"input": r.input, "output": r.output} for r in RECORDS.items], separator=separator)
    trained = make_examples(planned.records, base.text, planned.parameters)
    PeftPromptTuning(tune(planned, base), base).save(str(tmp_path / "tuned"))
    served = caikit.load(str(tmp_path / "tuned"))
    assert served.tuned.separator == separator
    asked = GenerationParameters(preserve_input_text=False)
    for record, example in zip(planned.records.items, trained.items, strict=True):
        request = served._request(record.input, None)
        assert list(request.row.ids) == example.source
        # The tokens of the target, as text, are the output.
        answer = Request(
            base.text, SoftPrompt({}), example.source, asked, behind_space=separator.endswith(" ")
        )
        for token in example.target:
            answer.extend(token, None)
        assert answer.text == record.output


def test_causal_models_have_one_by_default(llama: BaseModel, t5: BaseModel) -> None:
    causal, seq2seq = plan(llama).parameters, plan(t5).parameters
    assert (causal.separator, causal.origins["separator"]) == ("\n", "causal model")
    assert (seq2seq.separator, seq2seq.origins["separator"]) == ("", "seq2seq model")
    assert plan(llama, separator="").parameters.separator == ""


@pytest.mark.parametrize("separator", ["\n", " Label: "])
def test_it_stands_behind_a_text_that_was_cut(base: BaseModel, separator: str) -> None:
    parameters = plan(base, separator=separator, max_source_length=5).parameters
    cut = make_examples(RECORDS, base.text, parameters).items[1].source
    whole = base.text.source_ids(RECORDS.items[1].input)
    between = base.text.separator_ids(separator)
    ends = [base.text.end_id] if whole[-1] == base.text.end_id else []
    assert cut == [*whole[: 5 - len(ends)], *between, *ends]


def test_one_that_leaves_no_room_is_refused(llama: BaseModel) -> None:
    with pytest.raises(InvalidParameter, match=r"separator: .* half of the context"):
        plan(llama, separator="word " * 800)


@pytest.mark.parametrize("separator", [" Label: ", "\n", " "])
def test_an_answer_begins_as_it_would_in_running_text(
    llama: BaseModel, letters: PreTrainedTokenizerFast, separator: str
) -> None:
    text = CausalText(llama.checkpoint, letters, llama.text.generation_config)
    answer = text.target_ids(text.answer_text("good", separator))
    running = letters(f"lamp{separator}good", add_special_tokens=False)["input_ids"]
    in_front = letters(f"lamp{separator.rstrip(' ')}", add_special_tokens=False)["input_ids"]
    assert [*in_front, *answer] == running
    between = text.separator_ids(separator)
    assert in_front[len(in_front) - len(between) :] == between
    assert text.answer_text("good", "") == "good"


def test_sentencepiece_begins_every_text_with_a_space_of_its_own(llama: BaseModel) -> None:
    assert llama.text.answer_text("good", " Label: ") == "good"
    assert llama.text.answer_text("good", " Label:  ") == " good"
