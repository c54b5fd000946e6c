"""The releases that `make versions-oldest` and `make versions-newest` install, as constraints for pip."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator

from packaging.requirements import Requirement

from examples.local_server import ROOT


def oldest() -> Iterator[str]:
    """The lowest release that pyproject.toml allows of each dependency, those of the extras too."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for group in (project["dependencies"], *project["optional-dependencies"].values()):
        for requirement in map(Requirement, group):
            for specifier in requirement.specifier:
                if specifier.operator == ">=":
                    yield f"{requirement.name}=={specifier.version}"


if __name__ == "__main__":
    # Of the newest, pip finds out by itself.
    print(*(oldest() if sys.argv[1] == "oldest" else ()), sep="\n")
