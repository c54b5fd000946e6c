"""The messages of caikit_pt.TuningService. Names and numbers are wire API; new fields go to the end."""

from datetime import datetime
from typing import List, Optional

import caikit
from caikit.core import DataObjectBase
from caikit.core.data_model.json_dict import JsonDict
from caikit.runtime.service_generation.data_stream_source import make_data_stream_source
from py_to_proto.dataclass_to_proto import Annotated, FieldNumber

from caikit_pt.data_model import GenerationTrainRecord

# What the train RPC takes records in.
RecordSource = make_data_stream_source(GenerationTrainRecord)

PACKAGE = "caikit_pt"


@caikit.core.dataobject(package=PACKAGE)
class WatchTrainingRequest(DataObjectBase):
    """Events behind number `from_event` (0: all) until the training has ended, as they come."""

    training_id: Annotated[str, FieldNumber(1)]
    from_event: Annotated[int, FieldNumber(2)]


@caikit.core.dataobject(package=PACKAGE)
class TrainingProgress(DataObjectBase):
    """Where a training stands after an update. Losses are nats a target token, unset where they aren't
    finite; that of the validations is the best so far. Of a source the `phase` is teachers, then sources,
    and update and ETA are those of both."""

    step: Annotated[int, FieldNumber(1)]
    steps: Annotated[int, FieldNumber(2)]
    epoch: Annotated[int, FieldNumber(3)]
    loss: Optional[Annotated[float, FieldNumber(4)]]
    validation_loss: Optional[Annotated[float, FieldNumber(5)]]
    learning_rate: Annotated[float, FieldNumber(6)]
    samples_per_second: Annotated[float, FieldNumber(7)]
    tokens_per_second: Annotated[float, FieldNumber(8)]
    seconds: Annotated[float, FieldNumber(9)]
    eta_seconds: Annotated[float, FieldNumber(10)]
    phase: Annotated[str, FieldNumber(11)]


@caikit.core.dataobject(package=PACKAGE)
class TrainingEvent(DataObjectBase):
    """Something that happened to a training.

    `kind` says what else is set: state (state, text), phase (text: loading, training or teachers and sources,
    publishing), progress (progress; data.points: pairs of update and loss since the last), validation (data:
    step, epoch, scores by name, those of a task as TASK/NAME, best; of how many `answers` the metrics are and
    of how many `records` the loss), checkpoint (data: step, seconds), warning and death (text), verdict
    (data), artifact (data: model_name, path within the directory of models; of a source both are its name
    with its version), tracking (text, data: tracker).
    """

    number: Annotated[int, FieldNumber(1)]
    time: Annotated[datetime, FieldNumber(2)]
    kind: Annotated[str, FieldNumber(3)]
    text: Annotated[str, FieldNumber(4)]
    state: Annotated[str, FieldNumber(5)]
    progress: Annotated[Optional[TrainingProgress], FieldNumber(6)]
    data: Annotated[Optional[JsonDict], FieldNumber(7)]


@caikit.core.dataobject(package=PACKAGE)
class ListTrainingsRequest(DataObjectBase):
    """The latest first. Everything may be unset: states (QUEUED, RUNNING, COMPLETED, CANCELED, ERRORED),
    the name of the model, submission from (inclusive) and until (exclusive), trainings a page (100; up to
    1,000), and the page_token of the page before."""

    states: Annotated[List[str], FieldNumber(1)]
    model_name: Annotated[str, FieldNumber(2)]
    submitted_from: Annotated[Optional[datetime], FieldNumber(3)]
    submitted_until: Annotated[Optional[datetime], FieldNumber(4)]
    page_size: Annotated[int, FieldNumber(5)]
    page_token: Annotated[str, FieldNumber(6)]


