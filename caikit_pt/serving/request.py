"""One request while it is answered: its tokens, its text so far, and why it ended."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.row import Row
from caikit_pt.base_model.text.side import TextSide
from caikit_pt.errors import InvalidParameter
from caikit_pt.parameters.generation import GenerationParameters
from caikit_pt.serving.labels import Labels, LabelSearch
from caikit_pt.serving.sampler import Sampler
from caikit_pt.serving.text import Detokenizer, StopSequences
from caikit_pt.soft_prompt.prompt import SoftPrompt

Ids = Sequence[int]
CONTEXT_TOKENS = 6  # of the text, in front of the answer, that decide its first space


class FinishReason(Enum):
    """Why an answer ended; the names are caikit's."""

    NOT_FINISHED = 0
    MAX_TOKENS = 1
    EOS_TOKEN = 2
    TIME_LIMIT = 4
    STOP_SEQUENCE = 5
    TOKEN_LIMIT = 6


@dataclass(frozen=True, slots=True)
class Token:
    """A token of the answer, or of the text. Log-probability and rank come from the raw logits."""

    text: str
    logprob: float | None = None
    rank: int | None = None
    # The likeliest in its place, where they are asked for.
    top: tuple[Token, ...] = ()


@dataclass(frozen=True, slots=True)
class Worth:
    """What the raw logits say of a token; `top`: ids and log-probabilities of the likeliest in its place."""

    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """What a token adds to an answer: text (maybe none yet), itself where it is asked for, and the end."""

    text: str
    generated: int
    token: Token | None
    finish_reason: FinishReason

    @property
    def ends(self) -> bool:
        """Whether it is the last."""
        return self.finish_reason is not FinishReason.NOT_FINISHED


