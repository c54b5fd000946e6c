"""What holds for the whole package: its face, its weight, its rooms, and the files made from it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Container, Iterator, Sequence
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import caikit_pt
from caikit_pt.base_model import sides
from caikit_pt.base_model.family import FAMILIES, Family
from caikit_pt.base_model.serving.side import ServingSide
from caikit_pt.base_model.text.side import TextSide
from caikit_pt.base_model.training.side import TrainingSide
from caikit_pt.settings import _ROWS
from examples.local_server import ROOT
from tests.plain_server import CAIKIT
from tests.render_metrics import rendered as render_metrics
from tests.render_parameters import render as render_parameters
from tests.render_protos import render as render_protos
from tests.render_settings import render as render_settings

PACKAGE = ROOT / "caikit_pt"
IMPORT_CPU_SECONDS = 2.5
# Everything may know these.
EVERYWHERE = {"ending", "errors", "paths", "settings"}
# Who may use whom: each room or file of the package, and those that it knows.
ROOMS = {
    "parameters": set(),
    "base_model": {"parameters"},
    "soft_prompt": {"parameters", "base_model"},
    "replicas": set(),
    # Requests take turns by who asks.
    "serving": {"call", "parameters", "base_model", "replicas", "soft_prompt"},
    # A training is judged by answers as the server gives them.
    "tuning": {"call", "parameters", "base_model", "soft_prompt", "serving", "turns"},
    # Trainings in this process are told of here; those of a server, in runtime.
    "tracking": {"tuning"},
    # ---- caikit ----
    "data_model": set(),
    "status": set(),
    "principal": set(),
    "call": {"principal"},
    "turns": {"call"},
    "module": {
        "data_model",
        "status",
        "call",
        "parameters",
        "base_model",
        "soft_prompt",
        "serving",
        "tuning",
        "tracking",
        "plotting",
    },
    "config_files": set(),
    "runtime": {
        "data_model",
        "status",
        "principal",
        "call",
        "turns",
        "config_files",
        "module",
        "parameters",
        "base_model",
        "soft_prompt",
        # What it has done is read by the metrics, traces and lines of requests.
        "serving",
        "tuning",
        "tracking",
    },
    # ---- what is shown ----
    "columns": set(),
    "evaluation_report": {"columns"},
    "plotting": {"evaluation_report"},
    "training": {"plotting"},
    "comparison": {"columns", "evaluation_report", "parameters", "training"},
    "progress_bar": {"training"},
    # ---- clients ----
    "asking": set(),
    "client": {
        "asking",
        "comparison",
        "parameters",
        "progress_bar",
        "replicas",
        "runtime",
        "training",
        "tuning",
    },
    "prediction": {"asking", "client", "tuning"},
    # A process of its own; of runtime it knows what goes over the wire.
    "web": {
        "client",
        "comparison",
        "evaluation_report",
        "parameters",
        "plotting",
        "runtime",
        "training",
        "tuning",
    },
    "commands": {
        "asking",
        # Source prompts are published where they lie.
        "base_model",
        "client",
        "columns",
        "comparison",
        "evaluation_report",
        "parameters",
        "plotting",
        "prediction",
        "progress_bar",
        "runtime",
        "soft_prompt",
        "training",
        "tuning",
        "web",
    },
    "cli": {"client", "commands"},
    # The face of the package.
    "__init__": {"base_model", "config_files", "data_model", "module", "soft_prompt", "tuning"},
}
# They know nothing of gRPC or caikit.
INNER = ("parameters", "base_model", "soft_prompt", "serving", "tuning", "tracking")
# Of runtime a client knows what goes over the wire.
WIRE = {"caikit_pt.runtime.tuning_messages", "caikit_pt.runtime.tuning_rpcs"}
# The rooms and files within base_model in the same way: docs/architecture.md draws them.
BASE_MODEL = {
    # ---- values ----
    "budget": set(),
    "family": set(),
    "row": set(),
    # ---- a name becomes weights and tokens ----
    "loading": {"family"},
    "text": {"loading", "row"},
    "language_model": {"loading", "text"},
    # ---- frozen weights, whatever their family ----
    "layers": set(),
    "frozen": {"layers", "loading"},
    "one_stack": {"frozen", "layers"},
    # ---- what is done with them ----
    "training": {"budget", "frozen", "layers", "loading", "one_stack", "row", "text"},
    "serving": {"frozen", "layers", "loading", "one_stack", "row", "text"},
    "sides": {"family", "loading", "serving", "text", "training"},
    "trials": {"layers", "loading", "row", "serving", "text", "training"},
    # ---- all of it as one ----
    "model": {"frozen", "loading", "sides", "trials"},
    "pool": {"frozen", "loading", "model", "trials"},
    "__init__": set(),
}
# In these, a module that is imported brings no torch along: requests are checked before a weight is read.
LIGHT = ("budget", "family", "row", "loading", "text", "language_model", "sides", "model", "pool")
# Where the files of the families are, and what a file's class is one of.
SIDES: dict[str, type] = {"text": TextSide, "training": TrainingSide, "serving": ServingSide}
# Beside base_model/family.py and its own files these name a family: a server that serves one, and a default.
NAME_A_FAMILY = {"serving/vllm_text.py", "parameters/rules.py"}
# What transformers calls a layer's own kind and the cache of two stacks: a layer is tried with it.
OF_LAYERS = {"is_decoder", "EncoderDecoderCache"}
# Names for the mask of attention, which looks back in every family's decoder.
OF_MASKS = {"causal", "is_causal", "_causal", "allow_is_causal_skip"}


def module_files() -> dict[str, Path]:
    """Every file of the package, by the name that it is imported by."""
    files = {}
    for file in PACKAGE.rglob("*.py"):
        parts = file.relative_to(ROOT).with_suffix("").parts
        files[".".join(parts).removesuffix(".__init__")] = file
    return files


def room_of(name: str, depth: int = 1) -> str:
    """The room that a module is in, or the file that it is; with `depth` 2 within its room."""
    return [*name.split("."), "__init__"][depth]


@cache
def arrows() -> dict[str, set[str]]:
    """What each module of the package imports of it, wherever in the file that stands."""
    files = module_files()
    return {name: set(_imported(file, files)) for name, file in files.items()}


def _imported(file: Path, known: Container[str]) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        assert not isinstance(node, ast.ImportFrom) or not node.level, f"{file}: imports have whole names"
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names if one.name.startswith("caikit_pt."))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "caikit_pt":
            for one in node.names:
                submodule = f"{node.module}.{one.name}"
                yield submodule if submodule in known else str(node.module)


def arrows_within(room: str) -> dict[str, set[str]]:
    """Of the modules of one room, what each imports of it."""
    inside = {name for name in arrows() if room_of(name) == room}
    return {name: arrows()[name] & inside for name in inside}


def between_rooms(graph: dict[str, set[str]], depth: int = 1) -> dict[str, set[str]]:
    """The arrows of modules as those of their rooms."""
    rooms: dict[str, set[str]] = {}
    for name, used in graph.items():
        room = room_of(name, depth)
        rooms.setdefault(room, set()).update({room_of(one, depth) for one in used} - {room})
    return rooms


def words_and_texts(file: Path) -> tuple[set[str], set[str]]:
    """What is named in the code of a file; and its texts, with the parts of the modules that it imports.

    Neither comments nor docstrings are code.
    """
    words: set[str] = set()
    texts: set[str] = set()
    tree = ast.parse(file.read_text())
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        match node:
            case (
                ast.Name(id=word) | ast.Attribute(attr=word) | ast.arg(arg=word) | ast.keyword(arg=str(word))
            ):
                words.add(word)
            case ast.FunctionDef(name=word) | ast.AsyncFunctionDef(name=word) | ast.ClassDef(name=word):
                words.add(word)
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                words.update(name.asname or name.name for name in names)
                parts = [name.name for name in names] + [getattr(node, "module", None) or ""]
                texts.update(part for each in parts for part in each.split("."))
            case ast.Constant(value=str(text)) if id(node) not in docstrings:
                texts.add(text)
    return words, texts


def families_in(file: Path) -> set[Family]:
    """Those that a file names in its code."""
    words, texts = words_and_texts(file)
    named = " ".join(words - OF_MASKS).lower()
    return {family for family in FAMILIES if family.name in texts or family.name in named}


def test_the_public_names() -> None:
    assert caikit_pt.__all__ == [
        "ExponentialDecayLengthPenalty",
        "GenerationTrainRecord",
        "PeftPromptTuning",
        "TuningConfig",
        "load_base_model",
        "train_source",
    ]
    assert all(hasattr(caikit_pt, name) for name in caikit_pt.__all__)


def test_the_import_is_light() -> None:
    """Every client that builds stubs imports the package: torch and transformers stay out of it."""
    code = (
        "import sys, time, caikit_pt\n"
        "heavy = {'torch', 'transformers', 'peft', 'safetensors'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        f"assert time.process_time() < {IMPORT_CPU_SECONDS}, time.process_time()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_rendered_protos_are_those_of_the_code(tmp_path: Path) -> None:
    render_protos(tmp_path)
    rendered = {file.name: file.read_text() for file in tmp_path.glob("*.proto")}
    committed = {file.name: file.read_text() for file in (ROOT / "protos").glob("*.proto")}
    assert rendered == committed, "run `make protos`"


def test_the_page_of_parameters_is_that_of_the_tables() -> None:
    assert (ROOT / "docs" / "parameters.md").read_text("utf-8") == render_parameters(), "run `make docs`"


def test_the_page_of_settings_is_that_of_the_file() -> None:
    page = (ROOT / "docs" / "settings.md").read_text("utf-8")
    assert page == render_settings(), "run `make docs`"
    told = set(re.findall(r"^\| `([\w.]+)` \|", page, re.MULTILINE))
    wanted = {row.name for row in _ROWS}
    assert wanted <= told, wanted - told


def test_the_table_of_metrics_is_that_of_the_collector() -> None:
    page = (ROOT / "docs" / "observability.md").read_text("utf-8")
    assert page == render_metrics(page), "run `make docs`"


def test_every_setting_has_a_line_on_what_it_does() -> None:
    lines = (PACKAGE / "config.yml").read_text().splitlines()
    settings = [number for number, line in enumerate(lines) if re.match(r"[a-z_]+:", line)]
    ours = [number for number in settings if number < lines.index("# ---- what caikit needs to be told ----")]
    assert ours
    assert all(lines[number - 1].startswith("#") for number in ours)


def test_rooms_know_only_the_rooms_below_them() -> None:
    assert {room_of(name) for name in arrows()} == {*ROOMS, *EVERYWHERE}
    for name, used in arrows().items():
        room = room_of(name)
        rooms = set(map(room_of, used)) - {room} - EVERYWHERE
        # Nothing but the settings' own table is below those that everything knows.
        assert rooms <= ROOMS.get(room, {"parameters"}), name


def test_every_arrow_of_the_drawing_is_there() -> None:
    """Whoever knows a room no longer isn't said to."""
    graph = between_rooms(arrows())
    assert {room: graph[room] - EVERYWHERE for room in ROOMS} == ROOMS
    assert between_rooms(arrows_within("base_model"), depth=2) == BASE_MODEL


