"""The name of a base model becomes a directory and what is known of it before a weight is read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from caikit_pt.base_model.fingerprint import fingerprint
from caikit_pt.errors import InvalidParameter
from caikit_pt.parameters.tuning import DECODER, DTYPES, ENCODER
from caikit_pt.paths import inside
from caikit_pt.settings import Settings

CAUSAL = "causal"
SEQ2SEQ = "seq2seq"

_PROMPT_PARTS = {CAUSAL: (DECODER,), SEQ2SEQ: (ENCODER, DECODER)}
# What from_pretrained reads; never pickled code, never other frameworks' weights.
_DOWNLOADED = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")


@dataclass(frozen=True)
class Checkpoint:
    """A base model on disk. Cheap: only its config is read, its fingerprint when asked for."""

    name: str
    directory: Path
    config: Any

    @cached_property
    def fingerprint(self) -> str:
        """See `fingerprint.py`."""
        return fingerprint(self.directory)

    @property
    def family(self) -> str:
        """CAUSAL or SEQ2SEQ."""
        return SEQ2SEQ if self.config.is_encoder_decoder else CAUSAL

    @property
    def prompt_parts(self) -> tuple[str, ...]:
        """Where a soft prompt can stand; the first is the default."""
        return _PROMPT_PARTS[self.family]

    @property
    def hidden_size(self) -> int:
        """Width H of a word embedding."""
        return int(self._text_config.hidden_size)

    @property
    def context_length(self) -> int | None:
        """Positions that the model has, soft prompt included. None: as many as memory holds."""
        for name in ("max_position_embeddings", "max_seq_len"):
            length = getattr(self._text_config, name, None)
            if length:
                return int(length)
        return None

    @property
    def dtype(self) -> str:
        """The checkpoint's own data type, as `float32`, `float16` or `bfloat16`."""
        name = str(getattr(self.config, "dtype", None)).removeprefix("torch.")
        return name if name in DTYPES else "float32"

    @property
    def _text_config(self) -> Any:
        return self.config.get_text_config()


def locate(name: str, settings: Settings) -> Checkpoint:
    """The base model called `name`: under `base_models_dir`, in the Hugging Face cache, or fetched.

    Raises InvalidParameter where there is none, where the name leads out of the directory, and
    where what is found isn't a language model that generates text.
    """
    directory = _directory(name, settings)
    return Checkpoint(name, directory, _text_generation_config(name, directory))


def _directory(name: str, settings: Settings) -> Path:
    if settings.base_models_dir:
        path = inside(settings.base_models_dir, name, "base_model")
        if (path / "config.json").is_file():
            return path
    elif Path(name).is_absolute() or ".." in Path(name).parts:
        raise InvalidParameter("base_model", name, "a name, not a path")
    return _cached_or_fetched(name, settings)


def _cached_or_fetched(name: str, settings: Settings) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                name,
                local_files_only=not settings.allow_downloads,
                allow_patterns=list(_DOWNLOADED),
            )
        )
    except (
        LocalEntryNotFoundError,
        HFValidationError,
        HfHubHTTPError,
        OSError,
        ValueError,
    ) as error:
        known = ", ".join(_known(settings)) or "none yet"
        downloads = "" if settings.allow_downloads else "; downloads are off (ALLOW_DOWNLOADS)"
        raise InvalidParameter(
            "base_model",
            name,
            f"a directory under base_models_dir (there: {known}) or a name in the Hugging Face "
            f"cache{downloads}",
        ) from error


def _known(settings: Settings) -> list[str]:
    root = Path(settings.base_models_dir)
    if not settings.base_models_dir or not root.is_dir():
        return []
    return sorted(path.name for path in root.iterdir() if (path / "config.json").is_file())[:20]


def _text_generation_config(name: str, directory: Path) -> Any:
    """The config in `directory`. Raises InvalidParameter where no model of it generates text."""
    from transformers import AutoConfig
    from transformers.models.auto import modeling_auto

    try:
        config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise InvalidParameter(
            "base_model", name, "a model whose config.json this release of transformers reads"
        ) from error
    mapping = (
        modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
        if config.is_encoder_decoder
        else modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    )
    architectures = config.architectures or []
    generators = set(mapping.values())
    if config.model_type not in mapping or (architectures and not generators & set(architectures)):
        kind = ", ".join(architectures) or config.model_type
        raise InvalidParameter(
            "base_model",
            name,
            f"a causal or seq2seq language model that generates text; this one is {kind}",
        )
    return config
