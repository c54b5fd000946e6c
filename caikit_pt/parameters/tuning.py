"""The parameters of a train request, and what they resolve to.

Sources of the defaults: *studio* is the tuning page of IBM's prompt-tuning studio, *parameter
document* is caikit-nlp's prompt_tuning_parameter_selection.md, *Lester* is arXiv 2104.08691 and
*MPT* is arXiv 2303.02861.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from caikit_pt.errors import InvalidParameter
from caikit_pt.parameters.table import Limits, Parameter, ParameterTable

PROMPT_TUNING = "PROMPT_TUNING"
MULTITASK_PROMPT_TUNING = "MULTITASK_PROMPT_TUNING"

RANDOM = "RANDOM"
TEXT = "TEXT"
SAMPLE_VOCAB = "SAMPLE_VOCAB"
AVERAGE_SOURCE = "AVERAGE_SOURCE"
ONLY_SOURCE_SHARED = "ONLY_SOURCE_SHARED"
EXACT_SOURCE_TASK = "EXACT_SOURCE_TASK"
# peft's and caikit-nlp's name for AVERAGE_SOURCE.
AVERAGE_SOURCE_TASKS = "AVERAGE_SOURCE_TASKS"

# Never named in a request: the method of prompt_tuning_init_prompt.
TUNED_PROMPT = "TUNED_PROMPT"

SOURCE_INIT_METHODS = (AVERAGE_SOURCE, AVERAGE_SOURCE_TASKS, ONLY_SOURCE_SHARED, EXACT_SOURCE_TASK)

ENCODER = "ENCODER"
DECODER = "DECODER"

CLASSIFICATION, GENERATION = "classification", "generation"

OFF, AUTO = "off", "auto"
NONE, RESIDUAL = "none", "residual"
ADAMW, ADAFACTOR = "adamw", "adafactor"
LINEAR, CONSTANT = "linear", "constant"

DTYPES = ("float32", "float16", "bfloat16")
MANY_EPOCHS = 50
MAX_VIRTUAL_TOKENS = 4096
# What is split off to validate with by default.
VALIDATION_SHARE = 0.1
FEWEST_TO_SPLIT, MOST_SPLIT_OFF = 50, 200
_CONFIG = "tuning_config"
_TASK, _TASK_NAME = "prompt_tuning_init_task", "prompt_tuning_init_task_name"
# Of instructions around an input, or a text to start from: ten pages.
_LONGEST_TEXT = 32_768

TUNING_PARAMETERS = ParameterTable(
    Parameter(
        "base_model",
        str,
        "The frozen model: a directory under `base_models_dir`, or a name in the Hugging Face cache.",
        source="required",
    ),
    Parameter(
        "num_virtual_tokens",
        int,
        "Rows of the soft prompt. A source prompt sets it; a value that differs from it is refused.",
        default=100,
        source="Lester, MPT",
        low=1,
        high=MAX_VIRTUAL_TOKENS,
        path=_CONFIG,
    ),
    Parameter(
        "prompt_tuning_init_method",
        str,
        "What the soft prompt starts from. The last four need MULTITASK_PROMPT_TUNING and a source.",
        default=RANDOM,
        source="studio, parameter document",
        choices=(RANDOM, TEXT, SAMPLE_VOCAB, *SOURCE_INIT_METHODS),
        path=_CONFIG,
    ),
    Parameter(
        "prompt_tuning_init_text",
        str,
        "The text that TEXT starts from, repeated or cut to the number of virtual tokens. "
        "Required for TEXT, else ignored.",
        source="required for TEXT",
        longest=_LONGEST_TEXT,
        path=_CONFIG,
    ),
    Parameter(
        "prompt_tuning_init_source_model",
        str,
        "The source prompt, relative to `source_prompt_base`: NAME is its newest version, NAME/2 that one. "
        "auto: the start is chosen by a trial among all sources for the base model and their tasks (an init "
        "method says among which), at no more than a tenth of the training's cost. Ignored unless the tuning "
        "type is MULTITASK_PROMPT_TUNING and, but for auto, the init method starts from a source.",
        source="the base model's default source prompt, else the newest that is published for it",
        path=_CONFIG,
    ),
    Parameter(
        _TASK,
        int,
        "The task of the source prompt that EXACT_SOURCE_TASK starts from; 0 is the first. In Python and "
        "at a command line also its name.",
        default=0,
        source="peft; the index of `prompt_tuning_init_task_name`",
        low=0,
        path=_CONFIG,
    ),
    Parameter(
        _TASK_NAME,
        str,
        "The same by its name.",
        default="",
        source="caikit_pt",
        path=_CONFIG,
    ),
    Parameter(
        "output_model_types",
        str,
        "Where soft prompts go: causal models have a DECODER; seq2seq models have an ENCODER, a "
        "DECODER or both, each trained for itself.",
        source="DECODER for causal models, ENCODER for seq2seq models (parameter document)",
        choices=(ENCODER, DECODER),
        many=True,
        path=_CONFIG,
    ),
    Parameter(
        "device",
        str,
        "cpu, cuda or cuda:N.",
        source="the setting `device`: cuda where there is one, else cpu",
    ),
    Parameter(
        "tuning_type",
        str,
        "Plain prompt tuning, or a shared prompt times a rank-one task matrix.",
        default=PROMPT_TUNING,
        source="parameter document",
        choices=(PROMPT_TUNING, MULTITASK_PROMPT_TUNING),
    ),
    Parameter(
        "num_epochs",
        int,
        f"Passes over the training records. Above {MANY_EPOCHS} a warning stands in the status.",
        default=20,
        source="studio, parameter document",
        low=1,
        high=10_000,
    ),
    Parameter(
        "learning_rate",
        float,
        "The highest; `lr_scheduler_type` says how it goes. Small models train with 0.1 to 1, large causal "
        "models want far less: a preset, or `search`.",
        default=0.3,
        source="studio; Lester",
        low=0,
        high=10,
        above_low=True,
    ),
    Parameter(
        "verbalizer",
        str,
        "The text that the model is given: a template around `{{input}}`.",
        default="{{input}}",
        source="parameter document",
        longest=_LONGEST_TEXT,
    ),
    Parameter(
        "batch_size",
        int,
        "Records in a batch; batch_size times accumulate_steps make one update. How many share a forward "
        "pass is decided by their lengths and by memory.",
        default=8,
        source="parameter document",
        low=1,
        high=1024,
    ),
    Parameter(
        "max_source_length",
        int,
        "Tokens of the verbalised input that are kept.",
        default=256,
        source="parameter document",
        low=1,
        high=1_000_000,
    ),
    Parameter(
        "max_target_length",
        int,
        "Tokens of the output that are kept; the end token comes on top.",
        default=128,
        source="parameter document",
        low=1,
        high=1_000_000,
    ),
    Parameter(
        "accumulate_steps",
        int,
        "Batches to one update. The last update of an epoch may have fewer.",
        default=1,
        source="with 32, as caikit-nlp has it, small data sets get almost no updates",
        low=1,
        high=1024,
    ),
    Parameter(
        "torch_dtype",
        str,
        "Of the frozen model. The soft prompt is float32 always.",
        source="the setting `torch_dtype`: the checkpoint's own on a GPU, float32 on a CPU",
        choices=DTYPES,
    ),
    Parameter(
        "silence_progress_bars",
        bool,
        "No progress bar in a notebook or shell. A server never shows one.",
        default=True,
        source="caikit-nlp",
    ),
    Parameter(
        "seed",
        int,
        "Of the initial prompt and of the order of the records.",
        default=73,
        source="caikit-nlp",
        low=0,
        high=2**63 - 1,
    ),
    Parameter(
        "tuning_task",
        str,
        "What the records are for; chooses the row of `tuning_presets`. Answers to a classification are "
        "confined to its labels.",
        source="classification for ClassificationTrainRecords and where outputs are few and repeated, else "
        "generation",
        choices=(CLASSIFICATION, GENERATION, "summarization"),
    ),
    Parameter(
        "task_learning_rate",
        float,
        "Of the task vectors u and v of MULTITASK_PROMPT_TUNING, factors of whole columns and rows.",
        source="a thirtieth of learning_rate; MPT's 4/3 (from memory) undoes what sources have learnt",
        low=0,
        high=10,
        above_low=True,
    ),
    Parameter(
        "search",
        str,
        "auto: learning rate, initialisation and prompt length are searched by successive halving, judged on "
        "held-out loss; what the request names stays as it is. Costs less than three trainings.",
        default=OFF,
        source="caikit_pt",
        choices=(OFF, AUTO),
    ),
    Parameter(
        "reparameterization",
        str,
        "residual: while it is tuned, the prompt passes through a small network with a skip connection "
        "(Razdaibiedina 2023); afterwards it is a plain prompt. For PROMPT_TUNING.",
        default=NONE,
        source="Lester",
        choices=(NONE, RESIDUAL),
    ),
    Parameter(
        "optimizer",
        str,
        "adamw, or adafactor without parameter scaling, as Lester et al. have it.",
        default=ADAMW,
        source="caikit-nlp",
        choices=(ADAMW, ADAFACTOR),
    ),
    Parameter(
        "lr_scheduler_type",
        str,
        "linear: to zero after the last update; constant. Both behind the warm-up.",
        source="linear for adamw (caikit-nlp), constant for adafactor (Lester)",
        choices=(LINEAR, CONSTANT),
    ),
    Parameter(
        "warmup_ratio",
        float,
        "Share of the updates in which the learning rate rises to its highest.",
        default=0.0,
        source="caikit-nlp",
        low=0,
        high=0.9,
    ),
    Parameter(
        "max_grad_norm",
        float,
        "The norm that gradients are clipped to; 0: they aren't.",
        default=0.0,
        source="caikit-nlp",
        low=0,
        high=1_000_000,
    ),
    Parameter(
        "weight_decay",
        float,
        "Of the prompt. It pulls towards zero, which isn't where words are.",
        default=0.0,
        source="caikit-nlp",
        low=0,
        high=1,
    ),
    Parameter(
        "validation_share",
        float,
        "Share of the training records that is split off by seed to validate with, where there is no "
        "val_stream. 0: none.",
        source=f"0.1, and at most {MOST_SPLIT_OFF} records; 0 with fewer than {FEWEST_TO_SPLIT} records",
        low=0,
        high=0.5,
    ),
    Parameter(
        "validation_steps",
        int,
        "Updates between two validations; 0: after every epoch.",
        default=0,
        source="caikit_pt",
        low=0,
        high=1_000_000,
    ),
    Parameter(
        "early_stopping_patience",
        int,
        "Validations in a row without a better loss that end the training; 0: none do. Whether it ends early "
        "or not, the prompt with the best validation loss is kept; where answers are labels, the mean of the "
        "last quarter's, if there is one and its answers aren't clearly worse.",
        default=0,
        source="caikit_pt",
        low=0,
        high=10_000,
    ),
    Parameter(
        "input_field",
        str,
        "The field of records in files that is the input; empty: `input`, or what README's Data names.",
        default="",
        source="caikit_pt",
    ),
    Parameter(
        "output_field",
        str,
        "The field of records in files that is the output.",
        default="",
        source="caikit_pt",
    ),
    Parameter(
        "separator",
        str,
        "What stands between the verbalized text and the answer; part of the tuned prompt. A space at its "
        "end belongs to the first word of the answer. Empty: nothing.",
        source="by the kind of base model and the task: docs/quality.md",
    ),
    Parameter(
        "prompt_tuning_init_prompt",
        str,
        "A tuned prompt that is published on the server, to go on from: its rows are the initial ones, and "
        "what the request doesn't name of base model, virtual tokens, output model types, verbalizer, "
        "separator, maximum lengths and task is taken from it. In Python also a PeftPromptTuning, or the "
        "Path of one.",
        default="",
        source="caikit_pt",
    ),
)

PRESET_PARAMETERS = ("batch_size", "accumulate_steps", "learning_rate", "num_epochs")
# u and v are factors, and an adaptive optimiser moves each by about its rate: at MPT's 0.4, beside rows at
# 0.3, they undo within a few updates what a source prompt has learnt (docs/log.md).
_TASK_LEARNING_RATE_SHARE = 1 / 30


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningParameters:
    """Everything a training run depends on, each value checked and resolved.

    `origins` says for each name where its value came from: "request", "default", "preset ..." or
    what else decided.
    """

    base_model: str
    tuning_type: str
    tuning_task: str
    num_virtual_tokens: int
    prompt_tuning_init_method: str
    prompt_tuning_init_text: str
    prompt_tuning_init_source_model: str
    prompt_tuning_init_task: int
    output_model_types: tuple[str, ...]
    device: str
    torch_dtype: str
    num_epochs: int
    learning_rate: float
    task_learning_rate: float
    batch_size: int
    accumulate_steps: int
    max_source_length: int
    max_target_length: int
    verbalizer: str
    silence_progress_bars: bool
    seed: int
    search: str
    reparameterization: str
    optimizer: str
    lr_scheduler_type: str
    warmup_ratio: float
    max_grad_norm: float
    weight_decay: float
    validation_share: float
    validation_steps: int
    early_stopping_patience: int
    # Jobs that were queued by a release without them have none.
    input_field: str = ""
    output_field: str = ""
    separator: str = ""
    prompt_tuning_init_prompt: str = ""
    prompt_tuning_init_task_name: str = ""
    origins: Mapping[str, str]

    @property
    def window(self) -> int:
        """Records to one update."""
        return self.batch_size * self.accumulate_steps

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they are written beside a tuned prompt."""
        return {**asdict(self), "output_model_types": list(self.output_model_types)}


