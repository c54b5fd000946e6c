"""Prints how fast tuned prompts are served, as Markdown.

python -m bench.serving             what the documentation shows, about twenty minutes on one core
python -m bench.serving --quick     does it run?
python -m bench.serving --device cuda --dtype bfloat16 --shape llama-8b --shape t5-xl
"""

from __future__ import annotations

import argparse
import os
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.training.shapes import Shape

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

    from bench.serving.measured import keep_freed_memory
    from bench.training import table
    from bench.training.shapes import SHAPES

    keep_freed_memory()
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
    """The parts of one shape. What runs on a server of its own is measured of causal ones on the CPU only."""
    from bench.serving import memory, server
    from bench.serving.alone import alone, decode
    from bench.serving.checkpoint import make_models
    from bench.serving.engines import engines, many_prompts
    from bench.serving.load import Load
    from bench.serving.prompt_cache import prompt_cache
    from bench.serving.vllm import served
    from bench.training.shapes import SHAPES

    shape, quick, device = SHAPES[name], options.quick, options.device
    parts = options.part or PARTS
    rounds = options.rounds or (1 if quick else 3)
    requests = 8 if quick else 32
    with tempfile.TemporaryDirectory() as scratch:
        models = make_models(shape, Path(scratch) / "base_models" / name, options.dtype, device)
        base = models.base
        base.serving.pack()
        base.serving.capture_steps()
        plain = Load(base.weights.model.get_input_embeddings().weight, requests)
        loads = [
            replace(plain, virtual_tokens=tokens, prompts=prompts)
            for tokens in ((20,) if quick else (20, 100))
            for prompts in (1, requests)
        ]
        yield f"## {name}, {options.dtype}"
        yield _described(shape, base.weights.model)
        if "engines" in parts:
            yield "### Requests at once"
            wanted = shape.causal and device == "cpu" and not quick
            with served(base.checkpoint, options.vllm if wanted else Path(), Path(scratch)) as vllm:
                yield engines(models, loads, rounds, vllm)
            yield many_prompts(base, loads, 3 * rounds)
        if "prompt" in parts and shape.causal:
            yield "### The prompt's own keys and values: 100 virtual tokens, text 8-20"
            short = replace(loads[-1], shortest=8, longest=20, virtual_tokens=100)
            yield prompt_cache(models, short, rounds)
        if "alone" in parts:
            yield "### Alone"
            yield alone(models, plain, rounds)
        if "decode" in parts:
            yield "### Steps"
            yield decode(base, plain)
        if not shape.causal or device != "cpu":
            return
        if {"grpc", "publication"} & set(parts):
            yield "### Over gRPC"
            with server.running(base, Path(scratch)) as at:
                if "grpc" in parts:
                    yield server.over_grpc(base, at, loads, (1, 4) if quick else (1, 8, 32, 64))
                    yield f"The same requests without a server, and from {requests} clients:"
                    yield server.beside_the_engine(base, at, loads, requests, rounds)
                if "publication" in parts:
                    yield server.first_token_after_publication(base, at, plain, 3 if quick else 10)
        if "memory" in parts:
            yield "### Memory"
            yield memory.per_prompt(base, Path(scratch) / "many", loads[-2], 50 if quick else 500)
            yield memory.soak(base, plain, 100 if quick else 10_000, 64 if quick else 10_000)


def _described(shape: Shape, model: Any) -> str:
    millions = sum(weight.numel() for weight in model.parameters()) / 1e6
    return (
        f"{shape.layers} layers{'' if shape.causal else ' on each side'}, width {shape.width}, "
        f"{shape.vocabulary:,} tokens, {millions:,.0f}M random weights."
    )


if __name__ == "__main__":
    main()
