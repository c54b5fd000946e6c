"""The oldest releases that pyproject.toml allows, as constraints for pip: `python -m tests.releases`."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator

from packaging.requirements import Requirement

from examples.local_server import ROOT


def oldest() -> Iterator[str]:
    """A line for each dependency, those of the extras too, that names a lowest release."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for group in (project["dependencies"], *project["optional-dependencies"].values()):
        for requirement in map(Requirement, group):
            for specifier in requirement.specifier:
                if specifier.operator == ">=":
                    yield f"{requirement.name}=={specifier.version}"


if __name__ == "__main__":
    print(*oldest(), sep="\n")
