"""/v1/chat/completions: one turn is a record's input; more are rendered by the model's chat template."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from caikit_pt.client.prompt import Prompt
from caikit_pt.web.openai.fields import Fields, fields_of, warnings_of
from caikit_pt.web.openai.logprobs import of_chat
from caikit_pt.web.openai.pieces import Spelling
from caikit_pt.web.openai.question import Question, Usage, finish_reason, head, label_probabilities
from caikit_pt.web.openai.server import CHAT_NAMES, begun, unless_left
from caikit_pt.web.openai.template import rendered
from caikit_pt.web.openai.tokenizer import habits, ids_of
from caikit_pt.web.refusal import Refused
from caikit_pt.web.sse import event, streamed

_FIELD = "messages"
_WHOLE, _PART = "chat.completion", "chat.completion.chunk"
_USER, _SYSTEM = "user", "system"
_ROLES = {"system": _SYSTEM, "developer": _SYSTEM, "user": _USER, "assistant": "assistant"}
_NO_TEMPLATE = (
    "messages: the base model of this prompt has no chat template, so that a conversation is one message "
    "of the user. Instructions belong into the verbalizer that the prompt is tuned with"
)
_NEVER = ("tools", "functions", "logit_bias")
_NOT_HERE = (
    "audio",
    "prediction",
    "web_search_options",
    "reasoning_effort",
    "moderation",
)
_IGNORED = (
    "user",
    "metadata",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "parallel_tool_calls",
)


@dataclass(slots=True)
class Chat:
    """What is asked, and whether tokens are shown; `spelling` where they are."""

    question: Question
    spelling: Spelling | None

    def logprobs(self, answer: Any) -> dict[str, Any] | None:
        """Of its tokens."""
        return of_chat(self.spelling, answer.tokens, answer.top_tokens) if self.spelling else None


async def create(request: Request) -> Response:
    """Answers, whole or as they come."""
    fields = await fields_of(request)
    asked = await _chat(request, fields)
    question, warnings = asked.question, warnings_of(fields.ignored)
    if question.streams:
        response = streamed(await unless_left(request, begun(_events(asked))))
        response.headers.update(warnings)
        return response
    answers = await unless_left(request, question.answers())
    usage = Usage(question.n)
    choices = list[dict[str, Any]]()
    for number, answer in enumerate(answers):
        usage.saw(number, answer.input_token_count, answer.generated_tokens)
        choices.append(
            {
                "index": number,
                "message": {"role": "assistant", "content": answer.generated_text, "refusal": None},
                "logprobs": asked.logprobs(answer),
                "finish_reason": finish_reason(answer),
                **label_probabilities(answer),
            }
        )
    told = {**head(_WHOLE, question.model), "choices": choices, "usage": usage.told()}
    return JSONResponse(told, headers=warnings)


async def _chat(request: Request, fields: Fields) -> Chat:
    """Takes all fields. Raises Refused."""
    question = Question.of(request, fields, CHAT_NAMES)
    messages = _messages(fields)
    most, logprobs = _most_tokens(fields), fields.flag("logprobs") or False
    top = fields.whole("top_logprobs")
    if top is not None and not logprobs:
        raise fields.refusal("top_logprobs", top, "unset, unless logprobs is true")
    _refuse_others(fields)
    fields.end()
    if logprobs:
        question.values |= {"generated_tokens": True, "token_logprobs": True, "top_tokens": top or 0}
    alone = len(messages) == 1 and messages[0]["role"] == _USER
    if not alone or most is None:
        prompt = await question.server.prompt(question.model)
        # As long as an answer that it was tuned for, and its end token.
        most = most if most is not None else _longest(prompt)
    given: str | list[int] = messages[0]["content"]
    if not alone:
        given = await _ids(question, prompt, messages)
    if most is not None:
        question.values["max_new_tokens"] = most
    question.ask([given], _FIELD)
    return Chat(question, (await habits(request, question.model)).spelling if logprobs else None)


async def _ids(question: Question, prompt: Prompt, messages: list[dict[str, str]]) -> list[int]:
    """Of the conversation as the template has it. Raises Refused, ServerError."""
    if not prompt.tokenizer.get("chat_template"):
        raise Refused(_NO_TEMPLATE, _FIELD)
    text = await asyncio.to_thread(rendered, prompt.tokenizer, messages)
    return await ids_of(question.server, question.model, text, _FIELD)


def _longest(prompt: Prompt) -> int | None:
    most = prompt.parameters.get("max_target_length")
    return int(most) + 1 if most else None


def _most_tokens(fields: Fields) -> int | None:
    """By its new name or its old one. Raises Refused where they differ."""
    old, new = fields.whole("max_tokens"), fields.whole("max_completion_tokens")
    if old is not None and new is not None and old != new:
        raise fields.refusal("max_tokens", old, "unset together with max_completion_tokens")
    return old if new is None else new


def _refuse_others(fields: Fields) -> None:
    """Raises Refused for what would change the answer elsewhere."""
    for name in _NEVER:
        fields.same(name, [], {})
    for name in _NOT_HERE:
        fields.same(name)
    for name in ("tool_choice", "function_call"):
        fields.same(name, "none", "auto")
    for name in ("presence_penalty", "frequency_penalty"):
        fields.same(name, 0, 0.0)
    fields.same("response_format", {"type": "text"})
    fields.same("modalities", ["text"])
    fields.same("verbosity", "medium")
    fields.same("service_tier", "auto", "default")
    fields.same("store", False)
    fields.ignore(*_IGNORED)


def _messages(fields: Fields) -> list[dict[str, str]]:
    """Role and content of each. Raises Refused."""
    given = fields.any(_FIELD)
    if not isinstance(given, list) or not given:
        raise Refused("messages is needed: a list of them", _FIELD)
    found = [_message(fields, number, one) for number, one in enumerate(given)]
    if found[-1]["role"] != _USER:
        raise Refused("messages: the last of them is to be the user's", _FIELD)
    return found


def _message(whole: Fields, number: int, given: Any) -> dict[str, str]:
    path = f"{_FIELD}[{number}]"
    if not isinstance(given, dict):
        raise Refused(f"{path}: an object with role and content is needed", path)
    fields = Fields(given, path)
    role = fields.text("role")
    if role not in _ROLES:
        raise fields.refusal("role", role, ", ".join(_ROLES))
    content = _content(fields)
    fields.same("tool_calls", [])
    for name in ("audio", "refusal", "function_call"):
        fields.same(name)
    fields.ignore("name", "annotations")
    fields.end()
    whole.ignored += fields.ignored
    return {"role": _ROLES[role], "content": content}


def _content(fields: Fields) -> str:
    """A text, or the parts of one. Raises Refused."""
    given, path = fields.any("content"), fields.path("content")
    if isinstance(given, str):
        return given
    if not isinstance(given, list) or not given:
        raise Refused(f"{path} is needed: a text, or a list of parts that are text", path)
    texts = list[str]()
    for number, part in enumerate(given):
        text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
        if not isinstance(text, str):
            raise Refused(f"{path}[{number}]: parts of type text alone are read here", f"{path}[{number}]")
        texts.append(text)
    return "".join(texts)


async def _events(asked: Chat) -> AsyncGenerator[bytes]:
    question = asked.question
    beginning, usage = head(_PART, question.model), Usage(question.n)
    unknown: dict[str, Any] = {"usage": None} if question.tells_usage else {}
    heard = set[int]()

    def part_of(number: int, delta: Any, logprobs: Any = None, reason: Any = None, **more: Any) -> bytes:
        choice = {"index": number, "delta": delta, "logprobs": logprobs, "finish_reason": reason, **more}
        return event({**beginning, "choices": [choice], **unknown})

    async with aclosing(question.parts()) as parts:
        async for number, part in parts:
            usage.saw(number, part.details.input_token_count, part.details.generated_tokens)
            if number not in heard:
                heard.add(number)
                yield part_of(number, {"role": "assistant", "content": "", "refusal": None})
            told = asked.logprobs(part)
            if part.generated_text or (told and told["content"]):
                yield part_of(number, {"content": part.generated_text}, told)
            if reason := finish_reason(part.details):
                yield part_of(number, {}, None, reason, **label_probabilities(part))
    if question.tells_usage:
        yield event({**beginning, "choices": [], "usage": usage.told()})
    yield event("[DONE]")
