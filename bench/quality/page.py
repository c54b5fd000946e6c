"""docs/quality.md: what is compared and how, the reasons in reasons.md, the tables, what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.quality.contender import MAJORITY, TF_IDF
from bench.quality.figures import Figures, missing
from bench.quality.markdown import opening
from bench.quality.table import (
    DEFAULTS_WITHIN,
    FEWEST_TO_JUDGE,
    SEARCH_COST,
    SEARCH_WITHIN,
    Row,
    by_records,
    costs,
    quality,
    separators,
)
from bench.quality.task import Task
from bench.quality.trial import Outcome, Trial

# Why the aim is missed where it is: written by hand, since figures don't give reasons.
_REASONS = Path(__file__).with_name("reasons.md")
_INTRODUCTION = f"""\
# How good tuned prompts are

Printed by `make bench-quality` (`python -m bench.quality --help`): the defaults (no hyperparameter given)
and `search: "auto"` beside a grid of twelve (learning rate 0.03, 0.1, 0.3, 1.0; 100 virtual tokens RANDOM
or SAMPLE_VOCAB, 20 RANDOM), beside peft's PromptTuning and beside what needs no language model. The aim is
to be within {DEFAULTS_WITHIN:g} points of the best of the grid with the defaults, and within
{SEARCH_WITHIN:g} with a search at no more than {SEARCH_COST:g} trainings' cost, by means over seeds, on
every set with at least {FEWEST_TO_JUDGE} test records.
"""
_METHOD = f"""\
## How it is measured

- A seed is that of the training and of the draw of the records to train on; fewer records are the first of
  more. The defaults, the search and the grid split off what they validate with from these.
- Accuracy is in % of test records that are the same for all seeds and contenders, answered by the code that
  serves, so with one of the labels of the records to train on. Behind ± stands one standard error of the
  mean over seeds; those of differences are of differences seed by seed. What the choice of the test records
  adds isn't in it.
- The best of the grid, and the best rate of peft, is chosen seed by seed on selection records, which are
  neither trained on nor scored on. So nothing of its lead is luck with the test records.
- peft: its PromptTuning in a plain loop (AdamW, learning rate falling to zero on a line), the best of the
  rates 0.03, 0.1, 0.3, 1.0. It has the same token ids as ours (so the same separator), the same kind of
  start as peft draws it, as many virtual tokens, updates and records an update as our defaults. It trains
  on all records, since it validates on none; batches are padded behind, where peft's prompt isn't parted
  from the text; the frozen model has no dropout. Loss and update of a batch equal ours, by a test. Its
  prompts are answered with by the same code as ours, which says what peft's `generate()` says of a text
  alone.
- {TF_IDF}: scikit-learn's TfidfVectorizer and LogisticRegression as they are by default, on all records.
  {MAJORITY}: the commonest label of the records.
- Labels have to be words that the model can say: tokens of the targets that it was pretrained on.
- CPU seconds are of the training alone, on one thread, the mean of a training; of grid and peft there are
  twelve and four.
"""


def page(
    command: str,
    tasks: Sequence[Task],
    rows: Sequence[tuple[str, Task]],
    sizes: Sequence[int],
    records: int,
    wanted: Sequence[Trial],
    outcomes: Sequence[Outcome],
    notes: Sequence[str],
) -> str:
    """All of it. `rows` are the models and tasks that go together, `sizes` those of the last table."""
    figures = Figures(outcomes)
    seeds = sorted({trial.seed for trial in wanted})
    told = f"Seeds: {', '.join(map(str, seeds))}. At most {records} records to train on."
    lines = opening(_INTRODUCTION, _REASONS, command, told)
    models = list(dict.fromkeys(model for model, _ in rows))
    for model in models:
        of_model = [Row(figures, model, task, task.size(records)) for name, task in rows if name == model]
        lines += ["", f"## {model}", "", *quality(of_model), "", "CPU seconds:", "", *costs(of_model)]
        lines += ["", "What stands between text and answer, all else by default:", "", *separators(of_model)]
    lines += ["", "## By number of records", ""]
    lines += [f"At most {sizes[-1]} count as all.", "", *by_records(figures, models, tasks, sizes)]
    lines += ["", _METHOD.rstrip()]
    lines += [f"- {note}" for note in (*map(_parts, tasks), *notes)]
    if absent := missing(wanted, outcomes):
        there = sum(trial in {outcome.trial for outcome in outcomes} for trial in wanted)
        lines += [
            "",
            "## What is missing",
            "",
            f"{there} of {len(wanted)} trials are there. These aren't:",
            "",
        ]
        lines += [f"- {line}" for line in absent]
    return "\n".join(lines)


def _parts(task: Task) -> str:
    told = (
        f"{task.name}: {len(task.pool)} records to draw from, {len(task.selection)} to select by, "
        f"{len(task.test)} to score on"
    )
    return told + (
        "." if len(task.test) >= FEWEST_TO_JUDGE else "; too few to be judged by, so it counts in no summary."
    )
