"""The real vLLM server."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2

from examples.local_server import ROOT, free_port

TEMPLATE = ROOT / "deploy" / "vllm" / "pass_through.jinja"
SECONDS_TO_START = 300.0


@contextmanager
def server(python: Path, log: Path, model: Path) -> Iterator[tuple[str, int]]:
    """vLLM's own server on the checkpoint `model`, which it calls by its directory's name.

    Yields its address and its process id when it answers.
    """
    port = free_port()
    address = f"http://localhost:{port}"
    variables = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": _core(),
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
    }
    command: list[str | Path] = [
        *(python, "-m", "vllm.entrypoints.openai.api_server", "--host", "localhost", "--port", str(port)),
        *("--model", model, "--served-model-name", model.name, "--dtype", "float32"),
        # On a CPU, blocks of keys and values are a multiple of 32.
        *("--block-size", "32", "--enable-prompt-embeds", "--chat-template", TEMPLATE),
        "--enable-prefix-caching",
    ]
    with log.open("w") as output:
        process = subprocess.Popen(
            command, env=variables, stdout=output, stderr=subprocess.STDOUT, cwd=log.parent
        )
        try:
            _wait(process, address, log)
            yield address, process.pid
        finally:
            process.terminate()
            process.wait(timeout=60)


def _core() -> str:
    """One core for the model: it is small."""
    return str(max(os.sched_getaffinity(0)))


def _wait(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx2.get(f"{address}/health", trust_env=False).status_code == httpx2.codes.OK:
                return
        except httpx2.TransportError:
            time.sleep(0.5)
    raise SystemExit(f"{log.read_text(errors='replace')[-4000:]}\nvLLM didn't start")
