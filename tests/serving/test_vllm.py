"""The translation for vLLM, against a server that says what it is told to. No vLLM is needed."""

from __future__ import annotations

import contextvars
import json
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch
from caikit.runtime.types.caikit_runtime_exception import CaikitRuntimeException

from caikit_pt import PeftPromptTuning
from caikit_pt import call as calls
from caikit_pt.base_model.loading.checkpoint import locate
from caikit_pt.base_model.model import BaseModel
from caikit_pt.call import Call
from caikit_pt.errors import (
    BackendMismatch,
    BackendUnavailable,
    CaikitPtError,
    DamagedArtifact,
    InvalidParameter,
    TooManyRequests,
    WaitedTooLong,
)
from caikit_pt.parameters.generation import GENERATION_PARAMETERS, GenerationParameters
from caikit_pt.parameters.table import Parameter
from caikit_pt.principal import Principal
from caikit_pt.serving import vllm_request
from caikit_pt.serving.backends import backend_for, base_for
from caikit_pt.serving.generation import Generation
from caikit_pt.serving.labels import Labels
from caikit_pt.serving.request import FinishReason, Request, text_ids
from caikit_pt.serving.vllm_text import VllmModel, VllmText
from caikit_pt.settings import Remote, Settings
from caikit_pt.soft_prompt.artifact import TunedPrompt
from caikit_pt.soft_prompt.prompt import SoftPrompt
from caikit_pt.tuning.contender import Contender
from caikit_pt.tuning.evaluation import Evaluation
from caikit_pt.tuning.records import read_records
from caikit_pt.tuning.verbalizer import Verbalizer
from tests.conftest import BASE_MODELS, LLAMA, T5
from tests.serving.fake_vllm import Fake, running, tensor_of

TEXT = "The kettle from your shop is dreadful"
PROMPT = SoftPrompt({"DECODER": torch.linspace(-1, 1, 4 * 128).reshape(4, 128)})


@pytest.fixture
def fake() -> Iterator[Fake]:
    with running() as server:
        yield server


def settings(fake: Fake, **more: Any) -> Settings:
    remote = Remote(base_model="TINY-*", vllm=(fake.address,), model="served")
    return Settings(base_models_dir=str(BASE_MODELS), backends=(remote,), **more)


def remote(fake: Fake, name: str = LLAMA, **more: Any) -> VllmModel:
    now = settings(fake, **more)
    model = base_for(locate(name, now), now)
    assert isinstance(model, VllmModel)
    return model


def text_side(fake: Fake) -> VllmText:
    return remote(fake).text


def submit(
    fake: Fake, text: str = TEXT, prompt: SoftPrompt = PROMPT, now: Any = None, **request: Any
) -> Generation:
    now = now or {}
    model = remote(fake, **now)
    decay = request.pop("decay", None)
    parameters = GenerationParameters.from_request(request, decay, {})
    ids = text_ids(model.text, text, parameters)
    answered = Request(model.text, prompt, ids, parameters, prefix=text)
    return backend_for(model, settings(fake, **now)).submit(answered)


def answer(fake: Fake, text: str = TEXT, **request: Any) -> Request:
    return submit(fake, text, **request).result()


def asked(fake: Fake, **request: Any) -> dict[str, Any]:
    """The fields that a request becomes."""
    answer(fake, **{"max_new_tokens": 3, **request})
    return fake.requests[-1]


# ---- what is sent ----


def test_no_weight_is_loaded(fake: Fake) -> None:
    assert not isinstance(remote(fake), BaseModel)


def test_prompt_and_text_are_one_message(fake: Fake) -> None:
    request = asked(fake)
    assert request["path"] == "/v1/chat/completions"
    assert request["model"] == "served"
    [message] = request["messages"]
    prompt, text = message["content"]
    assert prompt["type"] == "prompt_embeds"
    assert torch.equal(tensor_of(prompt["data"]), PROMPT.tensors["DECODER"])
    # The token that begins a text stands behind the prompt, as in training, so it is part of the text.
    assert text == {"type": "text", "text": f"<s>{TEXT}"}
    assert not request["add_special_tokens"]
    assert not request["add_generation_prompt"]


def test_prompts_have_caches_of_their_own(fake: Fake, llama: BaseModel) -> None:
    """Where embeddings stand isn't in the key of vLLM's prefix cache, so that it may take one for another."""
    rows = PROMPT.tensors["DECODER"]
    other_row, one_more = rows.clone(), torch.cat([rows, torch.zeros(1, 128)])
    other_row[2, 5] += 1e-6
    salts = [
        asked(fake, prompt=SoftPrompt({"DECODER": tensor}))["cache_salt"] for tensor in (rows, rows.clone())
    ]
    assert salts[0] == salts[1] == asked(fake, text="another text")["cache_salt"]
    for tensor in (other_row, one_more):
        assert asked(fake, prompt=SoftPrompt({"DECODER": tensor}))["cache_salt"] not in salts


