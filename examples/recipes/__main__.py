"""A recipe, cooked: a source prompt of several tasks is trained and published, then adapted to each target.

python -m examples.recipes examples/recipes/mpt_t5_base.json --data FOLDER --base-model t5-base \\
    --source-name mpt --state DIRECTORY

Everything is looked through before anything is trained. The same command goes on from where it was ended.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from caikit_pt import PeftPromptTuning, settings
from caikit_pt.errors import CaikitPtError
from caikit_pt.parameters.tuning import MULTITASK_PROMPT_TUNING
from caikit_pt.soft_prompt.source_library import SourceLibrary
from caikit_pt.tuning.plan import TuningPlan, make_plan
from caikit_pt.tuning.preflight import preflight
from caikit_pt.tuning.source_plan import SourcePlan, TaskData, make_source_plan
from caikit_pt.tuning.source_training import SourceTraining, snapshots_in
from caikit_pt.tuning.training import Training
from examples.recipes.recipe import Data, Recipe, RecipeError, Task

# Of each data set, so many records stand for all in what is predicted.
_LOOKED_THROUGH = 2_000
_SECONDS_BETWEEN_LINES = 10.0
_METRICS = ("accuracy", "macro_f1", "exact_match", "rouge_l")


def main(arguments: Sequence[str] | None = None) -> int:
    """0 where all is trained and judged, 2 where something is missing or can't be used."""
    options = _options(arguments)
    try:
        kitchen = _Kitchen(options)
        kitchen.check()
        source = kitchen.source()
        _print_table([kitchen.adapted(task, source) for task in kitchen.targets])
    except (RecipeError, CaikitPtError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


class _Kitchen:
    """Where a recipe is cooked. What is done already is in the directory `--state`."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Raises RecipeError where a source task isn't in the directory of data."""
        self._recipe = Recipe.read(options.recipe)
        self._data = Data(self._recipe, options.data)
        self._data.check()
        self._state, self._name = options.state, options.source_name
        self._settings = settings.current()
        self._library = SourceLibrary(self._settings.source_prompt_base, "source-name")
        self._library.check_target(self._name)
        given = {"num_epochs": options.num_epochs, "num_virtual_tokens": options.num_virtual_tokens}
        self._given = {name: value for name, value in given.items() if value is not None}
        self._base = {"base_model": options.base_model}
        for told in self._data.missing_targets:
            print(f"not there, and left out: {told}", flush=True)

    @property
    def targets(self) -> list[Task]:
        """Those that there are data of."""
        return [task for task in self._recipe.targets if task.name in self._data.targets]

    def check(self) -> None:
        """Looks through all records, and prints what will come of them. Raises RecipeError, InvalidRecord and
        InvalidParameter."""
        plans = dict(self._source_plan.tasks)
        for task in self.targets:
            splits = self._data.targets[task.name]
            plans[task.name] = self._target_plan(task, {"prompt_tuning_init_method": "RANDOM"})
            list(task.records(splits.test))
        for name, plan in plans.items():
            found = preflight(plan, _LOOKED_THROUGH)
            told = "; ".join(["", *found.warnings])
            print(f"{name}: {found.records:,} records, {found.updates:,} updates alone{told}", flush=True)

    def source(self) -> str:
        """The version that the source is published as, trained now or the last time."""
        plan, done = self._source_plan, self._state / "source.json"
        if done.exists():
            known = json.loads(done.read_text("utf-8"))
            if known["digest"] == plan.digest:
                return str(known["name"])
        with snapshots_in(self._state / "source", self._settings) as snapshots:
            trained = SourceTraining(plan).run(_Lines("source"), snapshots=snapshots)
        name = trained.publish(self._name, library=self._library).name
        done.write_text(json.dumps({"digest": plan.digest, "name": name}), "utf-8")
        print(f"source published as {name}", flush=True)
        return name

    def adapted(self, task: Task, source: str) -> dict[str, Any]:
        """A row of the table: `task`, started from `source`, on records that it wasn't trained on."""
        start = {
            "prompt_tuning_init_method": "AVERAGE_SOURCE",
            "prompt_tuning_init_source_model": source,
        }
        plan = self._target_plan(task, start)
        place = self._state / "targets" / f"{task.name}-{_digest(plan)}"
        prompt = place / "prompt"
        if not prompt.exists():
            training = Training(plan)
            with snapshots_in(place, self._settings) as snapshots:
                tuned = training.run(False, _Lines(task.name), lambda _: None, snapshots)
            PeftPromptTuning(tuned, training.base).save(str(prompt))
        model = PeftPromptTuning.load(str(prompt))
        # As it was trained: a longer text is cut.
        most = plan.parameters.max_source_length
        records = task.records(self._data.targets[task.name].test)
        report = model.evaluate(records, truncate_input_tokens=most)
        scores = report["scores"]
        metric = next(name for name in _METRICS if name in scores["tuned"])
        return {
            "target": task.name,
            "metric": metric,
            "tuned": "{value:.3f} [{low:.3f}, {high:.3f}]".format(**scores["tuned"][metric]),
            "untuned base": "{value:.3f}".format(**scores["untuned"][metric]),
            "records": report["records"],
            "prompt": str(prompt),
        }

    @cached_property
    def _source_plan(self) -> SourcePlan:
        tasks = []
        for task in self._recipe.sources:
            train, validation = (task.file(self._data.folder, split) for split in ("train", "validation"))
            assert train, "which was looked for"
            tasks.append(
                TaskData(
                    name=task.name,
                    records=list(task.records(train)),
                    validation=list(task.records(validation)) if validation else None,
                    tuning_task=task.tuning_task,
                )
            )
        epochs = {"teacher_epochs": self._given["num_epochs"]} if "num_epochs" in self._given else {}
        request = {**self._recipe.source_parameters, **self._base, **self._given, **epochs}
        return make_source_plan(request, tasks, self._settings)

    def _target_plan(self, task: Task, start: Mapping[str, str]) -> TuningPlan:
        splits = self._data.targets[task.name]
        tokens = self._recipe.source_parameters.get("num_virtual_tokens")
        request = {
            "num_virtual_tokens": tokens,
            **self._recipe.target_parameters,
            **self._base,
            **self._given,
            **start,
            "tuning_type": MULTITASK_PROMPT_TUNING,
            "tuning_task": task.tuning_task,
        }
        validation = task.records(splits.validation) if splits.validation else None
        return make_plan(request, task.records(splits.train), validation, self._settings)


class _Lines:
    """A line every few seconds."""

    def __init__(self, what: str) -> None:
        self._what, self._next = what, time.monotonic()

    def __call__(self, progress: Any) -> None:
        if time.monotonic() >= self._next or progress.step == progress.steps:
            self._next = time.monotonic() + _SECONDS_BETWEEN_LINES
            print(
                f"{self._what}: update {progress.step:,} of {progress.steps:,}, loss {progress.loss:.4f}, "
                f"about {progress.eta_seconds:,.0f} s to go",
                flush=True,
            )


def _digest(plan: TuningPlan) -> str:
    """Of what decides what a training comes to, so that no snapshots are taken for others'."""
    parameters = {name: value for name, value in plan.parameters.to_dict().items() if name != "origins"}
    told = [plan.checkpoint.fingerprint, parameters, plan.records.digest]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]


def _print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        return
    print(f"\n| {' | '.join(rows[0])} |\n|{' --- |' * len(rows[0])}")
    for row in rows:
        print(f"| {' | '.join(map(str, row.values()))} |", flush=True)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.recipes", description=__doc__)
    parser.add_argument("recipe", type=Path, help="such as examples/recipes/mpt_t5_base.json")
    parser.add_argument("--data", type=Path, required=True, help="a directory with one for each data set")
    parser.add_argument("--base-model", required=True, help="as in BASE_MODELS_DIR")
    parser.add_argument("--source-name", required=True, help="what the source is published as")
    parser.add_argument("--state", type=Path, required=True, help="for snapshots and tuned prompts")
    parser.add_argument("--num-epochs", type=int, help="in the place of all that the recipe says")
    parser.add_argument("--num-virtual-tokens", type=int, help="in the place of the recipe's")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    sys.exit(main())
