"""What Prometheus reads of a server: a table of metrics, each asked of its owner when somebody scrapes.

Those of engines have vLLM's names and buckets (vllm/v1/metrics/loggers.py), for its dashboards. No label is
what a client has sent: `model_name` is a base model in memory.
"""

from __future__ import annotations

import shutil
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, count
from pathlib import Path
from typing import Any, TypeAlias

from prometheus_client import REGISTRY
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector, CollectorRegistry

from caikit_pt import settings
from caikit_pt.base_model.pool import POOL
from caikit_pt.base_model.serving.prompt_cache import PromptCache
from caikit_pt.errors import StateUnavailable
from caikit_pt.runtime import refusals
from caikit_pt.runtime.job import RUNNING
from caikit_pt.runtime.job_store import JobStore
from caikit_pt.serving.backends import servers_asked
from caikit_pt.serving.engine import Engine
from caikit_pt.serving.statistics import Histogram
from caikit_pt.serving.worker import Worker, workers

Labels: TypeAlias = Sequence[str]
# Each value with its labels.
Values: TypeAlias = Iterable[tuple[Labels, "float | Histogram"]]
GAUGE, COUNTER, HISTOGRAM = "gauge", "counter", "histogram"
_FAMILIES: dict[str, Any] = {
    GAUGE: GaugeMetricFamily,
    COUNTER: CounterMetricFamily,
    HISTOGRAM: HistogramMetricFamily,
}
_MODEL = ("model_name", "engine")


@dataclass(frozen=True, slots=True)
class Measure:
    """A metric: its name (of a counter, without _total), what it says, its labels, and how it is asked."""

    name: str
    kind: str
    text: str
    labels: Labels
    ask: Callable[[Any], Values]

    @property
    def exposed(self) -> str:
        """The name that expressions have; of a histogram its parts begin with it."""
        return f"{self.name}_total" if self.kind == COUNTER else self.name

    def family(self, owner: Any = None) -> Metric:
        """With the values that `owner` has; without one, with none."""
        family: Metric = _FAMILIES[self.kind](self.name, self.text, labels=self.labels)
        added: Any = family
        for labels, value in self.ask(owner) if owner is not None else ():
            if isinstance(value, Histogram):
                added.add_metric(labels, _buckets(value), value.sum)
            else:
                added.add_metric(labels, value)
        return family


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    bounds = [*map(str, map(float, histogram.bounds)), "+Inf"]
    return list(zip(bounds, accumulate(list(histogram.counts)), strict=True))


# ---- of engines ----

Engines: TypeAlias = "Sequence[tuple[Labels, Engine]]"


def _of_engine(name: str, kind: str, text: str, value: Callable[[Engine], float | Histogram]) -> Measure:
    def ask(engines: Engines) -> Values:
        return [(labels, value(engine)) for labels, engine in engines]

    return Measure(name, kind, text, _MODEL, ask)


def _of_cache(name: str, kind: str, text: str, value: Callable[[PromptCache], float]) -> Measure:
    return _of_engine(name, kind, text, lambda engine: value(engine.base.serving.prompts))


def _ends(engines: Engines) -> Values:
    for labels, engine in engines:
        for end, times in engine.statistics.ends.items():
            yield (*labels, end), times


def _seconds_since(moment: float | None, now: float) -> float:
    return max(0.0, now - moment) if moment is not None else 0.0


