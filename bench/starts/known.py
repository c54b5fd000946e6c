"""What of parameters decides what a training comes to, and a short hash of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from bench.quality.trial import deciding

# To be raised when trainings of sources or of prompts change in a way that no parameter tells of.
EDITION = 1


def known(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is off: a parameter that the product gets later, and that is off, changes nothing."""
    return {name: value for name, value in deciding(parameters).items() if value}


def short_hash(told: Any) -> str:
    """Of plain values."""
    return hashlib.sha256(json.dumps([EDITION, told], sort_keys=True).encode()).hexdigest()[:12]
