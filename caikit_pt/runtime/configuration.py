"""What a server's settings have to be like, each for itself and together, looked at before it starts."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from alog.alog import g_alog_name_to_level

from caikit_pt import config_files, settings
from caikit_pt.base_model.loading.device import resolve_device
from caikit_pt.errors import InvalidParameter
from caikit_pt.paths import check_writable
from caikit_pt.runtime import connections, preload, tracing
from caikit_pt.runtime.certificates import Certificates
from caikit_pt.runtime.executors import executors
from caikit_pt.runtime.guard.identity import Identity
from caikit_pt.runtime.listening import Listening
from caikit_pt.settings import Settings, as_set, row
from caikit_pt.tracking.trackers import trackers

_ROWS = (
    row("log.level", str, choices=tuple(g_alog_name_to_level)),
    row("log.formatter", str, choices=("json", "pretty")),
    row("runtime.local_models_dir", str),
    row("runtime.lazy_load_poll_period_seconds", float, 1),
    row("runtime.lazy_load_retries", int, 0),
    row("runtime.server_thread_pool_size", int, 1),
    row("runtime.grpc.port", int, 1, 65535),
    row("runtime.grpc.server_shutdown_grace_period_seconds", float, 0),
    row("runtime.metrics.enabled", bool),
    row("runtime.metrics.port", int, 1, 65535),
)
# What can't be otherwise in this server.
_FIXED: dict[str, tuple[object, str]] = {
    "runtime.lazy_load_local_models": (True, "a tuned prompt is loaded by the first request that names it"),
    "runtime.training.save_with_id": (False, "a request names a model, and not the id of its training"),
    "runtime.service_generation.enable_inference": (True, "the server answers requests"),
    "runtime.service_generation.enable_training": (
        True,
        "the server trains, and with max_queued: 0 not",
    ),
    "runtime.grpc.enabled": (True, "the server speaks gRPC alone"),
    "runtime.http.enabled": (False, "the server speaks gRPC alone"),
}
_DIRECTORIES = ("base_models_dir", "source_prompt_base", "data_streams.file_source_base")


def check() -> list[str]:
    """Raises InvalidParameter for settings that no server can start with; what is doubtful is returned.

    `runtime.local_models_dir` is there afterwards.
    """
    import caikit

    doubtful = config_files.check()
    config = caikit.get_config()
    now = settings.current()
    for one in _ROWS:
        settings.checked(one, _value(config, one.name))
    for name, (wanted, reason) in _FIXED.items():
        value = _value(config, name)
        if settings.checked(row(name, bool), value) is not wanted:
            raise InvalidParameter(as_set(name), value, f"{str(wanted).lower()}: {reason}")
    trackers(now.tracking)
    tracing.check(now.tracing.endpoint)
    doubtful += executors.check(now)
    _check_database(now.database)
    _check_directories(config, now)
    _check_tls(config)
    _check_access(now)
    listening = Listening(now, _value(config, "runtime.tls") or {})
    doubtful += connections.doubts(now.max_connections, len(listening.hosts))
    _check_ports(config, listening)
    preload.check(now)
    try:
        resolve_device("", now)
    except InvalidParameter as error:
        raise InvalidParameter(as_set("device"), error.value, error.allowed) from None
    return doubtful


def _check_database(address: str) -> None:
    """What it holds is told nowhere: there may be a secret in it."""
    if not address:
        return
    field, told = as_set("database"), "what it is set to"
    if find_spec("psycopg_pool") is None:
        raise InvalidParameter(field, told, "unset, or pip install 'caikit-pt[postgresql]'")
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    try:
        parts = conninfo_to_dict(address)
    except ProgrammingError:
        allowed = "postgresql://USER@HOST/DATABASE, or NAME=VALUE NAME=VALUE ... as libpq takes them"
        raise InvalidParameter(field, told, allowed) from None
    if "password" in parts:
        raise InvalidParameter(field, told, "one without a password, which is in PGPASSWORD or in PGPASSFILE")


def _value(config: Mapping[str, Any], name: str) -> Any:
    """None where a file has taken a section's place with nothing."""
    value: Any = config
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _check_directories(config: Mapping[str, Any], now: Settings) -> None:
    """They are there, can be written to where they have to be, and keep apart what must not meet."""
    there = {name: Path(value) for name in _DIRECTORIES if (value := _value(config, name))}
    for name, path in there.items():
        if not path.is_dir():
            here = "" if path.is_absolute() else f" (relative paths are those of the start, {Path.cwd()})"
            raise InvalidParameter(as_set(name), str(path), f"a directory that is there, or unset{here}")
    models = Path(_value(config, "runtime.local_models_dir"))
    if models == Path():
        allowed = "a directory for tuned prompts alone"
        raise InvalidParameter(as_set("runtime.local_models_dir"), str(models), allowed)
    output = _value(config, "runtime.training.output_dir")
    if output and Path(output).resolve() != models.resolve():
        raise InvalidParameter(
            as_set("runtime.training.output_dir"),
            output,
            f"unset, or {models} as {as_set('runtime.local_models_dir')} says: "
            "a prompt is served from where it is published",
        )
    # A prompt is published under any name in the directory of models: whatever lies there can be replaced.
    for name, path in {**there, "state_dir": Path(now.state_dir)}.items():
        if path.resolve().is_relative_to(models.resolve()):
            raise InvalidParameter(
                as_set(name),
                str(path),
                f"a directory outside {as_set('runtime.local_models_dir')} ({models}), "
                "where a tuned prompt of the same name would take its place",
            )
    _check_state(now, models, there.get("data_streams.file_source_base"))
    check_writable(models, as_set("runtime.local_models_dir"), "a directory that this server may write")