OF_ENGINES = (
    _of_engine(
        "vllm:num_requests_running", GAUGE, "Requests that are read or get tokens.", lambda e: e.running
    ),
    _of_engine("vllm:num_requests_waiting", GAUGE, "Requests whose turn hasn't come.", lambda e: e.waiting),
    _of_engine(
        "vllm:kv_cache_usage_perc",
        GAUGE,
        "Share of kv_cache_mib that is promised to running rows; 1 is all of it.",
        lambda e: e.kv_usage,
    ),
    _of_engine(
        "vllm:prompt_tokens",
        COUNTER,
        "Tokens of texts that were read, without soft prompts.",
        lambda e: e.statistics.text_tokens,
    ),
    _of_engine(
        "vllm:generation_tokens",
        COUNTER,
        "Tokens of answers; of a label, the steps of its search.",
        lambda e: e.statistics.answer_tokens,
    ),
    Measure(
        "vllm:request_success",
        COUNTER,
        "Requests that ended: stop, length, abort (nobody waited any more) or error.",
        (*_MODEL, "finished_reason"),
        _ends,
    ),
    _of_engine(
        "vllm:time_to_first_token_seconds",
        HISTOGRAM,
        "From arrival to the first token, of requests that were answered.",
        lambda e: e.statistics.first_token,
    ),
    _of_engine(
        "vllm:inter_token_latency_seconds",
        HISTOGRAM,
        "From one token of an answer to the next.",
        lambda e: e.statistics.next_token,
    ),
    _of_engine(
        "vllm:time_per_output_token_seconds",
        HISTOGRAM,
        "The same by the name that it had in vLLM up to 0.10.",
        lambda e: e.statistics.next_token,
    ),
    _of_engine(
        "vllm:request_time_per_output_token_seconds",
        HISTOGRAM,
        "Time a token behind the first, of whole answers.",
        lambda e: e.statistics.token_of_request,
    ),
    _of_engine(
        "vllm:e2e_request_latency_seconds",
        HISTOGRAM,
        "From arrival to the end of an answer.",
        lambda e: e.statistics.latency,
    ),
    _of_engine(
        "vllm:request_queue_time_seconds",
        HISTOGRAM,
        "From arrival until its turn came.",
        lambda e: e.statistics.queued,
    ),
    _of_engine(
        "vllm:request_prefill_time_seconds",
        HISTOGRAM,
        "From its turn until its text was read.",
        lambda e: e.statistics.prefill,
    ),
    _of_engine(
        "vllm:request_decode_time_seconds",
        HISTOGRAM,
        "From there to the end of its answer.",
        lambda e: e.statistics.decode,
    ),
    _of_engine(
        "vllm:request_prompt_tokens",
        HISTOGRAM,
        "Tokens of a text, of requests that were answered.",
        lambda e: e.statistics.text_of_request,
    ),
    _of_engine(
        "vllm:request_generation_tokens",
        HISTOGRAM,
        "Tokens of an answer.",
        lambda e: e.statistics.answer_of_request,
    ),
    _of_engine(
        "vllm:iteration_tokens_total",
        HISTOGRAM,
        "Tokens of a step, read and answered.",
        lambda e: e.statistics.step_tokens,
    ),
    _of_cache(
        "vllm:prefix_cache_queries",
        COUNTER,
        "Positions of soft prompts whose keys and values were wanted.",
        lambda cache: cache.positions_found + cache.positions_missed,
    ),
    _of_cache(
        "vllm:prefix_cache_hits",
        COUNTER,
        "Of these, positions whose keys and values were kept.",
        lambda cache: cache.positions_found,
    ),
    _of_engine("caikit_pt_step_rows", HISTOGRAM, "Rows of a step.", lambda e: e.statistics.step_rows),
    _of_engine("caikit_pt_step_seconds", HISTOGRAM, "Time of a step.", lambda e: e.statistics.step_seconds),
    _of_engine(
        "caikit_pt_queue_age_seconds",
        GAUGE,
        "How long the request has waited that waits the longest.",
        lambda e: _seconds_since(e.oldest, time.monotonic()),
    ),
    _of_cache(
        "caikit_pt_prompt_cache_bytes",
        GAUGE,
        "Keys and values of soft prompts that are kept.",
        lambda cache: cache.bytes,
    ),
    _of_cache("caikit_pt_prompt_cache_hits", COUNTER, "Soft prompts that were kept.", lambda c: c.hits),
    _of_cache("caikit_pt_prompt_cache_misses", COUNTER, "Soft prompts to compute.", lambda c: c.misses),
)

# ---- of jobs ----


def _of_jobs(name: str, text: str, value: Callable[[JobStore], float]) -> Measure:
    return Measure(name, GAUGE, text, (), lambda store: [((), value(store))])


def _rate(store: JobStore) -> float:
    running = store.search(states=[RUNNING])
    return sum(float(job.progress.get("samples_per_second", 0.0)) for job in running)


OF_JOBS = (
    Measure(
        "caikit_pt_jobs",
        GAUGE,
        "Trainings by state.",
        ("state",),
        lambda store: [((state,), number) for state, number in store.counts().items()],
    ),
    _of_jobs(
        "caikit_pt_job_queue_age_seconds",
        "How long the training has waited that waits the longest.",
        lambda store: _seconds_since(store.oldest_queued(), time.time()),
    ),
    _of_jobs(
        "caikit_pt_job_silence_seconds",
        "How long the running training has told nothing that has told nothing for the longest.",
        lambda store: _seconds_since(store.quietest_running(), time.time()),
    ),
    _of_jobs(
        "caikit_pt_training_samples_per_second",
        "Records a second of all running trainings, as they told last.",
        _rate,
    ),
)