@pytest.mark.parametrize(("heading", "rooms"), [("Rooms", ROOMS), ("Within base_model", BASE_MODEL)])
def test_the_tables_of_the_document_are_these(heading: str, rooms: dict[str, set[str]]) -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = re.findall(r"^\| `(\w+)` \| [^|]+ \|([^|]*)\|$", section, re.MULTILINE)
    assert {room: set(re.findall(r"\w+", known)) for room, known in lines} == {
        room: known for room, known in rooms.items() if room != "__init__" or known
    }


def test_rooms_do_not_know_each_other_in_a_circle() -> None:
    TopologicalSorter(between_rooms(arrows())).prepare()


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_files_of_a_room_do_not_know_each_other_in_a_circle(room: str) -> None:
    """Not even where one is imported late."""
    TopologicalSorter(arrows_within(room)).prepare()


def test_rooms_of_base_model_know_only_those_below_them() -> None:
    within = arrows_within("base_model")
    assert {room_of(name, 2) for name in within} == set(BASE_MODEL)
    for name, used in within.items():
        room = room_of(name, 2)
        assert {room_of(one, 2) for one in used} - {room} <= BASE_MODEL[room], name
    TopologicalSorter(between_rooms(within, depth=2)).prepare()


def test_no_torch_is_needed_before_a_weight_is_read() -> None:
    names = [name for name in arrows_within("base_model") if room_of(name, 2) in LIGHT]
    _imports(names, without=("torch", "transformers", "safetensors", "numpy"))


