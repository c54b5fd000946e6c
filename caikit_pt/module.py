"""The face that caikit sees: translates messages and errors, and delegates everything else.

The order of the tasks, the name of the class, and the names and order of the arguments are wire API
(request messages and method paths are made of them). New arguments go to the end. Annotations are
what caikit can turn into protobuf: Optional and Union, no strings.
"""

import errno
import logging
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from functools import cached_property, partial, wraps
from pathlib import Path
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Type,
    TypeVar,
    Union,
)

import caikit
import numpy as np
from caikit.core import ModuleBase, ModuleConfig, ModuleLoader, ModuleSaver, module
from caikit.core.data_model import DataStream
from caikit.interfaces.nlp.data_model import (
    ClassificationTrainRecord,
    FinishReason,
    GeneratedToken,
    Token,
    TokenizationResults,
    TokenStreamDetails,
)
from caikit.interfaces.nlp.tasks import TextGenerationTask, TokenizationTask

from caikit_pt import settings
from caikit_pt.base_model.language_model import LanguageModel
from caikit_pt.base_model.loading.checkpoint import locate
from caikit_pt.base_model.model import BaseModel
from caikit_pt.call import current as current_call
from caikit_pt.data_model import (
    ExponentialDecayLengthPenalty,
    GenerationTrainRecord,
    LabelledTextResult,
    LabelledTextStreamResult,
    LabelProbability,
    TopTokens,
    TuningConfig,
)
from caikit_pt.ending import waits_for_this
from caikit_pt.errors import BaseModelUnavailable, CaikitPtError, InvalidParameter
from caikit_pt.parameters.generation import GENERATION_PARAMETERS, GenerationParameters
from caikit_pt.paths import check_scarcity
from caikit_pt.plotting import curves_of, figure_of
from caikit_pt.serving.backend import Backend
from caikit_pt.serving.backends import backend_for, base_for
from caikit_pt.serving.generation import Generation
from caikit_pt.serving.labels import Labels, labels_of
from caikit_pt.serving.request import Request, check_characters, check_count, token_text
from caikit_pt.serving.request import Token as ServedToken
from caikit_pt.soft_prompt import artifact
from caikit_pt.soft_prompt.artifact import TunedPrompt
from caikit_pt.soft_prompt.config_file import check_config
from caikit_pt.soft_prompt.initial import FIELD, Predecessor, published
from caikit_pt.soft_prompt.publication import publication_of, replacing
from caikit_pt.status import caikit_errors
from caikit_pt.tracking.recording import recording
from caikit_pt.tuning import launched
from caikit_pt.tuning.contender import Contender
from caikit_pt.tuning.evaluation import AGAINST, TUNED, Done, Evaluation
from caikit_pt.tuning.failure import told
from caikit_pt.tuning.plan import TuningPlan, make_plan
from caikit_pt.tuning.preflight import Preflight, preflight
from caikit_pt.tuning.progress import Progress, show_progress
from caikit_pt.tuning.record_fields import Asked
from caikit_pt.tuning.record_file import rows
from caikit_pt.tuning.records import read_records
from caikit_pt.tuning.training import Training
from caikit_pt.tuning.verbalizer import Verbalizer

# A request for more would hold up whoever shares the engine for seconds.
_MOST_PROBABILITIES = 500
# A prompt may be published anew while it is read.
_TRIES_TO_READ = 3
# What another place to write to helps against.
_UNWRITABLE = (
    errno.EACCES,
    errno.EEXIST,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
)
_Decay = Optional[Union[Tuple[int, float], ExponentialDecayLengthPenalty]]
_Made = TypeVar("_Made", bound=Any)
_Records = Union[DataStream[GenerationTrainRecord], DataStream[ClassificationTrainRecord]]

# caikit names the train RPC by the first of a module's tasks, and warns each time that it does where there
# are more. The two are meant, and the name is wire API (protos/).
logging.getLogger("RNTM-NAMES").addFilter(lambda record: "<RUN35134050W>" not in str(record.msg))


