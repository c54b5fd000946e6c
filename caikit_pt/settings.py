"""The settings of config.yml as typed values: the one place that asks caikit for them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from caikit_pt.errors import InvalidParameter
from caikit_pt.parameters.table import Limits, Parameter, ParameterTable
from caikit_pt.parameters.tuning import DTYPES, PRESET_PARAMETERS, TUNING_PARAMETERS

# Words that an environment variable may say true and false in.
_TRUTHS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
_TASKS = (*TUNING_PARAMETERS["tuning_task"].choices, "default")


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """Base models whose name matches a pattern are served by vLLM at an address, as `model`."""

    base_model: str
    vllm: str
    model: str


def _default(name: str) -> Any:
    """A field whose default is what config.yml says of the setting `name`: it stands nowhere else."""
    return field(default_factory=lambda: _of_config_yml(name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracking:
    """Where trainings are told of; empty: nowhere."""

    mlflow_uri: str = _default("tracking.mlflow.uri")
    mlflow_experiment: str = _default("tracking.mlflow.experiment")
    tensorboard_directory: str = _default("tracking.tensorboard.directory")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracing:
    """Where traces go; empty: nowhere, and none are made."""

    endpoint: str = _default("tracing.endpoint")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What config.yml describes; see there for the meaning of each."""

    base_models_dir: str = _default("base_models_dir")
    allow_downloads: bool = _default("allow_downloads")
    device: str = _default("device")
    torch_dtype: str = _default("torch_dtype")
    linear_kernel: str = _default("linear_kernel")
    cache_dir: str = _default("cache_dir")
    source_prompt_base: str = _default("source_prompt_base")
    # Those of config.yml are what a server begins with; whoever clears them wants none.
    tuning_presets: tuple[Mapping[str, Any], ...] = ()
    tuning_limits: Limits = field(default_factory=lambda: _of_config_yml("tuning_limits"))
    max_new_tokens_limit: int = _default("max_new_tokens_limit")
    max_input_tokens: int = _default("max_input_tokens")
    join_trainings: bool = _default("join_trainings")
    max_batch_size: int = _default("max_batch_size")
    max_waiting_requests: int = _default("max_waiting_requests")
    max_wait_seconds: float = _default("max_wait_seconds")
    max_prefill_tokens: int = _default("max_prefill_tokens")
    kv_cache_mib: int = _default("kv_cache_mib")
    prompt_cache_mib: int = _default("prompt_cache_mib")
    cuda_graphs: bool = _default("cuda_graphs")
    max_streams: int = _default("max_streams")
    max_watches: int = _default("max_watches")
    max_message_seconds: float = _default("max_message_seconds")
    model_management_rpcs: bool = _default("model_management_rpcs")
    reflection: bool = _default("reflection")
    backends: tuple[Remote, ...] = _default("backends")
    preload: tuple[str, ...] = _default("preload")
    drain_seconds: float = _default("drain_seconds")
    state_dir: str = _default("state_dir")
    slots: int = _default("slots")
    max_queued: int = _default("max_queued")
    checkpoint_seconds: float = _default("checkpoint_seconds")
    max_attempts: int = _default("max_attempts")
    retention_days: float = _default("retention_days")
    tracking: Tracking = field(default_factory=Tracking)
    tracing: Tracing = field(default_factory=Tracing)

    @property
    def cache_directory(self) -> Path:
        """`cache_dir`, or where this user's caches are."""
        caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        return Path(self.cache_dir or f"{caches}/caikit_pt").expanduser()


def row(name: str, kind: type, low: float | None = None, high: float | None = None, **more: Any) -> Parameter:
    """What a setting of one value may hold; its meaning and its default stand in config.yml."""
    return Parameter(name, kind, "", low=low, high=high, **more)


