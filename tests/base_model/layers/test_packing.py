"""What a model is told of packed rows, and when."""

from __future__ import annotations

import pytest
import torch

from caikit_pt.base_model.layers import packing


def test_a_layout_holds_inside_alone() -> None:
    layout = object()
    assert packing._LAYOUT.get() is None
    with packing.packed(layout):  # type: ignore[arg-type]
        assert packing._LAYOUT.get() is layout
    with pytest.raises(ZeroDivisionError), packing.packed(layout):
        _ = 1 / 0
    assert packing._LAYOUT.get() is None


def test_attention_with_sinks_is_refused() -> None:
    nothing = torch.zeros(1, 1, 1, 1)
    with packing.packed(object()), pytest.raises(packing.NotPackable, match="sinks"):  # type: ignore[arg-type]
        packing._attention(None, nothing, nothing, nothing, None, s_aux=nothing)
