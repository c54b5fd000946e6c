"""Prompt tuning as a service: a caikit runtime module that trains soft prompts and serves them."""

import os
from typing import TYPE_CHECKING

from caikit_pt import config_files
from caikit_pt.errors import InvalidParameter

try:
    # caikit reads them as it is imported, and what it can't read ends in a traceback.
    config_files.contents()
except InvalidParameter as error:
    raise SystemExit(f"caikit_pt: {error}") from None

import caikit

caikit.configure(os.path.join(os.path.dirname(__file__), "config.yml"))

from caikit_pt.data_model import (  # noqa: E402
    ExponentialDecayLengthPenalty,
    GenerationTrainRecord,
    TuningConfig,
)
from caikit_pt.module import PeftPromptTuning  # noqa: E402

if TYPE_CHECKING:
    from caikit_pt.base_model.model import BaseModel

__all__ = [
    "ExponentialDecayLengthPenalty",
    "GenerationTrainRecord",
    "PeftPromptTuning",
    "TuningConfig",
    "load_base_model",
]


def load_base_model(directory: str, torch_dtype: str = "", device: str = "") -> "BaseModel":
    """The base model in any local `directory`, for Python: `train(base_model=...)` takes it.

    It is the shared copy, as for a model found by name. Raises InvalidParameter.
    """
    from pathlib import Path

    from caikit_pt import settings
    from caikit_pt.base_model.loading.checkpoint import locate
    from caikit_pt.base_model.pool import shared
    from caikit_pt.errors import InvalidParameter

    path = Path(directory).resolve()
    if not (path / "config.json").is_file():
        raise InvalidParameter("directory", directory, "a directory with a config.json and weights")
    checkpoint = locate(path.name, settings.Settings(base_models_dir=str(path.parent)))
    return shared(checkpoint, settings.current(), torch_dtype, device)
