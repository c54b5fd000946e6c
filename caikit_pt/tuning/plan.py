"""A train request becomes a plan: everything checked and resolved before a job exists.

Making a plan reads no weight of the base model, so a bad request is refused before it costs anything.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from caikit_pt.base_model.loading.checkpoint import Checkpoint, locate
from caikit_pt.base_model.loading.device import resolve_device, resolve_dtype
from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.pool import POOL, is_small
from caikit_pt.base_model.sides import text_of
from caikit_pt.base_model.text.side import TextSide
from caikit_pt.errors import InvalidParameter, InvalidSourcePrompt
from caikit_pt.parameters.presets import preset
from caikit_pt.parameters.rules import Facts, by_rules
from caikit_pt.parameters.table import REQUEST, Limits
from caikit_pt.parameters.tuning import (
    AUTO,
    CLASSIFICATION,
    EXACT_SOURCE_TASK,
    FEWEST_TO_SPLIT,
    GENERATION,
    MANY_EPOCHS,
    MOST_SPLIT_OFF,
    SOURCE_INIT_METHODS,
    TUNING_PARAMETERS,
    VALIDATION_SHARE,
    TuningParameters,
    check_request,
    chooses_source,
    resolve,
)
from caikit_pt.serving.labels import Labels
from caikit_pt.settings import Settings
from caikit_pt.soft_prompt.initial import InitialPrompt, Predecessor
from caikit_pt.soft_prompt.source import SourcePrompt
from caikit_pt.soft_prompt.source_library import FIELD, SourceLibrary, find_source
from caikit_pt.soft_prompt.source_start import METHODS, SourceStart, starts_of
from caikit_pt.tuning.metrics import label_set
from caikit_pt.tuning.record_fields import Asked
from caikit_pt.tuning.records import Records, doubts, read_records
from caikit_pt.tuning.verbalizer import Verbalizer

_LOG = logging.getLogger(__name__)
# A label of so few records may be a slip of a commoner one that shares so much of its letters.
_RARE, _ALIKE, _PAIRS_TOLD = 2, 0.8, 10
# Each rare label is compared with each common one, while a request waits: no more labels, and none longer.
_MOST_COMPARED, _LONGEST_COMPARED = 200, 50
_END_TOKEN = 1
_SOURCE_MODEL = "prompt_tuning_init_source_model"
_MANY_LABELS = 50
_LIKE_LABELS = "the records, whose outputs are few and repeated"
Decided = dict[str, tuple[Any, str]]


@dataclass(frozen=True, slots=True)
class TuningPlan:
    """All that a tuning needs but the weights."""

    parameters: TuningParameters
    checkpoint: Checkpoint
    source: SourcePrompt | None
    records: Records
    validation: Records | None
    # What the operator allows: for a search, which chooses values of its own.
    limits: Limits
    # The base model itself, where a Python caller brought one.
    resource: BaseModel | None = None
    # The tuned prompt that the training goes on from.
    initial: InitialPrompt | None = None
    # What of source prompts it chooses among, and first what it starts from where none is clearly better.
    starts: tuple[SourceStart, ...] = ()

    @property
    def streams(self) -> tuple[Records | None, ...]:
        """All of its records: to train on, and to validate with."""
        return self.records, self.validation

    def to_dict(self) -> dict[str, Any]:
        """The parameters as plain values, with where each is from."""
        return self.parameters.to_dict()

    @property
    def labels(self) -> tuple[str, ...]:
        """What answers are confined to: the outputs of a classification, without blanks around them.

        Nothing where a record may have several labels: they may come in other combinations. A prompt that
        goes on keeps those it had; one that had none answers freely, for it may know others.
        """
        streams = (self.records, self.validation) if self.validation else (self.records,)
        if self.parameters.tuning_task != CLASSIFICATION or any(one.several_labels for one in streams):
            return ()
        if self.initial and not self.initial.labels:
            return ()
        earlier = self.initial.labels if self.initial else ()
        outputs = (record.output.strip() for records in streams for record in records.items)
        return tuple(sorted({*earlier, *outputs}))

    @property
    def judged_as(self) -> str:
        """The task whose metrics validations have: classification also where answers are free and all records
        of the train_stream look like it. How they are split, how many a val_stream has, and how many are
        answered, doesn't change it."""
        streams = self.streams if self.parameters.validation_share else (self.records,)
        outputs = [record.output for stream in streams if stream for record in stream.items]
        task = self.parameters.tuning_task
        return CLASSIFICATION if task == GENERATION and label_set(outputs) else task

    def answer_labels(self, text: TextSide) -> Labels | None:
        """The `labels` as tokens of `text`; None where answers are free."""
        labels, parameters = self.labels, self.parameters
        return Labels(text, labels, parameters.separator, parameters.max_target_length) if labels else None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is allowed and yet unlikely to be meant."""
        told = []
        parameters = self.parameters
        if parameters.num_epochs > MANY_EPOCHS:
            told.append(f"num_epochs is {parameters.num_epochs}; more than {MANY_EPOCHS} seldom helps")
        if parameters.prompt_tuning_init_source_model and self.source is None and not self.starts:
            told.append(
                "prompt_tuning_init_source_model is ignored, because prompt_tuning_init_method is "
                f"{parameters.prompt_tuning_init_method}"
            )
        told += self._doubtful_labels()
        if self.parameters.origins["tuning_task"] == _LIKE_LABELS and self.labels:
            told.append(
                f"the {len(self.labels)} different outputs are taken for labels, and answers are confined to "
                "them; tuning_task generation leaves answers free"
            )
        return (*told, *doubts(self.records, self.validation))

    def _doubtful_labels(self) -> list[str]:
        """Labels that may not be meant as such, or can't be told apart."""
        known = self.answer_labels(text_of(self.checkpoint))
        if known is None:
            return []
        labels, told = known.texts, []
        if len(labels) > _MANY_LABELS and len(labels) > len(self.records) / 2:
            told.append(
                f"the {len(self.records)} records have {len(labels)} different labels; are they free text? "
                "tuning_task generation leaves answers free"
            )
        if alike := len(labels) - len({label.casefold() for label in labels}):
            told.append(f"labels that differ from others only in case: {alike}")
        told += _nearly_equal(labels, self.records)
        if same := len(labels) - len(set(known.ids)):
            told.append(
                f"{same} labels have the same tokens as others, cut at max_target_length or as the tokenizer "
                "reads them: they will never be an answer"
            )
        if self.initial and set(self.initial.labels).isdisjoint(r.output.strip() for r in self.records.items):
            told.append(
                "none of the labels is one of the tuned prompt that the training goes on from, which stay "
                "possible answers"
            )
        return told

    def base_model(self, device: str = "") -> BaseModel:
        """The one copy of what is trained on, read where the plan doesn't bring it along; `device`: another
        than the plan has. Raises what `BaseModelPool.get` does."""
        parameters = self.parameters
        return self.resource or POOL.get(self.checkpoint, parameters.torch_dtype, device or parameters.device)

    @property
    def is_small(self) -> bool:
        """Whether the base model may be loaded to try something."""
        own = self.parameters
        return self.resource is not None or is_small(self.checkpoint, own.torch_dtype, own.device)

    def check_training(self) -> None:
        """Tries a step of the training (`BaseModelPool.check_training`), which may load the base model once.

        Raises InvalidParameter where the base model can't be loaded or trained, OutOfMemory.
        """
        from caikit_pt.base_model.trials.training import check_training

        parts = self.parameters.output_model_types
        if self.resource:
            check_training(self.resource.training, parts)
        else:
            POOL.check_training(self.checkpoint, parts, self.parameters.torch_dtype, self.parameters.device)


