"""The throw-away environment of the peer: the real caikit-nlp, which never sees this project.

It borrows the installed packages of the project's environment (a second torch would take longer
than everything else) through one line in a .pth file, so that nothing installed in development mode
comes along, and puts the peer's own packages in front of them.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

PEER = "caikit_nlp"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
_STAMP = "interop.sha256"
# What would point the peer, or pip, at this project.
_OURS = ("CONFIG_FILES", "PYTHONPATH", "VIRTUAL_ENV", "RUNTIME_", "SOURCE_PROMPT_BASE")
_VERSIONS = """
import importlib.metadata as metadata, json, sys
print(json.dumps({name: metadata.version(name) for name in sys.argv[1:]}))
"""


@dataclass(frozen=True, slots=True)
class Environment:
    """A Python that has the peer and not this project."""

    directory: Path

    @property
    def python(self) -> Path:
        return self.directory / "bin" / "python"

    def run(self, *arguments: str | Path, cwd: Path, **variables: str) -> str:
        """The output of this Python with `arguments`. Raises SystemExit with it where it fails."""
        done = subprocess.run(
            [self.python, *arguments],
            cwd=cwd,
            env=peer_variables() | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"{done.stdout[-6000:]}\n{' '.join(map(str, arguments[:4]))} failed")
        return done.stdout

    def versions(self, *names: str) -> dict[str, str]:
        found: dict[str, str] = json.loads(
            self.run("-c", _VERSIONS, *names, cwd=self.directory).splitlines()[-1]
        )
        return found


def peer_variables() -> dict[str, str]:
    """The environment variables without those that are about this project."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}


def prepare(directory: Path, requirements: Path = REQUIREMENTS) -> Environment:
    """The environment of a peer in `directory`, made anew unless it is there and up to date."""
    environment = Environment(directory)
    stamp = directory / _STAMP
    if stamp.is_file() and stamp.read_text() == _fingerprint(requirements):
        return environment
    if directory.exists() and not (directory / "pyvenv.cfg").is_file():
        raise SystemExit(f"{directory} is no virtual environment; it isn't removed")
    shutil.rmtree(directory, ignore_errors=True)
    # pip itself is borrowed too, where the project's environment has one.
    venv.create(directory, symlinks=True, with_pip=importlib.util.find_spec("pip") is None)
    (_site_packages(directory) / "project.pth").write_text(f"{_project_packages()}\n")
    environment.run(
        *("-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"),
        *("--disable-pip-version-check", "--no-warn-conflicts", "-r", requirements),
        cwd=directory,
    )
    stamp.write_text(_fingerprint(requirements))
    return environment


def _fingerprint(requirements: Path) -> str:
    """Changes with whatever the environment is made from."""
    parts = (requirements.read_text(), sys.version, _project_packages())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _project_packages() -> str:
    return sysconfig.get_path("purelib")


def _site_packages(directory: Path) -> Path:
    return Path(sysconfig.get_path("purelib", "venv", {"base": str(directory)}))
