"""What a further tuned prompt costs in memory, and whether thousands of them are served in a fixed one."""

from __future__ import annotations

import gc
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil

import caikit_pt
from bench.serving.contenders import answered
from bench.serving.load import Load
from bench.serving.server import publish
from bench.serving.table import number, table
from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.serving.prompt_cache import PromptCache
from caikit_pt.module import PeftPromptTuning
from caikit_pt.serving.request import Request

_HEAD = ("prompts registered", "kB a prompt", "times its tensor")
_SOAK = ("MB of this process", "MB of prompts' keys and values", "prompts kept")
_ROOT = Path(__file__).parents[2]
_BUDGET = 100 * 10**6
_WARM_UP = 20
_AT_ONCE, _ROWS = 32, 4


def per_prompt(base: BaseModel, directory: Path, load: Load, prompts: int) -> str:
    """Loaded as a server does, in a process of its own: this one has memory to spare from before."""
    for index in range(prompts + _WARM_UP):
        publish(base, load.tensors[0] + index, directory / str(index))
    command = [sys.executable, "-m", "bench.serving.memory", str(base.checkpoint.directory), str(directory)]
    done = subprocess.run([*command, str(prompts)], cwd=_ROOT, stdout=subprocess.PIPE, text=True, check=True)
    each = float(done.stdout.split()[-1])
    return table(_HEAD, [(f"{prompts:,}", number(each / 1000), number(each / load.tensors[0].nbytes))])


def _bytes_a_prompt(checkpoint: str, directory: Path, prompts: int) -> float:
    base = caikit_pt.load_base_model(checkpoint)
    held = [PeftPromptTuning.load(str(directory / str(index)), base) for index in range(_WARM_UP)]
    before = _resident()
    held += [PeftPromptTuning.load(str(directory / str(_WARM_UP + index)), base) for index in range(prompts)]
    return (_resident() - before) / prompts


def soak(base: BaseModel, load: Load, prompts: int, requests: int) -> str:
    """`requests` to `prompts` at random, 32 at once, with 100 MB for their keys and values."""
    many = replace(load, requests=_AT_ONCE, shortest=8, longest=20, new=4, prompts=prompts)
    part = base.checkpoint.prompt_parts[0]
    rng, rows = random.Random(2), []
    own, base.serving.prompts = base.serving.prompts, PromptCache(_BUDGET)
    shown = max(1, requests // _AT_ONCE // _ROWS)
    try:
        for turn in range(-(-requests // _AT_ONCE)):
            asked = [
                Request(base.text, many.prompt(rng.randrange(prompts), part), text, many.parameters)
                for text in many.texts
            ]
            if any(len(answer) != many.new for answer in answered(base, asked)):
                raise RuntimeError("a request wasn't answered")
            if turn % shown == 0:
                kept = base.serving.prompts
                figures = (number(_resident() / 1e6), number(kept.bytes / 1e6), str(len(kept)))
                rows.append((f"{(turn + 1) * _AT_ONCE:,}", *figures))
    finally:
        base.serving.prompts = own
    return table((f"requests so far to {prompts:,} prompts", *_SOAK), rows)


def _resident() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


if __name__ == "__main__":
    print(_bytes_a_prompt(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
