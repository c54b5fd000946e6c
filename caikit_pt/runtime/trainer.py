"""The trainer that caikit's train RPC hands a request to.

A request is checked before a job exists, so that a bad one is refused by the RPC itself. The job
then runs in a thread of the server, and its prompt is published under its name when it is done.
"""

from __future__ import annotations

import sys
from datetime import datetime
from typing import Any

import caikit
from caikit.core.model_management.local_model_trainer import LocalModelTrainer

from caikit_pt.errors import InvalidParameter
from caikit_pt.module import PeftPromptTuning
from caikit_pt.paths import check_model_name
from caikit_pt.runtime.status import caikit_errors
from caikit_pt.tuning.plan import TuningPlan


class PromptTuningTrainer(LocalModelTrainer):
    """caikit's local trainer, with the checks in front and the publication behind."""

    name = "PROMPT_TUNING"

    class LocalModelFuture(LocalModelTrainer.LocalModelTrainFuture):
        """A tuning that runs in a thread."""

        def run(self, plan: TuningPlan) -> None:
            """Tunes and publishes. Nothing is kept in memory: `load` reads what was published."""
            try:
                self._module_class.from_plan(plan).save(self.save_path)
                _forget(self.save_path)
            finally:
                self._completion_time = datetime.now()

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
        return super().train(
            module_class,
            save_path=save_path,
            save_with_id=save_with_id,
            model_name=model_name,
            external_training_id=external_training_id,
            plan=module_class.plan(*args, **kwargs),
        )


def _forget(path: str) -> None:
    """Unloads what the server has loaded from `path`: the next request gets what is there now."""
    models = sys.modules.get("caikit.runtime.model_management.model_manager")
    if models is None:
        return
    manager = models.ModelManager.get_instance()
    stale = [name for name, model in manager.loaded_models.items() if model.path() == path]
    for name in stale:
        manager.unload_model(name)
