"""Renders the protobuf files of the services: `python -m tests.render_protos protos`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from examples.local_server import ROOT

# What a server may have is described, whether its settings leave it out or not.
_OPENED = {"RUNTIME_SERVICE_GENERATION_ENABLE_INFERENCE_JOBS": "true"}
# In a process of its own, with the settings that the server starts with.
_DUMP = """
import sys

import caikit_pt
from caikit.runtime import dump_services
from caikit_pt.runtime.tuning_rpcs import service

of_caikit = dump_services._get_grpc_service_packages
dump_services._get_grpc_service_packages = lambda *arguments: [*of_caikit(*arguments), service()]
dump_services.dump_grpc_services(sys.argv[1], write_modules_file=False, consolidate=True)
"""


def render(directory: Path) -> None:
    """Writes what caikit generates from the installed module, and TuningService, into `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.glob("*.proto"):
        old.unlink()
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(
            [sys.executable, "-c", _DUMP, scratch],
            check=True,
            cwd=ROOT,
            env={**os.environ, "CONFIG_FILES": str(ROOT / "runtime_config.yaml"), **_OPENED},
            capture_output=True,
        )
        for file in sorted(Path(scratch).glob("*.proto")):
            (directory / file.name).write_text(_tidy(file.read_text("utf-8")), "utf-8")


def _tidy(text: str) -> str:
    """`text` without blanks at the ends of lines, its imports sorted: caikit has them at random."""
    lines = [line.rstrip() for line in text.strip().splitlines()]
    imports = sorted(line for line in lines if line.startswith("import "))
    ordered = iter(imports)
    return "\n".join(next(ordered) if line.startswith("import ") else line for line in lines) + "\n"


if __name__ == "__main__":
    render(Path(sys.argv[1]))