# ---- of the process ----


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server keeps things: its directories by what they are for, and how many prompts are loaded."""

    directories: dict[str, Path]
    prompts: Callable[[], int]

    @property
    def disks(self) -> Iterator[tuple[str, Any]]:
        """Of the directories that are there."""
        for name, directory in self.directories.items():
            if directory.is_dir():
                yield name, shutil.disk_usage(directory)


def _weights(_: Place) -> Values:
    found: dict[str, int] = {}
    for model in POOL.models:
        name = _name(model.checkpoint.name)
        found[name] = found.get(name, 0) + model.weights.bytes
    return [((name,), size) for name, size in found.items()]


def _backends(_: Place) -> Values:
    found: dict[tuple[str, str], bool] = {}
    for model, address, is_asked in servers_asked():
        key = _name(model), address
        found[key] = found.get(key, True) and is_asked
    return [(key, float(up)) for key, up in found.items()]


OF_PROCESS = (
    Measure("caikit_pt_base_models", GAUGE, "Base models in memory.", (), lambda _: [((), len(POOL))]),
    Measure(
        "caikit_pt_base_model_bytes",
        GAUGE,
        "Weights in memory, without copies packed for a kernel.",
        ("model_name",),
        _weights,
    ),
    Measure(
        "caikit_pt_backend_up",
        GAUGE,
        "1 where a vLLM server is asked; 0 where it has failed and isn't well yet (docs/vllm.md).",
        ("model_name", "address"),
        _backends,
    ),
    Measure("caikit_pt_prompts", GAUGE, "Tuned prompts in memory.", (), lambda p: [((), p.prompts())]),
    Measure(
        "caikit_pt_refusals",
        COUNTER,
        "Requests that were refused or failed, by reason (docs/errors.md).",
        ("reason",),
        lambda _: [((reason,), number) for reason, number in refusals.counts().items()],
    ),
    Measure(
        "caikit_pt_disk_free_bytes",
        GAUGE,
        "Free on the disk of a directory: state or models.",
        ("directory",),
        lambda place: [((name,), disk.free) for name, disk in place.disks],
    ),
    Measure(
        "caikit_pt_disk_bytes",
        GAUGE,
        "Size of the disk of a directory: state or models.",
        ("directory",),
        lambda place: [((name,), disk.total) for name, disk in place.disks],
    ),
)
STATE = Measure(
    "caikit_pt_state_available",
    GAUGE,
    "1 where the jobs in state_dir can be read; else those of jobs are missing here.",
    (),
    lambda values: values,
)
MEASURES = (*OF_ENGINES, *OF_JOBS, STATE, *OF_PROCESS)


class Metrics(Collector):
    """All MEASURES, asked of the engines of this process and of `store` and `place`."""

    def __init__(self, store: JobStore, place: Place) -> None:
        self._store, self._place = store, place
        self._numbers: weakref.WeakKeyDictionary[Worker, int] = weakref.WeakKeyDictionary()

    def describe(self) -> Iterable[Metric]:
        """Their names, for a registry that wants no two of one name."""
        return [measure.family() for measure in MEASURES]

    def collect(self) -> Iterator[Metric]:
        """As they are now. Jobs that can't be read hide nothing else."""
        engines = [
            ((name, str(self._number(worker))), worker.engine)
            for worker in workers()
            for name in [_name(worker.engine.base.checkpoint.name)]
        ]
        yield from (measure.family(engines) for measure in OF_ENGINES)
        try:
            of_jobs = [measure.family(self._store) for measure in OF_JOBS]
        except StateUnavailable:
            of_jobs = []
        yield from of_jobs
        yield STATE.family([((), float(bool(of_jobs)))])
        yield from (measure.family(self._place) for measure in OF_PROCESS)

    def _number(self, worker: Worker) -> int:
        """Copies of one base model, of other types or on other devices, are told apart by it."""
        name = _name(worker.engine.base.checkpoint.name)
        taken = {
            number for one, number in self._numbers.items() if _name(one.engine.base.checkpoint.name) == name
        }
        return self._numbers.setdefault(worker, next(number for number in count() if number not in taken))


def _name(name: str) -> str:
    """One for all ways to write the path of a base model."""
    return Path(name).as_posix()


def expose(metrics: Metrics, registry: CollectorRegistry = REGISTRY) -> None:
    """From now on the metrics port has them, and nothing of caikit's that counts by a client's `model_id`."""
    from caikit.runtime.model_management import model_manager
    from caikit.runtime.servicers import global_predict_servicer as servicer

    registry.register(metrics)
    # Whatever a client asks for becomes a time series of these.
    for one in (
        servicer.PREDICT_RPC_COUNTER,
        servicer.JOB_PREDICT_RPC_COUNTER,
        servicer.PREDICT_FROM_PROTO_SUMMARY,
        servicer.PREDICT_CAIKIT_LIBRARY_SUMMARY,
        servicer.PREDICT_TO_PROTO_SUMMARY,
        model_manager.MODEL_COUNT_GAUGE,
    ):
        REGISTRY.unregister(one)


def metrics_of(store: JobStore, prompts: Callable[[], int]) -> Metrics:
    """Of this server, as its settings say where it keeps things; `prompts`: how many are loaded."""
    import caikit

    models = Path(caikit.get_config().runtime.local_models_dir)
    return Metrics(store, Place({"state": Path(settings.current().state_dir), "models": models}, prompts))
