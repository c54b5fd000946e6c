"""Trainings side by side: what differs, what is known of each, and when that can't be compared."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from caikit_pt.client import Training
from caikit_pt.columns import cell
from caikit_pt.comparison import comparison, lines


def training(
    id: str, accuracy: float | None = 0.9, digest: str | None = "d", base: str = "tiny-t5", **parameters: Any
) -> Training:
    """One that has ended; `accuracy` None: without validation records."""
    values = {"seed": 73, "learning_rate": 0.3, "output_model_types": ["ENCODER"], **parameters}
    verdict: dict[str, Any] = {"kept": {"epoch": 1, "step": 7}}
    if accuracy is not None:
        scores = {
            "accuracy": {"value": accuracy, "low": accuracy - 0.1, "high": accuracy + 0.05},
            "perplexity": 2.0,
            "loss": {"value": 0.5, "low": None, "high": None},
        }
        verdict |= {"validation": {"tuned": scores}, "validation_records": 20}
        verdict |= {"validation_digest": digest} if digest else {}
    return Training(
        training_id=id,
        model_name=f"model-{id}",
        base_model=base,
        state="COMPLETED",
        submitted=None,
        started=None,
        ended=None,
        reasons=[],
        queued_before=0,
        progress=None,
        path="",
        parameters={**values, "origins": dict.fromkeys(values, "request")},
        verdict=verdict,
        points={"loss": [[1, 2.0], [3, 1.0]], "validation_loss": [[3, 1.5]]},
    )


def test_what_differs_with_its_origin_and_metrics_side_by_side() -> None:
    found = comparison([training("a"), training("b", 0.8, learning_rate=0.1)])
    assert found["parameters"] == {
        "learning_rate": [{"value": 0.3, "origin": "request"}, {"value": 0.1, "origin": "request"}]
    }
    assert list(found["validation"]) == ["accuracy", "loss"]
    assert [one["value"] for one in found["validation"]["accuracy"]] == [0.9, 0.8]
    assert found["notes"] == []
    assert "\n".join(lines(found)) == "\n".join(
        [
            "   TRAINING ID  MODEL NAME  BASE MODEL  STATE      VALIDATION RECORDS  KEPT UPDATE",
            "1  a            model-a     tiny-t5     COMPLETED  20                  7",
            "2  b            model-b     tiny-t5     COMPLETED  20                  7",
            "",
            "PARAMETER      1              2",
            "learning_rate  0.3 (request)  0.1 (request)",
            "",
            "VALIDATION  1                     2",
            "accuracy    0.900 [0.800, 0.950]  0.800 [0.700, 0.850]",
            "loss        0.500 [?, ?]          0.500 [?, ?]",
        ]
    )


def test_a_value_is_one_line() -> None:
    """A separator is often a line break, or a blank."""
    trainings = [training("a", separator="\n"), training("b", separator=" "), training("c", separator="ü")]
    table = list(lines(comparison(trainings)))
    assert r'separator  "\n" (request)  " " (request)  ü (request)' in table
    assert cell("\x1b[31m\u2028") == r'"\u001b[31m\u2028"'


def test_what_cannot_be_compared_is_said() -> None:
    def notes(*trainings: Training) -> list[str]:
        return list(comparison(trainings)["notes"])

    different = notes(training("a"), training("b", digest="e"))
    assert different[0].startswith("they were validated on different records, so these numbers can't be")
    unknown = notes(training("a", digest=None), training("b", digest=None))
    assert unknown[0].startswith("whether they were validated on the same records isn't known")
    assert notes(training("a"), training("b", None)) == [
        "b: nothing is known of how it does on validation records"
    ]
    assert notes(training("a"), training("b", base="tiny-llama")) == [
        "their base models differ: losses are of other tokens, and can't be compared"
    ]
    assert "no parameter differs" in lines(comparison([training("a", None), training("b", None)]))


def test_sources_are_compared_task_by_task() -> None:
    def source(id: str, loss: float, **parameters: Any) -> Training:
        mood = {"name": "mood", "records": 9, "metrics": {"loss": loss}}
        bare = {"name": "b", "records": 1, "metrics": {}}
        verdict = {"kept": {"epoch": 1, "step": 4}, "tasks": [mood, bare]}
        return replace(training(id, None, **parameters), verdict=verdict, makes="source", tasks=["mood", "b"])

    found = comparison([source("a", 0.5, num_ranks=1), source("b", 0.25, num_ranks=2)])
    assert [one["value"] for one in found["parameters"]["num_ranks"]] == [1, 2]
    assert [one["value"] for one in found["validation"]["mood/loss"]] == [0.5, 0.25]
    assert list(found["validation"]) == ["mood/loss"]
    assert "mood/loss   0.500 [?, ?]  0.250 [?, ?]" in list(lines(found))
