"""Prints how fast soft prompts are tuned, as Markdown.

python -m bench.training            what the documentation shows, about ten minutes on one core
python -m bench.training --quick    does it run?
python -m bench.training --device cuda --shape llama-8b --shape t5-xl
python -m bench.training --whole --before ../other-worktree    whole trainings of small models, here and there
"""

from __future__ import annotations

import argparse
import os
import warnings
from dataclasses import replace
from pathlib import Path


def main() -> None:
    """Reads the options, measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m bench.training", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="small models, two rounds")
    size.add_argument("--full", action="store_true", help="every combination")
    size.add_argument("--shape", action="append", help="only models of this shape; can be repeated")
    size.add_argument("--whole", action="store_true", help="trainings of small models with the defaults")
    parser.add_argument("--before", type=Path, help="with --whole: a folder of another revision")
    parser.add_argument("--epochs", type=int, default=0, help="with --whole: not the default")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, help="how often everything is measured")
    parser.add_argument("--no-memory", action="store_true", help="time only")
    options = parser.parse_args()
    if options.device == "cuda" and not options.shape:
        parser.error("on a GPU, say which --shape")

    # Before any thread pool is made.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # transformers and peft warn of each other's names that change.
    warnings.filterwarnings("ignore", category=FutureWarning)
    import torch

    from bench.training import suite, table, whole
    from bench.training.results import measure
    from bench.training.shapes import SHAPES

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if options.whole:
        trees = [*([options.before.resolve()] if options.before else []), whole.HERE]
        print(table.machine("cpu") + "\n", flush=True)
        print(whole.compare(whole.MODELS, trees, options.epochs, options.rounds or 1))
        return
    if unknown := set(options.shape or ()) - set(SHAPES):
        parser.error(f"no shape {', '.join(unknown)}; there are {', '.join(SHAPES)}")
    if options.shape:
        chosen = suite.of_shapes(options.shape, options.device)
    else:
        chosen = suite.quick() if options.quick else suite.full() if options.full else suite.default()
    chosen = replace(
        chosen,
        rounds=options.rounds or chosen.rounds,
        with_memory=() if options.no_memory else chosen.with_memory,
    )
    print(table.machine(options.device) + "\n", flush=True)
    print(table.render(measure(chosen, options.device)), end="")


if __name__ == "__main__":
    main()