def make_plan(
    request: Mapping[str, Any],
    train_stream: Iterable[Any],
    val_stream: Iterable[Any] | None,
    settings: Settings,
    resource: BaseModel | None = None,
    predecessor: Predecessor | None = None,
    tells: bool = True,
) -> TuningPlan:
    """Checks a train request and resolves its defaults.

    `request` holds the parameters by name, None for unset; `predecessor` is the tuned prompt that it names.
    Unless it `tells`, whoever asks has to log what the plan warns of.
    Raises InvalidParameter (or one of its kinds) for the first thing that may not be.
    """
    given = check_request(request, settings.tuning_limits)
    taken = predecessor.taken(settings.tuning_limits) if predecessor else {}
    known = {**{name: value for name, (value, _) in taken.items()}, **given}
    Verbalizer(_asked(known, "verbalizer"))
    checkpoint = resource.checkpoint if resource else locate(known["base_model"], settings)
    if predecessor:
        predecessor.check(given, checkpoint)
    # Both are read for their errors: what is broken here would break only the job.
    _ = checkpoint.fingerprint, checkpoint.tokenizer
    text_of(checkpoint).init_ids(given.get("prompt_tuning_init_text", ""))
    source, starts = _source(given, checkpoint, settings), _starts(given, checkpoint, settings)
    started = _of_source(given, source) if source else _of_starts(starts)
    asked = Asked(_asked(given, "input_field"), _asked(given, "output_field"))
    records = read_records(train_stream, "train_stream", asked)
    validation = None if val_stream is None else read_records(val_stream, "val_stream", asked)
    decided = _validation_share(given, len(records), validation is not None)
    parameters = _resolve(given, decided, taken, checkpoint, started, records, settings, resource)
    held_out = math.ceil(parameters.validation_share * len(records))
    if held_out:
        if parameters.origins["validation_share"] == "default":
            held_out = min(held_out, MOST_SPLIT_OFF)
        records, validation = records.split(held_out, parameters.seed)
    plan = TuningPlan(
        parameters,
        checkpoint,
        source,
        records,
        validation,
        settings.tuning_limits,
        resource,
        predecessor.initial if predecessor else None,
        starts,
    )
    for warning in plan.warnings if tells else ():
        _LOG.warning(warning)
    return plan