@caikit.core.dataobject(package=PACKAGE)
class Training(DataObjectBase):
    """A training. Only GetTraining fills `parameters` (with `origins`: where each value came from),
    `verdict` (verdict.json), `points` (pairs of update and loss), `outcome` (better, perhaps better, no
    better or worse than its untuned base and than always giving the commonest answer; unknown without
    validation records) and `outcome_text` (the same in a sentence, with what to try next) in:
    docs/structs.md.

    It `makes` a prompt or a source, which has `tasks`. `path` is where it is published: the name of the model
    in the directory of models, or that of the source with its version, once it has one."""

    training_id: Annotated[str, FieldNumber(1)]
    model_name: Annotated[str, FieldNumber(2)]
    state: Annotated[str, FieldNumber(3)]
    submitted: Annotated[Optional[datetime], FieldNumber(4)]
    started: Annotated[Optional[datetime], FieldNumber(5)]
    ended: Annotated[Optional[datetime], FieldNumber(6)]
    reasons: Annotated[List[str], FieldNumber(7)]
    queued_before: Annotated[int, FieldNumber(8)]
    progress: Annotated[Optional[TrainingProgress], FieldNumber(9)]
    base_model: Annotated[str, FieldNumber(10)]
    path: Annotated[str, FieldNumber(11)]
    parameters: Annotated[Optional[JsonDict], FieldNumber(12)]
    verdict: Annotated[Optional[JsonDict], FieldNumber(13)]
    points: Annotated[Optional[JsonDict], FieldNumber(14)]
    makes: Annotated[str, FieldNumber(15)]
    tasks: Annotated[List[str], FieldNumber(16)]
    outcome: Annotated[str, FieldNumber(17)]
    outcome_text: Annotated[str, FieldNumber(18)]


@caikit.core.dataobject(package=PACKAGE)
class ListTrainingsResponse(DataObjectBase):
    """A page; `next_page_token` is empty on the last."""

    trainings: Annotated[List[Training], FieldNumber(1)]
    next_page_token: Annotated[str, FieldNumber(2)]


@caikit.core.dataobject(package=PACKAGE)
class GetTrainingRequest(DataObjectBase):
    """The training with this id."""

    training_id: Annotated[str, FieldNumber(1)]


@caikit.core.dataobject(package=PACKAGE)
class TrainingCheck(DataObjectBase):
    """What a training would do. `report` has everything; `problems` are for a person."""

    problems: Annotated[List[str], FieldNumber(1)]
    report: Annotated[Optional[JsonDict], FieldNumber(2)]


@caikit.core.dataobject(package=PACKAGE)
class EvaluateRequest(DataObjectBase):
    """A published prompt, and the records to test it with, given as a train request gives them.

    All else may be unset: another published prompt to compare it with; tuning_task (that of the training);
    how many wrong answers are to come back (none); the fields of the records; the most tokens of an answer
    (as the longest expected output needs), and of a text, whose last ones are kept (all, which have to fit);
    whether answers are confined to labels where the prompts know these (they are).
    """

    model_name: Annotated[str, FieldNumber(1)]
    test_stream: Annotated[Optional[RecordSource], FieldNumber(2)]
    against: Annotated[str, FieldNumber(3)]
    tuning_task: Annotated[str, FieldNumber(4)]
    wrong_answers: Annotated[int, FieldNumber(5)]
    input_field: Annotated[str, FieldNumber(6)]
    output_field: Annotated[str, FieldNumber(7)]
    max_new_tokens: Annotated[int, FieldNumber(8)]
    truncate_input_tokens: Annotated[int, FieldNumber(9)]
    labels_only: Optional[Annotated[bool, FieldNumber(10)]]


@caikit.core.dataobject(package=PACKAGE)
class WrongAnswer(DataObjectBase):
    """An answer that isn't the expected output, to the record with this number, from 1 on."""

    record: Annotated[int, FieldNumber(1)]
    input: Annotated[str, FieldNumber(2)]
    expected: Annotated[str, FieldNumber(3)]
    answered: Annotated[str, FieldNumber(4)]


@caikit.core.dataobject(package=PACKAGE)
class EvaluationEvent(DataObjectBase):
    """How far an evaluation is (answers and losses that are done, of so many, and the seconds they took);
    then one wrong answer each, where they are asked for, and last the report (tuning/evaluation.py)."""

    done: Annotated[int, FieldNumber(1)]
    of: Annotated[int, FieldNumber(2)]
    seconds: Annotated[float, FieldNumber(3)]
    wrong: Annotated[Optional[WrongAnswer], FieldNumber(4)]
    report: Annotated[Optional[JsonDict], FieldNumber(5)]


