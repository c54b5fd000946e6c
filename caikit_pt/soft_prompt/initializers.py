"""What a soft prompt starts from: functions of one signature, by the name a request gives.

Each returns a float32 tensor [P, H]; each side of a seq2seq model gets its own. Initial rows have
the scale of word embeddings: a prompt drawn from N(0, 1), as peft draws it, is a hundred times too
large for many models and too small for others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from caikit_pt.base_model.model import BaseModel
from caikit_pt.parameters.tuning import (
    AVERAGE_SOURCE,
    EXACT_SOURCE_TASK,
    ONLY_SOURCE_SHARED,
    RANDOM,
    SAMPLE_VOCAB,
    TEXT,
    TuningParameters,
)
from caikit_pt.soft_prompt.initial import InitialPrompt
from caikit_pt.soft_prompt.prompt import SoftPrompt
from caikit_pt.soft_prompt.source import SourcePrompt

if TYPE_CHECKING:
    import torch

_SCALE_SAMPLE = 4096  # word embeddings that the scale of RANDOM is measured on


@dataclass(frozen=True, slots=True)
class Start:
    """All that an initialiser may look at, for one side (`part`). `generator` is the job's, on the CPU."""

    base: BaseModel
    parameters: TuningParameters
    generator: torch.Generator
    source: SourcePrompt | None
    tuned: InitialPrompt | None = None
    part: str = ""

    @property
    def needed_source(self) -> SourcePrompt:
        """The source prompt of a method that can't do without, on this side."""
        assert self.source is not None, "the plan finds a source for every method that needs one"
        return self.source.on(self.part)


def random(start: Start) -> torch.Tensor:
    """Normal, with the mean and the deviation that word embeddings have in each dimension."""
    import torch

    vocabulary = min(len(start.base.text.tokenizer), start.base.text.rows)
    step = max(1, vocabulary // _SCALE_SAMPLE)
    words = start.base.weights.embed(range(0, vocabulary, step)).float().cpu()
    deviation, mean = torch.std_mean(words, dim=0)
    shape = (start.parameters.num_virtual_tokens, words.shape[1])
    return mean + deviation * torch.randn(shape, generator=start.generator, dtype=torch.float32)


def text(start: Start) -> torch.Tensor:
    """The embedded tokens of the text, repeated or cut to P, special tokens included as in peft."""
    ids = start.base.text.init_ids(start.parameters.prompt_tuning_init_text)
    count = start.parameters.num_virtual_tokens
    return start.base.weights.embed((ids * (count // len(ids) + 1))[:count]).float().cpu()


def sample_vocabulary(start: Start) -> torch.Tensor:
    """P word embeddings drawn from the vocabulary without its special tokens (Lester et al. 2021)."""
    import torch

    tokenizer = start.base.text.tokenizer
    ordinary = torch.ones(len(tokenizer))
    # Reserved tokens are special without a role: nobody has trained them.
    reserved = [index for index, token in tokenizer.added_tokens_decoder.items() if token.special]
    ordinary[[index for index in (*tokenizer.all_special_ids, *reserved) if index < len(ordinary)]] = 0
    ordinary[start.base.text.rows :] = 0
    count = start.parameters.num_virtual_tokens
    ids = torch.multinomial(
        ordinary,
        count,
        replacement=count > int(ordinary.sum()),
        generator=start.generator,
    )
    return start.base.weights.embed(ids.tolist()).float().cpu()


def only_source_shared(start: Start) -> torch.Tensor:
    """The rows that the source tasks share."""
    return start.needed_source.shared


def average_source(start: Start) -> torch.Tensor:
    """The mean of the source tasks' prompts."""
    return start.needed_source.average()


def exact_source_task(start: Start) -> torch.Tensor:
    """The prompt of one source task."""
    return start.needed_source.task(start.parameters.prompt_tuning_init_task)


INITIALIZERS: dict[str, Callable[[Start], torch.Tensor]] = {
    RANDOM: random,
    TEXT: text,
    SAMPLE_VOCAB: sample_vocabulary,
    ONLY_SOURCE_SHARED: only_source_shared,
    AVERAGE_SOURCE: average_source,
    EXACT_SOURCE_TASK: exact_source_task,
}


def initial_prompt(start: Start) -> SoftPrompt:
    """The soft prompt that a tuning starts from, one tensor for each side asked for."""
    if start.tuned is not None:
        return SoftPrompt({part: rows.clone() for part, rows in start.tuned.prompt.tensors.items()})
    initializer = INITIALIZERS[start.parameters.prompt_tuning_init_method]
    parts = start.parameters.output_model_types
    return SoftPrompt({part: initializer(replace(start, part=part)).clone() for part in parts})
