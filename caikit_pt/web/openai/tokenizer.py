"""/tokenizer_info, /tokenize and /detokenize, as vLLM has them and lm-evaluation-harness asks for them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from caikit_pt.client.server_error import ServerError
from caikit_pt.errors import shown
from caikit_pt.parameters.table import LONGEST_NAME
from caikit_pt.web.openai.fields import Fields, asked_of, fields_of, warnings_of
from caikit_pt.web.openai.pieces import PROBE, Spelling
from caikit_pt.web.openai.server import Server, of_model, server_of
from caikit_pt.web.refusal import Refused

_NAMES = {"model_name": "model", "text": "prompt", "ids": "tokens"}
_SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token", "chat_template", "model_max_length")
# A prompt may be published anew over another base model.
_SECONDS_TO_REMEMBER = 30.0
_MOST_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class Habits:
    """How a base model's tokenizer spells, and whether answers go on behind the text."""

    spelling: Spelling
    continues_text: bool


@dataclass(slots=True)
class Remembered:
    """What was found out a moment ago: no secrets, and what it is for is asked of the server all the same."""

    _found: dict[tuple[str, str], tuple[float, Any]] = field(default_factory=dict)

    def get(self, kind: str, key: str) -> Any:
        """None where it isn't known any more."""
        known = self._found.get((kind, key))
        return known[1] if known and time.monotonic() < known[0] else None

    def put(self, kind: str, key: str, value: Any) -> Any:
        """`value`, kept for a while."""
        if len(self._found) >= _MOST_REMEMBERED:
            self._found.clear()
        self._found[kind, key] = time.monotonic() + _SECONDS_TO_REMEMBER, value
        return value


async def habits(request: Request, model: str) -> Habits:
    """Of the base model of the prompt `model`. Raises ServerError, Refused."""
    known: Habits | None = _remembered(request).get("habits", model)
    if known:
        return known
    server = server_of(request)
    prompt = await server.prompt(model)
    pieces = await _tokens(server, model, PROBE, special=False)
    continues = bool(prompt.tokenizer.get("continues_text", True))
    made = Habits(Spelling.of(list(pieces.tokens)), continues)
    _remembered(request).put("habits", model, made)
    return made


async def ids_of(server: Server, model: str, text: str, field: str) -> list[int]:
    """The tokens of a text that has its special tokens in it. Raises ServerError."""
    return list((await _tokens(server, model, text, False, {**_NAMES, "text": field})).ids)


async def told(request: Request) -> Response:
    """What a client has to know of the tokenizer."""
    fields = asked_of(request)
    server, model = server_of(request), await _model(request, fields)
    fields.end()
    known = (await server.prompt(model)).tokenizer
    return JSONResponse({name: known.get(name) for name in _SPECIAL})


async def tokenized(request: Request) -> Response:
    """The tokens of `prompt`."""
    fields = await fields_of(request)
    server, model = server_of(request), await _model(request, fields)
    prompt = fields.text("prompt")
    if prompt is None:
        raise Refused("prompt is needed, a text", "prompt")
    special, strings = fields.flag("add_special_tokens"), fields.flag("return_token_strs")
    fields.ignore("add_generation_prompt", "continue_final_message", "chat_template_kwargs")
    fields.end()
    found = await _tokens(server, model, prompt, special is not False)
    answer: dict[str, Any] = {"tokens": list(found.ids), "count": len(found.ids)}
    # vLLM tells of the context, too; nobody asks.
    return JSONResponse(
        {**answer, "token_strs": list(found.tokens) if strings else None}, headers=warnings_of(fields.ignored)
    )


async def detokenized(request: Request) -> Response:
    """The text of `tokens`."""
    from caikit_pt.runtime.tuning_messages import DetokenizeRequest

    fields = await fields_of(request)
    server, model = server_of(request), await _model(request, fields)
    ids = fields.any("tokens")
    if not is_ids(ids):
        raise fields.refusal("tokens", ids, "a list of the ids of tokens")
    fields.end()
    try:
        asked = DetokenizeRequest.get_proto_class()(model_name=model, ids=ids)
    except ValueError:
        raise fields.refusal("tokens", ids, "a list of the ids of tokens") from None
    found = await server.answer(server.link.stubs.tuning.Detokenize, asked, names=_NAMES)
    return JSONResponse({"prompt": found.text})


def is_ids(given: Any) -> bool:
    """Whether it is a list of whole numbers."""
    return isinstance(given, list) and all(type(one) is int for one in given)


async def _model(request: Request, fields: Fields) -> str:
    """The prompt that is meant: by the path, by a field, or any where all have one base model.

    Raises Refused where they have several.
    """
    given = named(request, fields)
    if given:
        return given
    server = server_of(request)
    known: str | None = _remembered(request).get("any", server.token)
    if known:
        return known
    bases = dict[str, str]()
    async for prompt in server.prompts():
        if prompt.problem:
            continue
        bases.setdefault(prompt.base_model, prompt.model_name)
        if len(bases) > 1:
            told = "The prompts here have several base models: ask at /models/NAME, or name the model"
            raise Refused(told, "model")
    if not bases:
        raise Refused("There is no tuned prompt here yet", "model", "NOT_FOUND", "MODEL_NOT_FOUND")
    found: str = _remembered(request).put("any", server.token, next(iter(bases.values())))
    return found


def named(request: Request, fields: Fields) -> str:
    """The model by the path or the field, empty without either. Raises Refused where they differ."""
    path, given = request.path_params.get("model", ""), fields.text("model") or ""
    if path and given and path != given:
        told = f"model: it is {shown(given)} here, and {shown(path)} in the address"
        raise Refused(told, "model")
    name = path or given
    # It goes into a header of the request to the server; those of models are plain.
    if len(name) > LONGEST_NAME or not (name.isascii() and name.isprintable()):
        raise Refused(f"Model {shown(name)} not found", "model", "NOT_FOUND", "MODEL_NOT_FOUND")
    return name


def needed(request: Request, fields: Fields) -> str:
    """The same. Raises Refused without either."""
    found = named(request, fields)
    if not found:
        raise Refused("model is needed: the name of a tuned prompt", "model")
    return found


def _remembered(request: Request) -> Remembered:
    state = request.app.state
    if not hasattr(state, "openai_remembered"):
        state.openai_remembered = Remembered()
    found: Remembered = state.openai_remembered
    return found


async def _tokens(
    server: Server, model: str, text: str, special: bool, names: dict[str, str] = _NAMES
) -> Any:
    from caikit_pt.runtime.tuning_messages import TokenizeRequest

    asked = TokenizeRequest.get_proto_class()(model_name=model, text=text, add_special_tokens=special)
    try:
        return await server.answer(server.link.stubs.tuning.Tokenize, asked, names=names)
    except ServerError as error:
        raise of_model(error) from error
