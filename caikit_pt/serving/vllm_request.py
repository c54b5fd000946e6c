"""A request as vLLM's server wants to be asked for it, and what it can't be asked for."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from caikit_pt.errors import DamagedArtifact, InvalidParameter
from caikit_pt.parameters.generation import GenerationParameters
from caikit_pt.parameters.tuning import DECODER
from caikit_pt.serving.labels import Labels
from caikit_pt.serving.request import CONTEXT_TOKENS, Request
from caikit_pt.serving.text import Detokenizer
from caikit_pt.serving.vllm_text import VllmText
from caikit_pt.soft_prompt.prompt import SoftPrompt

if TYPE_CHECKING:
    import torch

_LARGEST_SEED = 2**63 - 1
# What the fields of a request to vLLM are made of, and what is done in this process, whoever picks the
# tokens. Any other parameter is refused.
TRANSLATED = frozenset(
    (
        "max_new_tokens",
        "min_new_tokens",
        "decoding_method",
        "temperature",
        "top_k",
        "top_p",
        "repetition_penalty",
        "seed",
        "token_logprobs",
    )
)
DONE_HERE = frozenset(
    (
        "truncate_input_tokens",
        "max_time",
        "stop_sequences",
        "include_stop_sequence",
        "preserve_input_text",
        "input_tokens",
        "generated_tokens",
        "labels_only",
        "input_ids",
    )
)
# Below, vLLM takes the former for it without a word; above, it refuses.
_COLDEST, _HOTTEST = 0.01, 2.0


def check(parameters: GenerationParameters, model: str) -> None:
    """Raises InvalidParameter for what `parameters` ask for and vLLM hasn't got."""
    decay = parameters.exponential_decay
    if decay:
        shown = {"start_index": decay.start, "decay_factor": decay.factor}
        raise _refused("exponential_decay_length_penalty", shown, "unset", model)
    if parameters.samples and not _COLDEST <= parameters.temperature <= _HOTTEST:
        raise _refused("temperature", parameters.temperature, f"0, or {_COLDEST} to {_HOTTEST}", model)
    if parameters.token_logprobs and parameters.input_tokens:
        raise _refused("token_logprobs", True, "false with input_tokens", model)
    for field in fields(parameters):
        value = getattr(parameters, field.name)
        if value != field.default and not _is_known(field.name, parameters):
            default = field.default
            allowed = f"{default:g}" if isinstance(default, float) else str(default).lower()
            raise _refused(field.name, value, allowed, model)


def _is_known(name: str, parameters: GenerationParameters) -> bool:
    """Whether something comes of a parameter, or nothing would anyway."""
    if name == "typical_p":
        return not (parameters.samples and parameters.typical_p % 1)
    if name == "token_ranks":
        return not (parameters.generated_tokens or parameters.input_tokens)
    return name in TRANSLATED | DONE_HERE


def _refused(field: str, value: object, allowed: str, model: str) -> InvalidParameter:
    return InvalidParameter(field, value, f"{allowed}, for the base model {model} is served by vLLM")


def body(request: Request, text: VllmText) -> bytes:
    """The request for a chat completion. Raises InvalidParameter where the text can't be written."""
    written = text.written(request.row.ids)
    if written is None:
        raise InvalidParameter(
            "text",
            f"{len(request.row.ids)} tokens",
            "tokens that text can be written for (no <prompt_embeds> among them, and truncate_input_tokens "
            f"leaves a whole word), for the base model {text.checkpoint.name} is served by vLLM",
        )
    plain = json.dumps({"model": text.servers.model, **_fields(request, text)}).encode()
    # The prompt's megabytes are copied, and never looked at again.
    return b"".join(
        (
            plain[:-1],
            b', "messages": [{"role": "user", "content": [{"type": "prompt_embeds", "data": "',
            encoded(request.prompt, text.checkpoint.hidden_size).data,
            b'"}, ',
            json.dumps({"type": "text", "text": written}).encode(),
            b"]}]}",
        )
    )


