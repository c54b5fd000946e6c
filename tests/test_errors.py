"""What errors say of other libraries' errors."""

from __future__ import annotations

import grpc

from caikit_pt.errors import CaikitPtError, in_short
from examples.local_server import ROOT
from tests.render_errors import kinds_of, render


def kinds(kind: type[CaikitPtError] = CaikitPtError) -> list[type[CaikitPtError]]:
    return [kind, *(each for one in kinds_of(kind) for each in kinds(one))]


def test_the_page_of_errors_is_that_of_the_code() -> None:
    assert (ROOT / "docs" / "errors.md").read_text() == render(), "run `make docs`"


def test_a_reason_is_of_one_kind_and_a_status_is_grpcs() -> None:
    assert len({kind.reason for kind in kinds()}) == len(kinds())
    assert all(kind.status in grpc.StatusCode.__members__ for kind in kinds())


def test_what_a_library_says_tells_no_folder_of_the_server() -> None:
    error = FileNotFoundError(2, "No such file or directory", "/srv/models/some/model.safetensors")
    assert in_short(error) == "FileNotFoundError: [Errno 2] No such file or directory: 'model.safetensors'"
    assert in_short(OSError("See https://example.org/a/b")) == "OSError: See https://example.org/a/b"
