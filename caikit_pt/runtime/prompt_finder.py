"""How caikit finds what a tuned prompt is: as its own finder does, once config.yml was looked through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from caikit.core import ModuleConfig
from caikit.core.model_management.local_model_finder import LocalModelFinder

from caikit_pt.soft_prompt.config_file import check_config
from caikit_pt.status import caikit_errors


class PromptFinder(LocalModelFinder):
    """caikit's finder, for files that anybody may have written."""

    name = "PROMPT_FINDER"

    def find_model(self, model_path: str, **options: Any) -> ModuleConfig | None:
        """Raises CaikitRuntimeException, DATA_LOSS where config.yml is damaged; FileNotFoundError."""
        with caikit_errors():
            check_config(Path(model_path))
        found: ModuleConfig | None = super().find_model(model_path, **options)
        return found
