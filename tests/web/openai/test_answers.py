"""Models, completions, chats and tokens, asked by OpenAI's own client."""

from __future__ import annotations

import asyncio
import json
import math
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import openai
import pytest
import requests

from caikit_pt.client import TuningClient
from tests.conftest import LLAMA, T5
from tests.web.openai.place import ADA, CHATTY, Place, place

QUESTION = "The lamp is great"
TURN: Any = [{"role": "user", "content": QUESTION}]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(tmp_path_factory.mktemp("answers")) as made:
        made.tune(moods=LLAMA, moods_t5=T5, free=LLAMA, free_chat=CHATTY)
        yield made


@pytest.fixture(scope="module")
def client(here: Place) -> Iterator[openai.OpenAI]:
    with here.client() as made:
        yield made


@pytest.fixture(scope="module")
def own(here: Place) -> Iterator[TuningClient]:
    with TuningClient(f"localhost:{here.server.port}", token=ADA) as made:
        yield made


def refusal(ask: Callable[[], Any]) -> tuple[int, str | None, str | None]:
    """The status, the field and the code."""
    with pytest.raises(openai.APIStatusError) as error:
        ask()
    body = error.value.body
    assert isinstance(body, dict)
    assert body["message"]
    return error.value.status_code, body["param"], body["code"]


def post(here: Place, path: str, body: Any, token: str = ADA) -> requests.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return requests.post(
        here.address + path, data=content, headers={"authorization": f"Bearer {token}"}, timeout=60
    )


# ---- models ----


def test_models_are_tuned_prompts_of_their_base_models(client: openai.OpenAI) -> None:
    owners = {model.id: model.owned_by for model in client.models.list()}
    assert owners == {"moods": LLAMA, "moods-t5": T5, "free": LLAMA, "free-chat": CHATTY}
    found = client.models.retrieve("moods")
    assert (found.id, found.object, found.owned_by) == ("moods", "model", LLAMA)
    assert found.created > 1_700_000_000
    assert refusal(lambda: client.models.retrieve("nobody")) == (404, "model", "model_not_found")


def test_a_model_is_deleted(client: openai.OpenAI, here: Place) -> None:
    shutil.copytree(here.server.models / "moods", here.server.models / "spare")
    assert client.models.retrieve("spare").id == "spare"
    gone = client.models.delete("spare")
    assert (gone.id, gone.object, gone.deleted) == ("spare", "model", True)
    assert not (here.server.models / "spare").exists()
    for name in ("spare", "nobody", LLAMA):
        assert refusal(partial(client.models.delete, name)) == (404, "model", "model_not_found")
    assert refusal(lambda: client.models.retrieve("spare")) == (404, "model", "model_not_found")
    assert client.models.retrieve("moods").id == "moods"


def test_who_has_no_token_is_nobody(here: Place) -> None:
    with here.client("not-a-token") as stranger:
        assert refusal(lambda: stranger.models.list())[0] == 401
        assert refusal(lambda: stranger.completions.create(model="moods", prompt=QUESTION))[0] == 401
    assert requests.get(f"{here.address}/v1/models", timeout=60).status_code == 401


def test_what_there_isnt_is_told_in_their_shape(here: Place) -> None:
    for method, path in (("GET", "/v1/assistants"), ("PUT", "/v1/models"), ("GET", "/models/moods/v1/x")):
        answer = requests.request(
            method, here.address + path, headers={"authorization": f"Bearer {ADA}"}, timeout=60
        )
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "unknown_url"


# ---- completions ----


@pytest.mark.parametrize("model", ["moods", "moods-t5", "free"])
def test_a_text_is_answered_as_by_the_servers_own_client(
    client: openai.OpenAI, own: TuningClient, model: str
) -> None:
    expected = own.answer(model, QUESTION, max_new_tokens=16)
    found = client.completions.create(model=model, prompt=QUESTION)
    (choice,) = found.choices
    assert choice.text == expected["generated_text"]
    assert choice.finish_reason == ("stop" if expected["finish_reason"] == "EOS_TOKEN" else "length")
    assert found.usage
    assert found.usage.prompt_tokens == expected["input_token_count"]
    assert found.usage.completion_tokens == expected["generated_tokens"]
    assert (found.object, found.model, found.id[:5]) == ("text_completion", model, "cmpl-")


