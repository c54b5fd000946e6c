"""docs/gpu.md: what was measured on, one table, and how to read it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from bench.gpu import correctness
from bench.gpu.row import MACHINE, MISSED, Row
from bench.serving.table import table

_HEAD = ("part", "what", "found", "goal", "")
UNMEASURED = "Nothing has been measured on a GPU yet."


def _tolerances() -> str:
    def of(dtype: str) -> str:
        return " / ".join(f"{limit:g}" for limit in correctness.TOLERANCES[dtype])

    return (
        f"Tolerances of the three: float32 {of('float32')}; bfloat16 {of('bfloat16')}, or "
        f"{correctness.OF_A_CPUS_OWN} times\n  what a CPU's own bfloat16 differs by, where that is more."
    )


_EXPLAINED = f"""# On a GPU

Printed by `make gpu`, in ten minutes at most (`python -m bench.gpu --help`). All it needs is Python with
torch, transformers and peft; caikit needn't be installed, and nothing is fetched: weights are random, and
made on the device. `python -m bench.gpu --quick` shows in a minute whether all of it runs, and with
`--device cpu` what of it runs without a GPU, as in CI. A part that fails is a row with the reason, and what
there was no time for is named; `--part training` and so on choose.

- **correctness.** Every family of tests/numerics/families.py and the embedded models, against the plain way
  on a CPU in float32 (each row alone, padded). Shown is how far logits are apart by the largest, losses
  and gradients by their length, and how many greedy tokens are the same: in float32 those of the engine's
  answers to all rows at once, and all have to be; in bfloat16 the likeliest along the reference's tokens.
  {_tolerances()}
  "Packed" or "padded" is how it is trained; "in batches" or "one by one" how it is served.
- **training.** Updates as a job makes them. The share of the peak counts only what an exact training can't do
  without (bench/training/flops.py), by the best square product in the same process. Memory is the peak,
  weights included. peft's loop is timed as caikit-nlp has it (bench/training/peer.py), and sorted by length,
  padded to the batch only and without checkpointing.
- **serving.** Steps of the engine, once all rows are under way: the bytes of the weights that a step reads,
  by the bandwidth of a copy in the same process, read and written. Of generate() and of continuous batching
  whole answers, twice as many tokens as are timed of the engine, short texts read.
- **memory.** A small model in float32, with a third of the memory that it takes where there is enough.
- **waits of the host.** What torch's sync debug mode tells of one update and of one step, and the places that
  wait most.
"""


def render(rows: Sequence[Row]) -> str:
    """Markdown of all there is so far."""
    facts = [row for row in rows if row.part == MACHINE]
    figures = [row for row in rows if row.part != MACHINE]
    if not rows:
        return f"{_EXPLAINED}\n{UNMEASURED}\n"
    told = "\n".join(
        f"- {row.what}: {row.found}{f' ({row.verdict})' if row.verdict else ''}" for row in facts
    )
    return f"{_EXPLAINED}\n{told}\n\n{_summary(figures)}\n\n{_table(figures)}\n"


def _table(rows: Sequence[Row]) -> str:
    return table(_HEAD, [(row.part, row.what, row.found, row.goal, _verdict(row)) for row in rows])


def _verdict(row: Row) -> str:
    return f"**{row.verdict}**" if row.verdict == MISSED else row.verdict


def _summary(rows: Sequence[Row]) -> str:
    counts = Counter(row.verdict for row in rows if row.verdict)
    return f"{len(rows)} rows: {', '.join(f'{count} {verdict}' for verdict, count in counts.items())}."