def _check_state(now: Settings, models: Path, data: Path | None) -> None:
    state = Path(now.state_dir).resolve()
    if models.resolve().is_relative_to(state):
        allowed = f"a directory outside state_dir ({now.state_dir}), which holds jobs alone"
        raise InvalidParameter(as_set("runtime.local_models_dir"), str(models), allowed)
    if data is not None and state.is_relative_to(data.resolve()):
        allowed = (
            f"a directory outside data_streams.file_source_base ({data}): "
            "a request could name the records of another's training as its file"
        )
        raise InvalidParameter(as_set("state_dir"), now.state_dir, allowed)


def _check_tls(config: Mapping[str, Any]) -> None:
    """Half of it would leave the server open without a word."""
    names = [f"runtime.tls.{part}" for part in ("server.key", "server.cert", "client.cert")]
    given = {name: value for name in names if (value := _value(config, name))}
    for name, value in given.items():
        if not Path(str(value)[:4096]).is_file() and "-----BEGIN" not in str(value):
            # Not the value itself, which may be a key.
            raise InvalidParameter(as_set(name), "…", "the path of a PEM file that is there, or its content")
    missing = [name for name in names[:2] if name not in given]
    if given and missing:
        allowed = f"set, since {next(iter(given))} is: the server would be open without TLS"
        raise InvalidParameter(as_set(missing[0]), "", allowed)

    if not given:
        return
    try:
        Certificates(_value(config, "runtime.tls"))
    except OSError as error:
        allowed = f"PEM files that this server may read ({error.strerror})"
        raise InvalidParameter(as_set(names[0]), "…", allowed) from None


def _check_access(now: Settings) -> None:
    """What callers are known by can be read, and is whole."""
    Identity(now.access, None)
    for name, value in (("issuer", now.access.jwt.issuer), ("audience", now.access.jwt.audience)):
        if value and not now.access.jwt.keys:
            allowed = "set with access.jwt.keys alone, by which tokens are checked"
            raise InvalidParameter(as_set(f"access.jwt.{name}"), value, allowed)


def _check_ports(config: Mapping[str, Any], listening: Listening) -> None:
    ports = {"runtime.grpc.port": listening.hosts[0].strip("[]")}
    if settings.checked(row("runtime.metrics.enabled", bool), _value(config, "runtime.metrics.enabled")):
        ports["runtime.metrics.port"] = ""
    with contextlib.ExitStack() as bound:
        for name, host in ports.items():
            port = _value(config, name)
            family = socket.AF_INET6 if ":" in host and host != "::" else socket.AF_INET
            try:
                bound.enter_context(socket.create_server(("" if host == "::" else host, port), family=family))
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL:
                    allowed = "an address of this machine, or localhost, or unset"
                    raise InvalidParameter(as_set("listen_host"), host, allowed) from None
                allowed = f"a port that is free and may be listened on ({error.strerror})"
                raise InvalidParameter(as_set(name), port, allowed) from None