def _asked(given: Mapping[str, Any], name: str) -> Any:
    """A parameter of a request, with the table's default."""
    return given.get(name, TUNING_PARAMETERS[name].default)


def _validation_share(given: Mapping[str, Any], records: int, has_stream: bool) -> Decided:
    """The share of the records to validate with. Raises InvalidParameter where one is needed and missing."""
    needing = ("search", "early_stopping_patience", "validation_steps")
    needed = [name for name in needing if _asked(given, name) != TUNING_PARAMETERS[name].default]
    if has_stream:
        if given.get("validation_share"):
            raise InvalidParameter(
                "validation_share", given["validation_share"], "0 or unset where there is a val_stream"
            )
        return {"validation_share": (0.0, "there is a val_stream")}
    share = given.get("validation_share", VALIDATION_SHARE if records >= FEWEST_TO_SPLIT or needed else 0.0)
    if share and records < 2:
        name = "validation_share" if "validation_share" in given else needed[0]
        raise InvalidParameter(name, given[name], "unset with a single record and no val_stream")
    if needed and not share:
        raise InvalidParameter(
            needed[0], given[needed[0]], "unset, or together with a val_stream or a validation_share above 0"
        )
    return {"validation_share": (share, "default")}


def _source(given: Mapping[str, Any], checkpoint: Checkpoint, settings: Settings) -> SourcePrompt | None:
    method = given.get("prompt_tuning_init_method")
    if method not in SOURCE_INIT_METHODS or chooses_source(given):
        return None
    name, tokens = given.get(_SOURCE_MODEL, ""), given.get("num_virtual_tokens")
    source = find_source(name, checkpoint, settings, tokens)
    asked = given.get("num_virtual_tokens", source.num_virtual_tokens)
    if asked != source.num_virtual_tokens:
        raise InvalidSourcePrompt(
            "tuning_config.num_virtual_tokens",
            asked,
            f"{source.num_virtual_tokens}, as the source prompt {source.name} has it, or unset",
        )
    if method == EXACT_SOURCE_TASK:
        source.index_of(_source_task(given))
    return source


