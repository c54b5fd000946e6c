"""Prints what many prompts cost: three servers asked by prompt or at random, and even and skewed traffic.

python -m bench.replicas            what the documentation shows, about ten minutes on two cores
python -m bench.replicas --quick    does it run?
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

PARTS = ("routing", "traffic")


def main() -> None:
    """Reads the options, measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m bench.replicas", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="a small model, one round, few prompts")
    parser.add_argument("--part", action="append", choices=PARTS, help="only this one; can be repeated")
    parser.add_argument("--rounds", type=int, help="how often everything is measured")
    options = parser.parse_args()

    # Before any thread pool is made, and for the servers, too.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch
    from transformers.utils import logging

    from bench.replicas.routing import routing
    from bench.replicas.traffic import traffic
    from bench.serving.checkpoint import make_models
    from bench.serving.load import Load
    from bench.serving.measured import keep_freed_memory
    from bench.training import table
    from bench.training.shapes import SHAPES

    keep_freed_memory()
    hushed: Any = logging
    hushed.disable_progress_bar()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    quick, parts = options.quick, options.part or PARTS
    shape = SHAPES["llama-mini" if quick else "llama"]
    print(table.machine("cpu") + "\n", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        base = make_models(shape, Path(scratch) / "base_models" / shape.name, "float32", "cpu").base
        words = base.weights.model.get_input_embeddings().weight
        if "routing" in parts:
            asked, prompts = (60, 30) if quick else (1000, 1000)
            load = Load(words, asked, 8, 20, virtual_tokens=100, prompts=prompts)
            print(routing(base, Path(scratch), load, options.rounds or (1 if quick else 2)), flush=True)
        if "traffic" in parts:
            base.serving.pack()
            load = Load(words, 64 if quick else 640)
            counts = (30, 100) if quick else (1000, 10_000)
            print(traffic(base, load, counts, options.rounds or (1 if quick else 3)), flush=True)


if __name__ == "__main__":
    main()