def test_the_weights_have_a_say_in_the_cache(fake: Fake) -> None:
    """The server may be told of another checkpoint under the same name while its cache stands."""
    salt = asked(fake)["cache_salt"]
    text = text_side(fake)
    text.checkpoint.__dict__["fingerprint"] = "sha256:" + "0" * 64
    parameters = GenerationParameters.from_request({}, None, {})
    answered = Request(text, PROMPT, text.source_ids(TEXT), parameters)
    assert json.loads(vllm_request.body(answered, text))["cache_salt"] != salt


def test_labels_are_the_choices_that_a_server_is_given(fake: Fake) -> None:
    """As they stand behind the text, with the space that their first tokens have."""
    text = text_side(fake)
    labels = Labels(text, ("good", "very bad"), "\n", 128)
    parameters = GenerationParameters.from_request(
        {"max_new_tokens": 1, "min_new_tokens": 1, "repetition_penalty": 2.0}, None, {}
    )
    answered = Request(text, PROMPT, text.source_ids(TEXT), parameters, labels=labels)
    fields = json.loads(vllm_request.body(answered, text))
    assert fields["structured_outputs"] == {"choice": [" good", " very bad"]}
    assert fields["max_tokens"] == labels.most_tokens
    assert (fields["min_tokens"], fields["repetition_penalty"]) == (0, 1)
    with pytest.raises(InvalidParameter, match="label_probabilities"):
        vllm_request.check(GenerationParameters(label_probabilities=True), "tiny-llama")


def test_a_view_of_a_prompt_is_sent_without_the_rest(fake: Fake) -> None:
    large = torch.zeros(10_000, 128)
    answer(fake, prompt=SoftPrompt({"DECODER": large[:3]}))
    assert len(fake.requests[-1]["messages"][0]["content"][0]["data"]) < 10_000


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (
            {},
            {"temperature": 0, "min_tokens": 0, "max_tokens": 3, "repetition_penalty": 1, "logprobs": False},
        ),
        ({"min_new_tokens": 2}, {"min_tokens": 2}),
        ({"repetition_penalty": 1.5}, {"repetition_penalty": 1.5}),
        ({"repetition_penalty": 0}, {"repetition_penalty": 1}),
        ({"temperature": 2.0, "top_k": 4, "top_p": 0.5}, {"temperature": 0, "top_k": 0, "top_p": 1}),
        (
            {"decoding_method": "SAMPLING", "temperature": 2.0, "top_k": 4, "top_p": 0.5, "seed": 2**64 - 1},
            {"temperature": 2, "top_k": 4, "top_p": 0.5, "seed": 2**63 - 1},
        ),
        ({"decoding_method": "SAMPLING", "top_p": 0}, {"temperature": 1, "top_p": 1}),
        ({"decoding_method": "SAMPLING", "temperature": 0}, {"temperature": 0}),
        ({"generated_tokens": True, "token_logprobs": True}, {"logprobs": True}),
        ({"token_logprobs": True}, {"logprobs": False}),
        ({"typical_p": 0.5}, {"temperature": 0}),
    ],
)
def test_what_fields_become(fake: Fake, request_: dict[str, Any], expected: dict[str, Any]) -> None:
    request = asked(fake, **request_)
    assert {name: request[name] for name in expected} == expected
    assert request["stop_token_ids"] == [2]


@pytest.mark.parametrize(
    ("field", "request_"),
    [
        ("typical_p", {"typical_p": 0.5, "decoding_method": "SAMPLING"}),
        ("exponential_decay_length_penalty", {"decay": (1, 2.0)}),
        ("temperature", {"temperature": 2.1, "decoding_method": "SAMPLING"}),
        ("temperature", {"temperature": 0.005, "decoding_method": "SAMPLING"}),
        ("token_ranks", {"token_ranks": True, "generated_tokens": True}),
        ("token_ranks", {"token_ranks": True, "input_tokens": True}),
        ("token_logprobs", {"token_logprobs": True, "input_tokens": True}),
    ],
)
def test_what_vllm_cannot_do_is_refused(fake: Fake, field: str, request_: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter, match=f"^{field}: .* not allowed. Allowed: .*{LLAMA} is served by"):
        submit(fake, **request_)
    assert not fake.requests


