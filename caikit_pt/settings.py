"""The settings of config.yml as typed values: the one place that asks caikit for them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
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
    """Base models whose name matches a pattern are served by vLLM at each of some addresses, as `model`."""

    base_model: str
    vllm: tuple[str, ...]
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
class Executor:
    """Where trainings are run, and what each of them needs there."""

    kind: str = _default("executor.kind")
    address: str = _default("executor.address")
    token_file: str = _default("executor.token_file")
    cpus: float = _default("executor.cpus")
    gpus: float = _default("executor.gpus")
    workers: int = _default("executor.workers")
    workers_per_node: int = _default("executor.workers_per_node")
    memory_mib: int = _default("executor.memory_mib")
    # NAME=VALUE, separated by commas.
    labels: str = _default("executor.labels")
    exchange: str = _default("executor.exchange")
    namespace: str = _default("executor.namespace")
    pod_template: str = _default("executor.pod_template")
    queue: str = _default("executor.queue")

    @property
    def node_labels(self) -> Mapping[str, str]:
        """Of `labels`, by their names."""
        pairs = (one.partition("=") for one in self.labels.split(",") if one.strip())
        return {name.strip(): value.strip() for name, _, value in pairs}


@dataclass(frozen=True, slots=True, kw_only=True)
class Web:
    """The process of `caikit-pt web`."""

    host: str = _default("web.host")
    port: int = _default("web.port")
    # Separated by commas.
    names: str = _default("web.names")
    cert: str = _default("web.cert")
    key: str = _default("web.key")
    server: str = _default("web.server")
    directory: str = _default("web.directory")
    max_file_mib: int = _default("web.max_file_mib")
    max_files_mib: int = _default("web.max_files_mib")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What principals whose name matches a pattern may do with models whose name does."""

    principals: tuple[str, ...]
    may: tuple[str, ...]
    models: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Jwt:
    """The JSON Web Tokens that are believed; without keys: none."""

    keys: str = _default("access.jwt.keys")
    issuer: str = _default("access.jwt.issuer")
    audience: str = _default("access.jwt.audience")
    # Separated by commas: of lists caikit makes one.
    algorithms: str = _default("access.jwt.algorithms")
    principal_claim: str = _default("access.jwt.principal_claim")


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who callers are, and what each of them may do."""

    tokens_file: str = _default("access.tokens_file")
    jwt: Jwt = field(default_factory=Jwt)
    policy: tuple[Rule, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotasOfEach:
    """What one principal may use; 0: whatever he likes."""

    requests_per_second: float = _default("quotas.each.requests_per_second")
    tokens_per_minute: float = _default("quotas.each.tokens_per_minute")
    requests_under_way: int = _default("quotas.each.requests_under_way")
    queued_trainings: int = _default("quotas.each.queued_trainings")
    training_records: int = _default("quotas.each.training_records")
    training_mib: float = _default("quotas.each.training_mib")
    stored_mib: float = _default("quotas.each.stored_mib")


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotasOfAll:
    """What all may use together; 0: whatever they like."""

    requests_per_second: float = _default("quotas.all.requests_per_second")
    tokens_per_minute: float = _default("quotas.all.tokens_per_minute")
    requests_under_way: int = _default("quotas.all.requests_under_way")
    stored_mib: float = _default("quotas.all.stored_mib")


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotas:
    """What each principal may use, and all together."""

    each: QuotasOfEach = field(default_factory=QuotasOfEach)
    all: QuotasOfAll = field(default_factory=QuotasOfAll)


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
    loaded_prompts_mib: int = _default("loaded_prompts_mib")
    cuda_graphs: bool = _default("cuda_graphs")
    listen_host: str = _default("listen_host")
    allow_insecure: bool = _default("allow_insecure")
    access: Access = field(default_factory=Access)
    quotas: Quotas = field(default_factory=Quotas)
    max_streams: int = _default("max_streams")
    max_streams_per_client: int = _default("max_streams_per_client")
    max_watches: int = _default("max_watches")
    max_watches_per_client: int = _default("max_watches_per_client")
    max_message_seconds: float = _default("max_message_seconds")
    max_connections: int = _default("max_connections")
    model_management_rpcs: bool = _default("model_management_rpcs")
    reflection: bool = _default("reflection")
    backends: tuple[Remote, ...] = _default("backends")
    preload: tuple[str, ...] = _default("preload")
    drain_seconds: float = _default("drain_seconds")
    state_dir: str = _default("state_dir")
    database: str = _default("database")
    slots: int = _default("slots")
    prepare_trainings: bool = _default("prepare_trainings")
    max_queued: int = _default("max_queued")
    checkpoint_seconds: float = _default("checkpoint_seconds")
    max_attempts: int = _default("max_attempts")
    retention_days: float = _default("retention_days")
    tracking: Tracking = field(default_factory=Tracking)
    tracing: Tracing = field(default_factory=Tracing)
    executor: Executor = field(default_factory=Executor)
    web: Web = field(default_factory=Web)

    @property
    def cache_directory(self) -> Path:
        """`cache_dir`, or where this user's caches are."""
        caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        return Path(self.cache_dir or f"{caches}/caikit_pt").expanduser()