@caikit.core.dataobject(package=PACKAGE)
class Source(DataObjectBase):
    """A source prompt. What isn't known before its tensors are read is unset in a list: of files that aren't
    published. `version` is the number in the name of one that is published, and `problem` what is wrong with
    one that can't be used. Only GetSource, which reads the whole of it, fills `manifest` (docs/sources.md)
    in."""

    name: Annotated[str, FieldNumber(1)]
    version: Annotated[int, FieldNumber(2)]
    base_model: Annotated[str, FieldNumber(3)]
    fingerprint: Annotated[str, FieldNumber(4)]
    num_virtual_tokens: Annotated[int, FieldNumber(5)]
    width: Annotated[int, FieldNumber(6)]
    num_ranks: Annotated[int, FieldNumber(7)]
    num_transformer_submodules: Annotated[int, FieldNumber(8)]
    tasks: Annotated[List[str], FieldNumber(9)]
    is_default: Annotated[bool, FieldNumber(10)]
    created: Annotated[Optional[datetime], FieldNumber(11)]
    sha256: Annotated[str, FieldNumber(12)]
    problem: Annotated[str, FieldNumber(13)]
    manifest: Annotated[Optional[JsonDict], FieldNumber(14)]


@caikit.core.dataobject(package=PACKAGE)
class ListSourcesRequest(DataObjectBase):
    """By name, the newest version of each first. Everything may be unset: the name of the base model that
    they are for, sources a page (100; up to 1,000), and the page_token of the page before."""

    base_model: Annotated[str, FieldNumber(1)]
    page_size: Annotated[int, FieldNumber(2)]
    page_token: Annotated[str, FieldNumber(3)]


@caikit.core.dataobject(package=PACKAGE)
class ListSourcesResponse(DataObjectBase):
    """A page; `next_page_token` is empty on the last."""

    sources: Annotated[List[Source], FieldNumber(1)]
    next_page_token: Annotated[str, FieldNumber(2)]


@caikit.core.dataobject(package=PACKAGE)
class GetSourceRequest(DataObjectBase):
    """The source prompt with this name: NAME is its newest version, NAME/2 that one."""

    name: Annotated[str, FieldNumber(1)]


@caikit.core.dataobject(package=PACKAGE)
class SourceTrainingTask(DataObjectBase):
    """A task of a source: a plain name and its records, given as a train request gives them; all else may be
    unset."""

    name: Annotated[str, FieldNumber(1)]
    train_stream: Annotated[Optional[RecordSource], FieldNumber(2)]
    val_stream: Annotated[Optional[RecordSource], FieldNumber(3)]
    verbalizer: Annotated[str, FieldNumber(4)]
    tuning_task: Annotated[str, FieldNumber(5)]
    input_field: Annotated[str, FieldNumber(6)]
    output_field: Annotated[str, FieldNumber(7)]


@caikit.core.dataobject(package=PACKAGE)
class SourceTrainingParameters(DataObjectBase):
    """What all tasks of a source share of a training's parameters, and those that sources alone have.

    Ranges, defaults and meanings: docs/parameters.md.
    """

    num_virtual_tokens: Optional[Annotated[int, FieldNumber(1)]]
    prompt_tuning_init_method: Optional[Annotated[str, FieldNumber(2)]]
    prompt_tuning_init_text: Optional[Annotated[str, FieldNumber(3)]]
    output_model_types: Annotated[List[str], FieldNumber(4)]
    device: Optional[Annotated[str, FieldNumber(5)]]
    num_epochs: Optional[Annotated[int, FieldNumber(6)]]
    learning_rate: Optional[Annotated[float, FieldNumber(7)]]
    batch_size: Optional[Annotated[int, FieldNumber(8)]]
    max_source_length: Optional[Annotated[int, FieldNumber(9)]]
    max_target_length: Optional[Annotated[int, FieldNumber(10)]]
    accumulate_steps: Optional[Annotated[int, FieldNumber(11)]]
    torch_dtype: Optional[Annotated[str, FieldNumber(12)]]
    silence_progress_bars: Optional[Annotated[bool, FieldNumber(13)]]
    seed: Optional[Annotated[int, FieldNumber(14)]]
    task_learning_rate: Optional[Annotated[float, FieldNumber(15)]]
    optimizer: Optional[Annotated[str, FieldNumber(16)]]
    lr_scheduler_type: Optional[Annotated[str, FieldNumber(17)]]
    warmup_ratio: Optional[Annotated[float, FieldNumber(18)]]
    max_grad_norm: Optional[Annotated[float, FieldNumber(19)]]
    weight_decay: Optional[Annotated[float, FieldNumber(20)]]
    validation_share: Optional[Annotated[float, FieldNumber(21)]]
    validation_steps: Optional[Annotated[int, FieldNumber(22)]]
    early_stopping_patience: Optional[Annotated[int, FieldNumber(23)]]
    separator: Optional[Annotated[str, FieldNumber(24)]]
    num_ranks: Optional[Annotated[int, FieldNumber(25)]]
    most_records: Optional[Annotated[int, FieldNumber(26)]]
    teacher_epochs: Optional[Annotated[int, FieldNumber(27)]]
    teacher_learning_rate: Optional[Annotated[float, FieldNumber(28)]]
    distillation_weight: Optional[Annotated[float, FieldNumber(29)]]
    distillation_temperature: Optional[Annotated[float, FieldNumber(30)]]
    state_weight: Optional[Annotated[float, FieldNumber(31)]]
    state_layers: Annotated[List[int], FieldNumber(32)]


