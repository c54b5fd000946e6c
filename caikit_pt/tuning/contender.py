"""Who is evaluated: a soft prompt over its base model, asked as whoever uses it asks."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from caikit_pt.base_model.language_model import LanguageModel
from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.row import Row, TrainingBatch
from caikit_pt.call import Call
from caikit_pt.call import current as current_call
from caikit_pt.errors import (
    InvalidParameter,
    InvalidRecord,
    QuotaExceeded,
    TooManyRequests,
    WaitedTooLong,
)
from caikit_pt.parameters.generation import GenerationParameters
from caikit_pt.serving.backend import Backend
from caikit_pt.serving.generation import Generation
from caikit_pt.serving.labels import Labels
from caikit_pt.serving.request import Request, given_ids, text_ids
from caikit_pt.settings import Settings
from caikit_pt.soft_prompt.prompt import SoftPrompt
from caikit_pt.tuning.examples import known_tokens, target_text
from caikit_pt.tuning.losses import losses
from caikit_pt.tuning.records import Record, Records, numbered
from caikit_pt.tuning.verbalizer import Verbalizer
from caikit_pt.turns import in_turn

# Requests under way: half of what an engine has rows for by default, so that others get in between.
_AT_ONCE = Settings().max_batch_size // 2
# Seconds after which whoever follows hears of it, whether anything is done or not.
_NAP = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A soft prompt, the text preparation that it was tuned with, and who answers for its base model;
    `labels` are those that answers are confined to."""

    model_name: str
    base: LanguageModel
    backend: Backend
    prompt: SoftPrompt
    verbalizer: Verbalizer
    labels: Labels | None = None
    # Tokens that a text may have; 0: as its base model's context has.
    max_input_tokens: int = 0

    @property
    def weights(self) -> BaseModel | None:
        """The base model, where its weights are in this process."""
        return self.base if isinstance(self.base, BaseModel) else None

    @property
    def untuned(self) -> Contender:
        """Its base model, given the same texts and labels without a soft prompt."""
        return replace(self, model_name=self.base.checkpoint.name, prompt=SoftPrompt({}))

    def source_ids(self, text: str, parameters: GenerationParameters) -> list[int]:
        """The tokens of a text as it is served, or those that `parameters` give instead. Raises
        InvalidParameter where there are too many."""
        if parameters.input_ids:
            return given_ids(self.base.text, parameters, self.max_input_tokens)
        return text_ids(self.base.text, self.verbalizer.render(text), parameters, self.max_input_tokens)

    def request(self, ids: Sequence[int], parameters: GenerationParameters, prefix: str = "") -> Request:
        """As it is served, with `prefix` in front of the answer. Raises InvalidParameter where the text
        doesn't fit."""
        behind_space = self.verbalizer.separator.endswith(" ")
        return Request(self.base.text, self.prompt, ids, parameters, prefix, behind_space, self.labels)

    def target_ids(self, output: str) -> list[int]:
        """The tokens of the answer that is expected, as a training has them."""
        text = self.base.text
        answer = text.answer_text(target_text(output, self.labels is not None), self.verbalizer.separator)
        return [*text.target_ids(answer), text.end_id]


