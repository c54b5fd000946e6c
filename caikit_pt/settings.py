"""The settings of config.yml as typed values: the one place that asks caikit for them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from caikit_pt.errors import InvalidParameter

LINEAR_KERNELS = ("", "torch", "onednn")


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """Base models whose name matches a pattern are served by vLLM at an address, as `model`."""

    base_model: str
    vllm: str
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What config.yml describes; see there for the meaning of each."""

    base_models_dir: str = ""
    allow_downloads: bool = False
    device: str = ""
    torch_dtype: str = ""
    linear_kernel: str = ""
    cache_dir: str = ""
    source_prompt_base: str = ""
    tuning_presets: tuple[Mapping[str, Any], ...] = ()
    tuning_limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    max_new_tokens_limit: int = 4096
    join_trainings: bool = False
    max_batch_size: int = 64
    max_waiting_requests: int = 1024
    max_wait_seconds: float = 120.0
    max_prefill_tokens: int = 512
    kv_cache_mib: int = 0
    prompt_cache_mib: int = 256
    backends: tuple[Remote, ...] = ()
    state_dir: str = "state"
    slots: int = 0
    max_queued: int = 1000
    checkpoint_seconds: float = 60.0
    max_attempts: int = 3
    retention_days: float = 0.0

    @property
    def cache_directory(self) -> Path:
        """`cache_dir`, or where this user's caches are."""
        caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        return Path(self.cache_dir or f"{caches}/caikit_pt").expanduser()


def current() -> Settings:
    """The settings as caikit has them now."""
    import caikit

    config = caikit.get_config()
    return Settings(
        base_models_dir=config.base_models_dir or "",
        allow_downloads=_truth(config.allow_downloads),
        device=config.device or "",
        torch_dtype=config.torch_dtype or "",
        linear_kernel=_one_of("linear_kernel", config.linear_kernel or "", LINEAR_KERNELS),
        cache_dir=config.cache_dir or "",
        source_prompt_base=config.source_prompt_base or "",
        tuning_presets=tuple(config.tuning_presets or ()),
        tuning_limits={name: (low, high) for name, (low, high) in (config.tuning_limits or {}).items()},
        max_new_tokens_limit=int(config.max_new_tokens_limit),
        join_trainings=_truth(config.join_trainings),
        max_batch_size=int(config.max_batch_size),
        max_waiting_requests=int(config.max_waiting_requests),
        max_wait_seconds=float(config.max_wait_seconds),
        max_prefill_tokens=int(config.max_prefill_tokens),
        kv_cache_mib=int(config.kv_cache_mib),
        prompt_cache_mib=int(config.prompt_cache_mib),
        backends=tuple(_remote(entry) for entry in config.backends or ()),
        state_dir=config.state_dir or "state",
        slots=int(config.slots),
        max_queued=int(config.max_queued),
        checkpoint_seconds=float(config.checkpoint_seconds),
        max_attempts=int(config.max_attempts),
        retention_days=float(config.retention_days),
    )


def _remote(entry: Any) -> Remote:
    """An entry of `backends`. Raises InvalidParameter where it isn't one."""
    named = dict(entry) if isinstance(entry, Mapping) else {}
    whole = set(named) == {"base_model", "vllm", "model"} and all(named.values())
    if not whole or not str(named["vllm"]).startswith(("http://", "https://")):
        raise InvalidParameter(
            "backends", entry, "{base_model: PATTERN, vllm: http://HOST:PORT, model: NAME} for each"
        )
    return Remote(**{name: str(value).rstrip("/") for name, value in named.items()})


def _one_of(name: str, value: str, allowed: Sequence[str]) -> str:
    """`value`. Raises InvalidParameter where it isn't allowed."""
    if value not in allowed:
        raise InvalidParameter(name, value, "empty, " + ", ".join(filter(None, allowed)))
    return value


def _truth(value: object) -> bool:
    """Environment variables are text: `false` and `0` are not true."""
    return value.strip().lower() in ("1", "true", "yes") if isinstance(value, str) else bool(value)
