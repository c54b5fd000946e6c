"""Prints how fast tuned prompts are served, as Markdown.

python -m bench.serving             what the documentation shows, about ten minutes on one core
python -m bench.serving --quick     does it run?
python -m bench.serving --device cuda --dtype bfloat16 --shape llama-8b --shape t5-xl
"""

from __future__ import annotations

import argparse
import os
import tempfile
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

PARTS = ("engines", "prompt", "alone", "decode", "grpc", "publication", "memory")


def main() -> None:
    """Reads the options, measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m bench.serving", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="small models, one round, few requests")
    parser.add_argument("--part", action="append", choices=PARTS, help="only this one; can be repeated")
    parser.add_argument("--shape", action="append", help="models of this shape; can be repeated")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--vllm", type=Path, default=Path(".venv-vllm"), help="where vLLM is")
    parser.add_argument("--rounds", type=int, help="how often everything is measured")
    options = parser.parse_args()

    # Before any thread pool is made.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    warnings.filterwarnings("ignore", category=FutureWarning)
    import torch
    from transformers.utils import logging

    from bench.training import table
    from bench.training.shapes import SHAPES

    hushed: Any = logging
    hushed.disable_progress_bar()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    shapes = options.shape or (["llama-mini", "t5-mini"] if options.quick else ["llama", "t5"])
    if unknown := set(shapes) - set(SHAPES):
        parser.error(f"no shape {', '.join(unknown)}; there are {', '.join(SHAPES)}")
    print(table.machine(options.device) + "\n", flush=True)
    for name in shapes:
        for section in _sections(name, options):
            print(section + "\n", flush=True)


def _sections(name: str, options: argparse.Namespace) -> Iterator[str]:
    """The parts of one shape. What runs on a server of its own is measured of the first causal one only."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    from bench.serving import memory, server
    from bench.serving.alone import alone, decode
    from bench.serving.checkpoint import write_checkpoint
    from bench.serving.contenders import by_round, ours
    from bench.serving.engines import engines
    from bench.serving.load import Load
    from bench.serving.measured import interleaved, middle
    from bench.serving.prompt_cache import prompt_cache
    from bench.serving.vllm import served
    from bench.training.shapes import SHAPES
    from caikit_pt.base_model.checkpoint import locate
    from caikit_pt.base_model.pool import load as load_base
    from caikit_pt.settings import Settings

    shape, quick, device = SHAPES[name], options.quick, options.device
    parts = options.part or PARTS
    rounds = options.rounds or (1 if quick else 3)
    requests = 8 if quick else 32
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "base_models" / name
        write_checkpoint(shape, directory, options.dtype)
        auto: Any = AutoModelForCausalLM if shape.causal else AutoModelForSeq2SeqLM
        network = auto.from_pretrained(directory, dtype=options.dtype).eval().to(device)
        base = load_base(locate(name, Settings(base_models_dir=str(directory.parent))), options.dtype, device)
        base.pack()
        yield f"## {name}, {options.dtype}"
        loads = [
            Load(shape, requests, virtual_tokens=tokens, prompts=prompts)
            for tokens in (20, 100)
            for prompts in (1, requests)
        ]
        plain = loads[0]
        if "engines" in parts:
            wanted = shape.causal and device == "cpu" and not quick
            with served(base.checkpoint, options.vllm if wanted else Path(), Path(scratch)) as vllm:
                yield engines(base, network, loads, rounds, vllm)
        if "prompt" in parts and shape.causal:
            yield f"### The prompt's keys and values: {requests} prompts of 100, a request each, text 8-20"
            yield prompt_cache(base, network, Load(shape, requests, 8, 20, 20, 100, requests), rounds)
        if "alone" in parts:
            yield alone(base, network, plain, rounds)
        if "decode" in parts:
            yield decode(base, plain)
        if not shape.causal or device != "cpu":
            return
        if {"grpc", "publication"} & set(parts):
            with server.running(base, Path(scratch)) as at:
                if "grpc" in parts:
                    clients = (1, 4) if quick else (1, 8, 32, 64)
                    yield "### Over gRPC"
                    for asked in (loads[0], loads[2]):
                        engine = middle(interleaved({"": partial(by_round, ours, base, asked)}, rounds)[""])
                        yield f"{asked.virtual_tokens} virtual tokens:"
                        yield server.over_grpc(base, at, asked, clients, (1, requests), engine.cpu / requests)
                if "publication" in parts:
                    yield server.first_token_after_publication(base, at, plain, 3 if quick else 10)
        if "memory" in parts:
            yield "### Memory"
            yield memory.per_prompt(base, Path(scratch) / "many", loads[2], 50 if quick else 500)
            yield memory.soak(base, plain, 100 if quick else 10_000, 64 if quick else 10_000)


if __name__ == "__main__":
    main()
