"""What holds for the whole package: its face, its weight, its rooms, and the files made from it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Container, Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import caikit_pt
from caikit_pt import errors
from examples.local_server import ROOT
from tests.plain_server import CAIKIT
from tests.render_parameters import render as render_parameters
from tests.render_protos import render as render_protos

PACKAGE = ROOT / "caikit_pt"
IMPORT_CPU_SECONDS = 2.5
# Everything may know these.
EVERYWHERE = {"ending", "errors", "paths", "settings"}
# Who may use whom: each room or file of the package, and those that it knows.
ROOMS = {
    "parameters": set(),
    "base_model": {"parameters"},
    "soft_prompt": {"parameters", "base_model"},
    "serving": {"parameters", "base_model", "soft_prompt"},
    # A training is judged by answers as the server gives them.
    "tuning": {"parameters", "base_model", "soft_prompt", "serving"},
    # Trainings in this process are told of here; those of a server, in runtime.
    "tracking": {"tuning"},
    # ---- caikit ----
    "data_model": set(),
    "status": set(),
    "module": {
        "data_model",
        "status",
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
        "config_files",
        "module",
        "parameters",
        "base_model",
        "soft_prompt",
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
    "client": {"asking", "comparison", "parameters", "progress_bar", "runtime", "training", "tuning"},
    "prediction": {"asking", "client", "tuning"},
    "commands": {
        "asking",
        "client",
        "columns",
        "comparison",
        "evaluation_report",
        "parameters",
        "plotting",
        "prediction",
        "progress_bar",
        "runtime",
        "training",
        "tuning",
    },
    "cli": {"client", "commands"},
    # The face of the package.
    "__init__": {"base_model", "config_files", "data_model", "module"},
}
# They know nothing of gRPC or caikit.
INNER = ("parameters", "base_model", "soft_prompt", "serving", "tuning", "tracking")
# Of runtime a client knows what goes over the wire.
WIRE = {"caikit_pt.runtime.tuning_messages", "caikit_pt.runtime.tuning_rpcs"}
# In these, files don't know each other in a circle.
ORDERED = sorted(set(ROOMS) - {"base_model"})


def module_files() -> dict[str, Path]:
    """Every file of the package, by the name that it is imported by."""
    files = {}
    for file in PACKAGE.rglob("*.py"):
        parts = file.relative_to(ROOT).with_suffix("").parts
        files[".".join(parts).removesuffix(".__init__")] = file
    return files


def room_of(name: str) -> str:
    """The room that a module is in, or the file at the top that it is."""
    return [*name.split("."), "__init__"][1]


@cache
def arrows() -> dict[str, set[str]]:
    """What each module of the package imports of it, wherever in the file that stands."""
    files = module_files()
    return {name: set(_imported(file, files)) for name, file in files.items()}


def _imported(file: Path, known: Container[str]) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names if one.name.startswith("caikit_pt."))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "caikit_pt":
            for one in node.names:
                submodule = f"{node.module}.{one.name}"
                yield submodule if submodule in known else str(node.module)


def test_the_public_names() -> None:
    assert caikit_pt.__all__ == [
        "ExponentialDecayLengthPenalty",
        "GenerationTrainRecord",
        "PeftPromptTuning",
        "TuningConfig",
        "load_base_model",
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


def test_every_setting_has_a_line_on_what_it_does() -> None:
    lines = (PACKAGE / "config.yml").read_text().splitlines()
    settings = [number for number, line in enumerate(lines) if re.match(r"[a-z_]+:", line)]
    ours = [number for number in settings if number < lines.index("# ---- what caikit needs to be told ----")]
    assert ours
    assert all(lines[number - 1].startswith("#") for number in ours)


def test_the_error_tree_is_the_one_that_is_drawn() -> None:
    drawn = re.findall(r"(\w+) {2,}([A-Z_]+)$", errors.__doc__ or "", re.MULTILINE)
    classes = {
        name: kind.status
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.CaikitPtError)
    }
    assert dict(drawn) == classes


def test_rooms_know_only_the_rooms_below_them() -> None:
    assert {room_of(name) for name in arrows()} == {*ROOMS, *EVERYWHERE}
    for name, used in arrows().items():
        room = room_of(name)
        rooms = set(map(room_of, used)) - {room} - EVERYWHERE
        # Nothing but the settings' own table is below those that everything knows.
        assert rooms <= ROOMS.get(room, {"parameters"}), name


def test_rooms_do_not_know_each_other_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for name, used in arrows().items():
        graph.setdefault(room_of(name), set()).update(set(map(room_of, used)) - {room_of(name)})
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("room", ORDERED)
def test_files_of_a_room_do_not_know_each_other_in_a_circle(room: str) -> None:
    """Not even where one is imported late."""
    inside = {name for name in arrows() if room_of(name) == room}
    TopologicalSorter({name: arrows()[name] & inside for name in inside}).prepare()


def test_clients_know_of_runtime_what_goes_over_the_wire() -> None:
    for name, used in arrows().items():
        if room_of(name) == "client":
            assert {one for one in used if room_of(one) == "runtime"} <= WIRE, name


def test_tuning_and_serving_know_nothing_of_grpc_or_caikit() -> None:
    for room in INNER:
        for file in (PACKAGE / room).glob("*.py"):
            assert not re.search(r"^\s*(import|from) (caikit|grpc)\b", file.read_text(), re.MULTILINE), file


def test_caikit_is_known_where_it_is_needed() -> None:
    """Leaving it is a change of runtime/, of messages and module, of settings and stubs."""
    known = {"__init__.py", "data_model.py", "module.py", "settings.py", "status.py"}
    for file in PACKAGE.rglob("*.py"):
        imported = re.search(rf"^\s*(import|from) ({'|'.join(CAIKIT)})\b", file.read_text(), re.MULTILINE)
        allowed = file.parent.name in ("client", "runtime") or (file.parent == PACKAGE and file.name in known)
        assert allowed or not imported, file


def test_families_differ_in_base_model_only() -> None:
    for file in PACKAGE.rglob("*.py"):
        if "base_model" not in file.parts:
            code = re.sub(r'""".*?"""|#.*|"[^"\n]*"', "", file.read_text(), flags=re.DOTALL)
            assert not re.search(r"seq2seq|is_encoder_decoder", code, re.IGNORECASE), file


def test_the_libraries_of_trackers_are_imported_where_a_setting_names_one() -> None:
    """By their own files alone, and by these not before they are asked."""
    for file in PACKAGE.rglob("*.py"):
        text = file.read_text()
        imports = re.findall(
            r"^( *)(?:import|from) (?:mlflow|tensorboard|torch\.utils\.tensorboard)\b", text, re.M
        )
        assert not imports or file.parent.name == "tracking", file
        assert all(imports), file


def test_nothing_is_unpickled() -> None:
    for file in PACKAGE.rglob("*.py"):
        text = file.read_text()
        assert not re.search(r"pickle\.loads?\(|yaml\.load\(|trust_remote_code=True", text), file
        for call in re.findall(r"torch\.load\([^)]*\)", text):
            assert "weights_only=True" in call, file
