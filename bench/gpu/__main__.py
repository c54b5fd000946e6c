"""Prints what this project does on a GPU, as Markdown.

python -m bench.gpu --write docs/gpu.md    all of it, ten minutes at most
python -m bench.gpu --quick                does it run? A minute
python -m bench.gpu --device cpu --quick   what of it runs without a GPU
python -m bench.gpu --part training --part "serving llama-8b"
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the options, measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="small models")
    parser.add_argument("--minutes", type=float, default=10, help="what doesn't fit is named as not run")
    parser.add_argument("--part", action="append", help="only parts whose names begin so; can be repeated")
    parser.add_argument("--write", type=Path, help="the page that the table goes to, as far as there is one")
    options = parser.parse_args(arguments)
    if options.device == "cpu" and not options.quick:
        parser.error("on a CPU there is only --quick")

    # Before any thread pool is made: what is computed on the CPU is small.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from bench.gpu import page, size
    from bench.gpu.process import preload
    from bench.gpu.row import Row
    from bench.gpu.runner import Runner

    if options.device == "cpu":
        preload()
    rows: list[Row] = []
    with TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        chosen = (size.quick if options.quick else size.full)(options.device, scratch)
        for row in Runner(chosen, options.minutes, _tell, options.part or ()).rows():
            rows.append(row)
            _tell(f"    {row.what}: {row.found} {row.verdict}")
            if options.write:
                # Row by row: whatever ends this process leaves what there was.
                options.write.write_text(page.render(rows), "utf-8")
    print(page.render(rows), end="")


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
