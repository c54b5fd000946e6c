"""docs/starts.md: what is compared and how, the reasons in reasons.md, the tables, what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.quality.markdown import opening
from bench.quality.task import Task
from bench.quality.trial import Outcome, Trial
from bench.starts.contender import ABLATION, AUTO, FROM_SOURCE, MAIN, PLAIN, UNTUNED, Contender
from bench.starts.recipe import TASKS
from bench.starts.table import BEST, BEST_AUTO, ablation, by_records, by_target, costs, missing
from bench.starts.trial import TOKENS

# What follows from the figures: written by hand, since figures don't give reasons.
_REASONS = Path(__file__).with_name("reasons.md")


def _names(contenders: Sequence[Contender]) -> str:
    *first, last = (one.name for one in contenders)
    return f"{', '.join(first)} and {last}"


_INTRODUCTION = f"""\
# What a prompt starts from

Printed by `make bench-starts` (`python -m bench.starts --help`): with few records, what should a prompt start
from, and does a source prompt pay? Prompts of {TOKENS} virtual tokens that start from {_names(PLAIN)}
beside multitask prompt tuning from a source prompt ([sources.md](sources.md)) of {len(TASKS)} tasks, none of
which is a target. All else is at its default.
"""
_CONTENDERS = """\
## Who is compared

{main}

Beside AVERAGE_SOURCE, what of it matters and what others do:

{ablation}
"""
_METHOD = f"""\
## How it is measured

- A seed is that of the training and of the draw of the records to train on. A draw in which only one label
  occurs is drawn again, with the seed and 1000, 2000 ... more, until two occur. Answers are confined to the
  labels that were drawn, those of {UNTUNED.name}, too: with fewer records than labels some can't be given.
- Accuracy is in % of test records that are the same for all seeds and contenders, answered by the code that
  serves. Behind ± stands half of the 95 % interval of the mean over seeds, by Student's t; those of
  differences are of differences seed by seed. What the choice of the test records adds isn't in it.
- *{BEST}* is the best of {_names(FROM_SOURCE)} less the best of
  {_names(PLAIN)}, and *{BEST_AUTO}* is {AUTO.name} less the same. The best of a line is the one with
  the highest mean in it, so it is chosen by what it is scored on, and a little flattered. In means over
  targets each counts alike.
- The sources: {", ".join(TASKS[:5])},
  {", ".join(TASKS[5:])}, with the records of examples/data and the defaults of a
  source training. One source of each recipe serves all seeds.
- The grammar that these come from has also written the text that the embedded models were pretrained on.
  Four of them imitate a target and have its label words: assistant_domain clinc_domain, device_points
  pros_cons, film_subjectivity subjectivity, tweet_irony tweeteval_irony. ticket_flag and guestbook_sentiment
  are of the grammar, too: words for an attribute, and a kind of message, that the pretraining hasn't seen.
- CPU seconds are of the training alone, on one thread, with whatever finds its start, and without the source
  and its teachers.
"""


def page(
    command: str,
    tasks: Sequence[Task],
    rows: Sequence[tuple[str, Task]],
    sizes: Sequence[int],
    wanted: Sequence[Trial],
    outcomes: Sequence[Outcome],
    notes: Sequence[str],
) -> str:
    """All of it. `rows` are the models and targets that go together, `sizes` the numbers of records."""
    seeds = sorted({trial.seed for trial in wanted})
    told = f"Seeds: {', '.join(map(str, seeds))}. All records are {sizes[-1]}."
    lines = opening(_INTRODUCTION, _REASONS, command, told)
    models = list(dict.fromkeys(model for model, _ in rows))
    targets = {model: [task.name for name, task in rows if name == model] for model in models}
    for model in models:
        lines += ["", f"## {model}", "", _means(len(targets[model])), ""]
        lines += by_records(outcomes, model, targets[model], sizes)
        for size in sizes:
            lines += ["", f"With {size} records:", "", *by_target(outcomes, model, targets[model], size)]
        lines += ["", "The ablation, means over targets: AVERAGE_SOURCE, and what others are above it.", ""]
        lines += ablation(outcomes, model, targets[model], sizes)
        lines += ["", "CPU seconds, means over targets:", "", *costs(outcomes, model, targets[model], sizes)]
    lines += ["", _CONTENDERS.format(main=_listed(MAIN), ablation=_listed(ABLATION))]
    lines += [_METHOD.rstrip()]
    lines += [f"- {note}" for note in (*map(_parts, tasks), *notes)]
    there = {outcome.trial for outcome in outcomes}
    if absent := [trial for trial in wanted if trial not in there]:
        lines += ["", "## What is missing", "", f"{len(absent)} of {len(wanted)} trials aren't there:", ""]
        lines += missing(absent, sizes)
    return "\n".join(lines)


def _listed(contenders: Sequence[Contender]) -> str:
    return "\n".join(f"- {one.name}: {one.told}." for one in contenders)


def _parts(task: Task) -> str:
    return f"{task.name}: {len(task.pool)} records to draw from, {len(task.test)} to score on."


def _means(count: int) -> str:
    return f"Means over {count} targets:" if count > 1 else "Means over one target:"
