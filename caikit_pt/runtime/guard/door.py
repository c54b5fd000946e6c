"""The RPCs of this server: what each is for, which threads answer it, and what its request names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import inf
from pathlib import PurePath
from typing import Any

from caikit_pt.errors import InvalidParameter, UnknownJob, UnknownModel
from caikit_pt.paths import check_plain_name, check_source_name
from caikit_pt.settings import ACTIONS

# What a principal may be allowed to do.
GENERATE, TUNE, WATCH, CANCEL, SHARE, DEPLOY = ACTIONS
# What anybody may do whom this server knows, and what even others may.
KNOW, PROBE = "know", "probe"
# What changes nothing, costs little, and comes again and again.
LOOKS = (WATCH, KNOW, PROBE)

# The lanes (lane.py) that RPCs are answered in.
ANSWERS, STREAMS, WATCHES, TRAININGS, CONTROL = "answers", "streams", "watches", "trainings", "control"
HEALTH, HEALTH_WATCHES, REFLECTION = "health", "health-watches", "reflection"
# When the server ends, nobody in these is waited for: of a conversation, until something has been asked.
NOT_AWAITED = (HEALTH, HEALTH_WATCHES, REFLECTION)

MODEL_ID = "mm-model-id"
_SMALL, _WITH_RECORDS = 4 * 2**20, 0  # bytes of a message; 0: as gRPC's own limit has it
_NAME_ALONE = 1024


@dataclass(frozen=True, slots=True)
class Door:
    """One RPC. `models`, `reads`, `trainings` and `sources` are fields of its request that hold a name: of
    models that it is about, of models that it looks at, of trainings and of source prompts."""

    action: str
    lane: str
    models: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    trainings: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    # Names of source prompts that it is about as others are about models.
    shares: tuple[str, ...] = ()
    by_metadata: bool = False
    # It is about all models, whatever its request names.
    of_all: bool = False
    # It is about no model, a look for those who may do this with any.
    of_any: bool = False
    most_bytes: int = _SMALL
    # Of a stream of requests.
    most_messages: int = 1000
    # Under way at the same time; 0: quotas and lanes alone say how many.
    most_per_client: int = 0
    # The first of these is cancelled for one more, which is refused else.
    give_way: bool = False
    # For a message to arrive, where max_message_seconds allows more.
    most_seconds: float = inf
    # The setting that opens it, where it is closed without.
    opened_by: str = ""
    # What is done to an answer before a caller has it.
    told: Callable[[Any], None] | None = None

    @property
    def is_look(self) -> bool:
        """Whether it changes nothing, costs little, and comes again and again."""
        return self.action in LOOKS or self.of_any

    def named(self, message: Any, metadata: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, str]]:
        """What is done to which models. Raises InvalidParameter, UnknownModel or UnknownJob for no name."""
        for field in self.sources:
            check_source_name(_value(message, field), field)
        for field in self.trainings:
            _checked_id(_value(message, field), UnknownJob)
        if self.by_metadata:
            for key, value in metadata:
                if key == MODEL_ID and value:
                    yield self.action, _checked_id(value, UnknownModel)
        for field in self.models:
            if name := _value(message, field):
                yield self.action, check_plain_name(name, field)
        for field in self.shares:
            yield self.action, check_source_name(_value(message, field), field)
        for field in self.reads:
            if name := _value(message, field):
                yield GENERATE, check_plain_name(name, field.rpartition(".")[2])


def _value(message: Any, field: str) -> str:
    for part in field.split("."):
        message = getattr(message, part)
    return str(message)


def _checked_id(id: Any, unknown: type[UnknownJob | UnknownModel]) -> str:
    """Raises `unknown` where nothing can have this id: caikit's clients know that as NOT_FOUND."""
    try:
        return check_plain_name(id)
    except InvalidParameter as error:
        raise unknown(id) from error


def _without_places(models: Any) -> None:
    """Where they lie on this machine is no caller's business."""
    for model in models.models:
        model.model_path = PurePath(model.model_path).name


