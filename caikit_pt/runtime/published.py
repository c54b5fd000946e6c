"""The tuned prompts that are served: those in `runtime.local_models_dir`, and no other path."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import grpc
from caikit.runtime.model_management.loaded_model import LoadedModel
from caikit.runtime.model_management.model_manager import ModelManager
from caikit.runtime.types.caikit_runtime_exception import CaikitRuntimeException

from caikit_pt.errors import InvalidParameter, shown
from caikit_pt.paths import MAX_NAME_BYTES, check_model_name, inside
from caikit_pt.status import caikit_errors


class PublishedPrompts(ModelManager):
    """caikit's manager, once it has been made; caikit's own takes an id for any path of the machine."""

    def retrieve_model(self, model_id: str) -> Any:
        """Raises CaikitRuntimeException, NOT_FOUND where nothing has been published under `model_id`."""
        if model_id and model_id not in self.loaded_models and not self._holds(model_id):
            raise CaikitRuntimeException(grpc.StatusCode.NOT_FOUND, f"Model {shown(model_id)} not found")
        return super().retrieve_model(model_id)

    def load_model(self, model_id: str, local_model_path: str, *types: Any, **options: Any) -> LoadedModel:
        """Raises CaikitRuntimeException, INVALID_ARGUMENT where the path can't be one."""
        _check_path(local_model_path)
        return super().load_model(model_id, local_model_path, *types, **options)

    def estimate_model_size(self, model_id: str, local_model_path: str, model_type: str) -> int:
        """Raises CaikitRuntimeException, INVALID_ARGUMENT where the path can't be one."""
        _check_path(local_model_path)
        return int(super().estimate_model_size(model_id, local_model_path, model_type))

    def deploy_model(self, model_id: str, model_files: dict[str, bytes], **options: Any) -> LoadedModel:
        """Raises CaikitRuntimeException, INVALID_ARGUMENT where the id is no plain name."""
        with caikit_errors():
            check_model_name(model_id)
        return super().deploy_model(model_id, model_files, **options)

    def undeploy_model(self, model_id: str) -> None:
        """Raises CaikitRuntimeException, INVALID_ARGUMENT where the id is no plain name."""
        with caikit_errors():
            check_model_name(model_id)
        super().undeploy_model(model_id)

    def _holds(self, model_id: str) -> bool:
        try:
            path = inside(self._local_models_dir, model_id, "mm-model-id")
        except InvalidParameter:
            return False
        half_written = any(part.startswith(".") for part in path.parts[-1:])
        return not half_written and ((path / "config.yml").is_file() or _is_archive(path))


def _is_archive(path: Path) -> bool:
    return path.is_file() and zipfile.is_zipfile(path)


def _check_path(path: str) -> None:
    with caikit_errors():
        if "\0" in path or any(len(part.encode()) > MAX_NAME_BYTES for part in path.split("/")):
            raise InvalidParameter("modelPath", path, f"a path of names of up to {MAX_NAME_BYTES} bytes")
        # caikit would wait for what a pipe has to say.
        if Path(path).exists() and not (Path(path).is_dir() or Path(path).is_file()):
            raise InvalidParameter("modelPath", path, "a directory, or an archive of one")