def _starts(given: Mapping[str, Any], checkpoint: Checkpoint, settings: Settings) -> tuple[SourceStart, ...]:
    """What a training chooses among that is to choose its source."""
    if not chooses_source(given):
        return ()
    method, tokens = given.get("prompt_tuning_init_method"), given.get("num_virtual_tokens")
    sources = SourceLibrary(settings.source_prompt_base).fitting(checkpoint, tokens)
    parts = given.get("output_model_types", checkpoint.prompt_parts[:1])
    if tokens and any(source.num_virtual_tokens != tokens for source in sources):
        has = ", ".join(sorted({str(source.num_virtual_tokens) for source in sources}))
        raise InvalidSourcePrompt(
            "tuning_config.num_virtual_tokens",
            tokens,
            f"{has}, as the source prompts of {checkpoint.name} have it, or unset",
        )
    found = tuple(starts_of(sources, (method,) if method else METHODS, parts))
    if not found:
        raise InvalidSourcePrompt(
            FIELD, AUTO, f"source prompts with tasks together with prompt_tuning_init_method {method}"
        )
    return found


def _of_source(given: Mapping[str, Any], source: SourcePrompt) -> Decided:
    """What the source decides that a training starts from."""
    asked = given.get(_SOURCE_MODEL)
    of_request = REQUEST if asked == source.name else f"{REQUEST}: {asked}"
    origin = of_request if asked else "what there is for the base model"
    decided: Decided = {
        "num_virtual_tokens": (source.num_virtual_tokens, f"source prompt {source.name}"),
        _SOURCE_MODEL: (source.name, origin),
    }
    if given.get("prompt_tuning_init_method") == EXACT_SOURCE_TASK:
        index = source.index_of(_source_task(given))
        decided["prompt_tuning_init_task"] = (index, f"a task of the source prompt {source.name}")
    return decided


def _of_starts(starts: Sequence[SourceStart]) -> Decided:
    """Where it is chosen: room for the longest."""
    if not starts:
        return {}
    longest = max(start.prompt.num_virtual_tokens for start in starts)
    return {
        "num_virtual_tokens": (longest, "the longest source prompt for the base model"),
        _SOURCE_MODEL: (AUTO, REQUEST),
    }


def _source_task(given: Mapping[str, Any]) -> int | str:
    """The task of a source that is asked for, by its name or its index."""
    named: int | str = _asked(given, "prompt_tuning_init_task_name")
    return named or int(_asked(given, "prompt_tuning_init_task"))


def _resolve(
    given: Mapping[str, Any],
    decided_before: Decided,
    taken: Decided,
    checkpoint: Checkpoint,
    started: Decided,
    records: Records,
    settings: Settings,
    resource: BaseModel | None,
) -> TuningParameters:
    decided: Decided = {
        **decided_before,
        "tuning_task": _task(records),
        "output_model_types": (checkpoint.prompt_parts[:1], f"{checkpoint.family} model"),
        **taken,
    }
    task = given.get("tuning_task", decided["tuning_task"][0])
    verbalizer = Verbalizer(_asked(given, "verbalizer"))
    rules = by_rules(Facts(checkpoint.family.name, verbalizer.ends_with_input))
    decided.update({name: value for name, value in rules.items() if name not in taken})
    decided.update(preset(settings.tuning_presets, checkpoint.name, task))
    decided.update(started)
    wrong = set(given.get("output_model_types", ())) - set(checkpoint.prompt_parts)
    if wrong:
        raise InvalidParameter(
            "tuning_config.output_model_types",
            list(given["output_model_types"]),
            f"{', '.join(checkpoint.prompt_parts)} for the {checkpoint.family} model {checkpoint.name}",
        )
    decided.update(_place(given, checkpoint, settings) if resource is None else _place_of(resource))
    decided.update(_fit_context(given, {**decided}, checkpoint))
    # `cuda` becomes `cuda:0`, and a source's name that of a version: what is resolved stands for what was
    # asked.
    resolved = ("device", "torch_dtype", *((_SOURCE_MODEL,) if started else ()))
    asked = {name: value for name, value in given.items() if name not in resolved}
    return resolve(asked, decided, settings.tuning_limits)


def _task(records: Records) -> tuple[str, str]:
    """What `records` are for, and what shows it."""
    if records.classification:
        return CLASSIFICATION, "the type of the records"
    if label_set([record.output for record in records.items]):
        return CLASSIFICATION, _LIKE_LABELS
    return GENERATION, "the type of the records"


