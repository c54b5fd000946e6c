"""A training put together: its plan, the base model that it is for, and the others that train on that.

The one way to do it, in a server's job and in Python.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from caikit_pt.soft_prompt.artifact import TunedPrompt
from caikit_pt.tuning.crew import Crew
from caikit_pt.tuning.exams import Validated
from caikit_pt.tuning.joining import round_of
from caikit_pt.tuning.learner import Gradients, gradients
from caikit_pt.tuning.losses import losses
from caikit_pt.tuning.plan import TuningPlan
from caikit_pt.tuning.progress import Progress
from caikit_pt.tuning.snapshot import Snapshots
from caikit_pt.tuning.tuner import tune


class Training:
    """What `plan` says, once its base model is there."""

    def __init__(self, plan: TuningPlan, device: str = "") -> None:
        """Reads the base model, where the plan doesn't bring it along; `device`: other than the plan has it.

        Raises what `BaseModelPool.get` does.
        """
        self.plan = plan
        self.base = plan.base_model(device)

    def run(
        self,
        joined: bool,
        on_update: Callable[[Progress], None],
        on_validation: Callable[[Validated], None],
        snapshots: Snapshots | None = None,
        crew: Crew | None = None,
    ) -> TunedPrompt:
        """Minutes to hours. `joined`: with the others of this base model, unless it has a `crew`. Raises what
        `tune` does."""
        look = crew.losses if crew else losses
        with self._company(joined, crew) as compute:
            return tune(self.plan, self.base, on_update, compute, snapshots, on_validation, look)

    @contextmanager
    def _company(self, joined: bool, crew: Crew | None) -> Iterator[Gradients]:
        if crew:
            yield partial(gradients, backward=crew.backward)
        elif joined:
            with round_of(self.base).member() as together:
                yield together
        else:
            yield gradients
