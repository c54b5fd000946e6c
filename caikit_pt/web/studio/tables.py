"""Reports as tables, which a template and a script show alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from caikit_pt.evaluation_report import METRICS, estimate
from caikit_pt.evaluation_report import label as short
from caikit_pt.parameters.table import REQUEST
from caikit_pt.web.studio import shown

_ROLES = ("tuned", "untuned", "against", "majority")


@dataclass(frozen=True, slots=True)
class Table:
    """The first of each row is its head."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"caption": self.caption, "head": list(self.head), "rows": [list(row) for row in self.rows]}


def of_preflight(report: Mapping[str, Any]) -> list[Table]:
    """What a training would do."""
    facts = [
        ["records to train on", shown.number(report.get("records"))],
        ["records to validate with", shown.number(report.get("validation_records"))],
        ["updates", shown.number(report.get("updates"))],
        ["updates an epoch", shown.number(report.get("updates_per_epoch"))],
        ["time, estimated", shown.duration(report.get("seconds"))],
        ["memory of the device, estimated", shown.size(report.get("device_memory_bytes") or 0)],
    ]
    lengths = [
        [
            name,
            *(shown.number(report[key].get(part)) for part in ("median", "p90", "longest", "limit", "cut")),
        ]
        for name, key in (("inputs", "source_tokens"), ("outputs", "target_tokens"))
        if key in report
    ]
    return [
        Table("What it would do", ("", ""), facts),
        Table("Tokens", ("", "median", "90 %", "longest", "kept", "records cut"), lengths),
        of_parameters(report.get("parameters", {})),
    ]


def of_parameters(parameters: Mapping[str, Any]) -> Table:
    """Those of a training, and where each came from; those of the request first."""
    origins = parameters.get("origins", {})
    names = [name for name in parameters if name in origins]
    names.sort(key=lambda name: (not origins[name].startswith(REQUEST), origins[name] == "default", name))
    return Table(
        "Parameters, and where each value came from",
        ("parameter", "value", "from"),
        [[name, shown.plain(parameters[name]), str(origins[name])] for name in names],
    )


def of_verdict(verdict: Mapping[str, Any]) -> list[Table]:
    """What validation records say of the tuned prompt, of the one it began with, and of the base alone."""
    made = []
    scores = verdict.get("validation")
    if scores:
        roles = [name for name in ("tuned", "initial", "untuned") if name in scores]
        rows = [
            [name.replace("_", " "), *(_score(scores[role].get(name)) for role in roles)]
            for name in _in_order(scores["tuned"])
        ]
        told = f"{shown.number(verdict.get('validation_records'))} validation records, 95 % intervals"
        made.append(Table(told, ("metric", *(_WHO[role] for role in roles)), rows))
    if tasks := verdict.get("tasks"):
        rows = [
            [f"{task['name']}: {name}", shown.number(value)]
            for task in tasks
            for name, value in task.get("metrics", {}).items()
        ]
        made.append(Table("Tasks of the source", ("metric", "value"), rows))
    if trials := verdict.get("search"):
        names = ("learning_rate", "prompt_tuning_init_method", "num_virtual_tokens", "kept")
        rows = [[str(n), *(shown.plain(one.get(k)) for k in names)] for n, one in enumerate(trials, 1)]
        made.append(Table("Candidates of the search", ("", *(n.replace("_", " ") for n in names)), rows))
    return made


_WHO = {"tuned": "tuned prompt", "initial": "prompt it began with", "untuned": "untuned base"}


def of_comparison(told: Mapping[str, Any]) -> list[Table]:
    """What `comparison` has found."""
    who = [f"{number}: {one['model_name']}" for number, one in enumerate(told["trainings"], start=1)]
    facts = [
        [name.replace("_", " "), *(shown.plain(one[name]) or "-" for one in told["trainings"])]
        for name in ("training_id", "base_model", "state", "validation_records", "kept_update")
    ]
    differing = [[name, *(_from(one) for one in values)] for name, values in told["parameters"].items()]
    scores = [
        [name.replace("_", " "), *(_score(one) for one in values)]
        for name, values in told["validation"].items()
    ]
    return [
        Table("Trainings", ("", *who), facts),
        Table("Parameters that differ", ("parameter", *who), differing),
        Table("Validation, 95 % intervals", ("metric", *who), scores),
    ]


def _from(one: Mapping[str, Any]) -> str:
    """A value with its origin; of a training that doesn't know either, neither."""
    value = shown.plain(one["value"]) or "-"
    return f"{value} ({one['origin']})" if one["origin"] else value


def of_evaluation(name: str, report: Mapping[str, Any]) -> list[Table]:
    """The report of an evaluation of the prompt `name`."""
    names = _names(report)
    title = f"{name} on {report['records']:,} records, as {report['task']}; with 95 % intervals"
    made = [
        Table(title, ("metric", *_heads(report["scores"], names)), list(_by_metric(report["scores"], ""))),
        Table(
            f"{name} less each other, on the same records",
            ("metric", *_heads(report["differences"], names)),
            list(_by_metric(report["differences"], "+")),
        ),
    ]
    right = [
        [names[role], *(str(told["right"][key]) for key in _RIGHT), f"{told['right']['p_value']:.2g}"]
        for role, told in report["differences"].items()
        if "right" in told
    ]
    made.append(
        Table(
            "Whose answers are right",
            ("", "both", "only the prompt", "only the other", "neither", "p"),
            right,
        )
    )
    if confusion := report.get("confusion"):
        made.append(
            Table(
                "Expected labels down, answered ones across",
                ("", *map(short, confusion["labels"]), "none of them"),
                [
                    [short(expected), *map(str, counts)]
                    for expected, counts in zip(confusion["labels"], confusion["counts"], strict=True)
                ],
            )
        )
    return [table for table in made if table.rows]


_RIGHT = ("both", "only_tuned", "only_other", "neither")


def _names(report: Mapping[str, Any]) -> dict[str, str]:
    models = report.get("models", {})
    names = {role: told["model_name"] for role, told in models.items() if "model_name" in told}
    names["untuned"] = "untuned base"
    if "majority" in models:
        names["majority"] = f"always “{short(str(models['majority']['answer']))}”"
    return names


def _heads(told: Mapping[str, Any], names: Mapping[str, str]) -> Iterator[str]:
    return (names.get(role, role) for role in _ROLES if role in told)


def _by_metric(told: Mapping[str, Any], sign: str) -> Iterator[list[str]]:
    roles = [role for role in _ROLES if role in told]
    for name in METRICS:
        if any(name in told[role] for role in roles):
            yield [
                name.replace("_", " "),
                *(estimate(told[role][name], sign) if name in told[role] else "-" for role in roles),
            ]


def _in_order(names: Iterable[str]) -> list[str]:
    """The product's own first, as everywhere."""
    known = list(names)
    return [*(name for name in METRICS if name in known), *(name for name in known if name not in METRICS)]


def _score(found: Any) -> str:
    if isinstance(found, Mapping):
        return shown.estimate(found)
    return shown.number(found)
