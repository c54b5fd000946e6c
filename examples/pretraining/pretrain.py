"""Make the two base models: `python -m examples.pretraining.pretrain`.

Draws the pretraining text, trains a tokenizer and a model of each kind on it, and saves them in the
Hugging Face format. The result depends on the seed, the number of threads and the versions of the
libraries, and on nothing else.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from examples.pretraining.architecture import tiny_llama, tiny_t5
from examples.pretraining.card import write_card
from examples.pretraining.layout import causal_example, seq2seq_example
from examples.pretraining.row import Row, draw_rows, read_rows, write_rows
from examples.pretraining.trainer import causal_loss, seq2seq_loss, train
from examples.pretraining.vocabulary import llama_tokenizer, save_tokenizer, t5_tokenizer

EXAMPLES = Path(__file__).resolve().parent.parent
SEED = 17
VOCABULARY = 2048


def make_text(folder: Path, count: int) -> list[Row]:
    """Draw the text once and write it; what the models are trained on is what was written."""
    path = folder / "rows.jsonl.gz"
    write_rows(draw_rows(count, random.Random(SEED)), path)
    return read_rows(path)


def texts_of(rows: list[Row]) -> list[str]:
    """Everything a tokenizer has to spell."""
    return [text for row in rows for text in (row.instruction, row.input, row.output) if text]


def save(model: Any, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Save weights as float16: half the bytes, and they compute in float32 when loaded so."""
    model.to(torch.float16).save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    save_tokenizer(tokenizer, folder)
    write_card(folder, model.config.model_type, sum(w.numel() for w in model.parameters()))
    print(f"saved {folder.name}", flush=True)


def make_llama(rows: list[Row], folder: Path, epochs: int) -> None:
    """Pretrain the causal model."""
    torch.manual_seed(SEED)
    rng = random.Random(SEED)
    tokenizer = llama_tokenizer(texts_of(rows), VOCABULARY)
    model = tiny_llama(tokenizer)
    examples = [causal_example(row, tokenizer, rng) for row in rows]
    train(model, examples, causal_loss, epochs=epochs, size=32, seed=SEED, name="llama")
    save(model, tokenizer, folder)


def make_t5(rows: list[Row], folder: Path, epochs: int) -> None:
    """Pretrain the sequence-to-sequence model.

    It reads the harder half of the text twice: its only signal is the output, a few tokens a row,
    where the causal model also learns from every word of the input.
    """
    torch.manual_seed(SEED)
    rng = random.Random(SEED)
    tokenizer = t5_tokenizer(texts_of(rows), VOCABULARY)
    model = tiny_t5(tokenizer)
    examples = [seq2seq_example(row, tokenizer, rng) for row in rows + rows[len(rows) // 2 :]]
    train(model, examples, seq2seq_loss, epochs=epochs, size=32, seed=SEED, name="t5")
    save(model, tokenizer, folder)


def main() -> None:
    """Parse the command line and make what it asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("llama", "t5"), help="make one of the two models")
    parser.add_argument("--rows", type=int, default=64_000, help="rows of pretraining text")
    parser.add_argument("--epochs", type=int, default=1, help="passes over the text")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=EXAMPLES / "base_models")
    parser.add_argument("--text", type=Path, default=Path(__file__).resolve().parent / "text")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = make_text(options.text, options.rows)
    if options.only != "t5":
        make_llama(rows, options.out / "tiny-llama", options.epochs)
    if options.only != "llama":
        make_t5(rows, options.out / "tiny-t5", options.epochs)


if __name__ == "__main__":
    main()
