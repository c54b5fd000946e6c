"""Who asks, and what he may do with which models."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase

from caikit_pt.errors import NotAllowed, UnknownModel, shown

_ALL = "*"
# What means something to `fnmatch` and to SQLite's GLOB; in a pattern of a policy only `*` does.
_SPECIAL = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class Right:
    """To do some things with models whose names match one of some globs."""

    actions: frozenset[str]
    models: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Principal:
    """A person or a program; without a name anybody, where nobody has to say who he is."""

    name: str
    rights: tuple[Right, ...]

    def may(self, action: str, model: str) -> bool:
        """Whether he has the right to do this with `model`."""
        return any(fnmatchcase(model, glob) for glob in self.globs(action))

    def may_everywhere(self, action: str) -> bool:
        """Whether he has the right to do this with every model."""
        return _ALL in self.globs(action)

    def sees(self, model: str) -> bool:
        """Whether he may know that there is such a model: he has a right to do anything with it."""
        return any(fnmatchcase(model, glob) for right in self.rights for glob in right.models)

    def globs(self, action: str) -> list[str]:
        """What names of models match that he may do this with, as `fnmatch` and SQLite have it."""
        return [glob for right in self.rights if action in right.actions for glob in right.models]

    def check(self, action: str, model: str) -> None:
        """Raises NotAllowed, or UnknownModel as for a model that isn't there."""
        if self.may(action, model):
            return
        if not self.sees(model):
            raise UnknownModel(model)
        raise NotAllowed(f"{self.name} may not {action} {shown(model)}. Ask for the right in access.policy")


def glob(pattern: str, **filled: str) -> str:
    """A pattern of a policy as a glob: `*` is anything, `{NAME}` the text of this name, all else itself."""
    parts = re.split(r"(\*|\{\w+\})", pattern)
    return "".join(_literal(filled.get(part[1:-1], part)) if part != _ALL else _ALL for part in parts)


def _literal(text: str) -> str:
    return _SPECIAL.sub(lambda found: f"[{found[0]}]", text)