def test_choices_come_in_their_order_each_with_its_seed(client: openai.OpenAI, own: TuningClient) -> None:
    prompts = [QUESTION, "The desk is awful"]
    found = client.completions.create(
        model="free", prompt=prompts, n=3, temperature=1.5, seed=1000, max_tokens=6, best_of=3
    )
    assert [choice.index for choice in found.choices] == list(range(6))
    expected = [
        own.answer(
            "free", text, decoding_method="SAMPLING", temperature=1.5, seed=1000 + number, max_new_tokens=6
        )
        for text in prompts
        for number in range(3)
    ]
    assert [choice.text for choice in found.choices] == [one["generated_text"] for one in expected]
    assert found.usage
    # Each text is read once, by OpenAI's count.
    assert found.usage.prompt_tokens == sum(one["input_token_count"] for one in expected[::3])
    assert found.usage.completion_tokens == sum(one["generated_tokens"] for one in expected)


def test_a_stream_joined_is_the_whole_answer(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "free",
        "prompt": [QUESTION, "The desk is"],
        "n": 2,
        "temperature": 1.2,
        "seed": 5,
        "max_tokens": 7,
        "echo": True,
        "logprobs": 2,
    }
    whole = client.completions.create(**asked)
    texts, tokens, offsets, reasons = ([[] for _ in range(4)] for _ in range(4))  # type: ignore[var-annotated]
    usage = None
    for part in client.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        usage = part.usage
        for choice in part.choices:
            texts[choice.index].append(choice.text)
            reasons[choice.index].append(choice.finish_reason)
            assert choice.logprobs
            tokens[choice.index] += choice.logprobs.tokens
            offsets[choice.index] += choice.logprobs.text_offset
    assert ["".join(one) for one in texts] == [choice.text for choice in whole.choices]
    assert [one[-1] for one in reasons] == [choice.finish_reason for choice in whole.choices]
    assert all(reason is None for one in reasons for reason in one[:-1])
    assert tokens == [choice.logprobs and choice.logprobs.tokens for choice in whole.choices]
    assert offsets == [choice.logprobs and choice.logprobs.text_offset for choice in whole.choices]
    assert usage == whole.usage


def test_a_stream_that_is_refused_is_refused_at_once(client: openai.OpenAI) -> None:
    def ask(**fields: Any) -> Any:
        return client.completions.create(**{"model": "free", "prompt": "a", "stream": True, **fields})

    assert refusal(lambda: ask(temperature=-1)) == (400, "temperature", "invalid_parameter")
    assert refusal(lambda: ask(model="nobody")) == (404, "model", "model_not_found")


def test_stops_end_an_answer_and_arent_part_of_it(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "free", "prompt": "The desk is", "max_tokens": 8}
    text = client.completions.create(**asked).choices[0].text
    cut = client.completions.create(**asked, stop=[text[1]])
    assert (cut.choices[0].text, cut.choices[0].finish_reason) == (text[:1], "stop")
    assert client.completions.create(**asked, stop=text[1]).choices[0].text == text[:1]


def test_nothing_predicts_the_first_token_where_no_prompt_stands_before_it(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "free",
        "prompt": QUESTION,
        "echo": True,
        "logprobs": 1,
        "max_tokens": 2,
    }
    whole = client.completions.create(**asked, extra_body={"untuned": True}).choices[0].logprobs
    parts = list(client.completions.create(**asked, extra_body={"untuned": True}, stream=True))
    for told in (whole, parts[0].choices[0].logprobs):
        assert told
        assert told.token_logprobs
        assert told.top_logprobs
        assert told.token_logprobs[0] is told.top_logprobs[0] is None
        assert all(one is not None and one < 0 for one in told.token_logprobs[1:])


