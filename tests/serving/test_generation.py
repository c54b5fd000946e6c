"""Every field of an inference request, through the code that serves, on all families."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest
import torch

from caikit_pt.base_model.model import BaseModel
from caikit_pt.errors import InvalidParameter
from caikit_pt.parameters.generation import GENERATION_PARAMETERS, GenerationParameters
from caikit_pt.serving.engine import generate
from caikit_pt.serving.input_tokens import input_tokens
from caikit_pt.serving.request import FinishReason, Request, text_ids
from caikit_pt.serving.sampler import Sampler
from caikit_pt.soft_prompt.prompt import SoftPrompt

from .picking import pick as pick_next

TEXT = "The kettle from your shop is dreadful"


def prompt_for(base: BaseModel, tokens: int = 5) -> SoftPrompt:
    """Word embeddings in a random order: far from tuned, near enough to words."""
    part = base.checkpoint.prompt_parts[0]
    ids = torch.randint(20, 400, (tokens,), generator=torch.Generator().manual_seed(2)).tolist()
    return SoftPrompt({part: base.weights.embed(ids).float().cpu()})


def answer(base: BaseModel, text: str = TEXT, **request: Any) -> Request:
    decay = request.pop("decay", None)
    parameters = GenerationParameters.from_request({"preserve_input_text": False, **request}, decay, {})
    answered = Request(base.text, prompt_for(base), text_ids(base.text, text, parameters), parameters)
    for _ in generate(base, [answered]):
        pass
    return answered


def test_defaults() -> None:
    parameters = GenerationParameters.from_request({}, None, {})
    assert (parameters.max_new_tokens, parameters.min_new_tokens) == (20, 0)
    assert parameters.preserve_input_text
    assert parameters.include_stop_sequence
    assert not parameters.samples


def test_max_and_min_new_tokens(base: BaseModel) -> None:
    """Without a minimum the embedded models end early; with one they can't."""
    short = answer(base, max_new_tokens=3, min_new_tokens=3)
    assert (len(short.generated), short.finish_reason) == (3, FinishReason.MAX_TOKENS)
    long = answer(base, max_new_tokens=30, min_new_tokens=12)
    assert len(long.generated) >= 12
    assert not base.text.end_ids & set(long.generated[:12])


def test_the_end_token_ends_an_answer_and_counts(base: BaseModel) -> None:
    answered = answer(base, max_new_tokens=40)
    assert answered.finish_reason is FinishReason.EOS_TOKEN
    assert answered.generated[-1] in base.text.end_ids
    assert answered.text == base.text.tokenizer.decode(answered.generated, skip_special_tokens=True)


def test_the_context_ends_an_answer(llama: BaseModel) -> None:
    room = 1024 - 5
    answered = answer(
        llama, "a " * 1008, max_new_tokens=1000, min_new_tokens=1000, truncate_input_tokens=1010
    )
    assert len(answered.row.ids) == 1010
    assert len(answered.generated) == room - 1010
    assert answered.finish_reason is FinishReason.TOKEN_LIMIT


def test_truncation_keeps_the_last_tokens_and_the_one_that_begins(base: BaseModel) -> None:
    whole = base.text.source_ids(TEXT)
    ids = list(answer(base, truncate_input_tokens=4).row.ids)
    assert len(ids) == 4
    assert ids[-3:] == whole[-3:]
    if whole[0] == base.text.tokenizer.bos_token_id:
        assert ids[0] == whole[0]
    assert list(answer(base, truncate_input_tokens=500).row.ids) == whole


