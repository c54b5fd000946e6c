"""What Prometheus is told: as it is when it asks, by vLLM's names, and nothing that a client can make up."""

from __future__ import annotations

import time
from pathlib import Path

import grpc
import pytest
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from caikit_pt.base_model.model import BaseModel
from caikit_pt.errors import InvalidParameter, StateUnavailable
from caikit_pt.runtime import refusals
from caikit_pt.runtime.job import PROGRESS, QUEUED, RUNNING, STATES
from caikit_pt.runtime.job_store import JobStore
from caikit_pt.runtime.metrics import HISTOGRAM, MEASURES, Metrics, Place, expose
from caikit_pt.serving.scheduler import Limits
from caikit_pt.serving.worker import Worker, worker_for
from tests.conftest import LLAMA
from tests.serving.test_engine import request

from .servers import wait_for
from .test_job_store import job

# As vLLM names them in vllm/v1/metrics/loggers.py, and what its dashboards ask for.
VLLM = {
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
    "vllm:request_success_total",
    "vllm:prefix_cache_queries_total",
    "vllm:prefix_cache_hits_total",
    "vllm:time_to_first_token_seconds_bucket",
    "vllm:inter_token_latency_seconds_bucket",
    "vllm:time_per_output_token_seconds_bucket",
    "vllm:request_time_per_output_token_seconds_bucket",
    "vllm:e2e_request_latency_seconds_bucket",
    "vllm:request_queue_time_seconds_bucket",
    "vllm:request_prefill_time_seconds_bucket",
    "vllm:request_decode_time_seconds_bucket",
    "vllm:request_prompt_tokens_bucket",
    "vllm:request_generation_tokens_bucket",
    "vllm:iteration_tokens_total_bucket",
}


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    return JobStore(tmp_path / "state")


@pytest.fixture
def metrics(store: JobStore, tmp_path: Path) -> Metrics:
    (tmp_path / "models").mkdir()
    return Metrics(store, Place({"state": tmp_path / "state", "models": tmp_path / "models"}, lambda: 3))