_ROWS = ParameterTable(
    row("base_models_dir", str),
    row("allow_downloads", bool),
    row("device", str),
    row("torch_dtype", str, choices=DTYPES),
    row("linear_kernel", str, choices=("torch", "onednn")),
    row("cache_dir", str),
    row("source_prompt_base", str),
    row("max_new_tokens_limit", int, 1),
    row("max_input_tokens", int, 0),
    row("join_trainings", bool),
    row("max_batch_size", int, 1),
    row("max_waiting_requests", int, 1),
    row("max_wait_seconds", float, 0, above_low=True),
    row("max_prefill_tokens", int, 1),
    row("kv_cache_mib", int, 0),
    row("prompt_cache_mib", int, 0),
    row("cuda_graphs", bool),
    row("max_streams", int, 1),
    row("max_watches", int, 1),
    row("max_message_seconds", float, 0, above_low=True),
    row("model_management_rpcs", bool),
    row("reflection", bool),
    row("drain_seconds", float, 0),
    row("state_dir", str),
    row("slots", int, 0),
    row("max_queued", int, 0),
    row("checkpoint_seconds", float, 0),
    row("max_attempts", int, 1),
    row("retention_days", float, 0),
)


def current() -> Settings:
    """The settings as caikit has them now. Raises InvalidParameter for the first that may not be."""
    import caikit

    return typed(caikit.get_config())


def typed(config: Mapping[str, Any]) -> Settings:
    """The settings in `config`; what is unset or empty has its default. Raises InvalidParameter."""
    names = [one.name for one in fields(Settings) if config.get(one.name) not in (None, "")]
    return Settings(**{name: _read(name, config[name]) for name in names})


def checked(row: Parameter, value: Any) -> Any:
    """`value` as its row wants it. Raises InvalidParameter that names what it was set by."""
    if row.kind is bool:
        value = _TRUTHS.get(str(value).strip().lower(), value)
    try:
        return row.check(value)
    except InvalidParameter as error:
        # aconfig reads what it can of an environment variable as a number or a truth.
        free = row.kind is str and not row.choices
        hint = ", and a name that reads as a number or a truth as ./NAME" if free else ""
        raise InvalidParameter(as_set(row.name), value, error.allowed + hint) from None


def as_set(name: str) -> str:
    """The environment variable that a setting was set by, else its dotted name."""
    return variable(name) if variable(name) in os.environ else name


def variable(name: str) -> str:
    """The environment variable that overrides a setting."""
    return name.replace(".", "_").replace("-", "_").upper()


def _read(name: str, value: Any) -> Any:
    """`value` as the setting of this name has it. Raises InvalidParameter."""
    readers = {
        "tuning_presets": _presets,
        "tuning_limits": _limits,
        "backends": _remotes,
        "preload": _names,
        "tracking": _tracking,
        "tracing": _tracing,
    }
    return readers[name](value) if name in readers else checked(_ROWS[name], value)


@cache
def _config_yml() -> Mapping[str, Any]:
    content: Mapping[str, Any] = yaml.safe_load(Path(__file__).with_name("config.yml").read_text("utf-8"))
    return content


def _of_config_yml(name: str) -> Any:
    value: Any = _config_yml()
    for part in name.split("."):
        value = value[part]
    # Empty is no value of those that take only some.
    return value if isinstance(value, str) else _read(name, value)


def _presets(value: Any) -> tuple[Mapping[str, Any], ...]:
    """Raises InvalidParameter where an entry isn't `{base_model: PATTERN, tasks: {TASK: {NAME: VALUE}}}`."""
    for entry in _list("tuning_presets", value):
        whole = isinstance(entry, Mapping) and set(entry) == {"base_model", "tasks"}
        if not whole or not isinstance(entry["tasks"], Mapping):
            form = "{base_model: PATTERN, tasks: {TASK: {NAME: VALUE}}} for each"
            raise InvalidParameter("tuning_presets", _plain(entry), form)
        for task, values in entry["tasks"].items():
            if not isinstance(values, Mapping):
                raise InvalidParameter(f"tuning_presets.tasks.{task}", values, "NAME: VALUE for each")
            if task not in _TASKS:
                raise InvalidParameter("tuning_presets.tasks", task, ", ".join(_TASKS))
            for name, preset in values.items():
                if name not in PRESET_PARAMETERS:
                    raise InvalidParameter(f"tuning_presets.tasks.{task}", name, ", ".join(PRESET_PARAMETERS))
                _check_of("tuning_presets", name, preset)
    return tuple(value)


