"""Results as Markdown."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.training.case import Case
from bench.training.ladder import PEER, PRODUCT, ends
from bench.training.results import Figures, Results

_CPUINFO = Path("/proc/cpuinfo")
_FIGURES = ("samples/s", "real tokens/s", "times caikit-nlp", "of the matmul peak", "peak MB")
_CASE = ("model", "type", "targets", "virtual tokens", "batch")
_SUMMARY = (*_CASE, "caikit-nlp samples/s", "caikit-nlp peak MB", *_FIGURES)
_STEPS = ("step", *_FIGURES)
_JOINED = ("model", "in turn samples/s", "joined samples/s", "times")


def machine(device: str) -> str:
    """What was measured on, a list."""
    import torch
    import transformers

    processor = torch.cuda.get_device_name() if device == "cuda" else _processor()
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    seconds = "seconds of the GPU" if device == "cuda" else "CPU seconds of the process"
    threads = torch.get_num_threads()
    return "\n".join(
        [
            f"- {processor}",
            f"- Python {platform.python_version()}, {versions}",
            f"- threads: {threads}; seconds are {seconds}",
        ]
    )


def render(results: Results) -> str:
    """All tables."""
    return "\n\n".join(_sections(results)) + "\n"


def _sections(results: Results) -> Iterator[str]:
    peaks = ", ".join(f"{dtype} {peak / 1e9:,.0f}" for dtype, peak in results.peaks.items())
    yield f"Peak of matrix products, GFLOP a second: {peaks}."
    yield _table(_SUMMARY, (_summary(case, figures) for case, figures in results.cases.items()))
    for case, figures in results.cases.items():
        if len(figures) > len(ends(case)):
            yield f"### {case.title}"
            yield _table(_STEPS, ([name, *_cells(of_step)] for name, of_step in figures.items()))
    if results.joined:
        yield "### Two jobs on one base model, batch 8"
        yield _table(_JOINED, (_joined(name, *rates) for name, rates in results.joined.items()))


def _summary(case: Case, figures: dict[str, Figures]) -> list[str]:
    peer, product = figures[PEER.name], figures[PRODUCT.name]
    targets = "long" if case.long else "short"
    return [
        case.shape.name,
        case.dtype,
        targets,
        str(case.prompt),
        str(case.batch),
        _number(peer.samples),
        _megabytes(peer.memory),
        *_cells(product),
    ]


def _cells(figures: Figures) -> list[str]:
    """Under _FIGURES."""
    return [
        _number(figures.samples),
        _number(figures.tokens),
        _number(figures.times_peer),
        f"{figures.peak_share:.0%}",
        _megabytes(figures.memory),
    ]


def _joined(name: str, in_turn: float, joined: float) -> list[str]:
    return [name, _number(in_turn), _number(joined), f"{joined / in_turn:.2f}"]


def _table(head: Sequence[str], rows: Iterator[list[str]]) -> str:
    lines = [list(head), ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _megabytes(value: int | None) -> str:
    return "" if value is None else f"{value / 1e6:,.0f}"


def _processor() -> str:
    if _CPUINFO.exists():
        for line in _CPUINFO.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
