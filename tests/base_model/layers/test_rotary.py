"""Rotary positions in few operations, against the formula of transformers."""

from __future__ import annotations

import pytest
import torch
from transformers.models.gemma.modeling_gemma import apply_rotary_pos_emb as of_gemma
from transformers.models.gptj.modeling_gptj import apply_rotary_pos_emb as of_gptj
from transformers.models.llama import modeling_llama
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb as of_llama

from caikit_pt.base_model.layers import rotary
from caikit_pt.base_model.model import BaseModel


@pytest.mark.parametrize("batch", [1, 3])
def test_numbers_and_gradients_are_those_of_the_formula(batch: int) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = (
        torch.randn(batch, heads, 5, 8, generator=generator, dtype=torch.float64).requires_grad_()
        for heads in (4, 2)
    )
    angles = torch.randn(batch, 5, 4, generator=generator, dtype=torch.float64).repeat(1, 1, 2)
    results = []
    for turn in (of_llama, rotary.turn):
        turned = turn(q, k, angles.cos(), angles.sin())
        gradients = torch.autograd.grad(sum((part.sin().sum() for part in turned), q.new_zeros(())), (q, k))
        results.append((*turned, *gradients))
    for expected, seen in zip(*results, strict=True):
        torch.testing.assert_close(seen, expected, rtol=0, atol=1e-12)


def test_only_what_computes_the_same_is_taken_over() -> None:
    assert rotary._is_plain(of_llama)
    assert rotary._is_plain(of_gemma)
    assert not rotary._is_plain(of_gptj), "it turns neighbours, not halves"
    assert not rotary._is_plain(lambda q, k, cos, sin: (q * cos.unsqueeze(1), k))


def test_a_module_stays_what_it_is_and_nobody_elses_changes(llama: BaseModel) -> None:
    attention = llama.weights.model.model.layers[0].self_attn
    assert isinstance(attention, modeling_llama.LlamaAttention)
    assert type(attention).__name__ == "LlamaAttention"
    assert type(attention).forward is not modeling_llama.LlamaAttention.forward
    assert modeling_llama.apply_rotary_pos_emb is of_llama