@dataclass(frozen=True, kw_only=True)
class _Later(GenerationParameters):
    """With a parameter that the translation has never heard of."""

    novel: float = 0.5


def test_what_is_not_known_is_refused() -> None:
    vllm_request.check(_Later(), LLAMA)
    with pytest.raises(InvalidParameter, match=r"^novel: 0\.7 is not allowed\. Allowed: 0\.5, for"):
        vllm_request.check(_Later(novel=0.7), LLAMA)


@pytest.mark.parametrize("parameter", list(GENERATION_PARAMETERS), ids=lambda parameter: parameter.name)
def test_every_parameter_is_translated_done_here_or_refused(
    fake: Fake, llama: BaseModel, parameter: Parameter
) -> None:
    """Where others have made it count: one that is dropped would go unnoticed."""
    name, base = parameter.name, text_side(fake)
    at_work = {"decoding_method": "SAMPLING", "seed": 1, "generated_tokens": True, "top_k": 5}
    other = {
        bool: not parameter.default,
        int: 3,
        float: 0.5,
        str: next((one for one in parameter.choices if one != at_work.get(name)), "x"),
    }[parameter.kind]
    given = {**at_work, name: [other] if parameter.many else other}

    def sent(fields: dict[str, Any]) -> dict[str, Any]:
        parameters = GenerationParameters.from_request(fields, None, {})
        vllm_request.check(parameters, LLAMA)
        request = Request(base, PROMPT, text_ids(base, TEXT, parameters), parameters)
        fields = json.loads(vllm_request.body(request, base))
        fields.pop("messages")
        return fields

    if name in vllm_request.TRANSLATED:
        assert sent(given) != sent(at_work)
    elif name in vllm_request.DONE_HERE:
        assert sent(given) == sent(at_work)
    else:
        with pytest.raises(InvalidParameter, match=f"^{name}: .* is not allowed"):
            sent(given)


@pytest.mark.parametrize("text", [TEXT, "  two\n\nlines ", "Zürich 漢字 🙂", "</s> in <s> between", "9" * 40])
def test_the_text_becomes_the_same_tokens(fake: Fake, llama: BaseModel, text: str) -> None:
    assert list(answer(fake, text).row.ids) == llama.text.source_ids(text)


@pytest.mark.parametrize("limit", range(4, 14))
def test_a_cut_falls_where_text_can_begin(fake: Fake, llama: BaseModel, limit: int) -> None:
    whole = llama.text.source_ids(TEXT)
    ids = list(answer(fake, truncate_input_tokens=limit).row.ids)
    assert len(ids) <= limit
    assert ids[0] == llama.text.tokenizer.bos_token_id
    assert ids[1:] == whole[-len(ids) + 1 :]


def test_text_that_cannot_be_written_is_refused(fake: Fake) -> None:
    with pytest.raises(InvalidParameter, match="leaves a whole word"):
        submit(fake, "hello", truncate_input_tokens=2)
    with pytest.raises(InvalidParameter, match="<prompt_embeds>"):
        submit(fake, "a <prompt_embeds> b")


def test_the_smaller_context_counts(fake: Fake) -> None:
    fake.models = {"served": 20}
    ids = len(text_side(fake).source_ids(TEXT))
    answered = answer(fake, max_new_tokens=100)
    assert fake.requests[-1]["max_tokens"] == 20 - 4 - ids
    assert answered.finish_reason is FinishReason.TOKEN_LIMIT
    with pytest.raises(InvalidParameter, match="context of 20 tokens"):
        submit(fake, TEXT * 3)


@pytest.mark.parametrize(
    "tensors",
    [
        {"DECODER": torch.full((4, 128), float("nan"))},
        {"DECODER": torch.zeros(4, 64)},
        {"ENCODER": torch.zeros(4, 128)},
    ],
)
def test_only_sound_prompts_are_sent(fake: Fake, tensors: dict[str, torch.Tensor]) -> None:
    with pytest.raises(DamagedArtifact):
        submit(fake, prompt=SoftPrompt(tensors))
    assert not fake.requests


def test_a_model_with_an_encoder_is_refused(fake: Fake) -> None:
    with pytest.raises(InvalidParameter, match="decoder-only"):
        remote(fake, T5)


# ---- what comes back ----


def test_the_answer(fake: Fake, llama: BaseModel) -> None:
    answered = answer(fake, max_new_tokens=3)
    context = answered.row.ids
    whole = llama.text.tokenizer.decode([*context, *fake.says], skip_special_tokens=True)
    assert answered.generated == fake.says
    assert answered.text == whole
    assert answered.finish_reason is FinishReason.MAX_TOKENS
    assert "".join(step.text for step in submit(fake, max_new_tokens=3).steps()) == whole[len(TEXT) :]


