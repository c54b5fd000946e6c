"""Who is compared: the base alone, prompts from plain starts and from a source, and ways to do the latter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.starts.recipe import DEFAULT, ONE_RATE, WITHOUT_TEACHERS, Recipe
from bench.starts.start import (
    Rows,
    agreeing_vectors,
    halves_apart,
    mean_on_the_way,
    nearest_teacher,
    nearest_teacher_tuned,
    task_vectors,
)
from caikit_pt.parameters.tuning import (
    AVERAGE_SOURCE,
    MULTITASK_PROMPT_TUNING,
    ONLY_SOURCE_SHARED,
    RANDOM,
    SAMPLE_VOCAB,
    TEXT,
)

# In a request, the labels of the records.
LABELS = "{labels}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One way to come to a prompt; `told` is what the page says of it."""

    name: str
    told: str
    # What is asked of the product, beside what all have in common.
    request: Mapping[str, Any] = field(default_factory=dict)
    # Whose source the product finds.
    source: Recipe | None = None
    # What it starts from instead of what the product would.
    rows: Rows | None = None
    # Whose next tokens it learns from, too.
    teacher: Rows | None = None
    trains: bool = True


def _mpt(**request: Any) -> dict[str, Any]:
    return {"tuning_type": MULTITASK_PROMPT_TUNING, **request}


_AVERAGE = _mpt(prompt_tuning_init_method=AVERAGE_SOURCE)

UNTUNED = Contender(name="untuned", told="the base model alone", trains=False)
PLAIN = (
    Contender(name=RANDOM, told="drawn by the scale of words: the default"),
    Contender(name=SAMPLE_VOCAB, told="words drawn", request={"prompt_tuning_init_method": SAMPLE_VOCAB}),
    Contender(
        name=TEXT,
        told="the words of the labels, with commas in between",
        request={"prompt_tuning_init_method": TEXT, "prompt_tuning_init_text": LABELS},
    ),
)
AVERAGE = Contender(
    name=AVERAGE_SOURCE, told="the mean of the source tasks' prompts", request=_AVERAGE, source=DEFAULT
)
AUTO = Contender(
    name="auto",
    told='`prompt_tuning_init_source_model: "auto"` without an init method',
    request=_mpt(prompt_tuning_init_source_model="auto"),
    source=DEFAULT,
)
FROM_SOURCE = (
    AVERAGE,
    Contender(
        name=ONLY_SOURCE_SHARED,
        told="the rows that the source tasks share",
        request=_mpt(prompt_tuning_init_method=ONLY_SOURCE_SHARED),
        source=DEFAULT,
    ),
    AUTO,
)
# Beside AVERAGE_SOURCE: what of it matters, and what others do.
ABLATION = (
    Contender(
        name="without teachers",
        told="AVERAGE_SOURCE of a source trained without teachers",
        request=_AVERAGE,
        source=WITHOUT_TEACHERS,
    ),
    Contender(
        name="one rate",
        told="AVERAGE_SOURCE of a source whose tasks have the learning rate of the shared rows",
        request=_AVERAGE,
        source=ONE_RATE,
    ),
    Contender(
        name="halves apart",
        told="the mean of the tasks' columns times the mean of their rows, without a repair of signs",
        request=_mpt(),
        rows=halves_apart,
    ),
    Contender(
        name="on the way",
        told="the mean of AVERAGE_SOURCE after 25, 50, 75 and 100 % of the source's updates",
        request=_mpt(),
        rows=mean_on_the_way,
    ),
    Contender(
        name="task vectors",
        told="plain tuning from the common start of the source tasks' plain prompts and the mean of what "
        "each has moved it by (arXiv 2408.01119)",
        rows=task_vectors,
    ),
    Contender(
        name="agreeing vectors",
        told="the same without those whose cosine with the target's first eight updates is negative",
        rows=agreeing_vectors,
    ),
    Contender(
        name="taught",
        told="plain tuning from RANDOM that learns the next tokens of the nearest source task's plain "
        "prompt, too, weighted as source trainings weigh their teachers",
        teacher=nearest_teacher,
    ),
    Contender(
        name="taught, tuned",
        told="the same with that prompt tuned on the target first (PANDA, arXiv 2208.10160)",
        teacher=nearest_teacher_tuned,
    ),
)
MAIN = (UNTUNED, *PLAIN, *FROM_SOURCE)
CONTENDERS: Mapping[str, Contender] = {one.name: one for one in (*MAIN, *ABLATION)}
