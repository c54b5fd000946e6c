"""The model card that is saved with each base model."""

from __future__ import annotations

from pathlib import Path

_TEXT = """---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: {pipeline}
---

# {name}

A {kind} model of {parameters:,} parameters ({architecture}), made to be prompt-tuned in seconds on
one CPU core: for demonstrations, tests and a first run where no model hub can be reached. It is
far too small to answer questions about the world.

- **Made by** `python -m examples.pretraining.pretrain`, from random weights, on text that a seeded
  grammar wrote (`examples/pretraining/text/`). No outside data or model went into it.
- **Text**: short messages (shop tickets, assistant queries, posts, film notes, pros and cons,
  restaurant fields). An instruction in front asks for one of several independent attributes, for a
  span to copy or for a sentence. Without the instruction the task is ambiguous.
- **Tokenizer**: {tokenizer}. Any UTF-8 text survives a round trip.
- **Weights**: float16 in the file; load with `dtype=torch.float32` to compute on a CPU.
- **Licence**: Apache-2.0.

Load it with `{loader}.from_pretrained(folder)` and `AutoTokenizer.from_pretrained(folder)`.
"""

_KINDS = {
    "llama": {
        "name": "tiny-llama",
        "kind": "causal language",
        "architecture": "Llama",
        "pipeline": "text-generation",
        "tokenizer": "byte-pair encoding with byte fallback, BOS in front, no EOS",
        "loader": "AutoModelForCausalLM",
    },
    "t5": {
        "name": "tiny-t5",
        "kind": "sequence-to-sequence",
        "architecture": "T5",
        "pipeline": "text2text-generation",
        "tokenizer": "unigram with byte fallback, EOS at the end, padding id 0",
        "loader": "AutoModelForSeq2SeqLM",
    },
}


def write_card(folder: Path, model_type: str, parameters: int) -> None:
    """Write README.md beside the weights."""
    text = _TEXT.format(parameters=parameters, **_KINDS[model_type])
    (folder / "README.md").write_text(text, encoding="utf-8")
