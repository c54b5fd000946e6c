"""The families of models, a row each: what is known of one before a token or a weight is read.

What a family does is in the files of its name, one in each of `text/`, `training/` and `serving/` (`sides`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from caikit_pt.parameters.tuning import DECODER, ENCODER


@dataclass(frozen=True, slots=True)
class Family:
    """`prompt_parts`: where a soft prompt can stand, the default first. `auto_class` loads its models, and
    `generators` is the mapping of those that generate text, both in transformers. `classes`: what the names
    of its sides begin with. `peft_task`: what peft calls what it does."""

    name: str
    classes: str
    is_encoder_decoder: bool
    prompt_parts: tuple[str, ...]
    auto_class: str
    generators: str
    peft_task: str

    def __str__(self) -> str:
        return self.name


CAUSAL = Family(
    "causal",
    "Causal",
    False,
    (DECODER,),
    "AutoModelForCausalLM",
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "CAUSAL_LM",
)
SEQ2SEQ = Family(
    "seq2seq",
    "Seq2Seq",
    True,
    (ENCODER, DECODER),
    "AutoModelForSeq2SeqLM",
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "SEQ_2_SEQ_LM",
)
FAMILIES = (CAUSAL, SEQ2SEQ)


def family_of(config: Any) -> Family:
    """The family of a model with this config of transformers."""
    return next(family for family in FAMILIES if family.is_encoder_decoder == bool(config.is_encoder_decoder))