@caikit.core.dataobject(package=PACKAGE)
class TrainSourceRequest(DataObjectBase):
    """A source prompt to train on several tasks, and to publish as a new version of `name`; as the `default`
    it is what a training on its base model starts from that names none. Parameters and an id of one's own
    (`training_id`: submitted twice, it is one training) may be unset."""

    name: Annotated[str, FieldNumber(1)]
    base_model: Annotated[str, FieldNumber(2)]
    tasks: Annotated[List[SourceTrainingTask], FieldNumber(3)]
    parameters: Annotated[Optional[SourceTrainingParameters], FieldNumber(4)]
    training_id: Annotated[str, FieldNumber(5)]
    default: Annotated[bool, FieldNumber(6)]


@caikit.core.dataobject(package=PACKAGE)
class PauseTrainingRequest(DataObjectBase):
    """A training that is to stop where it is, behind a snapshot, until it is resumed."""

    training_id: Annotated[str, FieldNumber(1)]


@caikit.core.dataobject(package=PACKAGE)
class ResumeTrainingRequest(DataObjectBase):
    """A training that is paused, to be queued again."""

    training_id: Annotated[str, FieldNumber(1)]


@caikit.core.dataobject(package=PACKAGE)
class Prompt(DataObjectBase):
    """A tuned prompt that is served. `problem` is what is wrong with one that can't be asked.

    Only GetPrompt fills `labels`, `parameters` (with `origins`) and `verdict` (verdict.json) of its training
    in, and `tokenizer`: bos_token, eos_token, pad_token, unk_token, chat_template (each unset where there is
    none), model_max_length (tokens of the context) and continues_text (whether an answer goes on behind the
    text, as those of causal models do)."""

    model_name: Annotated[str, FieldNumber(1)]
    base_model: Annotated[str, FieldNumber(2)]
    num_virtual_tokens: Annotated[int, FieldNumber(3)]
    labels: Annotated[List[str], FieldNumber(4)]
    verbalizer: Annotated[str, FieldNumber(5)]
    separator: Annotated[str, FieldNumber(6)]
    published: Annotated[Optional[datetime], FieldNumber(7)]
    problem: Annotated[str, FieldNumber(8)]
    parameters: Annotated[Optional[JsonDict], FieldNumber(9)]
    verdict: Annotated[Optional[JsonDict], FieldNumber(10)]
    tokenizer: Annotated[Optional[JsonDict], FieldNumber(11)]


@caikit.core.dataobject(package=PACKAGE)
class ListPromptsRequest(DataObjectBase):
    """By name, those that the caller may ask. Everything may be unset: the name of their base model, prompts
    a page (100; up to 1,000), and the page_token of the page before."""

    base_model: Annotated[str, FieldNumber(1)]
    page_size: Annotated[int, FieldNumber(2)]
    page_token: Annotated[str, FieldNumber(3)]


@caikit.core.dataobject(package=PACKAGE)
class ListPromptsResponse(DataObjectBase):
    """A page; `next_page_token` is empty on the last."""

    prompts: Annotated[List[Prompt], FieldNumber(1)]
    next_page_token: Annotated[str, FieldNumber(2)]


@caikit.core.dataobject(package=PACKAGE)
class GetPromptRequest(DataObjectBase):
    """The tuned prompt that is served under this name."""

    model_name: Annotated[str, FieldNumber(1)]


@caikit.core.dataobject(package=PACKAGE)
class RemovePromptRequest(DataObjectBase):
    """The tuned prompt that is served under this name, which is deleted."""

    model_name: Annotated[str, FieldNumber(1)]