def _fields(request: Request, text: VllmText) -> dict[str, Any]:
    """All fields but the message. Stop sequences are matched here, as the engine does."""
    parameters = request.parameters
    fields = {
        "stream": True,
        # The text is taken as it is; the tokens are checked, and those of the answer are read here.
        "add_special_tokens": False,
        "add_generation_prompt": False,
        "return_token_ids": True,
        "cache_salt": cache_salt(request.prompt, text),
        "max_tokens": request.most_tokens,
        "min_tokens": min(parameters.min_new_tokens, request.most_tokens),
        "stop_token_ids": sorted(text.end_ids),
        "repetition_penalty": parameters.repetition_penalty or 1.0,
        "logprobs": parameters.generated_tokens and parameters.token_logprobs,
        # Whatever the server's own defaults are.
        "temperature": 0.0,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
    }
    if request.labels:
        fields |= {
            "structured_outputs": {"choice": choices(request.labels, request.row.ids, text)},
            "min_tokens": 0,
            "repetition_penalty": 1.0,
        }
    if parameters.samples:
        fields |= {
            "temperature": parameters.temperature,
            "top_k": parameters.top_k,
            "top_p": parameters.top_p or 1.0,
            "seed": parameters.seed & _LARGEST_SEED,
        }
    return fields


def choices(labels: Labels, ids: Sequence[int], text: VllmText) -> list[str]:
    """The labels as they are behind a text of `ids`: with the space that their first tokens have."""
    found = []
    for label in labels.ids:
        detokenizer = Detokenizer(text.tokenizer, ids[-CONTEXT_TOKENS:])
        found.append("".join(map(detokenizer.push, label)) + detokenizer.flush())
    return list(dict.fromkeys(found))


def cache_salt(prompt: SoftPrompt, text: VllmText) -> str:
    """What keeps a server's prefix cache from taking one prompt for another.

    Its keys leave open which positions are embeddings (vllm#56655). With one prompt, the same always are.
    """
    checkpoint = text.checkpoint
    content = f"{checkpoint.fingerprint} {encoded(prompt, checkpoint.hidden_size).sha256}"
    return hashlib.sha256(content.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Encoded:
    """A prompt as vLLM reads it, and the digest of its numbers."""

    data: bytes
    sha256: str


_ENCODED: Any = None  # a WeakTensorKeyDictionary: it lives as long as a tuned prompt is loaded
_LOCK = threading.Lock()


def encoded(prompt: SoftPrompt, hidden_size: int) -> Encoded:
    """The prompt [P, H] for vLLM. In float32: the server knows its own data type, and converts.

    Raises DamagedArtifact where it isn't what the server may be trusted with.
    """
    from torch.utils.weak import WeakTensorKeyDictionary

    global _ENCODED
    tensor = prompt.tensors.get(DECODER)
    if tensor is None or len(prompt.tensors) > 1:
        raise DamagedArtifact("A soft prompt for vLLM has one part, for the decoder")
    with _LOCK:
        _ENCODED = WeakTensorKeyDictionary() if _ENCODED is None else _ENCODED
        if tensor not in _ENCODED:
            _ENCODED[tensor] = _encode(tensor, hidden_size)
        known: Encoded = _ENCODED[tensor]
    return known


def _encode(tensor: torch.Tensor, hidden_size: int) -> Encoded:
    import torch

    if tensor.ndim != 2 or tensor.shape[1] != hidden_size or not tensor.isfinite().all():
        raise DamagedArtifact(
            f"A soft prompt has the shape {tuple(tensor.shape)}; its rows need {hidden_size} finite numbers"
        )
    file = io.BytesIO()
    # A copy: of a view, torch would save all that it is a view of.
    rows = tensor.detach().to("cpu", torch.float32, copy=True).contiguous()
    torch.save(rows, file)
    return Encoded(base64.b64encode(file.getvalue()), hashlib.sha256(rows.numpy().tobytes()).hexdigest())