def _looks_first(made: Type[_Made]) -> Type[_Made]:
    """caikit has put another `load` around that of a module, which reads config.yml at once: it is looked
    through before that."""
    reading = made.load.__func__

    @wraps(reading)
    def load(cls: Type[_Made], model_path: Union[str, ModuleConfig], *more: Any, **options: Any) -> Any:
        if isinstance(model_path, str):
            with caikit_errors(), suppress(FileNotFoundError):
                check_config(Path(model_path))
        return reading(cls, model_path, *more, **options)

    # caikit's metaclass warns of whoever changes it otherwise.
    type.__setattr__(made, "load", classmethod(load))
    return made


# The id is caikit-nlp's, so that prompts that it saved are loaded here.
@_looks_first
@module(
    id="6655831b-960a-4dc5-8df4-867026e2cd41",
    name="Peft prompt tuning",
    version="1.0.0",
    tasks=[TextGenerationTask, TokenizationTask],
)
class PeftPromptTuning(ModuleBase):
    """A soft prompt in front of a shared frozen language model."""

    def __init__(self, tuned: TunedPrompt, base: LanguageModel) -> None:
        """`base` is the model that `tuned` was made for: its shared copy, or only the side of the text."""
        super().__init__()
        tuned.check_base(base.checkpoint)
        self.tuned = tuned
        self.base = base
        # Which publication it was loaded from; None where it wasn't.
        self.publication: Optional[tuple[int, int]] = None
        self._verbalizer = Verbalizer(tuned.verbalizer, tuned.separator)

    def __repr__(self) -> str:
        tuned = self.tuned
        return (
            f"<PeftPromptTuning on {tuned.base_model_name!r}, "
            f"{tuned.prompt.num_virtual_tokens} virtual tokens, "
            f"separator {tuned.separator!r}, {len(tuned.labels)} labels>"
        )

    # ---- training ----

    @classmethod
    def train(
        cls,
        base_model: str,
        train_stream: Union[DataStream[GenerationTrainRecord], DataStream[ClassificationTrainRecord]],
        tuning_config: TuningConfig,
        val_stream: Optional[
            Union[DataStream[GenerationTrainRecord], DataStream[ClassificationTrainRecord]]
        ] = None,
        device: Optional[str] = None,
        tuning_type: Optional[str] = None,
        num_epochs: Optional[int] = None,
        learning_rate: Optional[float] = None,
        verbalizer: Optional[str] = None,
        batch_size: Optional[int] = None,
        max_source_length: Optional[int] = None,
        max_target_length: Optional[int] = None,
        accumulate_steps: Optional[int] = None,
        torch_dtype: Optional[str] = None,
        silence_progress_bars: Optional[bool] = None,
        seed: Optional[int] = None,
        tuning_task: Optional[str] = None,
        task_learning_rate: Optional[float] = None,
        search: Optional[str] = None,
        reparameterization: Optional[str] = None,
        optimizer: Optional[str] = None,
        lr_scheduler_type: Optional[str] = None,
        warmup_ratio: Optional[float] = None,
        max_grad_norm: Optional[float] = None,
        weight_decay: Optional[float] = None,
        validation_share: Optional[float] = None,
        validation_steps: Optional[int] = None,
        early_stopping_patience: Optional[int] = None,
        training_id: Optional[str] = None,
        input_field: Optional[str] = None,
        output_field: Optional[str] = None,
        separator: Optional[str] = None,
        prompt_tuning_init_prompt: Optional[str] = None,
    ) -> "PeftPromptTuning":
        """Tunes a soft prompt and returns it ready to serve.

        Every parameter with its range and default: docs/parameters.md. None is unset. In Python,
        `base_model` may also be a model that `caikit_pt.load_base_model` returned, and
        `prompt_tuning_init_prompt` a PeftPromptTuning or the Path of one on disk; without a `base_model`
        theirs is taken.

        Raises CaikitRuntimeException: INVALID_ARGUMENT for a bad request, ABORTED where the loss
        diverged; the error of caikit_pt is its cause.
        """
        request = dict(locals())
        # Of a job on a server.
        del request["cls"], request["training_id"]
        plan = cls.plan(**request)
        return cls.from_plan(plan, progress_bar=not plan.parameters.silence_progress_bars)

    @classmethod
    def plan(
        cls,
        base_model: Union[str, BaseModel] = "",
        train_stream: Optional[_Records] = None,
        tuning_config: Optional[TuningConfig] = None,
        val_stream: Optional[_Records] = None,
        prompt_tuning_init_prompt: Union["PeftPromptTuning", Path, str, None] = None,
        **parameters: Any,
    ) -> TuningPlan:
        """Checks the arguments of `train` and resolves them, without reading a weight of a base model."""
        with caikit_errors():
            predecessor = _predecessor(prompt_tuning_init_prompt) if prompt_tuning_init_prompt else None
            resource = base_model if isinstance(base_model, BaseModel) else None
            request = {
                "base_model": resource.checkpoint.name if resource else base_model or None,
                **_set_fields(tuning_config),
                **{name: value for name, value in parameters.items() if _is_set(name, value)},
                FIELD: predecessor and predecessor.name,
            }
            if not base_model and isinstance(prompt_tuning_init_prompt, PeftPromptTuning):
                own = prompt_tuning_init_prompt.base
                resource = own if isinstance(own, BaseModel) else None
            records = () if train_stream is None else train_stream
            return make_plan(request, records, val_stream, settings.current(), resource, predecessor)

    @classmethod
    def preflight(cls, *arguments: Any, **parameters: Any) -> Preflight:
        """What `train` with these arguments would do and what there is to doubt, without doing it.

        Raises CaikitRuntimeException with INVALID_ARGUMENT for what `train` refuses.
        """
        plan = cls.plan(*arguments, **parameters)
        with caikit_errors():
            found = preflight(plan)
            plan.check_training()
            return found

    @classmethod
    def from_plan(cls, plan: TuningPlan, progress_bar: bool = False) -> "PeftPromptTuning":
        """Does what `plan` says: minutes to hours."""
        now = settings.current()
        with caikit_errors(), told():
            training = Training(plan, launched.device(plan.parameters.device))
            # Of workers that torchrun has launched one tells.
            leads, tracking = launched.leads(), now.tracking
            if not leads:
                tracking = replace(tracking, mlflow_uri="", tensorboard_directory="")
            with (
                show_progress(plan.checkpoint.name, progress_bar and leads) as shown,
                recording(plan, tracking) as recorded,
            ):

                def on_update(progress: Progress) -> None:
                    shown(progress)
                    recorded.updated(progress)

                run = partial(training.run, now.join_trainings, on_update, recorded.validated)
                if launched.workers() > 1:
                    tuned = launched.Launched().tuned(training.base, lambda crew: run(crew=crew))
                else:
                    tuned = run()
                made = cls(tuned, training.base)
                recorded.tuned(tuned.verdict, made.save)
                return made

    def plot(self) -> Any:
        """The loss curves of its training as a figure of matplotlib, which a notebook shows as a picture.

        Raises PlotsUnavailable without matplotlib.
        """
        name = self.tuned.base_model_name
        return figure_of({name: curves_of(self.tuned.training_logs)}, f"a prompt for {name}")

    # ---- inference ----

    @TextGenerationTask.taskmethod()
    def run(
        self,
        text: str,
        max_new_tokens: Optional[int] = None,
        min_new_tokens: Optional[int] = None,
        truncate_input_tokens: Optional[int] = None,
        decoding_method: Optional[str] = None,
        top_k: Optional[int] = None,
        top_p: Optional[float] = None,
        typical_p: Optional[float] = None,
        temperature: Optional[float] = None,
        repetition_penalty: Optional[float] = None,
        max_time: Optional[float] = None,
        exponential_decay_length_penalty: Optional[
            Union[Tuple[int, float], ExponentialDecayLengthPenalty]
        ] = None,
        stop_sequences: Optional[List[str]] = None,
        seed: Optional[np.uint64] = None,
        preserve_input_text: Optional[bool] = None,
        input_tokens: Optional[bool] = None,
        generated_tokens: Optional[bool] = None,
        token_logprobs: Optional[bool] = None,
        token_ranks: Optional[bool] = None,
        include_stop_sequence: Optional[bool] = None,
        labels_only: Optional[bool] = None,
        label_probabilities: Optional[bool] = None,
        top_tokens: Optional[int] = None,
        untuned: Optional[bool] = None,
        input_ids: Optional[List[int]] = None,
    ) -> LabelledTextResult:
        """The answer to `text`. Every parameter with its range and default: docs/parameters.md.

        Raises CaikitRuntimeException with INVALID_ARGUMENT for a bad request.
        """
        fields = dict(locals())
        del fields["self"]
        with caikit_errors():
            request = self._request(**fields)
            generation = self._submitted(request)
            # Whoever waits leaves before the interpreter goes down.
            with waits_for_this(generation.cancel):
                generation.result()
            asked = self._input_tokens(request)
            return LabelledTextResult(
                generated_text=request.text,
                generated_tokens=len(request.generated),
                finish_reason=_finish_reason(request),
                producer_id=self.PRODUCER_ID,
                input_token_count=len(request.row.ids),
                seed=_seed(request),
                tokens=_messages(request.tokens),
                input_tokens=_messages(asked),
                label_probabilities=_label_probabilities(request),
                top_tokens=_top_messages(request, request.tokens),
                input_top_tokens=_top_messages(request, asked),
            )

    @TextGenerationTask.taskmethod(output_streaming=True)
    def run_stream_out(
        self,
        text: str,
        max_new_tokens: Optional[int] = None,
        min_new_tokens: Optional[int] = None,
        truncate_input_tokens: Optional[int] = None,
        decoding_method: Optional[str] = None,
        top_k: Optional[int] = None,
        top_p: Optional[float] = None,
        typical_p: Optional[float] = None,
        temperature: Optional[float] = None,
        repetition_penalty: Optional[float] = None,
        max_time: Optional[float] = None,
        exponential_decay_length_penalty: Optional[
            Union[Tuple[int, float], ExponentialDecayLengthPenalty]
        ] = None,
        stop_sequences: Optional[List[str]] = None,
        seed: Optional[np.uint64] = None,
        preserve_input_text: Optional[bool] = None,
        input_tokens: Optional[bool] = None,
        generated_tokens: Optional[bool] = None,
        token_logprobs: Optional[bool] = None,
        token_ranks: Optional[bool] = None,
        include_stop_sequence: Optional[bool] = None,
        labels_only: Optional[bool] = None,
        label_probabilities: Optional[bool] = None,
        top_tokens: Optional[int] = None,
        untuned: Optional[bool] = None,
        input_ids: Optional[List[int]] = None,
    ) -> Iterable[LabelledTextStreamResult]:
        """The answer to `text` a token at a time; its texts joined are the text of `run`."""
        fields = dict(locals())
        del fields["self"]
        with caikit_errors():
            request = self._request(**fields)
            return self._stream(request, self._submitted(request))

    @TokenizationTask.taskmethod()
    def run_tokenizer(self, text: str) -> TokenizationResults:
        """The tokens of `text` with their offsets in characters, without special tokens.

        Raises CaikitRuntimeException with INVALID_ARGUMENT for a text of more characters than is ever served.
        """
        with caikit_errors():
            _check_text(text)
            encoded = self._encoded(text, add_special_tokens=False, return_offsets_mapping=True)
        tokens = [Token(start, end, text[start:end]) for start, end in encoded["offset_mapping"]]
        return TokenizationResults(results=tokens, token_count=len(tokens))

    def token_ids(self, text: str, add_special_tokens: bool = True) -> List[int]:
        """The tokens of `text` as its tokenizer has them, for `input_ids`.

        Raises InvalidParameter for a text of more characters than is ever served.
        """
        ids: List[int] = self._encoded(text, add_special_tokens=add_special_tokens)["input_ids"]
        return ids

    def text_of(self, ids: Sequence[int]) -> str:
        """The text of tokens. Raises InvalidParameter where one isn't the tokenizer's."""
        tokenizer, most = self.base.text.tokenizer, len(self.base.text.tokenizer)
        check_count(self.base.text, ids, "ids", settings.current().max_input_tokens)
        if call := current_call():
            call.spend(len(ids))
        for id in ids:
            if not 0 <= id < most:
                raise InvalidParameter("ids", id, f"ids of tokens from 0 to {most - 1}")
        return str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))

    def pieces_of(self, ids: Sequence[int]) -> List[str]:
        """The text of each token, as an answer has it."""
        return [token_text(self.base.text, id) for id in ids]

    def _encoded(self, text: str, **options: Any) -> Mapping[str, Any]:
        check_characters(self.base.text, text, settings.current().max_input_tokens)
        with self.base.text.reading(text):
            encoded: Mapping[str, Any] = self.base.text.tokenizer(text, **options)
        if call := current_call():
            call.spend(len(encoded["input_ids"]))
        return encoded

    def _stream(self, request: Request, generation: Generation) -> Iterable[LabelledTextStreamResult]:
        front, asked = request.prefix, self._input_tokens(request)
        with caikit_errors():
            for step in generation.steps():
                tokens = [step.token] if step.token else []
                yield LabelledTextStreamResult(
                    generated_text=front + step.text,
                    tokens=_messages(tokens),
                    details=TokenStreamDetails(
                        finish_reason=FinishReason[step.finish_reason.name],
                        generated_tokens=step.generated,
                        seed=_seed(request),
                        input_token_count=len(request.row.ids),
                    ),
                    producer_id=self.PRODUCER_ID,
                    input_tokens=_messages(asked),
                    label_probabilities=_label_probabilities(request) if step.ends else None,
                    top_tokens=_top_messages(request, tokens),
                    input_top_tokens=_top_messages(request, asked),
                )
                front, asked = "", []

    @cached_property
    def _backend(self) -> Backend:
        """Who answers the requests to all prompts over this base model."""
        return backend_for(self.base, settings.current())

    @waits_for_this()
    def _submitted(self, request: Request) -> Generation:
        """On its way; nobody answers any longer whoever has left, or has run out of time."""
        generation = self._backend.submit(request)
        if call := current_call():
            call.on_end(generation.cancel)
        return generation

    # A thread that comes back from a tokenizer into an interpreter that is going down ends the process.
    @waits_for_this()
    def _request(self, text: str, exponential_decay_length_penalty: _Decay, **fields: Any) -> Request:
        """A request as the serving side knows it."""
        now = settings.current()
        ids = fields.get("input_ids")
        if not ids:
            _check_text(text)
        elif text:
            raise InvalidParameter("text", text, "empty where there are input_ids")
        if not fields.get("truncate_input_tokens"):
            check_characters(self.base.text, text, now.max_input_tokens)
        if ids:
            # Before each of them is looked at.
            fields["input_ids"] = ids = ids[-(fields.get("truncate_input_tokens") or 0) :]
            check_count(self.base.text, ids, "input_ids", now.max_input_tokens)
        limit = now.max_new_tokens_limit
        limits = {"max_new_tokens": (1.0, float(limit))}
        decay = exponential_decay_length_penalty
        if isinstance(decay, ExponentialDecayLengthPenalty):
            decay = (decay.start_index, decay.decay_factor)
        parameters = GenerationParameters.from_request(fields, decay, limits)
        shown = parameters.preserve_input_text and self.base.text.continues_text
        contender = self._contender(labels_only=parameters.labels_only)
        if parameters.label_probabilities and contender.labels is None:
            raise InvalidParameter(
                "label_probabilities",
                True,
                "false or unset, unless the prompt was tuned for a classification and labels_only is true",
            )
        labels = len(contender.labels.texts) if contender.labels else 0
        if parameters.label_probabilities and labels > _MOST_PROBABILITIES:
            raise InvalidParameter(
                "label_probabilities",
                True,
                f"false or unset for a prompt of more than {_MOST_PROBABILITIES} labels (this one has "
                f"{labels:,}): each may take a pass of its own, which others would wait for",
            )
        if parameters.untuned:
            contender = contender.untuned
        prefix = text + self.tuned.separator.rstrip(" ") if shown and text else ""
        return contender.request(contender.source_ids(text, parameters), parameters, prefix)

    @cached_property
    def _labels(self) -> Optional[Labels]:
        return labels_of(self.tuned, self.base.text)

    @waits_for_this()
    def _input_tokens(self, request: Request) -> List[ServedToken]:
        return self._backend.input_tokens(request) if request.parameters.input_tokens else []

    # ---- evaluation ----

    def evaluate(
        self,
        records: Union[Iterable[Any], Path],
        against: Optional["PeftPromptTuning"] = None,
        wrong_answers: int = 0,
        on_progress: Callable[[Done], object] = lambda _: None,
        **options: Any,
    ) -> Dict[str, Any]:
        """What this prompt is worth on `records`, beside its untuned base and the prompt `against`.

        The report of tuning/evaluation.py; with `wrong_answers` also the first so many of these, as `wrong`.
        `options` are those of `evaluation`, which says what it raises.
        """
        evaluation = self.evaluation(records, against, **options)
        with caikit_errors():
            for done in evaluation.run():
                on_progress(done)
            report = evaluation.report()
            if wrong_answers:
                report["wrong"] = [asdict(one) for one in evaluation.wrong(wrong_answers)]
            return report

    def evaluation(
        self,
        records: Union[Iterable[Any], Path],
        against: Optional["PeftPromptTuning"] = None,
        tuning_task: Optional[str] = None,
        input_field: Optional[str] = None,
        output_field: Optional[str] = None,
        max_new_tokens: Optional[int] = None,
        truncate_input_tokens: Optional[int] = None,
        labels_only: Optional[bool] = None,
        names: Tuple[str, str] = (TUNED, AGAINST),
    ) -> Evaluation:
        """An evaluation on `records` (those of a training, mappings, or a file), yet to be run.

        `tuning_task` unset is that of the training. Answers are as long as the longest expected output, and
        `max_new_tokens` at the most; a text that doesn't fit into the context is refused, unless
        `truncate_input_tokens` cuts it. `labels_only` false: free text of prompts that know labels, too.
        `names` are those of the two prompts.
        Raises CaikitRuntimeException with INVALID_ARGUMENT for a bad request, before anything is asked.
        """
        with caikit_errors():
            limit = settings.current().max_new_tokens_limit
            asked = GENERATION_PARAMETERS.check(
                {
                    "max_new_tokens": max_new_tokens,
                    "truncate_input_tokens": truncate_input_tokens,
                    "labels_only": labels_only,
                },
                {"max_new_tokens": (1.0, float(limit))},
            )
            confined = asked.get("labels_only", True)
            given = rows(records, str(records)) if isinstance(records, Path) else records
            return Evaluation(
                self._contender(names[0], confined),
                read_records(given, "test_stream", Asked(input_field or "", output_field or "")),
                tuning_task or self.tuned.tuning_parameters.get("tuning_task") or "generation",
                against and against._contender(names[1], confined),
                asked.get("max_new_tokens", limit),
                asked.get("truncate_input_tokens", 0),
            )

    def _contender(self, name: str = "", labels_only: bool = True) -> Contender:
        return Contender(
            model_name=name,
            base=self.base,
            backend=self._backend,
            prompt=self.tuned.prompt,
            verbalizer=self._verbalizer,
            labels=self._labels if labels_only else None,
            max_input_tokens=settings.current().max_input_tokens,
        )

    # ---- on disk ----

    def save(self, model_path: str) -> None:
        """Writes a directory that `load` reads, without the base model; it appears in one piece.

        Raises CaikitRuntimeException: INVALID_ARGUMENT where it can't be written there. OSError where there
        is no room.
        """
        with caikit_errors(), _written_to(model_path), replacing(Path(model_path)) as directory:
            saver = ModuleSaver(self, str(directory))
            with saver:
                saver.update_config(artifact.write(self.tuned, directory))

    @classmethod
    def load(
        cls, model_path: Union[str, ModuleConfig], base_model: Optional[BaseModel] = None
    ) -> "PeftPromptTuning":
        """The tuned prompt in `model_path`, over its base model here or where `backends` says.

        Raises CaikitRuntimeException: FAILED_PRECONDITION where the base model found isn't the one
        it was tuned on, can't be read or isn't there, DATA_LOSS where files are damaged, UNAVAILABLE
        where its server can't be reached.
        """
        with caikit_errors():
            tuned, publication = _read_whole(model_path)
            if base_model is not None:
                return cls(tuned, base_model)
            now = settings.current()
            try:
                checkpoint = locate(tuned.base_model_name, now)
                tuned.check_base(checkpoint)
                loaded = cls(tuned, base_for(checkpoint, now))
                loaded.publication = publication
                return loaded
            except InvalidParameter as error:
                raise BaseModelUnavailable(
                    f"The base model of this prompt, {tuned.base_model_name!r}, can't be read. "
                    f"It has to be {error.allowed}"
                ) from error


