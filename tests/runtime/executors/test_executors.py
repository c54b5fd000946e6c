"""Which executor the settings name, and what of them can't be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from caikit_pt import settings
from caikit_pt.errors import InvalidParameter, StateUnavailable
from caikit_pt.runtime.executors.executors import check, executor_of
from caikit_pt.runtime.executors.local import LocalExecutor
from tests.conftest import SETTINGS


def of(**values: object) -> settings.Settings:
    return replace(SETTINGS, executor=settings.typed({"executor": values}).executor)


def test_this_machine_is_the_default(tmp_path: Path) -> None:
    executor, slots = executor_of(replace(SETTINGS, slots=3), tmp_path, list)
    assert isinstance(executor, LocalExecutor)
    assert (slots, check(SETTINGS), list(tmp_path.iterdir())) == (3, [], [])
    (node,) = executor.nodes()
    assert node.all.memory > 2**28
    executor.close()


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (
            {"kind": "ray", "token_file": "/nowhere"},
            "executor.token_file: '/nowhere' .* a file that is there",
        ),
        ({"kind": "kubernetes"}, r"executor.pod_template: '' .* PodTemplateSpec \(Is a directory\)"),
        (
            {"kind": "kubernetes", "pod_template": "/nowhere"},
            r"PodTemplateSpec \(No such file or directory\)",
        ),
        ({"kind": "kubernetes", "pod_template": __file__}, "PodTemplateSpec .it"),
    ],
)
def test_what_can_not_be_is_refused_before_the_server_starts(values: dict[str, object], told: str) -> None:
    with pytest.raises(InvalidParameter, match=told):
        check(of(**values))


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("caikit_pt.runtime.executors.executors.find_spec", lambda name: None)
    with pytest.raises(InvalidParameter, match=r"'ray' .* local, or pip install 'caikit-pt\[ray\]'"):
        check(of(kind="ray"))


def test_what_counts_for_nothing_in_a_cluster_is_told() -> None:
    (told,) = check(replace(of(kind="ray"), join_trainings=True))
    assert told.startswith("join_trainings")


def test_without_a_cluster_no_server_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(
        "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "nowhere")
    )
    (tmp_path / "pod.yaml").write_text("spec: {containers: [{name: a, image: b}]}")
    with pytest.raises(
        StateUnavailable, match="No trainings can be run by kubernetes: neither a pod's account"
    ):
        executor_of(of(kind="kubernetes", pod_template=str(tmp_path / "pod.yaml")), tmp_path, list)
