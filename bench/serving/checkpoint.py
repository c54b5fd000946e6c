"""A base model: a shape of bench.training, random weights, and a tokenizer with a word for each id."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.training.shapes import Shape

if TYPE_CHECKING:
    from caikit_pt.base_model.model import BaseModel

_SPECIAL = ("<s>", "</s>", "<unk>")
FIRST_WORD = len(_SPECIAL)


@dataclass(frozen=True, slots=True)
class Models:
    """One set of weights twice: as caikit_pt serves it, and as transformers' own model."""

    base: BaseModel
    network: Any


def make_models(shape: Shape, directory: Path, dtype: str, device: str) -> Models:
    """Builds it on `device`, the same weights each time, and writes it into `directory`.

    On a GPU the weights stay there: only servers read them from the disk, and these run on the CPU.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    from bench.training.models import copy_with_shared_weights
    from caikit_pt.base_model.frozen import freeze
    from caikit_pt.base_model.loading.checkpoint import opened
    from caikit_pt.base_model.model import BaseModel

    auto: Any = AutoModelForCausalLM if shape.causal else AutoModelForSeq2SeqLM
    torch.manual_seed(0)
    with torch.device(device):
        network = auto.from_config(shape.config(), dtype=getattr(torch, dtype))
    network.eval().requires_grad_(False)
    _write_tokenizer(shape, directory)
    if device == "cpu":
        network.save_pretrained(directory)
    else:
        network.config.save_pretrained(directory)
        network.generation_config.save_pretrained(directory)
    checkpoint = opened(shape.name, directory)
    served = freeze(copy_with_shared_weights(network))
    return Models(BaseModel(checkpoint, served, checkpoint.tokenizer), network)


def text_of(ids: list[int]) -> str:
    """The text that the tokenizer makes `ids` of."""
    return " ".join(_word(id) for id in ids)


def _write_tokenizer(shape: Shape, directory: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    fast: Any = PreTrainedTokenizerFast
    words = {_word(id): id for id in range(shape.vocabulary)}
    tokenizer = Tokenizer(WordLevel(words, unk_token=_SPECIAL[2]))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    fast(tokenizer_object=tokenizer, eos_token=_SPECIAL[1], unk_token=_SPECIAL[2]).save_pretrained(directory)


def _word(id: int) -> str:
    return _SPECIAL[id] if id < FIRST_WORD else f"w{id}"
