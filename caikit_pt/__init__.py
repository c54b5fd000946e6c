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

try:
    import caikit
except ModuleNotFoundError as error:
    if error.name != "caikit":
        raise
    # The rooms below `module` are of use without a server. Only who asks for the names here is refused.
    _without_caikit = error
else:
    caikit.configure(os.path.join(os.path.dirname(__file__), "config.yml"))

    from caikit_pt.data_model import (
        ExponentialDecayLengthPenalty,
        GenerationTrainRecord,
        TuningConfig,
    )
    from caikit_pt.module import PeftPromptTuning

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

    from caikit_pt.base_model.model import BaseModel
    from caikit_pt.soft_prompt.trained_source import TrainedSource

__all__ = [
    "ExponentialDecayLengthPenalty",
    "GenerationTrainRecord",
    "PeftPromptTuning",
    "TuningConfig",
    "load_base_model",
    "train_source",
]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Called for what isn't there: without caikit, its messages and its module."""
        if name in __all__:
            raise ImportError(f"caikit_pt.{name} needs caikit, which isn't installed") from _without_caikit
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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


def train_source(
    base_model: "str | BaseModel",
    tasks: "Mapping[str, Any]",
    state: "str | Path" = "",
    progress_bar: bool = False,
    **parameters: "Any",
) -> "TrainedSource":
    """Trains a source prompt on several `tasks` by name, here and now; its `publish(name)` makes it one that
    MULTITASK_PROMPT_TUNING starts from.

    A task is its records, or a mapping with `records` and, where they are needed, `validation` (records,
    too), `verbalizer`, `tuning_task`, `input_field` and `output_field`. `parameters` are those of
    docs/parameters.md, `base_model` a name or what `load_base_model` returned. With a directory `state` a
    training that was interrupted goes on. Raises InvalidParameter for what may not be, TrainingDiverged.
    """
    from caikit_pt import settings
    from caikit_pt.base_model.model import BaseModel
    from caikit_pt.errors import InvalidParameter
    from caikit_pt.tuning.launched import workers
    from caikit_pt.tuning.progress import show_progress
    from caikit_pt.tuning.source_plan import make_source_plan
    from caikit_pt.tuning.source_training import SourceTraining, snapshots_in, task_data

    if workers() > 1:
        allowed = "1: a source prompt is shared among workers by a server (executor.workers)"
        raise InvalidParameter("WORLD_SIZE", workers(), allowed)
    now, resource = settings.current(), base_model if isinstance(base_model, BaseModel) else None
    request = {"base_model": resource.checkpoint.name if resource else base_model, **parameters}
    streams = [task_data(name, given) for name, given in tasks.items()]
    training = SourceTraining(make_source_plan(request, streams, now, resource))
    with (
        snapshots_in(state, now) as snapshots,
        show_progress(training.base.checkpoint.name, progress_bar) as shown,
    ):
        return training.run(shown, snapshots=snapshots)