class Request:
    """A text with its soft prompt, and the answer as it grows.

    Raises InvalidParameter where the text has no token or doesn't fit into the model's context.
    """

    def __init__(
        self,
        base: TextSide,
        prompt: SoftPrompt,
        ids: Ids,
        parameters: GenerationParameters,
        prefix: str = "",
        behind_space: bool = False,
        labels: Labels | None = None,
    ) -> None:
        """`ids` are the tokens of the text; `prefix` is what stands in front of the answer. `behind_space`:
        a space that the answer begins with belongs to what is in front of it.

        With `labels` the answer is one of them, whole, whatever `parameters` say of lengths and stops.
        """
        self.prompt, self.parameters, self.labels = prompt, parameters, labels
        self.row = Row(prompt.tensors, ids)
        self.finish_reason = FinishReason.NOT_FINISHED
        self.generated: list[int] = []
        # Appended to, never changed: another thread may read them while the answer grows.
        self.steps: list[Step] = []
        self.prefix = prefix
        self._base = base
        needed = labels.most_tokens if labels else 1
        most = needed if labels else parameters.max_new_tokens
        self._most = min(most, _checked_room(base, self.row, needed) or most)
        self._deadline = time.monotonic() + (parameters.max_time or float("inf"))
        self.sampler = Sampler(parameters, base.seen_ids(self.row), base.end_ids)
        context = self.row.ids[-CONTEXT_TOKENS:] if prefix else ()
        self._detokenizer = Detokenizer(base.tokenizer, context, skip_space=behind_space and not prefix)
        stops = () if labels else parameters.stop_sequences
        self._stops = StopSequences(stops, parameters.include_stop_sequence)
        self.search = self._search(labels) if labels else None
        self._moved = False
        self._spelled = ""
        if self.search and self.search.wanted:
            # What all labels begin with is read with the text.
            self.generated = list(self.search.wanted)

    @property
    def base_model(self) -> str:
        """The name of the base model."""
        return self._base.checkpoint.name

    @property
    def finished(self) -> bool:
        """Whether the answer has ended."""
        return self.finish_reason is not FinishReason.NOT_FINISHED

    @property
    def text(self) -> str:
        """The answer so far, behind what stands in front of it."""
        return self.prefix + "".join(step.text for step in self.steps)

    @property
    def tokens(self) -> list[Token]:
        """The tokens of the answer, where they are asked for."""
        return [step.token for step in self.steps if step.token]

    @property
    def so_far(self) -> Row:
        """The text and what there is of its answer, to be read (again)."""
        return Row(self.row.prompt, self.row.ids, tuple(self.generated))

    @property
    def most_tokens(self) -> int:
        """Tokens that the answer may have, by the request and by the context."""
        return self._most

    @property
    def seconds_left(self) -> float:
        """Until its time is over; infinite where it has no end."""
        return self._deadline - time.monotonic()

    @property
    def most_positions(self) -> int:
        """Keys and values that the text and its longest answer need, in positions."""
        return self._base.served_positions(self.row, self._most)

    @property
    def is_elsewhere(self) -> bool:
        """Whether the answer goes on elsewhere than behind what is read of it, so that it is read again."""
        return self._moved

    def outgrows_its_keys(self, base: BaseModel) -> bool:
        """Whether the row is now so long that `base` computes all of its positions in another way."""
        positions = self._base.served_positions(self.row, len(self.generated))
        return base.weights.length_class(positions) != base.weights.length_class(positions - 1)

    def take(self, token: int, worths: Mapping[int, Worth]) -> None:
        """Extends the answer by a token that was picked. `worths` has it where it is to be described."""
        described = None
        if self.parameters.generated_tokens:
            described = describe(self._base, token, worths.get(token), self.parameters)
        self.sampler.take(token)
        self.extend(token, described)

    def take_label(self, logs: Sequence[float], worths: Mapping[int, Worth]) -> None:
        """Goes on towards one of the labels: by the log-probabilities of the choices among themselves where
        it `is_at_a_choice`. `worths` has the tokens that were `asked_of_logits`."""
        search, self._moved = self.search, False
        assert search is not None
        if self.is_at_a_choice:
            search.take(logs)
        if search.wanted is not None:
            self._go_to(search.wanted)
            self.end_in_time()
        elif not self.describes_by_logits:
            self._spell_out()
        elif self.generated and not self.steps:
            # The search went down to tokens; what each is worth is seen from the first one on.
            self._go_to(())
        else:
            token = self._label_ids[len(self.generated)]
            self._spell(token, worths[token])

    @property
    def asked_of_logits(self) -> Ids:
        """The tokens of a label of which it has to be known now what they are worth."""
        if self.search is None or not self.describes_by_logits:
            return ()
        if self.search.wanted is not None:
            # The label may be found here, and its first token be the first to be told of.
            return self.choices if self.is_at_a_choice and not self.generated else ()
        if self.generated and not self.steps:
            return ()
        return self._label_ids[len(self.generated) :][:1]

    @property
    def is_at_a_choice(self) -> bool:
        """Whether the search for a label wants the logits behind what there is of the answer."""
        return self.search is not None and self.search.wanted == tuple(self.generated)

    @property
    def choices(self) -> Ids:
        """The tokens that the search chooses from."""
        return self.search.choices if self.search else ()

    def _search(self, labels: Labels) -> LabelSearch:
        parameters = self.parameters
        draw = self.sampler.draw if parameters.samples else None
        return LabelSearch(labels, parameters.label_probabilities, draw, parameters.temperature)

    @property
    def _label(self) -> int:
        """The number of the label found."""
        assert self.search is not None
        assert self.search.found is not None
        return self.search.found

    @property
    def _label_ids(self) -> Ids:
        return self.labels.ids[self._label] if self.labels else ()

    @property
    def describes_by_logits(self) -> bool:
        """Whether it is asked what the tokens of the answer are worth."""
        parameters = self.parameters
        return parameters.generated_tokens and parameters.asks_worths

    def _spell_out(self) -> None:
        """What is left of the label found, without a word on what its tokens are worth."""
        if not self.steps:
            self.generated = []
        for token in self._label_ids[len(self.generated) :]:
            self._spell(token, None)

    def _go_to(self, path: Ids) -> None:
        """A token on, where `path` goes on from here; else behind all of it, to be read."""
        here = len(self.generated)
        if path[:here] == tuple(self.generated) and len(path) > here:
            self.generated.append(path[here])
        else:
            self.generated, self._moved = list(path), True

    def _spell(self, token: int, worth: Worth | None) -> None:
        """The next token of the label found; with the last one comes the text."""
        described = None
        if self.parameters.generated_tokens:
            described = describe(self._base, token, worth, self.parameters)
        self.generated.append(token)
        self._spelled += self._detokenizer.push(token)
        text = ""
        if len(self.generated) == len(self._label_ids):
            self.finish_reason = FinishReason.EOS_TOKEN
            # As it was given, which the tokenizer may not keep; with the space that its tokens have in front.
            space = self._spelled[: len(self._spelled) - len(self._spelled.lstrip())]
            assert self.labels is not None
            text = space + self.labels.texts[self._label].lstrip()
        self.steps.append(Step(text, len(self.generated), described, self.finish_reason))

    def extend(self, token: int, described: Token | None) -> None:
        """Extends the answer by a token; `described` is what is told of it."""
        self.generated.append(token)
        text = self._extend_text(token)
        self.steps.append(Step(text, len(self.generated), described, self.finish_reason))

    def end_in_time(self) -> None:
        """Ends the answer where its time is over before it has begun or gone on. A label that is found is
        the answer all the same; half a search is none."""
        if self.finished or self.seconds_left > 0:
            return
        if self.search and self.search.found is not None:
            self._spell_out()
            return
        if self.search:
            self.generated = []
        self.end(FinishReason.TIME_LIMIT)

    def forget(self) -> None:
        """What there is of an answer that failed counts for nothing: it is an empty one."""
        self.generated, self.steps = [], []

    def end(self, reason: FinishReason) -> None:
        """Ends the answer without another token."""
        text = self._end(reason)
        self.steps.append(Step(text, len(self.generated), None, self.finish_reason))

    def _extend_text(self, token: int) -> str:
        ended = token in self._base.end_ids
        new = self._detokenizer.flush() if ended else self._detokenizer.push(token)
        may_stop = len(self.generated) >= self.parameters.min_new_tokens
        shown, stopped = self._stops.push(new, may_stop)
        if stopped:
            self.finish_reason = FinishReason.STOP_SEQUENCE
        elif ended:
            shown += self._end(FinishReason.EOS_TOKEN)
        elif len(self.generated) >= self._most:
            limited = self._most < self.parameters.max_new_tokens
            shown += self._end(FinishReason.TOKEN_LIMIT if limited else FinishReason.MAX_TOKENS)
        elif self.seconds_left <= 0:
            shown += self._end(FinishReason.TIME_LIMIT)
        return shown

    def _end(self, reason: FinishReason) -> str:
        """Ends the answer; the text that was held back."""
        shown, stopped = self._stops.push(self._detokenizer.flush())
        shown += self._stops.flush()
        self.finish_reason = FinishReason.STOP_SEQUENCE if stopped else reason
        return shown


