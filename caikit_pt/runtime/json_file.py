"""Files that hold a JSON value, written in one piece."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from caikit_pt.soft_prompt.publication import sync


def write_json(file: Path, value: Any) -> None:
    """It is there whole, after the power fails, too, or as it was before. Raises OSError."""
    new = file.with_name(f".{file.name}.new")
    new.write_text(json.dumps(value, ensure_ascii=False) + "\n", "utf-8")
    sync(new)
    os.replace(new, file)
    sync(file.parent)


def read_json(file: Path) -> Any:
    """Raises OSError, ValueError."""
    return json.loads(file.read_text("utf-8"))