def scraped(metrics: Metrics) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Every sample, by its name and labels, as Prometheus parses it."""
    registry = CollectorRegistry()
    registry.register(metrics)
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def of(model: str, **labels: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted({"engine": "0", "model_name": model, **labels}.items()))


def worker_of(base: BaseModel) -> Worker:
    return worker_for(base, Limits())


def test_answers_are_counted(metrics: Metrics, llama: BaseModel) -> None:
    worker = worker_of(llama)
    before = scraped(metrics)
    requests = [request(llama, seed) for seed in range(6)]
    for generation in [worker.submit(one) for one in requests]:
        generation.result()
    # The last answer is told before its step is over.
    wait_for(lambda: not worker.engine.busy)
    time.sleep(0.05)
    after = scraped(metrics)

    def grown(name: str, **labels: str) -> float:
        key = of(LLAMA, **labels)
        return after[name][key] - before.get(name, {}).get(key, 0.0)

    answered = sum(len(one.generated) for one in requests)
    read = sum(len(one.row.ids) for one in requests)
    assert set(after) >= VLLM
    assert grown("vllm:generation_tokens_total") == grown("vllm:request_generation_tokens_sum") == answered
    assert grown("vllm:prompt_tokens_total") == grown("vllm:request_prompt_tokens_sum") == read
    assert grown("vllm:iteration_tokens_total_sum") == answered + read
    ends = ("stop", "length", "abort", "error")
    assert sum(grown("vllm:request_success_total", finished_reason=end) for end in ends) == 6
    for name in ("time_to_first_token", "e2e_request_latency", "request_queue_time", "request_prefill_time"):
        assert grown(f"vllm:{name}_seconds_count") == grown(f"vllm:{name}_seconds_bucket", le="+Inf") == 6
    # Each token but the first of an answer comes behind another.
    assert grown("vllm:inter_token_latency_seconds_count") == answered - 6
    positions = sum(one.prompt.num_virtual_tokens for one in requests)
    assert grown("vllm:prefix_cache_queries_total") == positions
    assert grown("caikit_pt_prompt_cache_misses_total") + grown("caikit_pt_prompt_cache_hits_total") == 6
    assert after["caikit_pt_prompt_cache_bytes"][of(LLAMA)] > 0
    assert after["vllm:num_requests_running"][of(LLAMA)] == 0
    assert after["vllm:kv_cache_usage_perc"][of(LLAMA)] == 0


def test_the_parts_of_a_latency_are_the_whole(metrics: Metrics, llama: BaseModel) -> None:
    worker = worker_of(llama)
    worker.submit(request(llama, 1, max_new_tokens=4, min_new_tokens=4)).result()
    found = scraped(metrics)
    del worker
    parts = ("request_queue_time", "request_prefill_time", "request_decode_time")
    whole = found["vllm:e2e_request_latency_seconds_sum"][of(LLAMA)]
    assert sum(found[f"vllm:{part}_seconds_sum"][of(LLAMA)] for part in parts) == pytest.approx(whole)


def test_jobs_by_state_and_how_long_they_wait(metrics: Metrics, store: JobStore) -> None:
    now = time.time()
    store.add(job("one", submitted=now - 500))
    store.add(job("two", submitted=now - 100))
    store.add(job("three", submitted=now))
    store.move("one", RUNNING)
    store.add_event("one", PROGRESS, {"samples_per_second": 12.5})
    found = scraped(metrics)
    states = {dict(labels)["state"]: number for labels, number in found["caikit_pt_jobs"].items()}
    assert states == {**dict.fromkeys(STATES, 0), RUNNING: 1, QUEUED: 2}
    assert found["caikit_pt_job_queue_age_seconds"][()] == pytest.approx(100, abs=30)
    assert found["caikit_pt_job_silence_seconds"][()] == pytest.approx(0, abs=30)
    assert found["caikit_pt_training_samples_per_second"][()] == 12.5
    assert found["caikit_pt_prompts"][()] == 3
    for directory in ("state", "models"):
        labels = (("directory", directory),)
        assert 0 < found["caikit_pt_disk_free_bytes"][labels] <= found["caikit_pt_disk_bytes"][labels]


def test_jobs_that_cannot_be_read_hide_nothing_else(
    metrics: Metrics, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unavailable() -> None:
        raise StateUnavailable("locked")

    assert scraped(metrics)["caikit_pt_state_available"][()] == 1
    monkeypatch.setattr(store, "counts", unavailable)
    found = scraped(metrics)
    assert found["caikit_pt_state_available"][()] == 0
    assert "caikit_pt_jobs" not in found
    assert "caikit_pt_base_models" in found


def test_refusals_by_reason(metrics: Metrics) -> None:
    before = refusals.counts()
    refusals.refused(grpc.StatusCode.INVALID_ARGUMENT, InvalidParameter("text", "", "some"))
    refusals.refused(grpc.StatusCode.NOT_FOUND, None)
    found = scraped(metrics)["caikit_pt_refusals_total"]
    reasons = {dict(labels)["reason"]: number for labels, number in found.items()}
    grown = {reason for reason, number in reasons.items() if number > before[reason]}
    assert grown == {"invalid_parameter", "not_found"}
    assert set(reasons) == set(refusals.REASONS)
    assert {"too_many_requests", "waited_too_long", "unknown_job", "unforeseen"} <= set(reasons)


def test_two_copies_of_a_base_model_are_told_apart(metrics: Metrics, llama: BaseModel) -> None:
    from caikit_pt.base_model.loading.checkpoint import locate
    from caikit_pt.base_model.pool import load
    from tests.conftest import SETTINGS

    first = worker_of(llama)
    scraped(metrics)
    other = load(locate(f"./{LLAMA}/", SETTINGS), "float32", "cpu")
    second = worker_of(other)
    keys = {
        labels
        for labels in scraped(metrics)["vllm:num_requests_running"]
        if dict(labels)["model_name"] == LLAMA
    }
    assert keys == {of(LLAMA), of(LLAMA, engine="1")}
    del first, second


def test_every_measure_is_scraped_as_it_is_described(
    metrics: Metrics, llama: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = worker_of(llama)
    servers = [("elsewhere", "http://a:8000", True)]
    monkeypatch.setattr("caikit_pt.runtime.metrics.servers_asked", lambda: servers)
    found = scraped(metrics)
    for measure in MEASURES:
        name = f"{measure.exposed}_bucket" if measure.kind == HISTOGRAM else measure.exposed
        wanted = {*measure.labels, *(["le"] if measure.kind == HISTOGRAM else [])}
        for labels in found[name]:
            assert {label for label, _ in labels} == wanted, name
    del worker


def test_nothing_counts_by_what_a_client_calls_a_model(metrics: Metrics) -> None:
    """caikit's metrics have a label `model_id`: a time series for whatever a client asks for."""
    from caikit.runtime.model_management import model_manager
    from caikit.runtime.servicers import global_predict_servicer as servicer

    names = [servicer.PREDICT_RPC_COUNTER, servicer.PREDICT_TO_PROTO_SUMMARY, model_manager.MODEL_COUNT_GAUGE]
    collectors = [
        *names,
        servicer.JOB_PREDICT_RPC_COUNTER,
        servicer.PREDICT_FROM_PROTO_SUMMARY,
        servicer.PREDICT_CAIKIT_LIBRARY_SUMMARY,
    ]
    expose(metrics)
    try:
        servicer.PREDICT_RPC_COUNTER.labels(grpc_request="x", code="OK", model_id="made up").inc()
        told = generate_latest(REGISTRY).decode()
        assert "model_id" not in told
        assert "made up" not in told
        assert "load_model_duration_seconds" in told
        assert "caikit_pt_jobs" in told
        unbounded = [
            one for one in REGISTRY._collector_to_names if "model_id" in getattr(one, "_labelnames", ())
        ]
        assert not unbounded
    finally:
        REGISTRY.unregister(metrics)
        for one in collectors:
            REGISTRY.register(one)