def _limits(value: Any) -> Limits:
    """Raises InvalidParameter where an entry isn't a parameter with a lowest and a highest number."""
    if not isinstance(value, Mapping):
        raise InvalidParameter(as_set("tuning_limits"), value, "NAME: [LOWEST, HIGHEST] for each")
    numbers = [one.name for one in TUNING_PARAMETERS if one.kind in (int, float)]
    limits = {}
    for name, ends in value.items():
        if name not in numbers:
            raise InvalidParameter("tuning_limits", name, ", ".join(numbers))
        # caikit puts the list of a later file before that of an earlier one, and reads each file twice.
        pair = list(ends)[:2] if isinstance(ends, list | tuple) and len(ends) % 2 == 0 else []
        if not pair or not _check_of("tuning_limits", name, pair[0]) <= _check_of(
            "tuning_limits", name, pair[1]
        ):
            raise InvalidParameter(f"tuning_limits.{name}", ends, "[LOWEST, HIGHEST]")
        limits[name] = (pair[0], pair[1])
    return limits


def _remotes(value: Any) -> tuple[Remote, ...]:
    return tuple(_remote(entry) for entry in _list("backends", value))


def _names(value: Any) -> tuple[str, ...]:
    """Raises InvalidParameter where one is no text. caikit reads each file twice."""
    for name in _list("preload", value):
        if not isinstance(name, str) or not name:
            raise InvalidParameter("preload", name, "the names of base models")
    return tuple(dict.fromkeys(value))


def _remote(entry: Any) -> Remote:
    """An entry of `backends`. Raises InvalidParameter where it isn't one."""
    named = dict(entry) if isinstance(entry, Mapping) else {}
    whole = set(named) == {"base_model", "vllm", "model"} and all(named.values())
    if not whole or not str(named["vllm"]).startswith(("http://", "https://")):
        raise InvalidParameter(
            "backends", _plain(entry), "{base_model: PATTERN, vllm: http://HOST:PORT, model: NAME} for each"
        )
    return Remote(**{name: str(value).rstrip("/") for name, value in named.items()})


def _tracking(value: Any) -> Tracking:
    """Raises InvalidParameter for what no tracker is reached by."""
    if not isinstance(value, Mapping):
        raise InvalidParameter("tracking", value, "a section: NAME: VALUE in lines below it")
    found = {}
    for name in ("mlflow.uri", "mlflow.experiment", "tensorboard.directory"):
        tracker, _, part = name.partition(".")
        given = (value.get(tracker) or {}).get(part)
        if given not in (None, ""):
            found[f"{tracker}_{part}"] = checked(row(f"tracking.{name}", str), given)
    uri = found.get("mlflow_uri", "")
    if uri and not uri.startswith(("http://", "https://", "sqlite:///")):
        raise InvalidParameter(
            as_set("tracking.mlflow.uri"), "…", "http://HOST:PORT, https:// or sqlite:///FILE"
        )
    if set("@?") & set(uri):
        # Not the value itself, which may have them in it.
        allowed = "an address without credentials: those stand in MLflow's own environment variables"
        raise InvalidParameter(as_set("tracking.mlflow.uri"), "…", allowed)
    return Tracking(**found)


def _tracing(value: Any) -> Tracing:
    """Raises InvalidParameter for what no collector is reached by."""
    if not isinstance(value, Mapping):
        raise InvalidParameter("tracing", value, "a section: NAME: VALUE in lines below it")
    endpoint = value.get("endpoint")
    if endpoint in (None, ""):
        return Tracing()
    endpoint = checked(row("tracing.endpoint", str), endpoint)
    if not re.fullmatch(r"(https?://)?[^\s/@?]+:\d{1,5}", endpoint):
        # Not the value itself, which may have credentials in it.
        allowed = "HOST:PORT of a collector that takes OTLP over gRPC, http://HOST:PORT, or https:// over TLS"
        raise InvalidParameter(as_set("tracing.endpoint"), "…", allowed)
    return Tracing(endpoint=endpoint)


def _list(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise InvalidParameter(name, _plain(value), "a list, in a file that CONFIG_FILES names")
    return list(value)


def _check_of(setting: str, name: str, value: Any) -> Any:
    """`value` for a parameter of a train request. Raises InvalidParameter with the setting's name, too."""
    try:
        return TUNING_PARAMETERS[name].check(value)
    except InvalidParameter as error:
        raise InvalidParameter(f"{setting}, {name}", value, error.allowed) from None


def _plain(value: Any) -> Any:
    """As a reader wrote it: without the names of aconfig's classes."""
    return dict(value) if isinstance(value, Mapping) else value
