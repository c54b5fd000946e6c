"""The name of a base model becomes a directory and what is known of it before a weight is read."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import Any

from caikit_pt.base_model.family import FAMILIES, Family, family_of
from caikit_pt.base_model.loading.files import check_kinds, read_json
from caikit_pt.base_model.loading.fingerprint import fingerprint, tokenizer_sha256
from caikit_pt.base_model.loading.trial import trial
from caikit_pt.errors import InvalidParameter, in_short
from caikit_pt.parameters.tuning import DECODER, DTYPES, ENCODER
from caikit_pt.paths import check_scarcity, inside
from caikit_pt.settings import Settings

# What from_pretrained reads; never pickled code, never other frameworks' weights.
LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
# Without these a model can't be given a soft prompt, a padded batch or one token after the other.
_NEEDED_ARGUMENTS = {"inputs_embeds", "attention_mask"}
# What types of models call the number of layers of the stack that predicts: of two, the decoder.
_LAYERS = ("num_decoder_layers", "decoder_layers", "num_hidden_layers")
# What OPT, RemBERT and ELECTRA call the width of their embeddings.
_EMBEDDING_WIDTHS = ("word_embed_proj_dim", "input_embedding_size", "embedding_size")
# In an error.
_MOST_TOLD = 20
# What directories of models begin with in the Hugging Face cache.
_CACHED = "models--"
_DOWNLOADED = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")


@dataclass(frozen=True)
class Checkpoint:
    """A base model on disk. Cheap: only its config is read, its fingerprint when asked for."""

    name: str
    directory: Path
    config: Any

    @cached_property
    def fingerprint(self) -> str:
        """See `fingerprint.py`. Raises InvalidParameter where the files of weights aren't whole."""
        return fingerprint(self.directory, self.name)

    @property
    def tokenizer_sha256(self) -> str:
        """See `fingerprint.py`. Raises OSError."""
        return tokenizer_sha256(self.directory)

    @property
    def family(self) -> Family:
        """Which family its models are of."""
        return family_of(self.config)

    @property
    def prompt_parts(self) -> tuple[str, ...]:
        """Where a soft prompt can stand; the first is the default."""
        return self.family.prompt_parts

    @property
    def rows(self) -> int:
        """Rows of the word embeddings, one for each token id."""
        return int(self._text_config.vocab_size)

    @property
    def hidden_size(self) -> int:
        """Width H of a word embedding; a few models project it to another width behind it."""
        config = self._text_config
        widths = (getattr(config, name, None) for name in _EMBEDDING_WIDTHS)
        return int(next(filter(None, widths), config.hidden_size))

    @property
    def layers(self) -> int:
        """Of the stack that predicts; 0 where the configuration has no usual name for them."""
        numbers = (getattr(self._text_config, name, None) for name in _LAYERS)
        return int(next(filter(None, numbers), 0))

    @cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer. Raises InvalidParameter where none can begin and end a text."""
        return _tokenizer(self.name, self.directory, self.rows)

    @cached_property
    def generation_config(self) -> Any:
        """What the checkpoint says of answers, as `from_pretrained` finds it."""
        from transformers import GenerationConfig

        with trial(self.name, "reading its generation_config.json"):
            if (self.directory / "generation_config.json").exists():
                return GenerationConfig.from_pretrained(self.directory, **LOCAL)
            return GenerationConfig.from_model_config(self.config)

    def contexts(self, parts: Collection[str]) -> list[tuple[tuple[str, ...], bool]]:
        """The lengths that share one context, and whether a prompt on the sides `parts` shares it too.

        A decoder-only model reads source and target as one; the sides of the others are apart.
        """
        if ENCODER not in self.prompt_parts:
            return [(("max_source_length", "max_target_length"), True)]
        return [(("max_source_length",), ENCODER in parts), (("max_target_length",), DECODER in parts)]

    @cached_property
    def counts_columns(self) -> bool:
        """Whether attention is in chunks, as in Llama 4.

        They, and what else it does from there on, are counted from a batch's first column, so that those of
        one row would depend on the others. Up to the first chunk's end there is no difference.
        """
        return "chunked_attention" in (getattr(self._text_config, "layer_types", None) or ())

    # Each request asks for it some times, and a configuration takes its time to say anything.
    @cached_property
    def context_length(self) -> int | None:
        """Positions that the model has, soft prompt included. None: as many as memory holds."""
        config = self._text_config
        most = [int(config.attention_chunk_size) - 1] if self.counts_columns else []
        for name in ("max_position_embeddings", "max_seq_len"):
            length = getattr(config, name, None)
            if length:
                return min([int(length), *most])
        return min(most, default=None)

    @property
    def dtype(self) -> str:
        """The checkpoint's own data type, as `float32`, `float16` or `bfloat16`."""
        name = str(getattr(self.config, "dtype", None)).removeprefix("torch.")
        return name if name in DTYPES else "float32"

    @cached_property
    def _text_config(self) -> Any:
        return self.config.get_text_config()