@contextmanager
def _written_to(model_path: str) -> Iterator[None]:
    """Raises InvalidParameter where nothing can be written there."""
    try:
        yield
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        allowed = f"a directory in one that is there and may be written ({error.strerror})"
        raise InvalidParameter("model_path", model_path, allowed) from error


def _read_whole(model_path: Union[str, ModuleConfig]) -> Tuple[TunedPrompt, Optional[Tuple[int, int]]]:
    """A tuned prompt whose files are all of one publication, and which that is. Raises DamagedArtifact."""
    # caikit has read its config.yml, and that of another may be there now.
    directory = model_path if isinstance(model_path, str) else str(model_path.model_path)
    left = _TRIES_TO_READ
    while True:
        left, publication = left - 1, publication_of(Path(directory))
        try:
            tuned = _read(directory)
        except (CaikitPtError, OSError):
            if left and publication != publication_of(Path(directory)):
                continue
            raise
        if not left or publication == publication_of(Path(directory)):
            return tuned, publication


def _read(model_path: Union[str, ModuleConfig]) -> TunedPrompt:
    """Raises DamagedArtifact."""
    if isinstance(model_path, str):
        check_config(Path(model_path))
    try:
        loader = ModuleLoader(model_path)
    except OSError as error:
        check_scarcity(error)
        raise
    return artifact.read(_plain(loader.config), Path(loader.model_path))


