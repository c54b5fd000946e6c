"""The face that caikit sees: translates messages and errors, and delegates everything else.

The order of the tasks, the name of the class, and the names and order of the arguments are wire API
(request messages and method paths are made of them). New arguments go to the end. Annotations are
what caikit can turn into protobuf: Optional and Union, no strings.
"""

import logging
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional, Tuple, Union

import numpy as np
from caikit.core import ModuleBase, ModuleConfig, ModuleLoader, ModuleSaver, module
from caikit.core.data_model import DataStream
from caikit.interfaces.nlp.data_model import (
    ClassificationTrainRecord,
    FinishReason,
    GeneratedTextResult,
    GeneratedTextStreamResult,
    GeneratedToken,
    Token,
    TokenizationResults,
    TokenStreamDetails,
)
from caikit.interfaces.nlp.tasks import TextGenerationTask, TokenizationTask

from caikit_pt import settings
from caikit_pt.base_model.checkpoint import locate
from caikit_pt.base_model.frozen import BaseModel
from caikit_pt.base_model.pool import POOL
from caikit_pt.base_model.text import TextSide
from caikit_pt.data_model import (
    ExponentialDecayLengthPenalty,
    GenerationTrainRecord,
    TuningConfig,
)
from caikit_pt.errors import InvalidParameter
from caikit_pt.parameters.generation import GenerationParameters
from caikit_pt.plotting import curves_of, figure_of
from caikit_pt.runtime.status import caikit_errors
from caikit_pt.serving.backend import Backend
from caikit_pt.serving.backends import backend_for, base_for
from caikit_pt.serving.generation import Generation
from caikit_pt.serving.sequence import Sequence, text_ids
from caikit_pt.serving.sequence import Token as ServedToken
from caikit_pt.soft_prompt import artifact
from caikit_pt.soft_prompt.artifact import TunedPrompt
from caikit_pt.soft_prompt.publication import replacing
from caikit_pt.tracking.recording import recording
from caikit_pt.tuning.failure import told
from caikit_pt.tuning.joining import round_of
from caikit_pt.tuning.learner import gradients
from caikit_pt.tuning.plan import TuningPlan, make_plan
from caikit_pt.tuning.preflight import Preflight, preflight
from caikit_pt.tuning.progress import show_progress
from caikit_pt.tuning.tuner import Progress, tune
from caikit_pt.tuning.verbalizer import Verbalizer

_Decay = Optional[Union[Tuple[int, float], ExponentialDecayLengthPenalty]]
_Records = Union[DataStream[GenerationTrainRecord], DataStream[ClassificationTrainRecord]]

# caikit names the train RPC by the first of a module's tasks, and warns each time that it does where there
# are more. The two are meant, and the name is wire API (protos/).
logging.getLogger("RNTM-NAMES").addFilter(lambda record: "<RUN35134050W>" not in str(record.msg))