_PREDICT = Door(GENERATE, ANSWERS, by_metadata=True)
_PREDICT_STREAM = Door(GENERATE, STREAMS, by_metadata=True)
_TUNE = Door(
    TUNE,
    TRAININGS,
    models=("model_name",),
    reads=("parameters.prompt_tuning_init_prompt",),
    most_bytes=_WITH_RECORDS,
)
# What it publishes, trainings of everybody may start from.
_SHARE = Door(SHARE, TRAININGS, shares=("name",), most_bytes=_WITH_RECORDS)
# The ids of jobs say nothing of whose they are, and neither does the path of a model that is loaded.
_OF_JOBS = Door(
    GENERATE,
    CONTROL,
    by_metadata=True,
    of_all=True,
    opened_by="runtime.service_generation.enable_inference_jobs",
)
_MANAGEMENT = Door(
    DEPLOY, CONTROL, models=("model_id",), most_bytes=_WITH_RECORDS, opened_by="model_management_rpcs"
)
_MODEL_MESH = Door(DEPLOY, CONTROL, models=("modelId",), of_all=True, opened_by="model_management_rpcs")

_CHECK = Door(PROBE, HEALTH, most_bytes=_NAME_ALONE, most_per_client=12, give_way=True, most_seconds=5.0)
_WATCH = Door(PROBE, HEALTH_WATCHES, most_bytes=_NAME_ALONE, most_per_client=8, most_seconds=5.0)
_REFLECT = Door(KNOW, REFLECTION, most_bytes=64 * 1024, most_per_client=4, opened_by="reflection")

_SERVICES: dict[str, dict[str, Door]] = {
    r"caikit\.runtime\.\w+\.\w+JobService": {r"\w+": _OF_JOBS},
    r"caikit\.runtime\.\w+\.\w+TrainingService": {r"\w+Train": _TUNE},
    r"caikit\.runtime\.models\.ModelManagement": {r"\w+": _MANAGEMENT},
    r"mmesh\.ModelRuntime": {
        "runtimeStatus": Door(KNOW, CONTROL, opened_by="model_management_rpcs"),
        r"\w+": _MODEL_MESH,
    },
    r"caikit\.runtime\.training\.TrainingManagement": {
        "GetTrainingStatus": Door(WATCH, CONTROL, trainings=("training_id",)),
        "CancelTraining": Door(CANCEL, TRAININGS, trainings=("training_id",)),
    },
    r"caikit\.runtime\.info\.InfoService": {
        "GetModelsInfo": Door(DEPLOY, CONTROL, of_all=True, told=_without_places),
        r"\w+": Door(KNOW, CONTROL),
    },
    r"caikit_pt\.TuningService": {
        "WatchTraining": Door(WATCH, WATCHES, trainings=("training_id",)),
        "ListTrainings": Door(WATCH, CONTROL),
        "GetTraining": Door(WATCH, CONTROL, trainings=("training_id",)),
        "CheckTraining": _TUNE,
        "ListSources": Door(TUNE, CONTROL, of_any=True),
        # The whole file is read.
        "GetSource": Door(TUNE, TRAININGS, sources=("name",), of_any=True),
        "TrainSource": _SHARE,
        "CheckSourceTraining": _SHARE,
        "PauseTraining": Door(CANCEL, TRAININGS, trainings=("training_id",)),
        "ResumeTraining": Door(CANCEL, CONTROL, trainings=("training_id",)),
        "ListPrompts": Door(GENERATE, CONTROL, of_any=True),
        # A tokenizer is read.
        "GetPrompt": Door(GENERATE, TRAININGS, models=("model_name",)),
        # Who may put another in its place may have it.
        "RemovePrompt": Door(TUNE, TRAININGS, models=("model_name",)),
        "DownloadPrompt": Door(TUNE, WATCHES, models=("model_name",)),
        "Tokenize": Door(GENERATE, ANSWERS, models=("model_name",)),
        "Detokenize": Door(GENERATE, ANSWERS, models=("model_name",)),
        "Describe": Door(KNOW, CONTROL),
        "ListNodes": Door(KNOW, CONTROL),
        "Evaluate": Door(GENERATE, WATCHES, models=("model_name", "against"), most_bytes=_WITH_RECORDS),
    },
    r"caikit\.runtime\.\w+\.\w+Service": {
        r"ServerStreaming\w+TaskPredict": _PREDICT_STREAM,
        r"\w+TaskPredict": _PREDICT,
    },
    r"grpc\.health\.v1\.Health": {"Watch": _WATCH, "Check": _CHECK},
    r"grpc\.reflection\.v1\w*\.ServerReflection": {r"\w+": _REFLECT},
}


def door_of(method: str) -> Door | None:
    """That of an RPC by its whole name, /PACKAGE.SERVICE/METHOD; None where there is none."""
    service, _, name = method.removeprefix("/").partition("/")
    for pattern, doors in _SERVICES.items():
        if re.fullmatch(pattern, service):
            return next((door for one, door in doors.items() if re.fullmatch(one, name)), None)
    return None