def row(name: str, kind: type, low: float | None = None, high: float | None = None, **more: Any) -> Parameter:
    """What a setting of one value may hold; its meaning and its default stand in config.yml."""
    return Parameter(name, kind, "", low=low, high=high, **more)


_JWT = ("keys", "issuer", "audience", "algorithms", "principal_claim")
_COUNTS = ("requests_under_way", "queued_trainings", "training_records")
_OF_ALL = ("requests_per_second", "tokens_per_minute", "requests_under_way", "stored_mib")
_WEB_TEXTS = ("host", "names", "cert", "key", "server", "directory")
_WEB = (*_WEB_TEXTS, "port", "max_file_mib", "max_files_mib")
_EXECUTOR_TEXTS = ("address", "token_file", "labels", "exchange", "namespace", "pod_template", "queue")
_EXECUTOR = ("kind", *_EXECUTOR_TEXTS, "cpus", "gpus", "memory_mib", "workers", "workers_per_node")
_QUOTAS = {"each": (*_OF_ALL, "queued_trainings", "training_records", "training_mib"), "all": _OF_ALL}
# What a principal may be allowed to do (runtime/guard/door.py).
ACTIONS = ("generate", "tune", "watch", "cancel", "share", "deploy")
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
    row("loaded_prompts_mib", int, 1),
    row("cuda_graphs", bool),
    row("listen_host", str),
    row("allow_insecure", bool),
    *(row(f"access.{name}", str) for name in ("tokens_file", *(f"jwt.{part}" for part in _JWT))),
    *(
        row(f"quotas.{whose}.{name}", int if name in _COUNTS else float, 0)
        for whose, names in _QUOTAS.items()
        for name in names
    ),
    row("max_streams", int, 1),
    row("max_streams_per_client", int, 1),
    row("max_watches", int, 1),
    row("max_watches_per_client", int, 1),
    row("max_message_seconds", float, 0, above_low=True),
    row("max_connections", int, 1),
    row("model_management_rpcs", bool),
    row("reflection", bool),
    row("drain_seconds", float, 0),
    row("state_dir", str),
    row("database", str),
    row("slots", int, 0),
    row("prepare_trainings", bool),
    row("max_queued", int, 0),
    row("checkpoint_seconds", float, 0),
    row("max_attempts", int, 1),
    row("retention_days", float, 0),
    row("executor.kind", str, choices=("local", "ray", "kubernetes")),
    *(row(f"executor.{name}", str) for name in _EXECUTOR_TEXTS),
    row("executor.cpus", float, 0, above_low=True),
    row("executor.gpus", float, 0),
    row("executor.memory_mib", int, 0),
    row("executor.workers", int, 1, 64),
    row("executor.workers_per_node", int, 0, 64),
    *(row(f"web.{name}", str) for name in _WEB_TEXTS),
    row("web.port", int, 0, 65_535),
    row("web.max_file_mib", int, 1),
    row("web.max_files_mib", int, 1),
)


def current() -> Settings:
    """The settings as caikit has them now. Raises InvalidParameter for the first that may not be."""
    import caikit

    return _READ.typed(caikit.get_config())


def typed(config: Mapping[str, Any]) -> Settings:
    """The settings in `config`; what is unset or empty has its default. Raises InvalidParameter."""
    names = [one.name for one in fields(Settings) if config.get(one.name) not in (None, "")]
    return Settings(**{name: _read(name, config[name]) for name in names})


class _Read:
    """What was read last: each request asks, and caikit's configuration is another object once it has
    changed, which it itself never does."""

    def __init__(self) -> None:
        self._last: tuple[Mapping[str, Any], Settings] | None = None

    def typed(self, config: Mapping[str, Any]) -> Settings:
        """As `typed`."""
        last = self._last
        if last is None or last[0] is not config:
            last = self._last = config, typed(config)
        return last[1]


_READ = _Read()


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
        "access": _access,
        "quotas": _quotas,
        "web": _web,
        "executor": _executor,
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
    if isinstance(value, str):
        return value
    return checked(_ROWS[name], value) if "." in name else _read(name, value)


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
    """caikit reads each file twice."""
    return tuple(dict.fromkeys(_remote(entry) for entry in _list("backends", value)))


def _names(value: Any) -> tuple[str, ...]:
    """Raises InvalidParameter where one is no text. caikit reads each file twice."""
    for name in _list("preload", value):
        if not isinstance(name, str) or not name:
            raise InvalidParameter("preload", name, "the names of base models")
    return tuple(dict.fromkeys(value))


