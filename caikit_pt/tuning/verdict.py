"""What came of a training, for whoever has to decide whether to use its prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from caikit_pt.base_model.model import BaseModel
from caikit_pt.serving.request import Request
from caikit_pt.soft_prompt.prompt import SoftPrompt
from caikit_pt.tuning.candidate import Candidate
from caikit_pt.tuning.course import course, course_sentences
from caikit_pt.tuning.neighbours import nearest_words
from caikit_pt.tuning.outcome import in_words, unknown
from caikit_pt.tuning.validation import JUDGED, Validation

UNTUNED, INITIAL, TUNED = "untuned", "initial", "tuned"


def verdict(
    candidate: Candidate,
    base: BaseModel,
    validation: Validation | None,
    contest: Mapping[str, Any] | None = None,
    answers: Sequence[Request] | None = None,
) -> dict[str, Any]:
    """Plain values: the `outcome` (outcome.py), how the loss went, which update is kept, the nearest words of
    each virtual token, and, on the validation records, what the untuned base, the initial and the tuned
    prompt are worth, each with 95 % intervals; of a search, all its `trials`. `answers` are those of the
    prompt that is kept, where they are known (`Validation.answers`)."""
    validated = [entry["data"]["value"] for entry in candidate.logs if entry["name"] == "validation_loss"]
    went = course([point.loss for point in candidate.curve], validated)
    told: dict[str, Any] = {
        "outcome": unknown(went),
        "course": went,
        "kept": candidate.kept,
        "skipped_updates": candidate.skipped,
        "nearest_words": {
            part: nearest_words(base, tensor) for part, tensor in candidate.prompt.tensors.items()
        },
    }
    if validation is not None:
        compared = {UNTUNED: SoftPrompt({}), INITIAL: candidate.initial, TUNED: candidate.prompt}
        asked = {
            name: answers
            if answers is not None and name == TUNED
            else validation.answers(prompt, JUDGED, calibration=True)
            for name, prompt in compared.items()
        }
        told["outcome"] = validation.outcome(asked[TUNED], asked[UNTUNED], went)
        told["validation_records"] = len(validation)
        told["validation_digest"] = validation.digest
        told["answers"] = min(JUDGED, len(validation))
        told["validation"] = {
            name: validation.scores(prompt, JUDGED, True, asked[name]).to_dict()
            for name, prompt in compared.items()
        }
    return {**told, **(contest or {})}


def sentences(verdict: Mapping[str, Any]) -> list[str]:
    """The verdict for a status: a sentence or two a line."""
    if not verdict:
        return []
    outcome = in_words(verdict.get("outcome", {}))
    lines = [*([outcome] if outcome else []), *course_sentences(verdict, _kept_sentence(verdict["kept"]))]
    trials = verdict.get("search", ())
    for trial in trials:
        if trial["kept"]:
            lines.append(
                f"Of {len(trials)} candidates the search kept learning_rate {trial['learning_rate']:g}, "
                f"{trial['prompt_tuning_init_method']}, {trial['num_virtual_tokens']} virtual tokens."
            )
    if sources := verdict.get("sources"):
        lines.append(_choice_sentence(sources))
    scores = verdict.get("validation")
    if scores:
        names = [name for name in scores[TUNED] if name != "perplexity"]
        compared = "; ".join(f"{name} {_comparison(name, scores)}" for name in names)
        records, answers = verdict["validation_records"], verdict["answers"]
        some = f" (all but the loss on {answers} of them)" if answers < records else ""
        lines.append(f"On {records} validation records{some}: {compared}.")
    return lines


def _choice_sentence(sources: Mapping[str, Any]) -> str:
    """Which start was chosen, and how sure that is."""
    starts, lead = sources["starts"], sources.get("lead")
    kept = next(start for start in starts if start["kept"])
    told = f"Of {len(starts)} starts the trial of source prompts chose {_start(kept)}"
    if lead is None:
        return f"{told}."
    told += f": its loss a token was {_shown(lead['loss'])} below that of {_start(starts[lead['other']])}"
    return f"{told}; it is better with a probability of {_probability(lead['probability'])}."


def _probability(value: float | None) -> str:
    """Never certain; None is what a single loss can't tell."""
    if value is None:
        return "?"
    return "more than 99%" if value > 0.995 else f"{value:.0%}"


def _start(start: Mapping[str, Any]) -> str:
    if not start["source"]:
        return f"{start['method']} and none of them"
    task = start["task_name"] or start["task"]
    return f"{start['method'] if task is None else f'task {task}'} of {start['source']}"


def _comparison(name: str, scores: Mapping[str, Any]) -> str:
    tuned, initial, untuned = (scores[prompt][name] for prompt in (TUNED, INITIAL, UNTUNED))
    return (
        f"{_shown(tuned['value'])} [{_shown(tuned['low'])}, {_shown(tuned['high'])}] with the tuned prompt, "
        f"{_shown(initial['value'])} with the initial one, {_shown(untuned['value'])} without"
    )


def _shown(number: float | None) -> str:
    """None is what can't be told: one record has no interval."""
    return "?" if number is None else f"{number:.3f}"


def _kept_sentence(kept: Mapping[str, int]) -> str:
    if not kept["step"]:
        return "Kept is the prompt that it went on from: none was better."
    at = f"epoch {kept['epoch']}, update {kept['step']}"
    if "mean_of" in kept:
        return f"Kept is the mean of the prompts after the last {kept['mean_of']} updates, up to {at}."
    return f"Kept is the prompt after {at}."