def test_a_long_text_is_cut_before_it_is_tokenised(base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is truncated, and one that can't fit into the context. The tokens are those of the whole."""
    text = "".join(f"ticket {number}: the kettle broke. " for number in range(5_000))
    whole = base.text.source_ids(text)
    real, read = base.text.source_ids, list[int]()

    def counted(given: str) -> list[int]:
        read.append(len(given))
        return real(given)

    monkeypatch.setattr(base.text, "source_ids", counted)
    last = text_ids(
        base.text, text, GenerationParameters.from_request({"truncate_input_tokens": 30}, None, {})
    )
    assert last == base.text.keep_last(whole, 30)
    assert max(read) < len(text) / 10
    if base.text.context_length:
        with pytest.raises(InvalidParameter, match=r"text: '[\d,]+ characters'"):
            answer(base, text)
        with pytest.raises(InvalidParameter, match=r"text: 'at least \d+ tokens'"):
            answer(base, text[:60_000])
        assert max(read) < len(text) / 2


@pytest.mark.parametrize("cut", [0, 30])
def test_a_text_of_megabytes_is_refused_by_its_characters(
    base: BaseModel, cut: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """15 MB were tokenised whole: two minutes, and 5 GB. Of what has no words no end can be told, either."""
    real, read = base.text.source_ids, list[int]()

    def counted(given: str) -> list[int]:
        read.append(len(given))
        return real(given)

    most = base.text.most_characters(200)
    parameters = GenerationParameters(truncate_input_tokens=cut)
    monkeypatch.setattr(base.text, "source_ids", counted)
    for text in ("\n" * 15_000_000, "a\u0301" * 7_500_000):
        with pytest.raises(InvalidParameter, match=r"text: '15,000,000 characters' .* max_input_tokens"):
            text_ids(base.text, text, parameters, 200)
    assert sum(read) <= (2 * most if cut else 0)


def test_a_text_of_too_many_tokens_is_refused(base: BaseModel) -> None:
    """As many as are allowed pass, whatever their characters; of what is far longer a part is read."""
    text = " ".join(["the kettle broke"] * 300)
    ids = base.text.source_ids(text)
    free = GenerationParameters()
    assert text_ids(base.text, text, free, len(ids)) == ids
    with pytest.raises(
        InvalidParameter, match=rf"text: '{len(ids)} tokens' .* {len(ids) - 1} tokens, by the sett"
    ):
        text_ids(base.text, text, free, len(ids) - 1)
    with pytest.raises(InvalidParameter, match=rf"text: '{len(ids)} tokens'"):
        text_ids(base.text, text, GenerationParameters(truncate_input_tokens=len(ids)), len(ids) - 1)
    last = text_ids(base.text, text, GenerationParameters(truncate_input_tokens=50), 50)
    assert last == base.text.keep_last(ids, 50)
    with pytest.raises(InvalidParameter, match=r"text: 'at least \d+ tokens'"):
        text_ids(base.text, "kettle " * 1_700, free, 200)


def test_without_a_setting_the_context_decides(llama: BaseModel, t5: BaseModel) -> None:
    assert llama.text.most_source_ids(0) == 1024
    assert t5.text.most_source_ids(0) == 4096
    assert t5.text.most_source_ids(100_000) == 100_000
    with pytest.raises(InvalidParameter, match="context of 1024 tokens"):
        text_ids(llama.text, "kettle " * 4_000, GenerationParameters())
    with pytest.raises(InvalidParameter, match="by the setting max_input_tokens"):
        text_ids(t5.text, "kettle " * 40_000, GenerationParameters())


def test_no_text_that_fits_has_more_characters_than_allowed(base: BaseModel) -> None:
    """The longest pieces of the vocabulary, one behind the other."""
    tokenizer = base.text.tokenizer
    longest = sorted(tokenizer.get_vocab(), key=len)[-20:]
    text = tokenizer.convert_tokens_to_string(longest)
    assert len(text) <= base.text.most_characters(len(base.text.source_ids(text)))


@pytest.mark.parametrize("seed", range(20))
def test_the_end_of_a_text_is_read_as_the_whole_has_it(base: BaseModel, seed: int) -> None:
    """Whatever stands where it is cut: words, words without an end, blanks, letters with marks."""
    rng = random.Random(seed)
    parts = [
        "kettle ",
        "a" * rng.randrange(1, 999),
        " " * rng.randrange(1, 99),
        "e\u0301",
        "\n",
        "</s>",
        "7 x ",
        "ﷺ",
    ]
    text = "".join(rng.choice(parts) for _ in range(rng.randrange(20, 400)))
    whole = base.text.source_ids(text)
    for cut in (1, 2, 7, 30):
        last = base.text.last_source_ids(text, cut, 10**6)
        assert last is not None
        assert base.text.keep_last(last, cut) == base.text.keep_last(whole, cut)


def test_stop_sequences(base: BaseModel) -> None:
    free = answer(base, max_new_tokens=20, min_new_tokens=20)
    stop = free.text[4:7]
    with_it = answer(base, max_new_tokens=20, stop_sequences=[stop], min_new_tokens=0)
    if with_it.finish_reason is FinishReason.STOP_SEQUENCE:
        assert with_it.text.endswith(stop)
        without = answer(base, stop_sequences=[stop], include_stop_sequence=False)
        assert without.text + stop == with_it.text


def test_a_stop_sequence_counts_only_after_the_minimum(base: BaseModel) -> None:
    # A first token may be a lone space, which shows with the second.
    tries = (answer(base, max_new_tokens=count, min_new_tokens=count).text for count in (1, 2, 3))
    first = next(text for text in tries if text)
    assert first
    stopped = answer(base, max_new_tokens=6, stop_sequences=[first])
    assert (stopped.text, stopped.finish_reason) == (first, FinishReason.STOP_SEQUENCE)
    assert len(answer(base, max_new_tokens=6, min_new_tokens=5, stop_sequences=[first]).generated) >= 5


def test_time_runs_out(base: BaseModel) -> None:
    answered = answer(base, max_new_tokens=4000, min_new_tokens=900, max_time=0.05)
    assert answered.finish_reason is FinishReason.TIME_LIMIT
    assert 0 < len(answered.generated) < 900


def test_a_seed_gives_the_same_answer_alone_and_in_company(base: BaseModel) -> None:
    request: dict[str, Any] = {
        "decoding_method": "SAMPLING",
        "temperature": 2.0,
        "seed": 7,
        "min_new_tokens": 8,
    }
    alone = answer(base, **request).generated
    assert answer(base, **request).generated == alone
    assert answer(base, **{**request, "seed": 8}).generated != alone
    rows = [
        Request(
            base.text,
            prompt_for(base, 3 + n),
            base.text.source_ids(text),
            GenerationParameters.from_request(asked, None, {}),
        )
        for n, (text, asked) in enumerate([("hi", {}), (TEXT, request), ("a longer text " * 5, request)])
    ]
    rows[1] = Request(
        base.text,
        prompt_for(base),
        base.text.source_ids(TEXT),
        GenerationParameters.from_request(request, None, {}),
    )
    for _ in generate(base, rows):
        pass
    assert rows[1].generated == alone


def test_sampling_at_temperature_0_is_greedy(base: BaseModel) -> None:
    cold = answer(base, decoding_method="SAMPLING", temperature=0)
    assert cold.generated == answer(base).generated
    assert not cold.parameters.samples


def test_sampling_without_a_seed_draws_one() -> None:
    request = {"decoding_method": "SAMPLING"}
    seeds = {GenerationParameters.from_request(request, None, {}).seed for _ in range(5)}
    assert len(seeds) > 1


def test_what_is_told_of_tokens(base: BaseModel) -> None:
    answered = answer(base, generated_tokens=True, token_logprobs=True, token_ranks=True)
    assert len(answered.tokens) == len(answered.generated)
    assert all(token.rank == 1 for token in answered.tokens)
    assert all(token.logprob is not None and token.logprob <= 0 for token in answered.tokens)
    bare = answer(base, generated_tokens=True).tokens
    assert all(token.logprob is None and token.rank is None for token in bare)
    assert answer(base).tokens == []


def test_what_is_told_of_the_text(llama: BaseModel, t5: BaseModel) -> None:
    """A causal model predicts each token of the text, the first one from the soft prompt."""
    request: dict[str, Any] = {"input_tokens": True, "token_logprobs": True, "token_ranks": True}
    answered = answer(llama, **request)
    tokens = input_tokens(answered, llama)
    assert len(tokens) == len(answered.row.ids)
    row = llama.weights.join(answered.row.prompt["DECODER"], answered.row.ids)[None]
    with torch.no_grad():
        logits = llama.weights.model(inputs_embeds=row).logits[0].log_softmax(-1)[4:-1]
    expected = [float(logits[at, token]) for at, token in enumerate(answered.row.ids)]
    assert [token.logprob for token in tokens] == pytest.approx(expected, abs=1e-4)
    assert all(token.logprob is None for token in input_tokens(answer(t5, **request), t5))


def test_text_that_leaves_no_room_is_refused(llama: BaseModel) -> None:
    with pytest.raises(InvalidParameter, match="truncate_input_tokens"):
        answer(llama, "word " * 2000)


# ---- the sampler against the obvious ----


def pick(logits: list[float], seen: tuple[int, ...] = (), **request: Any) -> int:
    decay = request.pop("decay", None)
    parameters = GenerationParameters.from_request(request, decay, {})
    return pick_next(torch.tensor([logits]), [Sampler(parameters, seen, frozenset([0]))])[0]


def drawn(logits: list[float], **request: Any) -> set[int]:
    """All tokens that 300 seeds draw."""
    asked = {"decoding_method": "SAMPLING", **request}
    return {pick(logits, seed=seed, **asked) for seed in range(300)}


def test_the_sampler() -> None:
    logits = [0.0, 1.0, 2.0, 1.5]
    assert pick(logits) == 2
    assert pick([5.0, 1.0, 2.0, 1.5], min_new_tokens=1) == 2
    assert pick(logits, seen=(2,), repetition_penalty=2.0) == 3
    assert pick(logits, seen=(2,), repetition_penalty=0.0) == 2
    assert drawn(logits) == {0, 1, 2, 3}
    assert drawn(logits, top_k=2) == {2, 3}
    assert drawn(logits, top_k=0, top_p=0.3) == {2}
    assert drawn(logits, top_p=0.0, typical_p=1.0) == {0, 1, 2, 3}
    assert drawn(logits, temperature=0.01) == {2}
    assert drawn([0.0, 9.0, 0.0, 0.0], typical_p=0.5) == {1}


@pytest.mark.parametrize(
    "request_",
    [
        {"decay": (0, 100.0), "min_new_tokens": 40, "max_new_tokens": 400},
        {"decay": (0, 100.0), "min_new_tokens": 40, "decoding_method": "SAMPLING"},
        {"temperature": 1e-45, "decoding_method": "SAMPLING"},
        {"temperature": 100.0, "decoding_method": "SAMPLING"},
        {"repetition_penalty": 1e-60, "decoding_method": "SAMPLING"},
        {"repetition_penalty": 100.0, "decoding_method": "SAMPLING"},
        {"top_p": 1e-9, "decoding_method": "SAMPLING"},
        {"typical_p": 1e-9, "decoding_method": "SAMPLING"},
    ],
)
def test_extremes_of_what_is_allowed_give_an_answer(base: BaseModel, request_: dict[str, Any]) -> None:
    """Each of the first five was an OverflowError or a distribution of NaN."""
    request = {"max_new_tokens": 60, "seed": 1, **request_}
    assert len(answer(base, **request).generated) >= request.get("min_new_tokens", 1)


def test_the_dataclass_has_the_defaults_of_the_table() -> None:
    fields = {field.name: field.default for field in dataclasses.fields(GenerationParameters)}
    drawn = {"seed"}
    for parameter in GENERATION_PARAMETERS:
        if parameter.name not in drawn:
            assert fields[parameter.name] == parameter.default, parameter.name


def test_a_limit_below_the_default_is_the_default() -> None:
    assert GenerationParameters.from_request({}, None, {"max_new_tokens": (1, 10)}).max_new_tokens == 10


def test_the_end_grows_likelier() -> None:
    parameters = GenerationParameters.from_request({"max_new_tokens": 50}, (2, 1.5), {})
    row = Sampler(parameters, (3, 3, 3), frozenset([0]))
    picked = [pick_next(torch.tensor([[1.0, 4.0]]), [row])[0] for _ in range(12)]
    first = picked.index(0)
    # 1 + 1 * (1.5 ** steps - 1) passes 4 after four steps beyond the second token.
    assert first == 2 + 4
    assert picked[:first] == [1] * first


def test_draws_follow_the_distribution() -> None:
    """4,000 draws of one row: within five standard deviations of the softmax."""
    logits = torch.tensor([0.3, 1.0, 2.0, -1.0])
    request = {"decoding_method": "SAMPLING", "seed": 3, "max_new_tokens": 4096}
    row = Sampler(GenerationParameters.from_request(request, None, {}), (), frozenset())
    count = 4_000
    picks = torch.bincount(
        torch.tensor([pick_next(logits[None], [row])[0] for _ in range(count)]), minlength=4
    )
    expected = logits.softmax(-1)
    deviation = (expected * (1 - expected) / count).sqrt()
    assert bool(((picks / count - expected).abs() < 5 * deviation).all())