def _remote(entry: Any) -> Remote:
    """An entry of `backends`. Raises InvalidParameter where it isn't one."""
    named = dict(entry) if isinstance(entry, Mapping) else {}
    if set(named) != {"base_model", "vllm", "model"} or not all(named.values()):
        form = "{base_model: PATTERN, vllm: [http://HOST:PORT, ...], model: NAME} for each"
        raise InvalidParameter("backends", _plain(entry), form)
    addresses = _addresses(named.pop("vllm"))
    return Remote(vllm=addresses, **{name: str(value) for name, value in named.items()})


def _addresses(given: Any) -> tuple[str, ...]:
    """Of vLLM servers: a list, or one or some with commas in between. Raises InvalidParameter."""
    one_by_one = given if isinstance(given, list | tuple) else str(given).split(",")
    found = tuple(str(address).strip().rstrip("/") for address in one_by_one)
    for address in found:
        if not re.fullmatch(r"https?://[^\s/@?#]+(/[^\s@?#]*)?", address):
            # Callers and metrics are told of it.
            allowed = "http://HOST:PORT or https://HOST:PORT, without credentials, or a list of them"
            raise InvalidParameter("backends, vllm", "…" if "@" in address else address, allowed)
        if found.count(address) > 1:
            raise InvalidParameter("backends, vllm", address, "each address once")
    return found


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


def _access(value: Any) -> Access:
    """Raises InvalidParameter for what is no section, and for a rule that is none."""
    _check_section("access", value, ("tokens_file", "jwt", "policy"))
    jwt = value.get("jwt") or {}
    _check_section("access.jwt", jwt, _JWT)
    policy = tuple(_rule(entry) for entry in _list("access.policy", value.get("policy") or ()))
    return Access(
        **_values("access", value, ("tokens_file",)),
        jwt=Jwt(**_values("access.jwt", jwt, _JWT)),
        policy=policy,
    )


def _rule(entry: Any) -> Rule:
    """An entry of `access.policy`. Raises InvalidParameter where it isn't one."""
    named = dict(entry) if isinstance(entry, Mapping) else {}
    texts = [
        isinstance(one, list | tuple) and one and all(isinstance(text, str) and text for text in one)
        for one in named.values()
    ]
    if set(named) != {"principals", "may", "models"} or not all(texts):
        form = "{principals: [PATTERN, ...], may: [ACTION, ...], models: [PATTERN, ...]} for each"
        raise InvalidParameter("access.policy", _plain(entry), form)
    for action in named["may"]:
        if action not in ACTIONS:
            raise InvalidParameter("access.policy, may", action, ", ".join(ACTIONS))
    return Rule(**{name: tuple(value) for name, value in named.items()})


def _quotas(value: Any) -> Quotas:
    """Raises InvalidParameter for what is no section, and for a quota that there isn't."""
    _check_section("quotas", value, _QUOTAS)
    given = {whose: value.get(whose) or {} for whose in _QUOTAS}
    for whose, quotas in given.items():
        _check_section(f"quotas.{whose}", quotas, _QUOTAS[whose])
    return Quotas(
        each=QuotasOfEach(**_values("quotas.each", given["each"], _QUOTAS["each"])),
        all=QuotasOfAll(**_values("quotas.all", given["all"], _OF_ALL)),
    )


def _web(value: Any) -> Web:
    """Raises InvalidParameter for what is no section, and for a key without its certificate."""
    _check_section("web", value, _WEB)
    found = Web(**_values("web", value, _WEB))
    if bool(found.cert) != bool(found.key):
        missing = "web.key" if found.cert else "web.cert"
        raise InvalidParameter(as_set(missing), "", "a file: a certificate and its key go together")
    return found


def _executor(value: Any) -> Executor:
    """Raises InvalidParameter for what is no section, and for a label without a value."""
    _check_section("executor", value, _EXECUTOR)
    found = Executor(**_values("executor", value, _EXECUTOR))
    if any(not name or not worth for name, worth in found.node_labels.items()):
        raise InvalidParameter(as_set("executor.labels"), found.labels, "NAME=VALUE, NAME=VALUE ...")
    return found


def _check_section(name: str, value: Any, names: Iterable[str]) -> None:
    """Raises InvalidParameter for what isn't one; a name that is no setting's would guard nothing."""
    if not isinstance(value, Mapping):
        raise InvalidParameter(name, value, "a section: NAME: VALUE in lines below it")
    for one in value:
        if one not in names:
            raise InvalidParameter(name, one, ", ".join(names))


def _values(section: str, value: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """What is set in a section. Raises InvalidParameter."""
    given = {name: value.get(name) for name in names}
    return {
        name: checked(_ROWS[f"{section}.{name}"], one) for name, one in given.items() if one not in (None, "")
    }


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
