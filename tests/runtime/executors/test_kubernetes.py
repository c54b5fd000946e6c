"""Trainings as Jobs of Kubernetes, whose API server is simulated; the Jobs are real processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from caikit_pt.base_model.model import BaseModel
from caikit_pt.client import CANCELED, COMPLETED, QUEUED
from caikit_pt.runtime.executors.exchange import Exchange
from caikit_pt.runtime.executors.kubernetes_cluster import KubernetesCluster, _quantity
from caikit_pt.runtime.executors.kubernetes_job import JobTemplate, pod_in
from caikit_pt.runtime.executors.node import GIB, Resources
from tests.conftest import LLAMA, T5
from tests.runtime.executors.kernels import check_bits, know_what_is_known_here
from tests.runtime.executors.kubernetes_api import KubernetesApi, check, kubernetes_api
from tests.runtime.servers import QUICK, RECORDS, Server, wait_for
from tests.runtime.test_jobs import LONG, ended, step

pytest.importorskip("kubernetes", reason="needs the extra kubernetes")
POD: dict[str, Any] = {
    "metadata": {"labels": {"team": "tuning"}},
    "spec": {
        "containers": [
            {
                "name": "training",
                "image": "registry.example.org/caikit-pt:1",
                "volumeMounts": [{"name": "state", "mountPath": "/state"}],
                "resources": {"limits": {"memory": "8Gi"}},
            }
        ],
        "volumes": [{"name": "state", "persistentVolumeClaim": {"claimName": "state"}}],
        "nodeSelector": {"disk": "fast"},
    },
}


@pytest.fixture
def api(tmp_path: Path) -> Iterator[KubernetesApi]:
    with kubernetes_api(1, tmp_path) as made:
        yield made


@pytest.fixture
def server(api: KubernetesApi, tmp_path: Path) -> Iterator[Server]:
    template = tmp_path / "pod.yaml"
    template.write_text(yaml.safe_dump(POD))
    made = Server(
        tmp_path,
        EXECUTOR_KIND="kubernetes",
        EXECUTOR_NAMESPACE="tuning",
        EXECUTOR_POD_TEMPLATE=template,
        EXECUTOR_QUEUE="team-a",
        KUBECONFIG=api.kubeconfig,
        CHECKPOINT_SECONDS=0.3,
    )
    know_what_is_known_here(made)
    yield made
    made.close()


def runs(api: KubernetesApi) -> list[str]:
    """Which of their jobs they were, as they came."""
    return [job["metadata"]["annotations"]["caikit-pt.io/run"][-2:] for job in api.seen]


def test_trainings_are_jobs_there(server: Server, api: KubernetesApi, t5: BaseModel) -> None:
    """One is killed on its way, one waits for room, the server is another one in the end; nothing is lost."""
    client = server.start()
    request = {**QUICK, "num_epochs": 300}
    id = client.tune("one", base_model=T5, records=RECORDS, **request)
    wait_for(lambda: step(client, id) > 20)
    for process in api.processes.values():
        process.kill()
    # The first is begun twice.
    wait_for(lambda: runs(api) == ["-1", "-2"])
    second = client.tune("two", base_model=T5, records=RECORDS, **LONG)
    wait_for(lambda: "Insufficient cpu" in client.training(second).reasons[0])
    assert client.training(second).state == QUEUED
    assert client.cancel(second) == CANCELED
    wait_for(lambda: step(client, id) > 200 or client.training(id).state == COMPLETED, 120)
    server.kill()
    client = server.start()
    assert ended(client, id) == COMPLETED
    check_bits(server, "one", t5, request)
    (node,) = client.nodes().nodes
    assert (node.name, node.lives, node.cpus, node.memory_bytes, node.labels) == (
        "node-1", True, 1, 16 * GIB, ["zone=a"],
    )  # fmt: skip
    assert runs(api) == ["-1", "-2", "-1"]


def test_trainings_there_need_no_directory_of_the_server(
    server: Server, api: KubernetesApi, tmp_path: Path, t5: BaseModel
) -> None:
    """One pod is killed on its way; the next has what it had kept from the store."""
    address = f"file://{tmp_path}/store"
    server._settings["EXECUTOR_EXCHANGE"] = address
    client = server.start()
    request = {**QUICK, "num_epochs": 300}
    id = client.tune("one", base_model=T5, records=RECORDS, **request)
    wait_for(lambda: step(client, id) > 20 and list(server.state.glob("jobs/*/runs/*/snapshots/*.json")))
    for process in api.processes.values():
        process.kill()
    assert ended(client, id, 240) == COMPLETED
    check_bits(server, "one", t5, request)
    places = [job["spec"]["template"]["spec"]["containers"][0]["args"][2:] for job in api.seen]
    assert [(place.startswith(address), fence) for place, fence in places] == [(True, "1"), (True, "2")]
    wait_for(lambda: not Exchange(address).names())


def test_helpers_are_jobs_and_call_where_a_store_says(tmp_path: Path, llama: BaseModel) -> None:
    """Server and nodes share no directory; none is left of what has ended."""
    with kubernetes_api(2, tmp_path) as api:
        template = tmp_path / "pod.yaml"
        template.write_text(yaml.safe_dump(POD))
        store = f"file://{tmp_path}/store"
        server = Server(
            tmp_path,
            EXECUTOR_KIND="kubernetes",
            EXECUTOR_NAMESPACE="tuning",
            EXECUTOR_POD_TEMPLATE=template,
            EXECUTOR_EXCHANGE=store,
            EXECUTOR_WORKERS=2,
            EXECUTOR_WORKERS_PER_NODE=1,
            KUBECONFIG=api.kubeconfig,
        )
        know_what_is_known_here(server)
        client = server.start()
        request = {**QUICK, "num_epochs": 1000}
        id = client.tune("shared", base_model=LLAMA, records=RECORDS, **request)
        log = server.state / "jobs" / id / "log.txt"
        wait_for(lambda: log.exists() and "2 of 2 workers compute together" in log.read_text(), 120)
        lead, helper = (job["metadata"]["annotations"]["caikit-pt.io/run"] for job in api.seen)
        assert helper.startswith(f"{lead}+1.")
        assert ended(client, id) == COMPLETED
        check_bits(server, "shared", llama, request, workers=2)
        wait_for(lambda: all(process.poll() is not None for process in api.processes.values()))
        wait_for(lambda: not list(Exchange(store).names()))
        server.close()


def test_what_kueue_has_not_let_begin_waits(server: Server, api: KubernetesApi) -> None:
    api.queues = True
    client = server.start()
    id = client.tune("one", base_model=T5, records=RECORDS, **QUICK)
    wait_for(lambda: "waits in the queue team-a of Kueue" in client.training(id).reasons[0])
    api.queues = False
    assert ended(client, id) == COMPLETED


def test_a_cluster_that_is_away_begins_nothing_and_comes_back(server: Server, api: KubernetesApi) -> None:
    client = server.start()
    answer, api.answer = api.answer, lambda *_: (503, {"message": "upgrading"})  # type: ignore[method-assign]
    id = client.tune("one", base_model=T5, records=RECORDS, **QUICK)
    wait_for(lambda: "503" in client.nodes().problem)
    assert client.training(id).state == QUEUED
    api.answer = answer  # type: ignore[method-assign]
    assert ended(client, id) == COMPLETED
    assert client.nodes().problem == ""


def test_a_reason_tells_what_no_node_has(
    api: KubernetesApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(api.kubeconfig))
    api.gpus, api.labels = 1, {"nvidia.com/gpu.memory": "20480"}
    cluster = KubernetesCluster(JobTemplate("me", POD), "tuning")
    assert cluster.nodes()[0].all == Resources(cpus=1, gpus=1, memory=16 * GIB, gpu_memory=20 * GIB)
    needs = Resources(cpus=2, gpus=1, memory=GIB, gpu_memory=30 * GIB)
    cluster.start("large-1", str(tmp_path), 1, needs)
    said = "0/1 nodes are available: 1 Insufficient cpu."
    largest = "The largest node of the Kubernetes cluster has 1 GPU with 20.0 GiB, 1 CPU, 16.0 GiB."
    told = "It needs 1 GPU with 30.0 GiB, 2 CPUs, 1.0 GiB"
    assert cluster.why_waiting("large-1", needs) == f"{told}: {said} {largest}"
    # Of one that a node could have, when others leave, what the scheduler says is all.
    smaller = replace(needs, cpus=1, gpu_memory=20 * GIB)
    assert cluster.why_waiting("large-1", smaller).endswith("1 GPU with 20.0 GiB, 1 CPU, 1.0 GiB: " + said)
    cluster.kill("large-1")


def test_the_manifest_is_whole() -> None:
    template = JobTemplate("me", POD, "team-a", {"zone": "a"})
    needs = Resources(cpus=2, gpus=1, memory=GIB)
    made = template.job("An id with ÜÖ/../-3", "/state/jobs/x", 3, needs)
    check(made, "V1Job")
    spec = made["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert container["args"] == ["-m", "caikit_pt.runtime.executors.keeper", "/state/jobs/x", "3"]
    assert container["image"] == POD["spec"]["containers"][0]["image"]
    assert container["resources"] == {
        "requests": {"cpu": "2", "memory": str(GIB), "nvidia.com/gpu": "1"},
        "limits": {"memory": "8Gi", "nvidia.com/gpu": "1"},
    }
    assert spec["nodeSelector"] == {"disk": "fast", "zone": "a"}
    assert spec["restartPolicy"] == "Never"
    assert made["spec"]["backoffLimit"] == 0
    assert made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    assert len(made["metadata"]["name"]) < 63
    assert made["metadata"]["name"] != template.job("An id", "/x", 3, needs)["metadata"]["name"]
    helped = template.job("An id-3+1.ab", "/state/jobs/x", 3, needs, helpers=2)
    check(helped, "V1Job")
    (container,) = helped["spec"]["template"]["spec"]["containers"]
    assert container["args"] == [
        "-m", "caikit_pt.runtime.executors.helper_keeper", "/state/jobs/x", "3", "2",
    ]  # fmt: skip
    for wrong in (
        {"spec": {"suspended": True}},
        {"spec": {"backoffLimit": "0"}},
        {"metadata": {"labels": ["a"]}},
    ):
        with pytest.raises(ValueError, match=r"suspended|backoffLimit|labels"):
            check({**made, **wrong}, "V1Job")


def test_a_node_has_to_have_the_memory_on_its_gpus_or_not_to_tell() -> None:
    """In each of the terms that the template has, of which one has to be so."""
    needs = Resources(cpus=2, gpus=1, memory=GIB, gpu_memory=30 * GIB)
    key = "nvidia.com/gpu.memory"
    enough = {"key": key, "operator": "Gt", "values": ["30719"]}
    untold = {"key": key, "operator": "DoesNotExist"}
    made = JobTemplate("me", POD).job("x", "/x", 3, needs)
    check(made, "V1Job")
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    assert made["spec"]["template"]["spec"]["affinity"] == {
        "nodeAffinity": {
            required: {"nodeSelectorTerms": [{"matchExpressions": [enough]}, {"matchExpressions": [untold]}]}
        }
    }
    zone = {"key": "zone", "operator": "In", "values": ["a"]}
    field = {"key": "metadata.name", "operator": "In", "values": ["node-7"]}
    preferred = [{"weight": 1, "preference": {"matchExpressions": [zone]}}]
    given = {
        "podAntiAffinity": {},
        "nodeAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": preferred,
            required: {"nodeSelectorTerms": [{"matchExpressions": [zone]}, {"matchFields": [field]}]},
        },
    }
    pod = {**POD, "spec": {**POD["spec"], "affinity": given}}
    made = JobTemplate("me", pod).job("x", "/x", 3, needs)
    check(made, "V1Job")
    found = made["spec"]["template"]["spec"]["affinity"]
    assert found["podAntiAffinity"] == {}
    assert found["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"] == preferred
    assert found["nodeAffinity"][required]["nodeSelectorTerms"] == [
        {"matchExpressions": [zone, enough]},
        {"matchExpressions": [zone, untold]},
        {"matchFields": [field], "matchExpressions": [enough]},
        {"matchFields": [field], "matchExpressions": [untold]},
    ]
    for without in (replace(needs, gpu_memory=0), replace(needs, gpus=0)):
        made = JobTemplate("me", POD).job("x", "/x", 3, without)
        assert "affinity" not in made["spec"]["template"]["spec"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [", "it isn't YAML"),
        ("[]", "no spec.containers"),
        ("spec: {containers: []}", "no spec.containers"),
        ("spec: {containers: [{name: a}]}", "no image"),
    ],
)
def test_what_is_no_template_is_refused(text: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "pod.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=told):
        pod_in(file)


def test_quantities() -> None:
    told = {"2": 2, "1500m": 1.5, "16Gi": 16 * GIB, "1k": 1000, "0.5": 0.5, "128974848": 128_974_848}
    assert {text: _quantity(text) for text in told} == told


def test_without_a_cluster_there_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nowhere"))
    monkeypatch.setattr(
        "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "nowhere")
    )
    with pytest.raises(OSError, match="neither a pod's account nor a kubeconfig"):
        KubernetesCluster(JobTemplate("me", POD))