@pytest.mark.parametrize(
    ("says", "reason", "request_", "expected"),
    [
        ([300, 301, 2], "stop", {}, FinishReason.EOS_TOKEN),
        ([300, 301, 302], "length", {"max_new_tokens": 3}, FinishReason.MAX_TOKENS),
        # The server's own limit, or a stop token that only it knows.
        ([300, 301, 302], "length", {}, FinishReason.TOKEN_LIMIT),
        ([300, 301, 302], "stop", {}, FinishReason.EOS_TOKEN),
    ],
)
def test_why_it_ends(
    fake: Fake, says: list[int], reason: str, request_: dict[str, Any], expected: FinishReason
) -> None:
    fake.says, fake.reason = says, reason
    answered = answer(fake, **request_)
    assert (answered.generated, answered.finish_reason) == (says, expected)


def test_a_stop_sequence_ends_it_here_and_there(fake: Fake, llama: BaseModel) -> None:
    fake.says, fake.pause = [300, *[301] * 500], 0.01
    stop = llama.text.tokenizer.decode([301]).strip()
    answered = answer(fake, max_new_tokens=1000, stop_sequences=[stop])
    assert answered.finish_reason is FinishReason.STOP_SEQUENCE
    assert answered.text.endswith(stop)
    assert len(answered.generated) < 10
    assert fake.left_alone.wait(5)


def test_what_is_told_of_tokens(fake: Fake, llama: BaseModel) -> None:
    tokens = answer(fake, max_new_tokens=3, generated_tokens=True, token_logprobs=True).tokens
    assert [token.logprob for token in tokens] == [0.0, -0.5, -1.0]
    assert [token.text for token in tokens] == llama.text.tokenizer.convert_ids_to_tokens(fake.says)
    tokens = answer(fake, max_new_tokens=3, generated_tokens=True).tokens
    assert [token.logprob for token in tokens] == [None, None, None]


def test_what_is_told_of_the_text(fake: Fake) -> None:
    model, base = remote(fake), text_side(fake)
    answered = answer(fake, input_tokens=True)
    told = backend_for(model, settings(fake)).input_tokens(answered)
    assert [token.text for token in told] == base.tokenizer.convert_ids_to_tokens(list(answered.row.ids))


def test_time_runs_out(fake: Fake) -> None:
    fake.says, fake.pause = [300] * 100, 0.1
    answered = answer(fake, max_new_tokens=1000, max_time=2)
    assert answered.finish_reason is FinishReason.TIME_LIMIT
    assert 0 < len(answered.generated) < 100
    assert fake.left_alone.wait(5)


def test_who_leaves_ends_the_request(fake: Fake) -> None:
    fake.says, fake.pause = [300] * 1000, 0.02
    steps = submit(fake, max_new_tokens=2000).steps()
    next(steps)
    assert isinstance(steps, Generator)
    steps.close()
    assert fake.left_alone.wait(5)


