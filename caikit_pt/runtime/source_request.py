"""What a TrainSourceRequest asks for, as a plan of a source training takes it."""

from __future__ import annotations

from typing import Any

from caikit_pt.runtime.tuning_messages import SourceTrainingTask
from caikit_pt.tuning.source_plan import TaskData
from caikit_pt.turns import at_work


def parameters_of(request: Any) -> dict[str, Any]:
    """Those that the message sets, by name."""
    # caikit's messages don't know what isn't set.
    given = {
        field.name: list(value) if field.is_repeated else value
        for field, value in request.parameters.ListFields()
    }
    return {**given, **({"base_model": request.base_model} if request.base_model else {})}


def tasks_of(request: Any) -> list[TaskData]:
    """Those that the message has, whose records aren't read yet."""
    with at_work():
        tasks = [SourceTrainingTask.from_proto(task) for task in request.tasks]
    return [
        TaskData(
            name=task.name,
            records=() if task.train_stream is None else task.train_stream,
            validation=task.val_stream,
            verbalizer=task.verbalizer,
            input_field=task.input_field,
            output_field=task.output_field,
            tuning_task=task.tuning_task,
        )
        for task in tasks
    ]