def test_layers_know_no_family() -> None:
    """Nor sides of a model, nor anything of the package but where a setting is asked for."""
    for name, used in arrows().items():
        if name.startswith("caikit_pt.base_model.layers."):
            outside = {one for one in used if not one.startswith("caikit_pt.base_model.layers.")}
            assert outside <= {"caikit_pt.settings"}, name
            words, texts = words_and_texts(module_files()[name])
            assert not re.search(
                "encoder|decoder|model_type", " ".join((words | texts) - OF_LAYERS), re.IGNORECASE
            ), name
            assert not any("family" in word for word in words), name


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_a_family_is_a_row_and_a_file_on_each_side(family: Family) -> None:
    for side, kind in SIDES.items():
        found = getattr(sides, f"{side}_side")(family)
        assert found.__name__ == f"{family.classes}{side.capitalize()}"
        assert found.__module__ == f"caikit_pt.base_model.{side}.{family.name}"
        assert issubclass(found, kind)
        assert not found.__abstractmethods__


def test_families_are_named_in_their_row_and_their_own_files_only() -> None:
    """Everybody else has it from the row, or asks a side."""
    own = {f"base_model/{side}/{family.name}.py": {family} for side in SIDES for family in FAMILIES}
    for file in PACKAGE.rglob("*.py"):
        place = file.relative_to(PACKAGE).as_posix()
        if place != "base_model/family.py":
            assert place in NAME_A_FAMILY or families_in(file) <= own.get(place, set()), file
            assert "is_encoder_decoder" not in set.union(*words_and_texts(file)), file