def check_request(request: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    """The values that a train request sets, each in its range.

    What can be judged without a base model is judged here. Raises InvalidParameter.
    """
    given = TUNING_PARAMETERS.check(task_by_name(request), limits)
    if not (given.get("base_model") or given.get("prompt_tuning_init_prompt")):
        raise InvalidParameter("base_model", given.get("base_model", ""), "the name of a base model")
    if given.get("prompt_tuning_init_prompt"):
        _check_nothing_else_to_start_from(given)
    method = given.get("prompt_tuning_init_method", RANDOM)
    if method == AVERAGE_SOURCE_TASKS:
        method = given["prompt_tuning_init_method"] = AVERAGE_SOURCE
    tuning_type = given.get("tuning_type", PROMPT_TUNING)
    if method in SOURCE_INIT_METHODS and tuning_type != MULTITASK_PROMPT_TUNING:
        raise InvalidParameter(
            "tuning_config.prompt_tuning_init_method",
            method,
            f"{RANDOM}, {TEXT}, {SAMPLE_VOCAB} with tuning_type {tuning_type}; a source prompt "
            f"needs {MULTITASK_PROMPT_TUNING}",
        )
    if method == TEXT and not given.get("prompt_tuning_init_text", "").strip():
        raise InvalidParameter(
            "tuning_config.prompt_tuning_init_text",
            given.get("prompt_tuning_init_text", ""),
            "text to start from, because prompt_tuning_init_method is TEXT",
        )
    types = given.get("output_model_types", ())
    if len(set(types)) != len(types):
        raise InvalidParameter("tuning_config.output_model_types", list(types), "each type once")
    if "task_learning_rate" in given and tuning_type != MULTITASK_PROMPT_TUNING:
        raise InvalidParameter(
            "task_learning_rate",
            given["task_learning_rate"],
            f"unset with tuning_type {tuning_type}; it is for {MULTITASK_PROMPT_TUNING}",
        )
    if chooses_source(given):
        _check_choice(given)
    if given.get("reparameterization") == RESIDUAL and tuning_type != PROMPT_TUNING:
        raise InvalidParameter(
            "reparameterization",
            RESIDUAL,
            f"{NONE} with tuning_type {tuning_type}; {RESIDUAL} is for {PROMPT_TUNING}",
        )
    return given


def chooses_source(given: Mapping[str, Any]) -> bool:
    """Whether what a training starts from is to be chosen among the source prompts that there are."""
    return (
        given.get("prompt_tuning_init_source_model") == AUTO
        and given.get("tuning_type") == MULTITASK_PROMPT_TUNING
        and given.get("prompt_tuning_init_method", AVERAGE_SOURCE) in SOURCE_INIT_METHODS
    )


def _check_choice(given: Mapping[str, Any]) -> None:
    """Raises InvalidParameter for what contradicts that the source is chosen."""
    asked = {_TASK: given.get(_TASK), _TASK_NAME: given.get(_TASK_NAME) or None}
    for name, value in asked.items():
        if value is not None:
            raise InvalidParameter(
                TUNING_PARAMETERS[name].field,
                value,
                f"unset together with prompt_tuning_init_source_model {AUTO}, which chooses the task",
            )
    if given.get("search", OFF) != OFF:
        raise InvalidParameter(
            "search",
            given["search"],
            f"{OFF} or unset together with prompt_tuning_init_source_model {AUTO}, a search of its own",
        )


def task_by_name(request: Mapping[str, Any]) -> dict[str, Any]:
    """`request` with a task of a source prompt that is named where its index is asked for in its own field.

    Raises InvalidParameter where both fields are set.
    """
    task, name = (request.get(field) for field in (_TASK, _TASK_NAME))
    if isinstance(task, str) and not name:
        # Digits are an index, as a command line has it.
        index = int(task) if re.fullmatch(r"[0-9]{1,18}", task) else None
        return {**request, _TASK: index, **({_TASK_NAME: task} if index is None else {})}
    if name and task is not None:
        raise InvalidParameter(
            TUNING_PARAMETERS[_TASK].field, task, f"unset together with {_TASK_NAME}, which says the same"
        )
    return dict(request)


def _check_nothing_else_to_start_from(given: Mapping[str, Any]) -> None:
    for name in ("method", "text", "source_model", "task", "task_name"):
        parameter = TUNING_PARAMETERS[f"prompt_tuning_init_{name}"]
        if parameter.name in given:
            raise InvalidParameter(
                parameter.field,
                given[parameter.name],
                "unset together with prompt_tuning_init_prompt, which is what the training starts from",
            )


def resolve(
    given: Mapping[str, Any], decided: Mapping[str, tuple[Any, str]], limits: Limits
) -> TuningParameters:
    """A request's own values first, then what was `decided` for it, then the table's defaults.

    `decided` holds, by name, a value and its origin: from a preset, the base model, a source
    prompt or a tuned one. A default beyond `limits` becomes the nearest value that they allow.
    """
    values, origins = TUNING_PARAMETERS.resolved(given, decided)
    for name in limits:
        if name in values and origins[name].startswith(("default", "preset")):
            nearest = TUNING_PARAMETERS[name].nearest(values[name], limits)
            if nearest != values[name]:
                values[name], origins[name] = nearest, "tuning_limits"
    if "lr_scheduler_type" not in values:
        constant = values["optimizer"] == ADAFACTOR
        values["lr_scheduler_type"] = CONSTANT if constant else LINEAR
        origins["lr_scheduler_type"] = f"optimizer {values['optimizer']}"
    if "task_learning_rate" not in values:
        rate = values["learning_rate"] * _TASK_LEARNING_RATE_SHARE
        values["task_learning_rate"] = TUNING_PARAMETERS["task_learning_rate"].nearest(rate, limits)
        origins["task_learning_rate"] = "a thirtieth of learning_rate"
    values.setdefault("prompt_tuning_init_text", "")
    values.setdefault("prompt_tuning_init_source_model", "")
    return TuningParameters(**values, origins=origins)
