"""The tuned prompts that are served: those in `runtime.local_models_dir`, and no other path."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from caikit.runtime.model_management.loaded_model import LoadedModel
from caikit.runtime.model_management.model_manager import LOCAL_MODEL_TYPE, ModelManager
from caikit.runtime.types.caikit_runtime_exception import CaikitRuntimeException

from caikit_pt import settings
from caikit_pt.errors import InvalidParameter, OutOfMemory, StateUnavailable, UnknownModel, shown
from caikit_pt.module import PeftPromptTuning
from caikit_pt.paths import check_plain_name, check_scarcity, inside
from caikit_pt.runtime.room import Room
from caikit_pt.soft_prompt.config_file import CONFIG, is_of
from caikit_pt.soft_prompt.publication import adding, publication_of
from caikit_pt.status import caikit_errors


class PublishedPrompts(ModelManager):
    """caikit's manager, once it has been made; caikit's own takes an id for any path of the machine."""

    def __init__(self) -> None:
        super().__init__()
        now = settings.current()
        self._room = Room(now.loaded_prompts_mib * 2**20, self._forget, now.preload)

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
            if not self._makes_room(error.__cause__):
                raise
            return self.retrieve_model(model_id)
        if self._is_stale(model_id, model):
            self._forget(model_id)
            return self.retrieve_model(model_id)
        self._room.use(model_id, model)
        return model

    def _is_stale(self, model_id: str, model: Any) -> bool:
        """Whether another server has replaced or removed what this one has loaded."""
        loaded, known = self.loaded_models.get(model_id), getattr(model, "publication", None)
        return loaded is not None and known is not None and publication_of(Path(loaded.path())) != known

    def _makes_room(self, error: BaseException | None) -> bool:
        """For a base model that memory had none for, where it is told how much."""
        if not isinstance(error, OutOfMemory) or not error.missing_bytes:
            return False
        return self._room.make_room(error.device, error.missing_bytes)

    def load_model(self, model_id: str, local_model_path: str, *types: Any, **options: Any) -> LoadedModel:
        """Raises CaikitRuntimeException: INVALID_ARGUMENT where the path can't be one, NOT_FOUND where no
        tuned prompt is there, DATA_LOSS where it is damaged."""
        path = self._confined(local_model_path)
        with caikit_errors():
            _check_ours(model_id, Path(path))
        return super().load_model(model_id, path, *types, **options)

    def estimate_model_size(self, model_id: str, local_model_path: str, model_type: str) -> int:
        """Raises CaikitRuntimeException, INVALID_ARGUMENT where the path can't be one."""
        return int(super().estimate_model_size(model_id, self._confined(local_model_path), model_type))

    def deploy_model(self, model_id: str, model_files: dict[str, bytes], **options: Any) -> LoadedModel:
        """Raises CaikitRuntimeException: INVALID_ARGUMENT where the id or a file's name is no plain name,
        ALREADY_EXISTS, UNAVAILABLE where they can't be written, NOT_FOUND where the files are no tuned
        prompt; they aren't kept then."""
        with caikit_errors():
            check_plain_name(model_id, "model_id")
            for name in model_files:
                check_plain_name(name, "model_files.filename")
            place = inside(self._local_models_dir, model_id, "model_id")
        with _writing(model_id), adding(place) as new:
            for name, content in model_files.items():
                (new / name).write_bytes(content)
            # Before it has its name: nothing has to be taken back, which could be another's by then.
            with caikit_errors():
                _check_ours(model_id, new)
        return self.load_model(model_id, str(place), LOCAL_MODEL_TYPE, **options)

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
            try:
                return str(inside(root, path and os.path.relpath(path, root), "modelPath"))
            except InvalidParameter as error:
                allowed = "a path in runtime.local_models_dir"
                raise InvalidParameter(error.field, path, allowed) from None


def _check_ours(model_id: str, directory: Path) -> None:
    """Raises UnknownModel where another module, or none, has saved it."""
    if not is_of(PeftPromptTuning.MODULE_ID, directory):
        raise UnknownModel(model_id, "is no tuned prompt")


@contextmanager
def _writing(model_id: str) -> Iterator[None]:
    """Raises CaikitRuntimeException for what a disk says."""
    try:
        yield
    except FileExistsError:
        told = f"Model {shown(model_id)} already exists"
        raise CaikitRuntimeException(grpc.StatusCode.ALREADY_EXISTS, told) from None
    except OSError as error:
        with caikit_errors():
            check_scarcity(error)
            told = f"The model isn't deployed, since it can't be written: {error.strerror or error}"
            raise StateUnavailable(told) from error
