"""The slow, obvious ways to the same numbers: one row at a time, nothing padded, nothing cached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, TypeVar

import pytest
import torch
from peft import (
    MultitaskPromptTuningConfig,
    PeftConfig,
    PeftModel,
    PromptTuningConfig,
    TaskType,
    get_peft_model,
)

from caikit_pt.base_model.family import CAUSAL, SEQ2SEQ
from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.row import PromptTensors, Row
from caikit_pt.parameters.tuning import DECODER, ENCODER

from .answers import Answer

_Test = TypeVar("_Test", bound=Callable[..., Any])


def uses_peft(test: _Test) -> _Test:
    """Marks a test in which peft says what it can't help saying."""
    for warning in (
        # It asks a model for a name that transformers has given up.
        "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning",
        # Its generate drops the positions that transformers hands it (D1); alone they don't matter.
        "ignore:Position ids are not supported for parameter efficient tuning:UserWarning",
    ):
        test = pytest.mark.filterwarnings(warning)(test)
    return test


def plain_answer(base: BaseModel, row: Row, taken: Sequence[int]) -> Answer:
    """What plain transformers says at every step of an answer of the tokens `taken`.

    Without a soft prompt it is told ids, so that what embeds them has to be right too.
    """
    with torch.no_grad():
        logits = base.weights.model(**_inputs(base, row.prompt, row.ids, taken), use_cache=False).logits[0]
    return _answer(logits, taken)


def target_logits(
    base: BaseModel, prompt: PromptTensors, source: Sequence[int], target: Sequence[int]
) -> torch.Tensor:
    """The logits [K, V] that predict each token of one target, differentiable in `prompt`."""
    inputs = _inputs(base, prompt, source, target)
    return base.weights.model(**inputs, use_cache=False).logits[0, -len(target) :]  # type: ignore[no-any-return]


def target_states(
    base: BaseModel, prompt: PromptTensors, source: Sequence[int], target: Sequence[int], layer: int
) -> torch.Tensor:
    """The states [K, H] of a layer, counted from 1, where each token of one target is predicted."""
    inputs = _inputs(base, prompt, source, target)
    told = base.weights.model(**inputs, use_cache=False, output_hidden_states=True)
    layers = getattr(told, "decoder_hidden_states", None) or told.hidden_states
    return layers[layer][0, -len(target) :]  # type: ignore[no-any-return]


def peft_prompt_tuning(base: BaseModel, prompt: torch.Tensor) -> PeftModel:
    """peft's own prompt tuning over a copy of the model, with `prompt` [P, H] as its weights."""
    causal = base.checkpoint.family == CAUSAL
    model = _peft_model(
        base,
        PromptTuningConfig(
            task_type=TaskType.CAUSAL_LM if causal else TaskType.SEQ_2_SEQ_LM,
            num_virtual_tokens=prompt.shape[0],
            num_transformer_submodules=1,
        ),
    )
    _overwrite(model, prompt)
    return model


def peft_two_sided(base: BaseModel, encoder: torch.Tensor, decoder: torch.Tensor) -> PeftModel:
    """peft's model with a prompt on both sides, which it has for multitask prompt tuning only."""
    model = _peft_model(
        base,
        MultitaskPromptTuningConfig(
            task_type=TaskType.SEQ_2_SEQ_LM,
            num_virtual_tokens=encoder.shape[0],
            num_transformer_submodules=2,
            num_tasks=1,
            num_ranks=1,
        ),
    )
    prompt_encoder = model.prompt_encoder["default"]
    torch.nn.init.ones_(prompt_encoder.prefix_task_cols)
    torch.nn.init.ones_(prompt_encoder.prefix_task_rows)
    _overwrite(model, torch.cat([encoder, decoder]))
    return model


def peft_answer(model: PeftModel, base: BaseModel, row: Row, taken: Sequence[int]) -> Answer:
    """What peft's forward says at every step of an answer of the tokens `taken`, run alone."""
    with torch.no_grad():
        if base.checkpoint.family == SEQ2SEQ:
            decoder = torch.tensor([[*base.text.start_ids, *taken[:-1]]])
            output = model(input_ids=torch.tensor([row.ids]), decoder_input_ids=decoder)
        else:
            output = model(input_ids=torch.tensor([[*row.ids, *taken[:-1]]]))
    return _answer(output.logits[0], taken)


def peft_two_sided_answer(model: PeftModel, base: BaseModel, row: Row, taken: Sequence[int]) -> Answer:
    """As `peft_answer`, for a model with a prompt on both sides."""
    with torch.no_grad():
        logits = model(
            input_ids=torch.tensor([row.ids]),
            decoder_inputs_embeds=base.weights.embed([*base.text.start_ids, *taken[:-1]])[None],
            task_ids=torch.tensor([0]),
        ).logits[0]
    return _answer(logits, taken)


def peft_batch(
    model: PeftModel, base: BaseModel, rows: Sequence[Row], taken: Sequence[Sequence[int]]
) -> list[Answer]:
    """What peft's forward says of causal `rows` in one batch, padded in front as its users do."""
    texts = [[*row.ids, *tokens[:-1]] for row, tokens in zip(rows, taken, strict=True)]
    longest = max(map(len, texts))
    pad = base.text.tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (longest - len(text)) + text for text in texts])
    mask = torch.tensor([[0] * (longest - len(text)) + [1] * len(text) for text in texts])
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask).logits
    return [_answer(row, tokens) for row, tokens in zip(logits, taken, strict=True)]


def peft_generate(model: PeftModel, row: Row, steps: int) -> list[int]:
    """The greedy answer of peft's generate to one row, run alone."""
    ids = torch.tensor([row.ids])
    output = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=steps,
        min_new_tokens=steps,
        # peft 0.21 hands its cache on under the name that it had before transformers 5.24: it is lost.
        use_cache=False,
    )
    return output[0, -steps:].tolist()  # type: ignore[no-any-return]


def _inputs(
    base: BaseModel, prompt: PromptTensors, source: Sequence[int], target: Sequence[int]
) -> dict[str, Any]:
    """What the model reads before it has written all of `target`, as a batch of one."""
    if base.checkpoint.family == CAUSAL:
        return _input(base, "", prompt.get(DECODER), [*source, *target[:-1]])
    return {
        **_input(base, "", prompt.get(ENCODER), source),
        **_input(base, "decoder_", prompt.get(DECODER), [*base.text.start_ids, *target[:-1]]),
    }


def _input(
    base: BaseModel, side: str, prompt: torch.Tensor | None, ids: Sequence[int]
) -> dict[str, torch.Tensor]:
    tokens = torch.tensor([ids], dtype=torch.long)
    if prompt is None:
        return {f"{side}input_ids": tokens}
    embedded = base.weights.model.get_input_embeddings()(tokens)
    return {f"{side}inputs_embeds": torch.cat([prompt.to(embedded.dtype)[None], embedded], dim=1)}


def _answer(logits: torch.Tensor, taken: Sequence[int]) -> Answer:
    steps = logits[-len(taken) :]
    return Answer(steps, steps.argmax(dim=-1).tolist())


def _peft_model(base: BaseModel, config: PeftConfig) -> PeftModel:
    """peft changes the model that it wraps, so it gets a copy."""
    return get_peft_model(deepcopy(base.weights.model), config).eval().to(base.weights.dtype)


def _overwrite(model: PeftModel, prompt: torch.Tensor) -> None:
    with torch.no_grad():
        model.prompt_encoder["default"].embedding.weight.copy_(prompt)