@caikit.core.dataobject(package=PACKAGE)
class RemovePromptResponse(DataObjectBase):
    """It is."""


@caikit.core.dataobject(package=PACKAGE)
class DownloadPromptRequest(DataObjectBase):
    """All files of the tuned prompt that is served under this name."""

    model_name: Annotated[str, FieldNumber(1)]


@caikit.core.dataobject(package=PACKAGE)
class Chunk(DataObjectBase):
    """The next bytes of a tar archive, whose files are in a directory of the prompt's name."""

    data: Annotated[bytes, FieldNumber(1)]


@caikit.core.dataobject(package=PACKAGE)
class TokenizeRequest(DataObjectBase):
    """A text for the base model of the tuned prompt `model_name`, as it is: without verbalizer and separator.
    `add_special_tokens`: with those that the tokenizer puts around a text; unset, it does."""

    model_name: Annotated[str, FieldNumber(1)]
    text: Annotated[str, FieldNumber(2)]
    add_special_tokens: Optional[Annotated[bool, FieldNumber(3)]]


@caikit.core.dataobject(package=PACKAGE)
class TokenizeResponse(DataObjectBase):
    """The ids of its tokens, and the text of each."""

    ids: Annotated[List[int], FieldNumber(1)]
    tokens: Annotated[List[str], FieldNumber(2)]


@caikit.core.dataobject(package=PACKAGE)
class DetokenizeRequest(DataObjectBase):
    """The ids of tokens of the base model of the tuned prompt `model_name`."""

    model_name: Annotated[str, FieldNumber(1)]
    ids: Annotated[List[int], FieldNumber(2)]


@caikit.core.dataobject(package=PACKAGE)
class DetokenizeResponse(DataObjectBase):
    """The text that they are."""

    text: Annotated[str, FieldNumber(1)]


@caikit.core.dataobject(package=PACKAGE)
class DescribeRequest(DataObjectBase):
    """What this server is, to whoever asks."""


@caikit.core.dataobject(package=PACKAGE)
class Description(DataObjectBase):
    """This server, as the caller has it: his name (empty where nobody has to say who he is), the release, the
    base models that are there, and the `parameters` of requests: in `tuning`, `generation` and `source` a
    list of name, type (int, float, str or bool), meaning, default, source (of the default), low, high,
    above_low, choices, many, and path (the message that a field stands in), ranges as this server's limits
    have them. Servers with the same `state_id` share their trainings, and each answers for all of them; it is
    empty where a server has them for itself."""

    caller: Annotated[str, FieldNumber(1)]
    version: Annotated[str, FieldNumber(2)]
    base_models: Annotated[List[str], FieldNumber(3)]
    parameters: Annotated[Optional[JsonDict], FieldNumber(4)]
    state_id: Annotated[str, FieldNumber(5)]


@caikit.core.dataobject(package=PACKAGE)
class ListNodesRequest(DataObjectBase):
    """The machines on which this server's trainings are run."""


@caikit.core.dataobject(package=PACKAGE)
class Node(DataObjectBase):
    """A machine: what it has, and what of it is free where that is known; memory in bytes. `labels` are
    NAME=VALUE. `gpu_memory_bytes`: of each of its GPUs, of the largest where they differ; 0: nobody knows."""

    name: Annotated[str, FieldNumber(1)]
    lives: Annotated[bool, FieldNumber(2)]
    cpus: Annotated[float, FieldNumber(3)]
    gpus: Annotated[float, FieldNumber(4)]
    memory_bytes: Annotated[int, FieldNumber(5)]
    free_cpus: Optional[Annotated[float, FieldNumber(6)]]
    free_gpus: Optional[Annotated[float, FieldNumber(7)]]
    free_memory_bytes: Optional[Annotated[int, FieldNumber(8)]]
    labels: Annotated[List[str], FieldNumber(9)]
    gpu_memory_bytes: Annotated[int, FieldNumber(10)]


@caikit.core.dataobject(package=PACKAGE)
class ListNodesResponse(DataObjectBase):
    """`executor` is what runs them (local or ray), `problem` why it can't now, `running` and `queued` are how
    many trainings run and wait."""

    executor: Annotated[str, FieldNumber(1)]
    problem: Annotated[str, FieldNumber(2)]
    running: Annotated[int, FieldNumber(3)]
    queued: Annotated[int, FieldNumber(4)]
    nodes: Annotated[List[Node], FieldNumber(5)]
