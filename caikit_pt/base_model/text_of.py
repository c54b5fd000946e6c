"""The text side of a checkpoint, before a weight is read."""

from __future__ import annotations

from caikit_pt.base_model.causal_text import CausalText
from caikit_pt.base_model.checkpoint import CAUSAL, Checkpoint
from caikit_pt.base_model.seq2seq_text import Seq2SeqText
from caikit_pt.base_model.text import TextSide


def text_of(checkpoint: Checkpoint) -> TextSide:
    """What its family does with tokens."""
    kind = CausalText if checkpoint.family == CAUSAL else Seq2SeqText
    return kind(checkpoint, checkpoint.tokenizer, checkpoint.generation_config)
