"""The throw-away environment of the real vLLM: its pins and the project's exclude each other."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import venv
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
# Fetched with vLLM, for images and sound, and built for another torch than that of a CPU.
_UNFIT = ("torchvision", "torchaudio", "torchcodec")


class NotToBeHad(Exception):
    """The server can't be installed on this machine."""


def prepare(directory: Path) -> Path:
    """The Python of vLLM's environment in `directory`, made anew unless it is up to date."""
    python = directory / "bin" / "python"
    stamp = directory / "vllm.sha256"
    if stamp.is_file() and stamp.read_text() == _fingerprint():
        return python
    if directory.exists() and not (directory / "pyvenv.cfg").is_file():
        raise SystemExit(f"{directory} is no virtual environment; it isn't removed")
    shutil.rmtree(directory, ignore_errors=True)
    venv.create(directory, with_pip=True)
    torch, *others = _packages()
    _pip(python, "install", torch)
    _pip(python, "install", torch, *others)
    _pip(python, "uninstall", "--yes", *_UNFIT)
    stamp.write_text(_fingerprint())
    return python


def _packages() -> list[str]:
    lines = REQUIREMENTS.read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def _pip(python: Path, *arguments: str) -> None:
    done = subprocess.run(
        [python, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise NotToBeHad((done.stderr.strip() or done.stdout.strip())[-1000:])


def _fingerprint() -> str:
    return hashlib.sha256(f"{REQUIREMENTS.read_text()}\n{sys.version}".encode()).hexdigest()
