"""The trainer that caikit's train RPC hands a request to.

A request is checked before a job exists, so that a bad one is refused by the RPC itself. The job
then runs in a thread of the server, and its prompt is published under its name when it is done.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
import uuid
from datetime import datetime
from pathlib import Path
from typing import Any

import aconfig
import caikit
from caikit.core.model_management.job_base import JobInfo
from caikit.core.model_management.local_model_trainer import LocalModelTrainer

from caikit_pt.base_model.pool import import_libraries
from caikit_pt.errors import InvalidParameter
from caikit_pt.module import PeftPromptTuning
from caikit_pt.paths import check_model_name
from caikit_pt.runtime.status import caikit_errors
from caikit_pt.tuning.plan import TuningPlan
from caikit_pt.tuning.verdict import in_words

_LOG = logging.getLogger(__name__)


class PromptTuningTrainer(LocalModelTrainer):
    """caikit's local trainer, with the checks in front and the publication behind."""

    name = "PROMPT_TUNING"

    def __init__(self, config: aconfig.Config, instance_name: str) -> None:
        super().__init__(config, instance_name)
        # At boot, in one thread: the first requests come in many.
        import_libraries()

    class LocalModelFuture(LocalModelTrainer.LocalModelTrainFuture):
        """A tuning that runs in a thread."""

        @classmethod
        def _save_path_with_id(cls, save_path: str, *_: Any) -> str:
            """The path as `train` made it: caikit leaves out a name that occurs in its root."""
            return save_path

        def run(self, plan: TuningPlan) -> None:
            """Tunes and publishes. Nothing is kept in memory: `load` reads what was published."""
            self._told = list(plan.warnings)
            try:
                model = self._module_class.from_plan(plan)
                self._told += [*model.tuned.warnings, *in_words(model.tuned.verdict)]
                model.save(self.save_path)
                _forget(self.save_path)
            except BaseException as error:
                _LOG.info("training of %s ended early", Path(self.save_path).name, exc_info=True)
                _let_go_of_frames(error)
                raise
            finally:
                self._completion_time = datetime.now()
                # What a finished job keeps would keep the records and the base model in memory.
                self._worker.runnable_args, self._worker.runnable_kwargs = (), {}
                model = None
                del plan

        def get_info(self) -> JobInfo:
            """The state of the job; its warnings and the verdict stand among the reasons."""
            info = super().get_info()
            told = [UserWarning(text) for text in getattr(self, "_told", ())]
            info.errors = [*(info.errors or ()), *told] or None
            return info

        def load(self) -> Any:
            """The tuned model, read from where it was published; raises what the job raised."""
            self.wait()
            self._worker.get_or_throw()
            return caikit.load(self.save_path)

    def train(
        self,
        module_class: type[PeftPromptTuning],
        *args: Any,
        save_path: Any = None,
        model_name: str | None = None,
        save_with_id: bool = False,
        external_training_id: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Checks the request and starts the job. Raises CaikitRuntimeException for a bad request."""
        with caikit_errors():
            check_model_name(model_name or "")
            if not isinstance(save_path, str):
                raise InvalidParameter(
                    "output_path",
                    "an S3 path",
                    "unset; trained models are published in runtime.training.output_dir",
                )
        training_id = external_training_id or str(uuid.uuid4())
        parts = [save_path, *([training_id] if save_with_id else []), str(model_name)]
        return super().train(
            module_class,
            save_path=os.path.join(*parts),
            model_name=model_name,
            external_training_id=training_id,
            plan=module_class.plan(*args, **kwargs),
        )


def _let_go_of_frames(error: BaseException | None) -> None:
    """Empties the frames of an error that a job keeps: they hold the base model and the records."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        # A cleared frame still has its function, and with it whatever that one closes over.
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def _forget(path: str) -> None:
    """Unloads what the server has loaded from `path`: the next request gets what is there now."""
    models = sys.modules.get("caikit.runtime.model_management.model_manager")
    if models is None:
        return
    manager = models.ModelManager.get_instance()
    published = Path(path).resolve()
    for name, model in list(manager.loaded_models.items()):
        if Path(model.path()).resolve() == published:
            manager.unload_model(name)
