"""What each principal may do: `access.policy`."""

from __future__ import annotations

from fnmatch import fnmatchcase

from caikit_pt.principal import Principal, Right, glob
from caikit_pt.runtime.guard.door import DEPLOY
from caikit_pt.settings import ACTIONS, Access

_EVERYTHING = Right(frozenset(ACTIONS), ("*",))
_ANYBODY = Principal("", (_EVERYTHING,))
# Who has been let in, and of whom no policy says anything. Models of any origin are the operator's.
_USUAL = Right(frozenset(ACTIONS) - {DEPLOY}, ("*",))


class Policy:
    """Nobody may do anything that no rule allows; without rules, everybody what is usual."""

    def __init__(self, access: Access) -> None:
        self._rules = access.policy

    def principal(self, name: str) -> Principal:
        """With all his rights. Without a name anybody, who may do everything."""
        if not name:
            return _ANYBODY
        if not self._rules:
            return Principal(name, (_USUAL,))
        rights = [
            Right(frozenset(rule.may), tuple(glob(pattern, principal=name) for pattern in rule.models))
            for rule in self._rules
            if any(fnmatchcase(name, glob(pattern)) for pattern in rule.principals)
        ]
        return Principal(name, tuple(rights))
