"""Records become token ids, once, before the first update."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from caikit_pt.base_model.frozen import TrainingBatch
from caikit_pt.base_model.text import TextSide
from caikit_pt.errors import InvalidRecord, UnknownToken, excerpt
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
        cuts = {"max_source_length": self.cut_sources, "max_target_length": self.cut_targets}
        return [f"{cut} of {len(self)} records cut at {name}" for name, cut in cuts.items() if cut]

    def batch(self, indices: Iterable[int], prompts: Sequence[int] = ()) -> TrainingBatch:
        """The examples at `indices`, in that order, behind the prompts of these numbers."""
        items = [self.items[index] for index in indices]
        return TrainingBatch([item.source for item in items], [item.target for item in items], prompts)


def target_text(output: str, task: str) -> str:
    """What of an output is learnt: of a label all but the blanks around it, which don't make it another."""
    return output.strip() if task == CLASSIFICATION else output


def tokens_of(
    record: Record,
    stream: str,
    verbalizer: Verbalizer,
    text: TextSide,
    most_source: int,
    most_target: int,
    task: str,
) -> tuple[list[int], list[int]]:
    """The tokens of source, without a separator, and target, as `TextSide.first_source_ids` has them.

    Raises InvalidRecord where the base model has no embedding for one.
    """
    try:
        return (
            text.first_source_ids(verbalizer.without_separator(record.input), most_source),
            text.first_target_ids(
                text.answer_text(target_text(record.output, task), verbalizer.separator), most_target
            ),
        )
    except UnknownToken as error:
        raise InvalidRecord(
            stream, f"record {record.number} with token {excerpt(str(error.value))}", error.allowed
        ) from error


def make_examples(records: Records, base: TextSide, parameters: TuningParameters) -> Examples:
    """Verbalises and tokenises `records`.

    A source is cut to max_source_length tokens, special ones included; the separator comes on top. A target
    is cut to max_target_length tokens and always gets EOS on top, so that a tuned prompt learns to stop.
    Raises InvalidRecord where a source has no token but special ones: numbers are named and texts are not.
    Raises InvalidRecord, too, as `tokens_of` does.
    """
    verbalizer = Verbalizer(parameters.verbalizer, parameters.separator)
    items, bad, cut_sources, cut_targets = [], [], 0, 0
    nothing = base.source_ids("")
    for record in records.items:
        source, target = tokens_of(
            record,
            records.stream,
            verbalizer,
            base,
            parameters.max_source_length,
            parameters.max_target_length,
            parameters.tuning_task,
        )
        if source == nothing:
            bad.append(record.number)
        is_cut = len(source) > parameters.max_source_length
        cut_sources += is_cut
        cut_targets += len(target) > parameters.max_target_length
        if is_cut:
            source = base.separated(
                base.cut_source(source, parameters.max_source_length), parameters.separator
            )
        elif parameters.separator:
            source = base.source_ids(verbalizer.render(record.input))
        items.append(Example(source, [*target[: parameters.max_target_length], base.end_id]))
    if bad:
        raise InvalidRecord(
            records.stream,
            f"{len(bad)} records whose input has no token ({numbered(bad)})",
            f"records whose input is text that the tokenizer of {base.checkpoint.name} doesn't leave out",
        )
    return Examples(tuple(items), cut_sources, cut_targets)
