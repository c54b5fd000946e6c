"""What tells a `state_dir` from another one, whoever looks at it: an id in a file of its own."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path

from caikit_pt.soft_prompt.publication import sync

_FILE = "cluster_id"


def state_id(root: Path) -> str:
    """That of the directory `root`, which has one from now on; those who come at once get the same. Raises
    OSError."""
    file = root / _FILE
    if not file.exists():
        new = root / f".{_FILE}.{uuid.uuid4().hex[:12]}.new"
        new.write_text(json.dumps(uuid.uuid4().hex) + "\n", "utf-8")
        sync(new)
        try:
            # In one step, and in nobody's place.
            os.link(new, file)
        except FileExistsError:
            pass
        finally:
            new.unlink()
        sync(root)
    try:
        return str(json.loads(file.read_text("utf-8")))
    except ValueError as error:
        raise OSError(f"{file} can't be read; where no training runs, remove it: {error}") from None
