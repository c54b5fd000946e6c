"""The messages that caikit doesn't bring along.

Names, order and numbers are wire API: they are those of caikit-nlp, whose clients must work here
unchanged. New fields get new numbers at the end, and nothing is ever renumbered.
"""

from typing import List, Optional

import caikit
from caikit.core import DataObjectBase
from caikit.interfaces.nlp.data_model import GeneratedTextResult, GeneratedTextStreamResult, GeneratedToken
from py_to_proto.dataclass_to_proto import Annotated, FieldNumber

# caikit-nlp's package, so that full names agree too.
_PACKAGE = "caikit_data_model.caikit_nlp"


@caikit.core.dataobject(package=_PACKAGE)
class GenerationTrainRecord(DataObjectBase):
    """One example: what the model is given, and what it should answer."""

    input: Annotated[str, FieldNumber(1)]
    output: Annotated[str, FieldNumber(2)]


@caikit.core.dataobject(package=_PACKAGE)
class TuningConfig(DataObjectBase):
    """The soft prompt to tune. A field that is 0 or empty counts as unset (proto3, no presence).

    Ranges, defaults and meanings stand in `parameters/tuning.py`.
    """

    num_virtual_tokens: Annotated[int, FieldNumber(1)]
    prompt_tuning_init_text: Annotated[str, FieldNumber(2)]
    prompt_tuning_init_method: Annotated[str, FieldNumber(3)]
    prompt_tuning_init_source_model: Annotated[str, FieldNumber(4)]
    output_model_types: Annotated[List[str], FieldNumber(5)]
    # Ours: which task of the source prompt EXACT_SOURCE_TASK starts from (0 is the first).
    prompt_tuning_init_task: Annotated[int, FieldNumber(6)]
    # Ours: the same by its name.
    prompt_tuning_init_task_name: Annotated[str, FieldNumber(7)]


@caikit.core.dataobject(package=_PACKAGE)
class ExponentialDecayLengthPenalty(DataObjectBase):
    """From `start_index` generated tokens on, EOS gets likelier by `decay_factor` a token."""

    start_index: Annotated[int, FieldNumber(1)]
    decay_factor: Annotated[float, FieldNumber(2)]


@caikit.core.dataobject(package=_PACKAGE)
class LabelProbability(DataObjectBase):
    """How likely a label is, from 0 to 1."""

    label: Annotated[str, FieldNumber(1)]
    probability: Annotated[float, FieldNumber(2)]


@caikit.core.dataobject(package=_PACKAGE)
class TopTokens(DataObjectBase):
    """The likeliest tokens of a place, the likeliest first; none where nothing predicts it."""

    tokens: Annotated[Optional[List[GeneratedToken]], FieldNumber(1)]


@caikit.core.dataobject(package=_PACKAGE)
class LabelledTextResult(GeneratedTextResult):
    """caikit's GeneratedTextResult, and the labels of a classification where they are asked for, the
    likeliest first. (caikit takes no second message of the same name.)"""

    label_probabilities: Annotated[Optional[List[LabelProbability]], FieldNumber(9)]
    # Of each of `tokens`, and of each of `input_tokens`, where they are asked for.
    top_tokens: Annotated[Optional[List[TopTokens]], FieldNumber(10)]
    input_top_tokens: Annotated[Optional[List[TopTokens]], FieldNumber(11)]


@caikit.core.dataobject(package=_PACKAGE)
class LabelledTextStreamResult(GeneratedTextStreamResult):
    """caikit's GeneratedTextStreamResult, with the same: the labels on the last of an answer, what belongs to
    the text on its first."""

    label_probabilities: Annotated[Optional[List[LabelProbability]], FieldNumber(6)]
    top_tokens: Annotated[Optional[List[TopTokens]], FieldNumber(7)]
    input_top_tokens: Annotated[Optional[List[TopTokens]], FieldNumber(8)]
