"""Renders the protobuf files of the services: `python -m tests.render_protos protos`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from examples.local_server import ROOT


def render(directory: Path) -> None:
    """Writes what caikit generates from the installed module into `directory`, and nothing else."""
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.glob("*.proto"):
        old.unlink()
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(
            [sys.executable, "-m", "caikit.runtime.dump_services", "-p", scratch],
            check=True,
            cwd=ROOT,
            env={**os.environ, "CONFIG_FILES": str(ROOT / "runtime_config.yaml")},
            capture_output=True,
        )
        for file in sorted(Path(scratch).glob("*.proto")):
            # Rendered with blanks at the ends of lines, which editors take away.
            lines = [line.rstrip() for line in file.read_text("utf-8").splitlines()]
            (directory / file.name).write_text("\n".join(lines).strip() + "\n", "utf-8")


if __name__ == "__main__":
    render(Path(sys.argv[1]))