def test_an_echo_is_the_text_and_its_tokens_without_the_prompts_rows(client: openai.OpenAI) -> None:
    found = client.completions.create(model="free", prompt=QUESTION, echo=True, logprobs=3, max_tokens=0)
    (choice,) = found.choices
    assert (choice.text, choice.finish_reason) == (QUESTION, "length")
    assert found.usage
    assert found.usage.completion_tokens == 0
    told = choice.logprobs
    assert told
    assert told.tokens == ["<s>", " The", " l", "am", "p", " is", " great", "\n"]
    assert told.text_offset == [0, 3, 7, 9, 11, 12, 15, 21]
    assert found.usage.prompt_tokens == len(told.tokens)
    assert told.token_logprobs
    assert told.top_logprobs
    for token, logprob, top in zip(told.tokens, told.token_logprobs, told.top_logprobs, strict=True):
        assert top[token] == logprob <= max(top.values())
        assert 3 <= len(top) <= 4
    # Behind the text comes an answer, where one is asked for.
    longer = client.completions.create(model="free", prompt=QUESTION, echo=True, max_tokens=4)
    assert longer.choices[0].text.startswith(QUESTION)
    assert len(longer.choices[0].text) > len(QUESTION)
    assert longer.choices[0].logprobs is None


def test_without_top_ones_each_token_has_its_own_logprob_alone(client: openai.OpenAI) -> None:
    found = client.completions.create(model="free", prompt=QUESTION, logprobs=0, max_tokens=2)
    told = found.choices[0].logprobs
    assert told
    assert told.top_logprobs is None
    assert told.token_logprobs
    assert all(value < 0 for value in told.token_logprobs)


def test_an_encoders_text_has_no_probabilities(client: openai.OpenAI) -> None:
    def ask(**fields: Any) -> Any:
        return client.completions.create(model="moods-t5", prompt=QUESTION, echo=True, **fields)

    assert refusal(lambda: ask(logprobs=1)) == (400, "echo", "invalid_request")
    assert ask().choices[0].text.startswith(QUESTION)


def test_our_own_fields_are_passed_on(client: openai.OpenAI, own: TuningClient) -> None:
    extra: Any = {"label_probabilities": True, "untuned": True}
    found = client.completions.create(model="moods", prompt=QUESTION, extra_body=extra)
    expected = own.answer("moods", QUESTION, **extra)
    choice = found.choices[0].to_dict()
    assert choice["label_probabilities"] == expected["label_probabilities"]
    drawn = {"top_k": 5, "typical_p": 0.9, "repetition_penalty": 1.3, "min_tokens": 3}
    free = client.completions.create(
        model="free", prompt=QUESTION, temperature=1.0, seed=3, max_tokens=6, extra_body=drawn
    )
    drawn["min_new_tokens"] = drawn.pop("min_tokens")
    same = own.answer(
        "free",
        QUESTION,
        decoding_method="SAMPLING",
        temperature=1.0,
        seed=3,
        max_new_tokens=6,
        **drawn,
    )
    assert free.choices[0].text == same["generated_text"]