def locate(name: str, settings: Settings) -> Checkpoint:
    """The base model called `name`: under `base_models_dir`, in the Hugging Face cache, or fetched.

    Raises InvalidParameter where there is none, where the name leads out of the directory, and
    where what is found isn't a language model that generates text.
    """
    return opened(name, _directory(name, settings))


def opened(name: str, directory: Path) -> Checkpoint:
    """The base model in `directory`, which is called `name`. Raises InvalidParameter as `locate` does."""
    with trial(name, "looking at its files"):
        check_kinds(name, directory)
    return Checkpoint(name, directory, _text_generation_config(name, directory))


def _directory(name: str, settings: Settings) -> Path:
    if settings.base_models_dir:
        path = inside(settings.base_models_dir, name, "base_model")
        # Whatever it is: `opened` tells what isn't a file.
        if (path / "config.json").exists():
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
        check_scarcity(error)
        there = ", ".join(_in_directory(settings)[:_MOST_TOLD]) or "none yet"
        downloads = "" if settings.allow_downloads else "; downloads are off (ALLOW_DOWNLOADS)"
        raise InvalidParameter(
            "base_model",
            name,
            f"a directory under base_models_dir (there: {there}) or a name in the Hugging Face "
            f"cache{downloads}",
        ) from error


def known(settings: Settings) -> list[str]:
    """The names of base models that are there: in `base_models_dir`, and in the Hugging Face cache."""
    from huggingface_hub.constants import HF_HUB_CACHE

    cached = {
        path.parents[2].name.removeprefix(_CACHED).replace("--", "/")
        for path in Path(HF_HUB_CACHE).glob(f"{_CACHED}*/snapshots/*/config.json")
    }
    return sorted({*_in_directory(settings), *cached})


def _in_directory(settings: Settings) -> list[str]:
    root = Path(settings.base_models_dir)
    if not settings.base_models_dir or not root.is_dir():
        return []
    return sorted(path.name for path in root.iterdir() if (path / "config.json").is_file())


def _text_generation_config(name: str, directory: Path) -> Any:
    """The config in `directory`. Raises InvalidParameter where no model of it generates text."""
    with trial(name, "reading its config.json"):
        return _checked(name, _config(name, directory))


def _config(name: str, directory: Path) -> Any:
    from transformers import AutoConfig, __version__

    try:
        return AutoConfig.from_pretrained(directory, **LOCAL)
    except Exception as error:  # a broken file fails in many ways
        check_scarcity(error)
        raise InvalidParameter(
            "base_model",
            name,
            f"a model whose config.json transformers {__version__} reads; {_wrong_in(directory, error)}",
        ) from error