class Answers:
    """What one contender makes of records: `texts`, and `losses` where it has weights, in their order.

    A loss is the summed cross-entropy (nats) of an expected output and its end token; `target_tokens` says
    of how many tokens. Raises InvalidRecord where a text can't be asked about or answered, by number.
    """

    def __init__(
        self, contender: Contender, records: Records, most_new_tokens: int, truncate_input_tokens: int = 0
    ) -> None:
        """Answers are as long as the longest expected output and one token more, or `most_new_tokens`."""
        targets = list(in_turn(_target(contender, record, records.stream) for record in records.items))
        self.contender = contender
        self.parameters = GenerationParameters(
            max_new_tokens=min(max(map(len, targets)) + 1, most_new_tokens),
            truncate_input_tokens=truncate_input_tokens,
            preserve_input_text=False,
        )
        self.cut = sum(len(target) > self.parameters.max_new_tokens for target in targets)
        self._sources = _sources(contender, records, self.parameters)
        self._targets = [
            _fitting(contender, source, target) for source, target in zip(self._sources, targets, strict=True)
        ]
        self.texts = [""] * len(records)
        self.losses: list[float] = []

    @property
    def work(self) -> int:
        """Answers and losses to be had."""
        return len(self.texts) * (2 if self.contender.weights else 1)

    @property
    def target_tokens(self) -> list[int]:
        """Of each record."""
        return list(map(len, self._targets))

    def gather(self) -> Iterator[int]:
        """Does the work, and yields how much of it is done since the last time; often enough to stop in
        between. Raises what a request fails with."""
        yield from self._take_losses()
        yield from self._ask()

    def _take_losses(self) -> Iterator[int]:
        base = self.contender.weights
        if base is None:
            return
        prompt, self.losses = self.contender.prompt.to(base.weights.device), []
        call = current_call()
        for start in range(0, len(self._sources), _AT_ONCE):
            sources, targets = (rows[start : start + _AT_ONCE] for rows in (self._sources, self._targets))
            if call:
                yield from _until_there_are_tokens(call)
                call.spend(sum(map(len, (*sources, *targets))))
            self.losses += losses(base, [prompt.tensors], TrainingBatch(sources, targets)).tolist()
            yield len(sources)

    def _ask(self) -> Iterator[int]:
        waiting = deque(range(len(self._sources)))
        under_way: dict[int, Generation] = {}
        try:
            while waiting or under_way:
                self._submit(waiting, under_way)
                for oldest in list(under_way.values())[:1]:
                    oldest.wait(_NAP)
                ended = [number for number, generation in under_way.items() if generation.ended]
                yield sum(self._take(number, under_way.pop(number), waiting) for number in ended)
        finally:
            for generation in under_way.values():
                generation.cancel()

    def _submit(self, waiting: deque[int], under_way: dict[int, Generation]) -> None:
        """Others may have more requests than there is room for: then there is none for these. Where tokens
        are used up, it goes on when there are some again."""
        while waiting and len(under_way) < _AT_ONCE:
            request = self.contender.request(self._sources[waiting[0]], self.parameters)
            try:
                generation = self.contender.backend.submit(request)
            except (TooManyRequests, QuotaExceeded):
                time.sleep(_NAP)
                return
            under_way[waiting.popleft()] = generation

    def _take(self, number: int, generation: Generation, waiting: deque[int]) -> bool:
        """Whether there is an answer; where others were served first, or got its place in the queue, it is
        asked for again."""
        if isinstance(generation.error, (WaitedTooLong, TooManyRequests)):
            waiting.append(number)
            return False
        if generation.error:
            raise generation.error
        self.texts[number] = generation.request.text
        return True


def _until_there_are_tokens(call: Call) -> Iterator[int]:
    """Waits for them, and yields that nothing is done meanwhile."""
    while True:
        try:
            call.check_tokens()
        except QuotaExceeded:
            time.sleep(_NAP)
            yield 0
        else:
            return


def _target(contender: Contender, record: Record, stream: str) -> list[int]:
    with known_tokens(record, stream):
        return contender.target_ids(record.output)


def _sources(contender: Contender, records: Records, parameters: GenerationParameters) -> list[list[int]]:
    """The tokens of every text, none of which would be refused."""
    bad, allowed = list[int](), ""

    def read(record: Record) -> list[int]:
        nonlocal allowed
        try:
            source = contender.source_ids(record.input, parameters)
            contender.request(source, parameters)
        except InvalidParameter as error:
            bad.append(record.number)
            allowed = allowed or error.allowed
            return []
        return source

    sources = list(in_turn(map(read, records.items)))
    if bad:
        asked = f"{len(bad)} records that {contender.model_name} can't be asked with ({numbered(bad)})"
        raise InvalidRecord(records.stream, asked, allowed)
    return sources


def _fitting(contender: Contender, source: list[int], target: list[int]) -> list[int]:
    """`target`, cut where the context has no room for it; its end token stays."""
    room = contender.base.text.room(Row(contender.prompt.tensors, source))
    return target if room is None or len(target) <= room else [*target[: room - 1], target[-1]]