def test_what_is_ignored_is_told_in_a_header(client: openai.OpenAI) -> None:
    raw = client.completions.with_raw_response.create(model="moods", prompt="a", user="somebody")
    assert raw.headers["x-caikit-pt-warning"] == "ignored: user"
    with client.chat.completions.with_streaming_response.create(
        model="moods", messages=TURN, stream=True, metadata={"a": "b"}, user="somebody"
    ) as streaming:
        assert streaming.headers["x-caikit-pt-warning"] == "ignored: user, metadata"
    quiet = client.completions.with_raw_response.create(model="moods", prompt="a")
    assert "x-caikit-pt-warning" not in quiet.headers


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"n": 2, "best_of": 3}, "best_of"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"stop": [""]}, "stop"),
        ({"stop": [1]}, "stop"),
        ({"suffix": "behind it"}, "suffix"),
        ({"logit_bias": {"5": 100}}, "logit_bias"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"frequency_penalty": -0.5}, "frequency_penalty"),
        ({"stream_options": {"include_usages": True}}, "stream_options.include_usages"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": ["a", 5]}, "prompt"),
        ({"prompt": [[1], "a"]}, "prompt"),
        ({"prompt": [1, True]}, "prompt"),
        ({"prompt": [2_000_000_000]}, "prompt"),
        ({"prompt": [-5]}, "prompt"),
        ({"prompt": [2**70]}, "prompt"),
        ({"prompt": ["a"] * 1000, "n": 2}, "prompt"),
        ({"prompt": "half \ud800"}, "prompt"),
        ({"min_tokens": 99}, "min_tokens"),
        ({"truncate_prompt_tokens": -1}, "truncate_prompt_tokens"),
        ({"top_k": 0.5}, "top_k"),
        ({"label_probabilities": True, "model": "free"}, "label_probabilities"),
        ({"model": None}, "model"),
        ({"model": 5}, "model"),
        ({"a_new_field": 1}, "a_new_field"),
        ({"half \ud800": 1}, None),
    ],
)
def test_bad_fields_are_refused_by_name(here: Place, fields: dict[str, Any], param: str | None) -> None:
    answer = post(here, "/v1/completions", {"model": "moods", "prompt": "a", **fields})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param), error
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"a": NaN}', b"\xff", b"[" * 50_000])
def test_what_isnt_an_object_is_refused(here: Place, body: bytes) -> None:
    for path in ("/v1/completions", "/v1/chat/completions", "/v1/fine_tuning/jobs", "/tokenize"):
        answer = post(here, path, body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")


def test_what_is_nested_too_deep_is_refused(here: Place) -> None:
    deep = b'{"model": "moods", "prompt": ' + b"[" * 500 + b"]" * 500 + b"}"
    assert post(here, "/v1/completions", deep).json()["error"]["code"] == "invalid_json"


# ---- tokens ----


def test_lm_evaluation_harness_gets_what_it_asks_for(here: Place, own: TuningClient) -> None:
    """As its local-completions and RemoteTokenizer ask, of 0.4.13."""
    base, headers = f"{here.address}/models/free", {"authorization": f"Bearer {ADA}"}
    info = requests.get(f"{base}/tokenizer_info", headers=headers, timeout=60).json()
    assert (info["bos_token"], info["eos_token"], info["pad_token"]) == ("<s>", "</s>", "<pad>")
    assert info["chat_template"] is None

    def encode(text: str) -> list[int]:
        asked: Any = {"prompt": text, "add_special_tokens": False}
        found = requests.post(f"{base}/tokenize", json=asked, headers=headers, timeout=60).json()["tokens"]
        assert isinstance(found, list)
        return found

    context, continuation = encode("The lamp is"), encode(" great")
    decoded = requests.post(f"{base}/detokenize", json={"tokens": context}, headers=headers, timeout=60)
    assert decoded.json()["prompt"] == "The lamp is"
    payload: Any = {
        "model": "free",
        "prompt": [[*context, *continuation], [*encode("</s>"), *context]],
        "temperature": 0,
        "max_tokens": 1,
        "logprobs": 1,
        "seed": 1234,
        "echo": True,
    }
    answer = requests.post(f"{base}/v1/completions", json=payload, headers=headers, timeout=60).json()
    first, second = sorted(answer["choices"], key=lambda choice: int(choice["index"]))
    for choice, ids in ((first, payload["prompt"][0]), (second, payload["prompt"][1])):
        told = choice["logprobs"]
        # One more than was asked about, which the harness drops; none of the soft prompt.
        assert {len(value) for value in told.values()} == {len(ids) + 1}
        assert "".join(told["tokens"])[: len(choice["text"])] == choice["text"]
    scored = sum(first["logprobs"]["token_logprobs"][len(context) : -1])
    expected = own.answer("free", "", input_ids=payload["prompt"][0], input_tokens=True, token_logprobs=True)
    told = expected["input_tokens"][len(context) :]
    assert math.isclose(scored, sum(token["logprob"] for token in told), abs_tol=1e-4)
    for token, top in zip(
        first["logprobs"]["token_logprobs"][:-1], first["logprobs"]["top_logprobs"][:-1], strict=True
    ):
        assert token <= max(top.values())


def test_ids_are_read_as_they_are_and_answered_freely(here: Place, client: openai.OpenAI) -> None:
    asked: Any = {
        "model": "moods",
        "prompt": "The lamp",
        "add_special_tokens": False,
        "return_token_strs": True,
    }
    tokens = post(here, "/tokenize", asked).json()
    assert (tokens["count"], tokens["token_strs"][0]) == (len(tokens["tokens"]), "▁The")
    found = client.completions.create(model="moods", prompt=tokens["tokens"], max_tokens=3, echo=True)
    (choice,) = found.choices
    assert choice.text.startswith(" The lamp")
    assert found.usage
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (tokens["count"], 3)
    parts = client.completions.create(
        model="moods", prompt=tokens["tokens"], max_tokens=3, echo=True, stream=True
    )
    assert "".join(part.choices[0].text for part in parts) == choice.text


def test_a_tokenizer_is_named_where_there_are_several(here: Place) -> None:
    answer = post(here, "/tokenize", {"prompt": "a"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "model")
    assert "/models/NAME" in answer.json()["error"]["message"]
    assert post(here, "/tokenize", {"prompt": "a", "model": "moods"}).status_code == 200
    assert post(here, "/tokenize", {"prompt": "a", "model": "nobody"}).status_code == 404
    mixed = post(here, "/models/free/tokenize", {"prompt": "a", "model": "moods"})
    assert (mixed.status_code, mixed.json()["error"]["param"]) == (400, "model")
    for body in ({"tokens": [10**9]}, {"tokens": "a"}, {"tokens": [2**70]}, {"tokens": [-1]}):
        refused = post(here, "/models/free/detokenize", body)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "tokens")
    info = requests.get(
        f"{here.address}/tokenizer_info?model=free-chat",
        headers={"authorization": f"Bearer {ADA}"},
        timeout=60,
    )
    assert "add_generation_prompt" in info.json()["chat_template"]


def test_a_model_in_the_address_needs_no_name(here: Place) -> None:
    answer = post(here, "/models/moods/v1/completions", {"prompt": QUESTION})
    assert answer.json()["model"] == "moods"
    with here.client(model="moods") as client:
        assert client.completions.create(model="moods", prompt=QUESTION).choices[0].text
        wrong = refusal(lambda: client.completions.create(model="free", prompt=QUESTION))
        assert wrong == (400, "model", "invalid_request")


# ---- chats ----


@pytest.mark.parametrize("model", ["moods", "moods-t5", "free-chat"])
def test_one_turn_is_what_a_prompt_was_tuned_with(
    client: openai.OpenAI, own: TuningClient, model: str
) -> None:
    expected = own.answer(model, QUESTION, max_new_tokens=129)
    found = client.chat.completions.create(model=model, messages=TURN, n=2)
    assert [choice.message.content for choice in found.choices] == [expected["generated_text"]] * 2
    assert found.choices[0].message.role == "assistant"
    assert found.usage
    assert found.usage.prompt_tokens == expected["input_token_count"]
    parts: Any = [{"type": "text", "text": "The lamp "}, {"type": "text", "text": "is great"}]
    same = client.chat.completions.create(model=model, messages=[{"role": "user", "content": parts}])
    assert same.choices[0].message.content == expected["generated_text"]


def test_a_conversation_is_what_the_template_makes_of_it(client: openai.OpenAI, own: TuningClient) -> None:
    messages: Any = [
        {"role": "developer", "content": "Be short."},
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": "good"},
        {"role": "user", "content": "The desk is awful"},
    ]
    text = (
        f"system: Be short.</s>\nuser: {QUESTION}</s>\nassistant: good</s>\nuser: The desk is awful</s>\n"
        "assistant:"
    )
    found = client.chat.completions.create(
        model="free-chat", messages=messages, max_completion_tokens=5, logprobs=True, top_logprobs=2
    )
    from caikit_pt.runtime.tuning_messages import TokenizeRequest

    asked = TokenizeRequest(model_name="free-chat", text=text, add_special_tokens=False).to_proto()
    connection = own._connection
    ids = list(connection.answer(connection.stubs.tuning.Tokenize, asked).ids)
    expected = own.answer("free-chat", "", input_ids=ids, max_new_tokens=5)
    assert found.choices[0].message.content == expected["generated_text"]
    assert found.usage
    assert found.usage.prompt_tokens == len(ids)
    told = found.choices[0].logprobs
    assert told
    assert told.content
    assert len(told.content) == found.usage.completion_tokens
    for token in told.content:
        assert token.bytes is not None
        assert bytes(token.bytes).decode() == token.token
        assert token.top_logprobs[0].logprob >= token.logprob


def test_a_conversation_without_a_template_is_refused(client: openai.OpenAI) -> None:
    system: Any = [{"role": "system", "content": "Be short."}, *TURN]
    refused = refusal(lambda: client.chat.completions.create(model="moods", messages=system))
    assert refused == (400, "messages", "invalid_request")
    said: Any = [{"role": "user", "content": "refuse"}, *TURN]
    with pytest.raises(openai.BadRequestError, match="It has to make sense"):
        client.chat.completions.create(model="free-chat", messages=said)


def test_a_chat_is_streamed_as_clients_have_it(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "free", "messages": TURN, "max_tokens": 6, "n": 2, "logprobs": True}
    whole = client.chat.completions.create(**asked)
    parts = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    texts = ["", ""]
    for part in parts[:-1]:
        (choice,) = part.choices
        texts[choice.index] += choice.delta.content or ""
    assert texts == [choice.message.content for choice in whole.choices]
    assert parts[0].choices[0].delta.role == "assistant"
    assert sorted(part.choices[0].finish_reason or "" for part in parts[:-1])[-2:] == ["stop", "stop"]
    assert (parts[-1].choices, parts[-1].usage) == ([], whole.usage)
    # OpenAI's helper puts them together, and has its own idea of what is allowed.
    with client.chat.completions.stream(model="free", messages=TURN, max_tokens=6) as stream:
        assert stream.get_final_completion().choices[0].message.content == texts[0]


def test_many_ask_at_once_without_waiting(here: Place) -> None:
    async def ask() -> list[str]:
        async with here.later() as client:
            answers = await asyncio.gather(
                *(client.completions.create(model="moods", prompt=QUESTION) for _ in range(8))
            )
            stream: Any = await client.chat.completions.create(model="moods", messages=TURN, stream=True)
            streamed = [part.choices[0].delta.content or "" async for part in stream]
            return [*(answer.choices[0].text for answer in answers), "".join(streamed)]

    assert len(set(asyncio.run(ask()))) == 1


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [5]}, "messages[0]"),
        ({"messages": [{"role": "king", "content": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "messages"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a"}}]}]},
            "messages[0].content[0]",
        ),
        ({"messages": [{"role": "user", "content": "a", "tool_calls": [{}]}]}, "messages[0].tool_calls"),
        ({"tools": [{"type": "function", "function": {"name": "a"}}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"functions": [{"name": "a"}]}, "functions"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "ash"}}, "audio"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"verbosity": "low"}, "verbosity"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"store": True}, "store"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"logprobs": 1}, "logprobs"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
    ],
)
def test_bad_chats_are_refused_by_name(here: Place, fields: dict[str, Any], param: str) -> None:
    answer = post(here, "/v1/chat/completions", {"model": "moods", "messages": TURN, **fields})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param), error


def test_what_their_clients_send_by_default_is_taken(client: openai.OpenAI) -> None:
    create: Any = client.chat.completions.create
    found = create(
        model="moods",
        messages=TURN,
        tools=[],
        tool_choice="none",
        response_format={"type": "text"},
        modalities=["text"],
        presence_penalty=0,
        frequency_penalty=0.0,
        logit_bias={},
        service_tier="auto",
        verbosity="medium",
        store=False,
        top_p=1,
        temperature=0,
        stop=None,
        user="me",
        parallel_tool_calls=True,
    )
    assert found.choices[0].message.content