def _predecessor(given: Union[PeftPromptTuning, Path, str]) -> Predecessor:
    """What a training goes on from. Text, which may come from anywhere, is a name in the directory of models.

    Raises InvalidParameter where there is none, DamagedArtifact.
    """
    if isinstance(given, PeftPromptTuning):
        return Predecessor("in memory", given.tuned)
    if isinstance(given, Path):
        if not (given / "config.yml").is_file():
            raise InvalidParameter(FIELD, str(given), "the directory of a tuned prompt")
        return Predecessor(given.resolve().name, _read(str(given)))
    return Predecessor(given, _read(str(published(given, caikit.get_config().runtime.local_models_dir))))


def _check_text(text: str) -> None:
    """Raises InvalidParameter where there is nothing to read."""
    if not text:
        raise InvalidParameter("text", text, "text that isn't empty")


def _set_fields(config: Union[TuningConfig, Mapping[str, Any], None]) -> Dict[str, Any]:
    """The fields of a TuningConfig that are set: proto3 has no presence for them."""
    if config is None:
        return {}
    values = (
        config if isinstance(config, Mapping) else {name: getattr(config, name) for name in config.fields}
    )
    return {name: value for name, value in values.items() if value}


def _is_set(name: str, value: Any) -> bool:
    """Empty text is no value but of what may be none."""
    return value is not None and (value != "" or name == "separator")


def _plain(config: Mapping[str, Any]) -> Dict[str, Any]:
    """caikit's config objects as plain values."""
    return {name: config[name] for name in config}


def _finish_reason(request: Request) -> FinishReason:
    return FinishReason[request.finish_reason.name]


def _seed(request: Request) -> Optional[int]:
    return request.parameters.seed if request.parameters.samples else None


def _label_probabilities(request: Request) -> Optional[List[LabelProbability]]:
    search = request.search
    # Of a search that its time has ended some are unknown.
    if search is None or search.wanted is not None or not request.parameters.label_probabilities:
        return None
    return [LabelProbability(*pair) for pair in search.probabilities.items()]


def _messages(tokens: List[ServedToken]) -> Optional[List[GeneratedToken]]:
    messages = [GeneratedToken(token.text, token.logprob, token.rank) for token in tokens]
    return messages or None


def _top_messages(request: Request, tokens: List[ServedToken]) -> Optional[List[TopTokens]]:
    if not (request.parameters.top_tokens and tokens):
        return None
    return [TopTokens(_messages(list(token.top))) for token in tokens]
