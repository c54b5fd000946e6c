"""/v1/completions: texts, or tokens, that go on."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from caikit_pt.web.openai.fields import Fields, fields_of, warnings_of
from caikit_pt.web.openai.logprobs import OfCompletion
from caikit_pt.web.openai.pieces import Spelling
from caikit_pt.web.openai.question import Question, Usage, finish_reason, head, label_probabilities
from caikit_pt.web.openai.server import QUESTION_NAMES, begun, unless_left
from caikit_pt.web.openai.tokenizer import habits, is_ids
from caikit_pt.web.refusal import Refused
from caikit_pt.web.sse import event, streamed

_KIND = "text_completion"
_MOST_TOKENS = 16  # OpenAI's default
_PROMPT = "a text, a list of texts, the ids of tokens, or a list of lists of them, none of them empty"
_HAS_NO_WORTHS = (
    "echo together with logprobs is for base models whose answers go on behind the text: an encoder reads "
    "its text as a whole, and none of its tokens has a probability"
)


@dataclass(slots=True)
class Completion:
    """What is asked, and how the answers are shown."""

    question: Question
    prompts: list[str | list[int]]
    echo: bool
    logprobs: int | None
    # OpenAI's: the text comes back, and nothing behind it.
    empty: bool
    spelling: Spelling = Spelling.PLAIN
    continues_text: bool = True

    @property
    def unpredicted(self) -> int:
        """Tokens in front that nothing predicts."""
        return int(self.echo and bool(self.question.values.get("untuned")))

    def choice(self, number: int, answer: Any) -> dict[str, Any]:
        """One whole choice."""
        text = "" if self.empty else answer.generated_text
        asked = answer.input_tokens if self.echo else ()
        told = None
        if self.logprobs is not None:
            told = OfCompletion(self.spelling, self.logprobs, unpredicted=self.unpredicted).told(
                [*asked, *(() if self.empty else answer.tokens)],
                [*answer.input_top_tokens, *(() if self.empty else answer.top_tokens)],
            )
        return {
            "index": number,
            "text": self.front(number, asked, answer.tokens) + text,
            "logprobs": told,
            "finish_reason": "length" if self.empty else finish_reason(answer),
            **label_probabilities(answer),
        }

    def front(self, number: int, asked: Any, tokens: Any) -> str:
        """What stands before an answer, but for what the server puts there itself; `asked` are the tokens
        that were read, `tokens` begin with the first of the answer."""
        prompt = self.prompts[number // self.question.n]
        if not self.echo:
            return ""
        if isinstance(prompt, str):
            return prompt if self.empty or not self.continues_text else ""
        raw = b"".join(self.spelling.bytes(one.text) for one in asked)
        # The server leaves out the space of the first word where it knows of no text before.
        space = not self.empty and bool(tokens) and self.spelling.bytes(tokens[0].text).startswith(b" ")
        return raw.decode(errors="replace") + " " * space


async def create(request: Request) -> Response:
    """Answers, whole or as they come."""
    fields = await fields_of(request)
    asked = await _completion(request, fields)
    question, warnings = asked.question, warnings_of(fields.ignored)
    if question.streams:
        response = streamed(await unless_left(request, begun(_events(asked))))
        response.headers.update(warnings)
        return response
    answers = await unless_left(request, question.answers())
    usage = Usage(question.n)
    for number, answer in enumerate(answers):
        usage.saw(number, answer.input_token_count, 0 if asked.empty else answer.generated_tokens)
    choices = [asked.choice(number, answer) for number, answer in enumerate(answers)]
    told = {**head(_KIND, question.model), "choices": choices, "usage": usage.told()}
    return JSONResponse(told, headers=warnings)


async def _completion(request: Request, fields: Fields) -> Completion:
    """Takes all fields. Raises Refused."""
    question = Question.of(request, fields, QUESTION_NAMES)
    prompts = _prompts(fields.any("prompt"))
    echo, logprobs, most = fields.flag("echo") or False, fields.whole("logprobs"), fields.whole("max_tokens")
    fields.same("best_of", question.n, why="other than n isn't supported here")
    fields.same("suffix", "")
    fields.same("logit_bias", {})
    for name in ("presence_penalty", "frequency_penalty"):
        fields.same(name, 0, 0.0)
    fields.same("store", False)
    fields.ignore("user", "metadata")
    fields.end()
    values, most = question.values, _MOST_TOKENS if most is None else most
    made = Completion(question, prompts, echo, logprobs, empty=echo and most == 0)
    values["max_new_tokens"] = 1 if made.empty else most
    if made.empty:
        values["labels_only"] = False
    if logprobs is not None:
        values |= {"generated_tokens": True, "token_logprobs": True, "top_tokens": logprobs}
    if echo or logprobs is not None:
        found = await habits(request, question.model)
        made.spelling, made.continues_text = found.spelling, found.continues_text
    if echo:
        if logprobs is not None and not made.continues_text:
            raise Refused(_HAS_NO_WORTHS, "echo")
        values["preserve_input_text"] = not made.empty
        if logprobs is not None or not isinstance(prompts[0], str):
            values |= {"input_tokens": True, "generated_tokens": True}
    question.ask(prompts, "prompt")
    return made


async def _events(asked: Completion) -> AsyncGenerator[bytes]:
    question = asked.question
    beginning, usage = head(_KIND, question.model), Usage(question.n)
    shapes = [
        OfCompletion(asked.spelling, asked.logprobs or 0, unpredicted=asked.unpredicted)
        for _ in question.asks
    ]
    unknown: dict[str, Any] = {"usage": None} if question.tells_usage else {}
    heard = set[int]()
    async with aclosing(question.parts()) as parts:
        async for number, part in parts:
            reason = finish_reason(part.details)
            written = 0 if asked.empty else part.details.generated_tokens
            usage.saw(number, part.details.input_token_count, written)
            shown = part.input_tokens if asked.echo else ()
            text = "" if asked.empty else part.generated_text
            if number not in heard:
                heard.add(number)
                text = asked.front(number, shown, part.tokens) + text
            told = None
            if asked.logprobs is not None:
                told = shapes[number].told(
                    [*shown, *(() if asked.empty else part.tokens)],
                    [*part.input_top_tokens, *(() if asked.empty else part.top_tokens)],
                )
            if text or reason or (told and told["tokens"]):
                choice = {
                    "index": number,
                    "text": text,
                    "logprobs": told,
                    "finish_reason": "length" if reason and asked.empty else reason,
                    **label_probabilities(part),
                }
                yield event({**beginning, "choices": [choice], **unknown})
    if question.tells_usage:
        yield event({**beginning, "choices": [], "usage": usage.told()})
    yield event("[DONE]")


def _prompts(given: Any) -> list[str | list[int]]:
    """Raises Refused."""
    if isinstance(given, str):
        return [given]
    if not isinstance(given, list) or not given:
        raise Refused(f"prompt is needed: {_PROMPT}", "prompt")
    if is_ids(given):
        return [given]
    texts = all(isinstance(one, str) for one in given)
    for number, one in enumerate(given):
        if not (isinstance(one, str) if texts else is_ids(one) and one):
            raise Refused(f"prompt[{number}] isn't what it should be. Allowed: {_PROMPT}", "prompt")
    return given
