"""manifest.json of a source prompt: what it is for, what it was made from, and what its file of tensors is.

docs/sources.md has every field. A manifest is read field by field; what it has beyond these is left alone.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

from caikit_pt.parameters.table import LONGEST_NAME
from caikit_pt.parameters.tuning import MAX_VIRTUAL_TOKENS
from caikit_pt.soft_prompt.json_object import LARGEST_WHOLE, JsonObject, Scalar, WrongField

FORMAT_VERSION = 1
LARGEST_MANIFEST = 2**20  # bytes
_LONGEST_TEXT = 32_768
_LONGEST_LABEL = 200
_WIDEST, _HIGHEST_RANK = 65_536, 4_096
_MOST_TASKS, _MOST_FIELDS, _MOST_ITEMS = 1_000, 200, 1_000
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z")
# What has a say in what a training comes to.
_LIBRARIES = ("caikit-pt", "numpy", "safetensors", "torch", "transformers")
Recipe = Mapping[str, Scalar | tuple[Scalar, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTask:
    """One of the tasks that a source was trained on; what isn't known is empty. `data_sha256` is that of
    `data_sha256` below, and `metrics` are of its validation records."""

    name: str
    records: int = 0
    data_sha256: str = ""
    verbalizer: str = ""
    separator: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, values: JsonObject) -> SourceTask:
        """Raises WrongField."""
        return cls(
            name=values.name("name", _LONGEST_LABEL),
            records=values.whole("records", 0, LARGEST_WHOLE, 0),
            data_sha256=values.sha256("data_sha256", ""),
            verbalizer=values.text("verbalizer", _LONGEST_TEXT, ""),
            separator=values.text("separator", LONGEST_NAME, ""),
            metrics=values.object("metrics", _MOST_FIELDS).numbers(_LONGEST_LABEL),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceManifest:
    """All that a bundle says of itself.

    `num_ranks` is 0 without tasks, and `num_transformer_submodules` 2 where encoder and decoder have rows
    of their own. `sha256` is that of all bytes of adapter_model.safetensors.
    """

    base_model: str
    fingerprint: str
    tokenizer_sha256: str = ""
    num_virtual_tokens: int
    width: int
    num_ranks: int
    num_transformer_submodules: int
    tasks: tuple[SourceTask, ...] = ()
    recipe: Recipe = field(default_factory=dict)
    libraries: Mapping[str, str] = field(default_factory=dict)
    created: datetime
    default: bool = False
    sha256: str

    @classmethod
    def of(cls, content: bytes) -> SourceManifest:
        """The manifest that `content` is. Raises WrongField for the first field that may not be."""
        values = JsonObject.of(content)
        if values.whole("format_version", 0, LARGEST_WHOLE) not in range(1, FORMAT_VERSION + 1):
            raise WrongField(
                f"format_version is {values.values['format_version']}, and this release reads up to "
                f"{FORMAT_VERSION}"
            )
        made = cls(
            base_model=values.name("base_model", LONGEST_NAME),
            fingerprint=values.sha256("fingerprint"),
            tokenizer_sha256=values.sha256("tokenizer_sha256", ""),
            num_virtual_tokens=values.whole("num_virtual_tokens", 1, MAX_VIRTUAL_TOKENS),
            width=values.whole("width", 1, _WIDEST),
            num_ranks=values.whole("num_ranks", 0, _HIGHEST_RANK),
            num_transformer_submodules=values.whole("num_transformer_submodules", 1, 2),
            tasks=tuple(map(SourceTask.of, values.objects("tasks", _MOST_TASKS))),
            recipe=values.object("recipe", _MOST_FIELDS).scalars(_LONGEST_TEXT, _MOST_ITEMS),
            libraries=values.object("libraries", _MOST_FIELDS).texts(_LONGEST_LABEL),
            created=_moment(values.text("created", _LONGEST_LABEL)),
            default=values.truth("default", False),
            sha256=values.sha256("sha256"),
        )
        made._check_tasks()
        return made

    @property
    def task_names(self) -> tuple[str, ...]:
        """In the order of the tensors."""
        return tuple(task.name for task in self.tasks)

    def to_bytes(self) -> bytes:
        """manifest.json. Raises WrongField where nobody could read it again."""
        values = {"format_version": FORMAT_VERSION, **self.to_dict()}
        content = f"{json.dumps(values, ensure_ascii=False, indent=2)}\n".encode("utf-8", "surrogatepass")
        if len(content) > LARGEST_MANIFEST:
            raise WrongField(f"it would have {len(content):,} bytes, and has up to {LARGEST_MANIFEST:,}")
        SourceManifest.of(content)
        return content

    def to_dict(self) -> dict[str, object]:
        """Plain values, by the names of its fields."""
        return {**asdict(self), "created": _told(self.created)}

    def _check_tasks(self) -> None:
        if len(set(self.task_names)) != len(self.tasks):
            raise WrongField("tasks has a name twice")
        if bool(self.tasks) != bool(self.num_ranks):
            raise WrongField(f"num_ranks is {self.num_ranks} with {len(self.tasks)} tasks, and 0 without any")


def data_sha256(records: Iterable[tuple[str, str]]) -> str:
    """That of a task's records, pairs of input and output in their order: a JSON array of both a line."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(f"{json.dumps(list(record), ensure_ascii=False)}\n".encode("utf-8", "surrogatepass"))
    return f"sha256:{digest.hexdigest()}"


def library_versions() -> dict[str, str]:
    """Those of this environment that a recipe depends on."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _moment(text: str) -> datetime:
    """Raises WrongField for what is no moment in UTC."""
    try:
        if _MOMENT.fullmatch(text):
            return datetime.fromisoformat(text)
    except ValueError:
        pass
    raise WrongField(f"created is {text!r}, not a moment in UTC, such as 2026-01-31T12:00:00Z")


def _told(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
