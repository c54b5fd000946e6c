"""What the server has loaded of what is published."""

from __future__ import annotations

import sys
from pathlib import Path


def forget(path: str) -> None:
    """Unloads what was loaded from `path`: the next request gets what is there now."""
    models = sys.modules.get("caikit.runtime.model_management.model_manager")
    if models is None:
        return
    manager = models.ModelManager.get_instance()
    published = Path(path).resolve()
    for name, model in list(manager.loaded_models.items()):
        if Path(model.path()).resolve() == published:
            manager.unload_model(name)
