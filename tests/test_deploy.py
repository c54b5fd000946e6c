"""The dashboard and the alerts ask for what a server exposes, and for nothing else; proxies know prompts and
trainings as the client does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from caikit_pt.client.replicated_channel import about_trainings
from caikit_pt.runtime.guard.door import MODEL_ID
from caikit_pt.runtime.metrics import HISTOGRAM, MEASURES
from examples.local_server import ROOT
from tests.runtime.nginx import config_of

DEPLOY = ROOT / "deploy"
# Of prometheus_client, about its own process.
OF_THE_CLIENT = {"process_resident_memory_bytes": set[str]()}
# What Prometheus adds when it scrapes.
ADDED = {"instance", "job"}
PARTS = {"_bucket": {"le"}, "_sum": set[str](), "_count": set[str]()}
# Words of PromQL, and functions.
WORDS = re.compile(
    r"\b(sum|max|min|avg|by|and|or|unless|rate|delta|histogram_quantile|on|ignoring|without|"
    r"group_left|label_values)\b"
)


@cache
def exposed() -> dict[str, set[str]]:
    """The labels of every name that an expression may have."""
    names = dict(OF_THE_CLIENT)
    for measure in MEASURES:
        if measure.kind == HISTOGRAM:
            names |= {f"{measure.exposed}{part}": {*measure.labels, *more} for part, more in PARTS.items()}
        else:
            names[measure.exposed] = set(measure.labels)
    return names


def asked_for(expression: str) -> Iterator[tuple[str, set[str]]]:
    """The names in an expression, each with the labels that it is chosen by."""
    bare = re.sub(r"\[[^\]]*\]|\bby \([^)]*\)", " ", expression)
    for name, selector in re.findall(r"([a-zA-Z_:][\w:]*)(?:\{([^}]*)\})?", re.sub(r'"[^"]*"', '""', bare)):
        if not WORDS.fullmatch(name):
            yield name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector))


def grouped_by(expression: str) -> set[str]:
    return {label for labels in re.findall(r"\bby \(([^)]*)\)", expression) for label in labels.split(", ")}


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DEPLOY / "grafana" / "caikit_pt.json").read_text("utf-8"))
    return found


def expressions() -> list[str]:
    panels = [panel for panel in dashboard()["panels"] if panel["type"] != "row"]
    return [
        *(rule["expr"] for rule in alerts()),
        *(target["expr"] for panel in panels for target in panel["targets"]),
    ]


@pytest.mark.parametrize("expression", expressions())
def test_an_expression_asks_for_what_is_exposed(expression: str) -> None:
    found = list(asked_for(expression))
    assert found
    known = {label for name, _ in found for label in exposed().get(name, ())} | ADDED
    for name, labels in found:
        assert name in exposed()
        assert labels <= exposed()[name] | ADDED, name
    assert grouped_by(expression) <= known
    assert expression.count("(") == expression.count(")")


def test_the_expressions_of_the_test_are_read_right() -> None:
    expression = 'sum by (le, x) (rate(vllm:a_bucket{m=~"$m, b{c}",n!="d"}[5m])) > 0.05 * up'
    assert list(asked_for(expression.replace("{c}", ""))) == [("vllm:a_bucket", {"m", "n"}), ("up", set())]
    assert grouped_by(expression) == {"le", "x"}


def test_what_an_alert_says_is_there_to_be_said() -> None:
    for rule in alerts():
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert set(rule["annotations"]) == {"summary", "description"}
        told = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
        assert told <= grouped_by(rule["expr"]), rule["alert"]
        assert rule["labels"]["severity"] in ("warning", "critical")
    assert len({rule["alert"] for rule in alerts()}) == len(alerts())


def test_every_metric_of_ours_is_on_the_dashboard_or_in_an_alert() -> None:
    asked = {name for expression in expressions() for name, _ in asked_for(expression)}
    ours = {measure.exposed for measure in MEASURES if measure.name.startswith("caikit_pt_")}
    assert not {name for name in ours if not any(one.startswith(name) for one in asked)}


def test_panels_do_not_overlap() -> None:
    places = [tuple(panel["gridPos"][side] for side in "xy") for panel in dashboard()["panels"]]
    assert len(set(places)) == len(places)
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(set(ids)) == len(ids)


def test_variables_of_the_dashboard_are_labels() -> None:
    for variable in dashboard()["templating"]["list"][1:]:
        name, label = re.findall(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])[0]
        assert label in exposed()[name] | ADDED


def test_proxies_choose_by_the_header_that_names_a_prompt() -> None:
    variable = MODEL_ID.replace("-", "_")
    text = config_of(8000, [8001, 8002, 8003])
    assert f"hash $http_{variable} consistent;\n" in text
    assert re.findall(r"server 127\.0\.0\.1:(\d+) max_fails", text) == ["8001", "8002", "8003"]
    assert [one["route"].get("hash_policy") for one in routes()] == [
        None,
        [{"header": {"header_name": MODEL_ID}}],
    ]


def routes() -> list[dict[str, Any]]:
    envoy = yaml.safe_load((DEPLOY / "envoy" / "caikit_pt.yaml").read_text("utf-8"))["static_resources"]
    (listener,) = envoy["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    found: list[dict[str, Any]] = manager["route_config"]["virtual_hosts"][0]["routes"]
    assert {one["route"]["cluster"] for one in found} == {one["name"] for one in envoy["clusters"]}
    return found


@pytest.mark.parametrize("file", sorted((ROOT / "protos").glob("*.proto")), ids=lambda file: file.stem)
def test_what_is_about_trainings_goes_to_one_server(file: Path) -> None:
    """By the client and by Envoy alike."""
    text = file.read_text("utf-8")
    route = routes()[0]["match"]["safe_regex"]["regex"]
    for method in re.findall(r"^ *rpc (\w+)\(", text, re.MULTILINE):
        assert bool(re.fullmatch(route, f"/a.Service/{method}")) == about_trainings(f"/a.Service/{method}")


def test_what_names_a_training_is_about_trainings() -> None:
    text = "".join(file.read_text("utf-8") for file in sorted((ROOT / "protos").glob("*.proto")))
    messages = dict(re.findall(r"^message (\w+) \{(.*?)^\}", text, re.MULTILINE | re.DOTALL))
    rpcs = re.findall(r"^ *rpc (\w+)\((?:\w+\.)*(\w+)\)", text, re.MULTILINE)
    named = {method for method, asked in rpcs if " training_id = " in messages[asked]}
    assert {"WatchTraining", "CancelTraining", "TrainSource"} <= named
    assert {method for method in named if not about_trainings(f"/a.Service/{method}")} == set()
