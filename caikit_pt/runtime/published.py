"""The tuned prompts that are served: those in `runtime.local_models_dir`, and no other path."""

from __future__ import annotations

import gc
import os
import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from caikit.runtime.model_management.loaded_model import LoadedModel
from caikit.runtime.model_management.model_manager import ModelManager
from caikit.runtime.types.caikit_runtime_exception import CaikitRuntimeException

from caikit_pt import settings
from caikit_pt.base_model.pool import POOL
from caikit_pt.errors import InvalidParameter, OutOfMemory, UnknownModel
from caikit_pt.module import PeftPromptTuning
from caikit_pt.paths import check_plain_name, inside
from caikit_pt.soft_prompt.config_file import CONFIG, is_of
from caikit_pt.status import caikit_errors

# What a prompt takes in memory beside its tensors: its module, its configuration, its tokens.
_BYTES_BESIDE = 2**14


class PublishedPrompts(ModelManager):
    """caikit's manager, once it has been made; caikit's own takes an id for any path of the machine."""

    def __init__(self) -> None:
        super().__init__()
        self._room = _Room(settings.current().loaded_prompts_mib * 2**20, self._forget)

    def _forget(self, model_id: str) -> None:
        """It is loaded again by the next request that names it; whoever asks it now has it."""
        self.loaded_models.pop(model_id, None)

    def retrieve_model(self, model_id: str) -> Any:
        """Raises CaikitRuntimeException, NOT_FOUND where nothing has been published under `model_id`."""
        if model_id and not self.is_published(model_id):
            with caikit_errors():
                raise UnknownModel(model_id)
        try:
            model = super().retrieve_model(model_id)
        except CaikitRuntimeException as error:
            if not isinstance(error.__cause__, OutOfMemory) or not self._base_model_has_left():
                raise
            return self.retrieve_model(model_id)
        self._room.use(model_id, model)
        return model

    def _base_model_has_left(self) -> bool:
        """Whether one has, for which prompts are forgotten that were asked the longest ago: nobody else holds
        it where nobody asks them now."""
        before = len(POOL)
        while len(POOL) == before and self._room.leave():
            pass
        if len(POOL) == before:
            # What holds itself in a circle is let go of when it is looked for.
            gc.collect()
        return len(POOL) < before

    def load_model(self, model_id: str, local_model_path: str, *types: Any, **options: Any) -> LoadedModel:
        """Raises CaikitRuntimeException: INVALID_ARGUMENT where the path can't be one, NOT_FOUND where no
        tuned prompt is there, DATA_LOSS where it is damaged."""
        path = self._confined(local_model_path)
        with caikit_errors():
            if not is_of(PeftPromptTuning.MODULE_ID, Path(path)):
                raise UnknownModel(model_id, "is no tuned prompt")
        return super().load_model(model_id, path, *types, **options)

    def estimate_model_size(self, model_id: str, local_model_path: str, model_type: str) -> int:
        """Raises CaikitRuntimeException, INVALID_ARGUMENT where the path can't be one."""
        return int(super().estimate_model_size(model_id, self._confined(local_model_path), model_type))

    def deploy_model(self, model_id: str, model_files: dict[str, bytes], **options: Any) -> LoadedModel:
        """Raises CaikitRuntimeException: INVALID_ARGUMENT where the id or a file's name is no plain name,
        NOT_FOUND where the files are no tuned prompt; they aren't kept then."""
        with caikit_errors():
            check_plain_name(model_id, "model_id")
            for name in model_files:
                check_plain_name(name, "model_files.filename")
            place = inside(self._local_models_dir, model_id, "model_id")
        was_there = place.exists()
        try:
            return super().deploy_model(model_id, model_files, **options)
        except BaseException:
            if not was_there:
                shutil.rmtree(place, ignore_errors=True)
            raise

    def undeploy_model(self, model_id: str) -> None:
        """Raises CaikitRuntimeException, INVALID_ARGUMENT where the id is no plain name."""
        with caikit_errors():
            check_plain_name(model_id, "model_id")
        super().undeploy_model(model_id)

    def is_published(self, model_id: str) -> bool:
        """Whether it is there, loaded or not."""
        if model_id in self.loaded_models:
            return True
        try:
            path = inside(self._local_models_dir, model_id, "mm-model-id")
        except InvalidParameter:
            return False
        return not path.name.startswith(".") and (path / CONFIG).is_file()

    def _confined(self, path: str) -> str:
        """A path, as caikit takes it, that is in the directory of models."""
        root = os.path.realpath(self._local_models_dir)
        with caikit_errors():
            return str(inside(root, path and os.path.relpath(path, root), "modelPath"))


class _Room:
    """What prompts in memory may take together: those that were asked the longest ago have to leave."""

    def __init__(self, most_bytes: int, forget: Callable[[str], None]) -> None:
        self._most, self._forget = most_bytes, forget
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._total = 0
        self._lock = threading.Lock()

    def leave(self) -> bool:
        """What was asked the longest ago has to; false where there is nothing."""
        with self._lock:
            if not self._sizes:
                return False
            name, size = self._sizes.popitem(last=False)
            self._total -= size
        self._forget(name)
        return True

    def use(self, model_id: str, model: Any) -> None:
        """It is asked now."""
        with self._lock:
            tensors = getattr(model, "tuned", None) and model.tuned.prompt.tensors.values()
            size = _BYTES_BESIDE + sum(one.nbytes for one in tensors or ())
            # Another one may have been published under its name.
            self._total += size - self._sizes.pop(model_id, 0)
            self._sizes[model_id] = size
            gone = []
            while len(self._sizes) > 1 and self._total > self._most:
                name, size = self._sizes.popitem(last=False)
                self._total -= size
                gone.append(name)
        for one in gone:
            self._forget(one)