def _wrong_in(directory: Path, error: Exception) -> str:
    """What is wrong with the config in `directory`, over which transformers has raised `error`."""
    from transformers import CONFIG_MAPPING

    try:
        values = read_json(directory / "config.json")
    except (OSError, ValueError, RecursionError) as unreadable:
        return f"this one can't be read as JSON ({in_short(unreadable)})"
    if not isinstance(values, dict):
        return "this one holds no object"
    kind = values.get("model_type")
    if kind in CONFIG_MAPPING:
        return f"this one failed with {in_short(error)}"
    if "auto_map" in values:
        return f"model_type {kind!r} needs code from its repository, which is never run"
    return f"it doesn't know model_type {kind!r}" if kind else "this one has no model_type"


def _checked(name: str, config: Any) -> Any:
    """`config`, of a model that can be given a soft prompt. Raises InvalidParameter."""
    import transformers
    from transformers.models.auto import modeling_auto

    mapping = getattr(modeling_auto, family_of(config).generators)
    architectures = config.architectures or []
    if not isinstance(architectures, list):
        raise InvalidParameter("base_model", name, "a model whose config.json has a list of architectures")
    generators = set(mapping.values())
    if config.model_type not in mapping or (architectures and not generators & set(architectures)):
        kind = ", ".join(architectures) or config.model_type
        raise InvalidParameter(
            "base_model",
            name,
            f"a {' or '.join(map(str, FAMILIES))} language model that generates text; this one is {kind}",
        )
    generator = getattr(transformers, str(mapping[config.model_type]))
    missing = sorted(_NEEDED_ARGUMENTS - set(signature(generator.forward).parameters))
    if not cache_argument(generator) or _only_recurrent(config):
        missing.append("the keys and values of earlier tokens")
    if missing:
        raise InvalidParameter(
            "base_model",
            name,
            f"a model that takes {', '.join(missing)}; {config.model_type} models don't",
        )
    text = config.get_text_config()
    # Below 1 the experts of NLLB-MoE drop tokens by how many a whole batch has.
    if getattr(text, "moe_eval_capacity_token_fraction", 1.0) < 1.0:
        allowed = (
            "a model whose experts take every token (moe_eval_capacity_token_fraction: 1.0 in config.json)"
        )
        raise InvalidParameter("base_model", name, allowed)
    for size in ("vocab_size", "hidden_size"):
        if not isinstance(getattr(text, size, None), int):
            raise InvalidParameter("base_model", name, f"a model whose config.json says its {size}")
    return config


def cache_argument(model: Any) -> str | None:
    """What the forward of a model's class calls the keys and values of earlier tokens."""
    arguments = signature(model.forward).parameters
    # The latter before transformers 5.24.
    return next((name for name in ("cache", "past_key_values") if name in arguments), None)


def _only_recurrent(config: Any) -> bool:
    """Whether no layer has attention: all that such a model keeps of earlier tokens is a state."""
    return set(getattr(config.get_text_config(), "layer_types", None) or ()) == {"linear_attention"}


def _tokenizer(name: str, directory: Path, rows: int) -> Any:
    """The tokenizer in `directory` for a model with so many embeddings."""
    from transformers import AutoTokenizer

    absent = "" if (directory / "tokenizer.json").exists() else " (there is no tokenizer.json)"
    with trial(name, f"reading its tokenizer{absent}"):
        tokenizer = AutoTokenizer.from_pretrained(directory, **LOCAL)
        if tokenizer.eos_token_id is None:
            raise InvalidParameter("base_model", name, "a model whose tokenizer has an end token")
        needed = {tokenizer.eos_token_id, *tokenizer("")["input_ids"]}
        without = sorted(token for token in needed if token >= rows)
        if without:
            pieces = ", ".join(map(repr, tokenizer.convert_ids_to_tokens(without)))
            raise InvalidParameter(
                "base_model",
                name,
                f"a model with an embedding for what its tokenizer puts around a text; it has {rows}, "
                f"and {pieces} would be number {without[0] + 1}. Fetch or save the two together",
            )
        if len(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids)) == 0:
            raise InvalidParameter(
                "base_model", name, "a model with tokenizer files; its tokenizer knows no word"
            )
    return tokenizer