def test_through_the_face_that_caikit_sees(
    fake: Fake, llama: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned = TunedPrompt(
        prompt=PROMPT,
        base_model_name=LLAMA,
        base_model_fingerprint=llama.checkpoint.fingerprint,
        verbalizer="Say: {{input}}",
    )
    PeftPromptTuning(tuned, llama).save(str(tmp_path / "saved"))
    monkeypatch.setattr("caikit_pt.settings.current", lambda: settings(fake))
    model = PeftPromptTuning.load(str(tmp_path / "saved"))
    assert not isinstance(model.base, BaseModel)
    result = model.run(TEXT, max_new_tokens=3, generated_tokens=True, input_tokens=True)
    assert result.generated_text.startswith(TEXT)
    assert (result.generated_tokens, result.finish_reason.name) == (3, "MAX_TOKENS")
    assert len(result.input_tokens) == result.input_token_count
    streamed = list(model.run_stream_out(TEXT, max_new_tokens=3))
    assert "".join(part.generated_text for part in streamed) == result.generated_text
    spent: list[int] = []

    def count() -> int:
        calls.begin(Call("id", "method", "host", lambda _: True, Principal("ada", ()), spent.append))
        return int(model.run_tokenizer(TEXT).token_count)

    assert contextvars.copy_context().run(count) == len(llama.text.target_ids(TEXT))
    assert spent == [len(llama.text.target_ids(TEXT))], "a quota of tokens bounds these, too"
    fake.refuses = (503, "loading")
    with pytest.raises(CaikitRuntimeException) as raised:
        model.run(TEXT)
    assert raised.value.status_code is grpc.StatusCode.UNAVAILABLE


# ---- what goes wrong ----


@pytest.mark.parametrize(
    ("status", "message", "expected"),
    [
        (400, "max_tokens is too large", InvalidParameter),
        (400, "You must set `--enable-prompt-embeds` to input `prompt_embeds`", BackendMismatch),
        (401, "Unauthorized", BackendMismatch),
        (404, "The model `served` does not exist.", BackendMismatch),
        (429, "slow down", TooManyRequests),
        (500, "EngineDeadError", BackendUnavailable),
        (503, "loading", BackendUnavailable),
    ],
)
def test_refusals_of_the_server(fake: Fake, status: int, message: str, expected: type[CaikitPtError]) -> None:
    fake.refuses = (status, message)
    with pytest.raises(expected) as raised:
        answer(fake)
    assert type(raised.value) is expected
    assert message in str(raised.value) or "--enable-prompt-embeds" in str(raised.value)


def test_a_failure_in_the_middle(fake: Fake) -> None:
    fake.fails = {"message": "out of memory", "code": 500}
    with pytest.raises(BackendUnavailable, match="out of memory"):
        answer(fake)
    fake.fails, fake.says = None, []
    with pytest.raises(BackendUnavailable, match="early"):
        answer(fake)
    fake.says, fake.reason = [300], "abort"
    with pytest.raises(BackendUnavailable, match="abort"):
        list(submit(fake).steps())


def test_a_server_that_reads_something_else(fake: Fake) -> None:
    """A chat template that says `user:` in front, or another tokenizer, would spoil every answer."""
    fake.reads = [7, 2048, 2048, 2048, 2048, 1, 335]
    with pytest.raises(BackendMismatch, match="pass-through chat template"):
        answer(fake)


def test_a_server_that_takes_its_time(fake: Fake) -> None:
    fake.pause = 5
    with pytest.raises(WaitedTooLong, match="max_wait_seconds"):
        submit(fake, now={"max_wait_seconds": 0.2}).result()


def test_more_requests_than_may_wait(fake: Fake) -> None:
    fake.says, fake.pause = [300] * 1000, 0.05
    now = {"max_waiting_requests": 1}
    first = submit(fake, now=now)
    deadline = time.monotonic() + 5
    while not fake.requests and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(TooManyRequests):
        submit(fake, now=now)
    first.cancel()


def test_a_server_that_is_not_there(fake: Fake) -> None:
    now = Settings(
        base_models_dir=str(BASE_MODELS),
        backends=(Remote(base_model="*", vllm=("http://localhost:9",), model="served"),),
    )
    with pytest.raises(BackendUnavailable, match="localhost:9"):
        base_for(locate(LLAMA, now), now)


def test_a_server_with_other_models(fake: Fake) -> None:
    fake.models = {"another": 1024}
    with pytest.raises(BackendMismatch, match="another"):
        text_side(fake)


def test_one_text_side_for_all_prompts(fake: Fake) -> None:
    first = remote(fake)
    assert remote(fake) is first


def test_other_base_models_stay_here(fake: Fake, llama: BaseModel) -> None:
    remote = Remote(base_model="granite*", vllm=(fake.address,), model="served")
    now = Settings(base_models_dir=str(BASE_MODELS), device="cpu", backends=(remote,))
    assert base_for(llama.checkpoint, now) is llama


def test_a_prompt_of_such_a_model_is_evaluated_by_its_answers(fake: Fake) -> None:
    """Without losses and without the untuned base, which is said."""
    model, base = remote(fake), text_side(fake)
    fake.says = [*base.target_ids("good"), base.end_id]
    fake.reason = "stop"
    tuned = Contender(
        model_name="mood",
        base=model,
        backend=backend_for(model, settings(fake)),
        prompt=PROMPT,
        verbalizer=Verbalizer("{{input}}"),
    )
    records = [{"input": f"{TEXT} {mood}", "output": mood} for mood in ("good", "bad", "good")]
    evaluation = Evaluation(tuned, read_records(records, "test_stream"), "classification", against=tuned)
    *_, last = evaluation.run()
    report = evaluation.report()
    assert last.done == last.of == len(fake.requests) == 6
    assert set(report["scores"]) == {"tuned", "against", "majority"}
    assert report["confusion"] == {"labels": ["bad", "good"], "counts": [[0, 1, 0], [0, 2, 0]]}
    assert "loss" not in report["scores"]["tuned"]
    assert report["notes"][0].startswith(
        "loss, perplexity and the untuned base model are left out: tiny-llama"
    )
