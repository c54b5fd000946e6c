"""What the log says of a start: a handful of lines of ours, and no longer some seventy of caikit's."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from caikit_pt.settings import Settings

_LOG = logging.getLogger(__name__)
# Of each channel of caikit, what is the same at every start, or is said better below; and of what is refused,
# the text that the caller gets: it has what he sent. A line of a request says what it was (request_log.py).
NOISE: Mapping[str, tuple[str, ...]] = {
    "SERVER-WRAPR": (
        *("<RUN33333123I>", "<RUN30032825I>", "<RUN81194024I>", "<RUN24924908I>"),
        "<RUN89011375W>",
    ),
    "SERVICR-UTIL": ("<RUN24024050W>",),
    "GP-SERVICR-I": ("<RUN76773776I>", "<RUN76773778I>", "<RUN76884779I>", "<RUN50530380W>"),
    "GT-SERVICR-I": ("<RUN76773777I>", "<RUN76884778I>", "<RUN50530380W>"),
    "SERVR-GRPC": ("<RUN20247875I>", "<RUN20247827I>", "<RUN10001805I>", "<RUN10001806I>", "<RUN10001807I>"),
    "SERVR-BASE": ("Serving prometheus metrics", "Booted metrics server"),
    "MODEL-MANAGR": ("<RUN44739400I>", "Initializing local_models_dir sync"),
    "TRACE": ("Trace disabled",),
}
_MOST_NAMES = 20


def quiet() -> None:
    """From now on caikit keeps NOISE to itself; errors, and all else, are told."""
    for channel, said in NOISE.items():
        logging.getLogger(channel).addFilter(_without(said))


def tell(config: Mapping[str, Any], now: Settings) -> None:
    """Version, ports and how they are guarded, directories, base models."""
    for line in lines(config, now):
        _LOG.info(line)


def lines(config: Mapping[str, Any], now: Settings) -> list[str]:
    """Of a start by these settings."""
    runtime = config["runtime"]
    metrics = (
        f"metrics on port {runtime['metrics']['port']}" if runtime["metrics"]["enabled"] else "no metrics"
    )
    return [
        f"caikit_pt {_version()}: gRPC on port {runtime['grpc']['port']} {_guard(runtime)}, {metrics}",
        f"tuned prompts: {runtime['local_models_dir']}; jobs: {now.state_dir}",
        f"base models: {_base_models(now)}",
        *([f"traces: {now.tracing.endpoint}"] if now.tracing.endpoint else []),
    ]


def _without(said: tuple[str, ...]) -> Any:
    def is_told(record: logging.LogRecord) -> bool:
        return record.levelno > logging.WARNING or not any(one in str(record.msg) for one in said)

    return is_told


def _version() -> str:
    try:
        return version("caikit-pt")
    except PackageNotFoundError:
        return "(not installed)"


def _guard(runtime: Mapping[str, Any]) -> str:
    tls = runtime.get("tls") or {}
    server, client = tls.get("server") or {}, tls.get("client") or {}
    if not (server.get("key") and server.get("cert")):
        return "without TLS"
    if client.get("cert"):
        return "with TLS, for clients with a certificate"
    return "with TLS"


def _base_models(now: Settings) -> str:
    remote = [f"{one.base_model} at {' and '.join(one.vllm)}" for one in now.backends]
    if not now.base_models_dir:
        return ", ".join(["those of the Hugging Face cache", *remote])
    root = Path(now.base_models_dir)
    names = sorted(one.parent.name for one in root.glob("*/config.json"))
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return f"{', '.join([*names[:_MOST_NAMES], *remote]) or 'none'}{more} (in {root})"