def text_ids(base: TextSide, text: str, parameters: GenerationParameters, most: int = 0) -> list[int]:
    """The tokens of a verbalised text, cut where the request asks for it.

    Raises InvalidParameter where there are more than `most`, as `TextSide.most_source_ids` takes it: by its
    characters before it is read, and then by as many tokens as show it.
    """
    limit, cut = base.most_source_ids(most), parameters.truncate_input_tokens
    if 0 < cut <= limit:
        last = base.last_source_ids(text, cut, base.most_characters(limit))
        if last is not None:
            return base.keep_last(last, cut)
    check_characters(base, text, most)
    ids = base.first_source_ids(text, limit)
    if len(ids) > limit:
        raise InvalidParameter(
            "text",
            f"{'at least ' * (len(ids) > 2 * limit)}{len(ids)} tokens",
            f"at most {limit} tokens, {_why(base, most)}; truncate_input_tokens, up to that, keeps the last",
        )
    return ids


def given_ids(base: TextSide, parameters: GenerationParameters, most: int = 0) -> list[int]:
    """The tokens that a request gives instead of a text, cut where it asks for that.

    Raises InvalidParameter where there are more than `most`, as `TextSide.most_source_ids` takes it, or where
    one has no embedding.
    """
    ids, limit, cut = parameters.input_ids, base.most_source_ids(most), parameters.truncate_input_tokens
    ids = ids[-cut:] if 0 < cut <= limit else ids
    check_count(base, ids, "input_ids", most)
    if max(ids, default=0) >= base.rows:
        allowed = f"ids below {base.rows}, those that base model {base.checkpoint.name} has embeddings for"
        raise InvalidParameter("input_ids", max(ids), allowed)
    return list(ids)


def check_count(base: TextSide, ids: Sequence[int], field: str, most: int = 0) -> None:
    """Raises InvalidParameter where there are more `ids` than `TextSide.most_source_ids` of `most`."""
    limit = base.most_source_ids(most)
    if len(ids) > limit:
        raise InvalidParameter(field, f"{len(ids):,} ids", f"at most {limit:,} ids, {_why(base, most)}")


def check_characters(base: TextSide, text: str, most: int = 0) -> None:
    """Raises InvalidParameter where `text` has more characters than `most` tokens can have."""
    limit = base.most_source_ids(most)
    characters = base.most_characters(limit)
    if len(text) > characters:
        raise InvalidParameter(
            "text",
            f"{len(text):,} characters",
            f"at most {characters:,} characters, as many as {limit} tokens can have, {_why(base, most)}",
        )


def _why(base: TextSide, most: int) -> str:
    if most or not base.context_length:
        return "by the setting max_input_tokens"
    return f"by the context of {base.context_length} tokens that {base.checkpoint.name} has"


def _checked_room(base: TextSide, row: Row, needed: int) -> int | None:
    """Tokens that an answer may have. Raises InvalidParameter where there is no text, or no room for the
    `needed` ones."""
    if not row.ids:
        raise InvalidParameter("text", "", "text of at least one token")
    room = base.room(row)
    if room is not None and room < needed:
        raise InvalidParameter(
            "text",
            f"{'at least ' * (len(row.ids) > 2 * (base.context_length or 0))}{len(row.ids)} tokens",
            f"text that leaves room for an answer in the context of {base.context_length} "
            "tokens beside the soft prompt; truncate_input_tokens cuts it",
        )
    return room


def describe(base: TextSide, token: int, worth: Worth | None, parameters: GenerationParameters) -> Token:
    """With what is asked for, and known, of what it is worth."""
    if worth is None:
        return Token(token_text(base, token))
    top = enumerate(worth.top[: parameters.top_tokens], start=1)
    return Token(
        token_text(base, token),
        worth.logprob if parameters.token_logprobs else None,
        worth.rank if parameters.token_ranks else None,
        tuple(Token(token_text(base, other), logprob, rank) for rank, (other, logprob) in top),
    )


def token_text(base: TextSide, token: int) -> str:
    # Rows of the vocabulary that no token has are there to fill it up.
    return base.tokenizer.convert_ids_to_tokens(token) or ""
