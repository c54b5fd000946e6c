"""Which executor the settings name, and what of them can't be."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from fsspec.registry import _registry as registry

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


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("bucket/prefix", "unset, or PROTOCOL://PLACE, an object store"),
        ("s3://", "unset, or PROTOCOL://PLACE"),
        ("memory://place", "all machines see"),
        ("simplecache::s3://bucket", "PROTOCOL://PLACE"),
        ("s3://somebody:secret@bucket/prefix", "unset, or an address without credentials"),
        ("nothing://bucket", "unset, or Protocol not known: nothing"),
    ],
)
def test_what_is_no_store_is_refused_and_not_repeated(address: str, told: str) -> None:
    with pytest.raises(InvalidParameter, match=r"executor\.exchange") as caught:
        check(of(kind="ray", exchange=address))
    assert told in str(caught.value)
    assert "secret" not in str(caught.value)


def test_the_package_of_a_store_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(registry, "s3", raising=False)
    with pytest.raises(InvalidParameter, match=r"unset, or pip install 'caikit-pt\[s3\]' .* every node"):
        check(of(kind="kubernetes", exchange="s3://bucket"))


def test_a_store_counts_for_nothing_on_this_machine() -> None:
    assert check(of(exchange="s3://bucket")) == [
        "executor.exchange counts for nothing with executor.kind: local"
    ]


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


def test_workers_have_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of GPUs one each, of processors a part each; and trainings aren't joined."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setattr("caikit_pt.runtime.executors.executors._gpus", lambda: 4)
    now = replace(of(workers=2), join_trainings=True)
    assert [told.partition(" ")[0] for told in check(now)] == ["join_trainings"]
    executor, slots = executor_of(now, tmp_path, list)
    assert (slots, executor.workers, executor.joins) == (2, 2, False)
    assert executor.environment == {"OMP_NUM_THREADS": "4"}
    executor.close()
    with pytest.raises(InvalidParameter, match=r"executor.workers: 5 .* at most 4, the GPUs"):
        check(of(workers=5))
    (told,) = check(replace(of(workers=9), device="cpu"))
    assert told == "executor.workers is 9, and this machine has 8 processors"
