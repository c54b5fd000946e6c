"""Peak memory of a training above the model's own, each in a process of its own.

python -m bench.training.memory CASE STEP
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

from bench.training.case import Case
from bench.training.ladder import Step, ladder

_ROOT = Path(__file__).parents[2]
_STATUS = Path("/proc/self/status")


def peak_memory(case: Case, step: Step) -> int | None:
    """Bytes; None where this system can't be asked."""
    command = [sys.executable, "-m", "bench.training.memory", case.to_json(), step.name]
    done = subprocess.run(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout.split()[-1]) if done.stdout.strip() else None


def _measure(case: Case, step: Step) -> int | None:
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    records = case.records()
    # What was set up, warmed up by a short row, is what a training begins with.
    step.make(case, records[:1])
    gc.collect()
    if case.device != "cpu":
        loaded = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    else:
        loaded = _resident("VmRSS")
    step.make(case, records[: case.batch] if step.one_batch else records).run()
    if case.device != "cpu":
        return torch.cuda.max_memory_allocated() - loaded
    return _resident("VmHWM") - loaded if loaded else None


def _resident(field: str) -> int:
    """Memory of this process now (VmRSS) or at most (VmHWM). Not ru_maxrss, which a child inherits."""
    if not _STATUS.exists():
        return 0
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def main() -> None:
    """Prints the bytes."""
    case = Case.from_json(sys.argv[1])
    step = next(step for step in ladder(case) if step.name == sys.argv[2])
    peak = _measure(case, step)
    print("" if peak is None else peak)


if __name__ == "__main__":
    main()
