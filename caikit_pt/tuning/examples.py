"""Records become token ids, once, before the first update."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from caikit_pt.base_model.row import TrainingBatch
from caikit_pt.base_model.text.side import TextSide
from caikit_pt.errors import InvalidRecord, UnknownToken, UnreadableText, excerpt
from caikit_pt.parameters.tuning import CLASSIFICATION, TuningParameters
from caikit_pt.tuning.records import Record, Records, numbered
from caikit_pt.tuning.verbalizer import Verbalizer


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids of a source, with its special tokens, and of a target, which ends with EOS."""

    source: list[int]
    target: list[int]


@dataclass(frozen=True, slots=True)
class Examples:
    """The examples of one stream, and how many lost tokens to the maximum lengths."""

    items: tuple[Example, ...]
    cut_sources: int
    cut_targets: int

    def __len__(self) -> int:
        return len(self.items)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each, source and target."""
        return [len(example.source) + len(example.target) for example in self.items]

    @property
    def warnings(self) -> list[str]:
        """How many were cut, where any were."""
        return cut_warnings(self.cut_sources, self.cut_targets, len(self))

    def batch(self, indices: Iterable[int], prompts: Sequence[int] = ()) -> TrainingBatch:
        """The examples at `indices`, in that order, behind the prompts of these numbers."""
        items = [self.items[index] for index in indices]
        return TrainingBatch([item.source for item in items], [item.target for item in items], prompts)


def cut_warnings(cut_sources: int, cut_targets: int, records: int) -> list[str]:
    """How many of so many records were cut at which length, where any were."""
    cuts = {"max_source_length": cut_sources, "max_target_length": cut_targets}
    return [f"{cut} of {records} records cut at {name}" for name, cut in cuts.items() if cut]


def target_text(output: str, is_label: bool) -> str:
    """What of an output is learnt: of a label all but the blanks around it, which don't make it another."""
    return output.strip() if is_label else output


@contextmanager
def known_tokens(record: Record, stream: str) -> Iterator[None]:
    """Raises InvalidRecord, by number, in the place of UnknownToken or UnreadableText of one in `record`."""
    try:
        yield
    except UnknownToken as error:
        raise InvalidRecord(
            stream, f"record {record.number} with token {excerpt(str(error.value))}", error.allowed
        ) from error
    except UnreadableText as error:
        raise InvalidRecord(stream, f"record {record.number}, {error.value}", error.allowed) from error


def tokens(
    records: Records, text: TextSide, parameters: TuningParameters, most_source: int, most_target: int
) -> Iterator[tuple[list[int], list[int]]]:
    """The tokens of each record's source, without a separator, and target, as `TextSide.first_source_ids` has
    them.

    Raises InvalidRecord where the base model has no embedding for one, and in the end where sources have
    no token but special ones: numbers are named and texts are not.
    """
    verbalizer = Verbalizer(parameters.verbalizer, parameters.separator)
    is_label, nothing, bad = parameters.tuning_task == CLASSIFICATION, text.source_ids(""), []
    for record in records.items:
        with known_tokens(record, records.stream):
            source = text.first_source_ids(verbalizer.without_separator(record.input), most_source)
            answer = text.answer_text(target_text(record.output, is_label), verbalizer.separator)
            target = text.first_target_ids(answer, most_target)
        if source == nothing:
            bad.append(record.number)
        yield source, target
    if bad:
        raise InvalidRecord(
            records.stream,
            f"{len(bad)} records whose input has no token ({numbered(bad)})",
            f"records whose input is text that the tokenizer of {text.checkpoint.name} doesn't leave out",
        )


def make_examples(records: Records, base: TextSide, parameters: TuningParameters) -> Examples:
    """Verbalises and tokenises `records`.

    A source is cut to max_source_length tokens, special ones included; the separator comes on top. A target
    is cut to max_target_length tokens and always gets EOS on top, so that a tuned prompt learns to stop.
    Raises InvalidRecord as `tokens` does.
    """
    verbalizer = Verbalizer(parameters.verbalizer, parameters.separator)
    most_source, most_target = parameters.max_source_length, parameters.max_target_length
    items, cut_sources, cut_targets = [], 0, 0
    read = tokens(records, base, parameters, most_source, most_target)
    for (source, target), record in zip(read, records.items, strict=True):
        is_cut = len(source) > most_source
        cut_sources += is_cut
        cut_targets += len(target) > most_target
        if is_cut:
            source = base.separated(base.cut_source(source, most_source), parameters.separator)
        elif parameters.separator:
            source = base.source_ids(verbalizer.render(record.input))
        items.append(Example(source, [*target[:most_target], base.end_id]))
    return Examples(tuple(items), cut_sources, cut_targets)
