"""The settings of config.yml as typed values: the one place that asks caikit for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What config.yml describes; see there for the meaning of each."""

    base_models_dir: str = ""
    allow_downloads: bool = False
    device: str = ""
    torch_dtype: str = ""
    source_prompt_base: str = ""
    tuning_presets: tuple[Mapping[str, Any], ...] = ()
    tuning_limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    max_new_tokens_limit: int = 4096
    join_trainings: bool = False


def current() -> Settings:
    """The settings as caikit has them now."""
    import caikit

    config = caikit.get_config()
    return Settings(
        base_models_dir=config.base_models_dir or "",
        allow_downloads=_truth(config.allow_downloads),
        device=config.device or "",
        torch_dtype=config.torch_dtype or "",
        source_prompt_base=config.source_prompt_base or "",
        tuning_presets=tuple(config.tuning_presets or ()),
        tuning_limits={name: (low, high) for name, (low, high) in (config.tuning_limits or {}).items()},
        max_new_tokens_limit=int(config.max_new_tokens_limit),
        join_trainings=_truth(config.join_trainings),
    )


def _truth(value: object) -> bool:
    """Environment variables are text: `false` and `0` are not true."""
    return value.strip().lower() in ("1", "true", "yes") if isinstance(value, str) else bool(value)