def _place(given: Mapping[str, Any], checkpoint: Checkpoint, settings: Settings) -> Decided:
    """The device and the data type that the base model is to have."""
    device = resolve_device(given.get("device", ""), settings)
    dtype = resolve_dtype(given.get("torch_dtype", ""), checkpoint, device, settings)
    return {
        "device": (device, REQUEST if given.get("device") else "this machine"),
        "torch_dtype": (dtype, REQUEST if given.get("torch_dtype") else f"device {device}"),
    }


def _place_of(resource: BaseModel) -> Decided:
    """Those of a model in memory; it is shared, so a request doesn't change them."""
    dtype = str(resource.weights.dtype).removeprefix("torch.")
    return {
        "device": (str(resource.weights.device), "the base model given"),
        "torch_dtype": (dtype, "the base model given"),
    }


def _fit_context(given: Mapping[str, Any], decided: Decided, checkpoint: Checkpoint) -> Decided:
    """Lengths that the model's context leaves beside the prompt, where the request names none.

    Raises InvalidParameter where what the request names doesn't fit.
    """
    context = checkpoint.context_length
    if context is None:
        return {}

    def value(name: str) -> Any:
        return given.get(name, decided.get(name, (TUNING_PARAMETERS[name].default, ""))[0])

    fitted: Decided = {}
    separator = len(text_of(checkpoint).separator_ids(value("separator")))
    if separator > context / 2:
        raise InvalidParameter(
            "separator", f"text of {separator} tokens", f"less than half of the context of {context} tokens"
        )
    for lengths, prompted in checkpoint.contexts(value("output_model_types")):
        tokens = value("num_virtual_tokens") if prompted else 0
        behind = _END_TOKEN + (separator if "max_source_length" in lengths else 0)
        named = {name: given[name] for name in lengths if name in given}
        open_names = [name for name in lengths if name not in given]
        left = context - tokens - behind - sum(named.values())
        if left < len(open_names):
            field, asked = max(named.items(), key=lambda item: item[1], default=("", 0))
            others = [f"{tokens} virtual tokens"]
            if asked + left - len(open_names) < 1:
                # Not even the shortest would do.
                field, asked, others = "tuning_config.num_virtual_tokens", tokens, []
            most = asked + left - len(open_names)
            others += [f"{name} {named.get(name, 1)}" for name in lengths if name != field]
            allowed = f"at most {most:,}, " if most > 0 else "less of all that has to fit "
            raise InvalidParameter(
                field,
                asked,
                f"{allowed}into the context of {context:,} tokens that {checkpoint.name} has, beside "
                f"{', '.join(others)} and {behind} for separator and end token",
            )
        for remaining, name in zip(range(len(open_names), 0, -1), reversed(open_names), strict=True):
            length = min(value(name), left // remaining)
            left -= length
            if length < value(name):
                fitted[name] = (length, f"the context of {checkpoint.name}")
    return fitted


def _nearly_equal(labels: Sequence[str], records: Records) -> list[str]:
    """Rare labels that look like slips of common ones, where they are few and short enough to compare; by the
    records that have them, since their texts are nothing for a log."""
    if len(labels) > _MOST_COMPARED:
        return []
    counts = Counter(record.output.strip() for record in records.items)
    first = {record.output.strip(): record.number for record in reversed(records.items)}
    short = [label for label in labels if len(label) <= _LONGEST_COMPARED]
    common = [label for label in short if counts[label] > _RARE]
    pairs = [
        f"{first[rare]} ({counts[rare]} such) and {first[alike[0]]} ({counts[alike[0]]})"
        for rare in short
        if 0 < counts[rare] <= _RARE and (alike := get_close_matches(rare, common, 1, _ALIKE))
    ]
    if not pairs:
        return []
    more = f", and {len(pairs) - _PAIRS_TOLD} pairs more" if len(pairs) > _PAIRS_TOLD else ""
    return [f"labels that are nearly equal: those of records {', '.join(pairs[:_PAIRS_TOLD])}{more}"]
