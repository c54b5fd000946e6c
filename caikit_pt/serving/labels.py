"""Answers that are labels: a walk over the trie of their tokens.

The labels of a classification, as token ids with the end token, make a trie. At a node with several
children the model's logits are asked, of these children alone; where there is one child nothing is.
So a label's probability is the product, over the nodes on its way, of the child's share among its siblings,
as in constrained decoding, and the probabilities of all labels sum to 1. Where every label has a first
token of its own, reading the text says it all, and no token has to be generated.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from caikit_pt.base_model.text.side import TextSide
from caikit_pt.parameters.tuning import TUNING_PARAMETERS
from caikit_pt.soft_prompt.artifact import TunedPrompt

Path = tuple[int, ...]


@dataclass(slots=True)
class _Node:
    """What may come next, by token; or, where nothing may, the number of a label."""

    children: dict[int, _Node] = field(default_factory=dict)
    label: int | None = None


class Labels:
    """The labels of one classification, as texts and as tokens of one base model."""

    def __init__(self, base: TextSide, texts: Sequence[str], separator: str, longest: int) -> None:
        """Labels of more than `longest` tokens are cut, as targets of a training are; of two that are one
        then, the first counts."""
        self.texts = tuple(texts)
        self.ids: list[Path] = [
            (*base.target_ids(base.answer_text(text, separator))[:longest], base.end_id) for text in texts
        ]
        self._root = _Node()
        for label, ids in enumerate(self.ids):
            node = self._root
            for token in ids:
                node = node.children.setdefault(token, _Node())
            node.label = label if node.label is None else node.label

    @property
    def most_tokens(self) -> int:
        """Of the longest label, with its end token."""
        return max(map(len, self.ids))

    def next_choice(self, path: Path) -> tuple[Path, _Node]:
        """From `path` on to where there is more than one way to go on, or a label is whole."""
        node = self._root
        for token in path:
            node = node.children[token]
        while len(node.children) == 1:
            ((token, node),) = node.children.items()
            path = (*path, token)
        return path, node


def labels_of(tuned: TunedPrompt, base: TextSide) -> Labels | None:
    """What answers of `tuned` are confined to; None where they are free."""
    if not tuned.labels:
        return None
    longest = tuned.tuning_parameters.get("max_target_length", TUNING_PARAMETERS["max_target_length"].high)
    return Labels(base, tuned.labels, tuned.separator, longest)


class LabelSearch:
    """The walk to one answer: best first, so that the label found is the likeliest there is."""

    def __init__(
        self,
        labels: Labels,
        whole: bool = False,
        draw: Callable[[], float] | None = None,
        temperature: float = 1.0,
    ) -> None:
        """`whole`: until the probability of every label is known. `draw`, which returns a number in
        [0, 1) each time: the label is drawn by its probability at `temperature`, a choice at a time, instead
        of the likeliest. The two together draw the label that `draw` alone would have."""
        self._labels, self._whole, self._draw, self._temperature = labels, whole, draw, temperature
        self._numbers = itertools.count()
        self._open: list[tuple[float, int, Path, _Node]] = []
        self._known: dict[int, float] = {}
        self._shares: dict[Path, tuple[list[int], Sequence[float]]] = {}
        self._drawn_label: int | None = None
        self._add((), 0.0)
        self._go_on()

    @property
    def found(self) -> int | None:
        """The number of the label, when the walk has ended."""
        if self.wanted is not None:
            return None
        # A label is known when nothing that is open could be likelier.
        return next(iter(self._known)) if self._drawn_label is None else self._drawn_label

    @property
    def wanted(self) -> Path | None:
        """The tokens behind which logits are wanted; None when the walk has ended."""
        return self._path

    @property
    def choices(self) -> list[int]:
        """The tokens that may follow those."""
        return list(self._node.children)

    @property
    def probabilities(self) -> Mapping[str, float]:
        """Of every label whose probability is known, the likeliest first."""
        return {self._labels.texts[label]: math.exp(log) for label, log in self._known.items()}

    def take(self, logs: Sequence[float]) -> None:
        """Goes on with the log-probabilities of the `choices` among themselves."""
        assert self._path is not None
        path, choices = self._path, self.choices
        if self._draw and self._whole:
            self._shares[path] = choices, logs
        elif self._draw:
            choices, logs = [self._drawn(choices, logs, self._draw())], [0.0]
        for token, log in zip(choices, logs, strict=True):
            self._add((*path, token), self._log + log)
        self._go_on()

    def _add(self, path: Path, log: float) -> None:
        heapq.heappush(self._open, (-log, next(self._numbers), *self._labels.next_choice(path)))

    def _go_on(self) -> None:
        """To the next choice, if another one is needed."""
        self._path: Path | None = None
        while self._open and (self._whole or not self._known):
            negative, _, path, node = heapq.heappop(self._open)
            if node.label is None:
                self._path, self._node, self._log = path, node, -negative
                return
            self._known[node.label] = -negative
        if self._draw and self._whole:
            self._drawn_label = self._walk(self._draw)

    def _walk(self, draw: Callable[[], float]) -> int:
        """The label at the end of the choices drawn, when all shares are known."""
        path, node = self._labels.next_choice(())
        while node.label is None:
            token = self._drawn(*self._shares[path], draw())
            path, node = self._labels.next_choice((*path, token))
        return node.label

    def _drawn(self, choices: Sequence[int], logs: Sequence[float], number: float) -> int:
        weights = [math.exp((log - max(logs)) / self._temperature) for log in logs]
        sums = list(itertools.accumulate(weights))
        return next(token for token, upto in zip(choices, sums, strict=True) if number * sums[-1] < upto)