# The id is caikit-nlp's, so that prompts that it saved are loaded here.
@module(
    id="6655831b-960a-4dc5-8df4-867026e2cd41",
    name="Peft prompt tuning",
    version="1.0.0",
    tasks=[TextGenerationTask, TokenizationTask],
)
class PeftPromptTuning(ModuleBase):
    """A soft prompt in front of a shared frozen language model."""

    def __init__(self, tuned: TunedPrompt, base: TextSide) -> None:
        """`base` is the model that `tuned` was made for: its shared copy, or only the side of the text."""
        super().__init__()
        tuned.check_base(base.checkpoint)
        self.tuned = tuned
        self.base = base
        self._verbalizer = Verbalizer(tuned.verbalizer)

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
    ) -> "PeftPromptTuning":
        """Tunes a soft prompt and returns it ready to serve.

        Every parameter with its range and default: docs/parameters.md. None is unset. In Python,
        `base_model` may also be a model that `caikit_pt.load_base_model` returned.

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
        **parameters: Any,
    ) -> TuningPlan:
        """Checks the arguments of `train` and resolves them, without reading a weight."""
        with caikit_errors():
            resource = base_model if isinstance(base_model, BaseModel) else None
            request = {
                "base_model": resource.checkpoint.name if resource else base_model,
                **_set_fields(tuning_config),
                **{name: value for name, value in parameters.items() if value not in (None, "")},
            }
            records = () if train_stream is None else train_stream
            return make_plan(request, records, val_stream, settings.current(), resource)

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
        with caikit_errors(), told():
            base = plan.resource or POOL.get(
                plan.checkpoint, plan.parameters.torch_dtype, plan.parameters.device
            )
            taking_part = (
                round_of(base).member() if settings.current().join_trainings else nullcontext(gradients)
            )
            with (
                taking_part as compute,
                show_progress(plan.checkpoint.name, progress_bar) as shown,
                recording(plan, settings.current().tracking) as recorded,
            ):

                def on_update(progress: Progress) -> None:
                    shown(progress)
                    recorded.updated(progress)

                tuned = tune(plan, base, on_update, compute, on_validation=recorded.validated)
                made = cls(tuned, base)
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
    ) -> GeneratedTextResult:
        """The answer to `text`. Every parameter with its range and default: docs/parameters.md.

        Raises CaikitRuntimeException with INVALID_ARGUMENT for a bad request.
        """
        request = dict(locals())
        del request["self"]
        with caikit_errors():
            sequence = self._sequence(**request)
            self._backend.submit(sequence).result()
            return GeneratedTextResult(
                generated_text=sequence.text,
                generated_tokens=len(sequence.generated),
                finish_reason=_finish_reason(sequence),
                producer_id=self.PRODUCER_ID,
                input_token_count=len(sequence.row.ids),
                seed=_seed(sequence),
                tokens=_messages(sequence.tokens),
                input_tokens=self._input_tokens(sequence),
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
    ) -> Iterable[GeneratedTextStreamResult]:
        """The answer to `text` a token at a time; its texts joined are the text of `run`."""
        request = dict(locals())
        del request["self"]
        with caikit_errors():
            sequence = self._sequence(**request)
            return self._stream(sequence, self._backend.submit(sequence))

    @TokenizationTask.taskmethod()
    def run_tokenizer(self, text: str) -> TokenizationResults:
        """The tokens of `text` with their offsets in characters, without special tokens."""
        with caikit_errors():
            _check_text(text)
        encoded = self.base.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        tokens = [Token(start, end, text[start:end]) for start, end in encoded["offset_mapping"]]
        return TokenizationResults(results=tokens, token_count=len(tokens))

    def _stream(self, sequence: Sequence, generation: Generation) -> Iterable[GeneratedTextStreamResult]:
        front, asked = sequence.prefix, self._input_tokens(sequence)
        with caikit_errors():
            for step in generation.steps():
                yield GeneratedTextStreamResult(
                    generated_text=front + step.text,
                    tokens=_messages([step.token] if step.token else []),
                    details=TokenStreamDetails(
                        finish_reason=FinishReason[step.finish_reason.name],
                        generated_tokens=step.generated,
                        seed=_seed(sequence),
                        input_token_count=len(sequence.row.ids),
                    ),
                    producer_id=self.PRODUCER_ID,
                    input_tokens=asked,
                )
                front, asked = "", None

    @cached_property
    def _backend(self) -> Backend:
        """Who answers the requests to all prompts over this base model."""
        return backend_for(self.base, settings.current())

    def _sequence(self, text: str, exponential_decay_length_penalty: _Decay, **request: Any) -> Sequence:
        """A request as the serving side knows it."""
        _check_text(text)
        limit = settings.current().max_new_tokens_limit
        limits = {"max_new_tokens": (1.0, float(limit))}
        decay = exponential_decay_length_penalty
        if isinstance(decay, ExponentialDecayLengthPenalty):
            decay = (decay.start_index, decay.decay_factor)
        parameters = GenerationParameters.from_request(request, decay, limits)
        shown = parameters.preserve_input_text and self.base.continues_text
        return Sequence(
            self.base,
            self.tuned.prompt,
            text_ids(self.base, self._verbalizer.render(text), parameters),
            parameters,
            prefix=text if shown else "",
        )

    def _input_tokens(self, sequence: Sequence) -> Optional[List[GeneratedToken]]:
        if not sequence.parameters.input_tokens:
            return None
        return _messages(self._backend.input_tokens(sequence))

    # ---- on disk ----

    def save(self, model_path: str) -> None:
        """Writes a directory that `load` reads, without the base model; it appears in one piece."""
        with caikit_errors(), replacing(Path(model_path)) as directory:
            saver = ModuleSaver(self, str(directory))
            with saver:
                saver.update_config(artifact.write(self.tuned, directory))

    @classmethod
    def load(
        cls, model_path: Union[str, ModuleConfig], base_model: Optional[BaseModel] = None
    ) -> "PeftPromptTuning":
        """The tuned prompt in `model_path`, over its base model here or where `backends` says.

        Raises CaikitRuntimeException: FAILED_PRECONDITION where the base model found isn't the one
        it was tuned on, INVALID_ARGUMENT where there is none, DATA_LOSS where files are damaged,
        UNAVAILABLE where its server can't be reached.
        """
        with caikit_errors():
            loader = ModuleLoader(model_path)
            tuned = artifact.read(_plain(loader.config), Path(loader.model_path))
            if base_model is not None:
                return cls(tuned, base_model)
            now = settings.current()
            checkpoint = locate(tuned.base_model_name, now)
            tuned.check_base(checkpoint)
            return cls(tuned, base_for(checkpoint, now))


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


def _plain(config: Mapping[str, Any]) -> Dict[str, Any]:
    """caikit's config objects as plain values."""
    return {name: config[name] for name in config}


def _finish_reason(sequence: Sequence) -> FinishReason:
    return FinishReason[sequence.finish_reason.name]


def _seed(sequence: Sequence) -> Optional[int]:
    return sequence.parameters.seed if sequence.parameters.samples else None


def _messages(tokens: List[ServedToken]) -> Optional[List[GeneratedToken]]:
    messages = [GeneratedToken(token.text, token.logprob, token.rank) for token in tokens]
    return messages or None