def test_clients_know_of_runtime_what_goes_over_the_wire() -> None:
    for name, used in arrows().items():
        if room_of(name) == "client":
            assert {one for one in used if room_of(one) == "runtime"} <= WIRE, name


def test_the_inner_rooms_know_nothing_of_grpc_or_caikit() -> None:
    """Without these they can all be imported, by whoever leaves out the face of the package."""
    names = [name for name in arrows() if room_of(name) in INNER]
    _imports(names, without=(*CAIKIT, "grpc", "grpc_health"))
    for name in names:
        text = module_files()[name].read_text()
        assert not re.search(rf"^\s*(import|from) ({'|'.join(CAIKIT)}|grpc)\b", text, re.MULTILINE), name


def _imports(names: Sequence[str], without: Sequence[str]) -> None:
    """Imports modules of the package in a process in which the packages `without` can't be imported."""
    code = (
        "import sys\n"
        "from importlib import import_module\n"
        "from types import ModuleType\n"
        "class Blocked:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {set(without)}:\n"
        "            raise ImportError(f'{name} is imported')\n"
        "sys.meta_path.insert(0, Blocked())\n"
        "package = ModuleType('caikit_pt')\n"
        f"package.__path__ = [{str(PACKAGE)!r}]\n"
        "sys.modules['caikit_pt'] = package\n"
        f"for name in {sorted(names)}:\n"
        "    import_module(name)\n"
    )
    assert names
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert ended.returncode == 0, ended.stderr


def test_caikit_is_known_where_it_is_needed() -> None:
    """Leaving it is a change of runtime/, of messages and module, of settings and stubs."""
    known = {"__init__.py", "data_model.py", "module.py", "settings.py", "status.py"}
    for file in PACKAGE.rglob("*.py"):
        imported = re.search(rf"^\s*(import|from) ({'|'.join(CAIKIT)})\b", file.read_text(), re.MULTILINE)
        allowed = file.parent.name in ("client", "runtime") or (file.parent == PACKAGE and file.name in known)
        assert allowed or not imported, file


def test_the_libraries_of_trackers_are_imported_where_a_setting_names_one() -> None:
    """By their own files alone, and by these not before they are asked."""
    for file in PACKAGE.rglob("*.py"):
        text = file.read_text()
        imports = re.findall(
            r"^( *)(?:import|from) (?:mlflow|tensorboard|torch\.utils\.tensorboard)\b", text, re.M
        )
        assert not imports or file.parent.name == "tracking", file
        assert all(imports), file


def test_opentelemetry_is_imported_where_a_setting_names_a_collector() -> None:
    """By two files, one of which is imported late."""
    for name, file in module_files().items():
        imports = re.findall(r"^( *)(?:import|from) opentelemetry\b", file.read_text(), re.M)
        allowed = ("caikit_pt.runtime.tracing", "caikit_pt.runtime.otlp")
        assert not imports or name in allowed, file
        assert name == "caikit_pt.runtime.otlp" or all(imports), file


def test_what_counts_knows_nothing_of_who_reads_it() -> None:
    """Prometheus asks; nobody below runtime has heard of it."""
    for name, file in module_files().items():
        if name != "caikit_pt.runtime.metrics":
            assert "prometheus_client" not in file.read_text(), file


def test_nothing_is_unpickled() -> None:
    for file in PACKAGE.rglob("*.py"):
        text = file.read_text()
        assert not re.search(r"pickle\.loads?\(|yaml\.load\(|trust_remote_code=True", text), file
        for call in re.findall(r"torch\.load\([^)]*\)", text):
            assert "weights_only=True" in call, file
