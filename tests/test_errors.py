"""What errors say of other libraries' errors."""

from __future__ import annotations

from caikit_pt.errors import in_short


def test_what_a_library_says_tells_no_folder_of_the_server() -> None:
    error = FileNotFoundError(2, "No such file or directory", "/srv/models/some/model.safetensors")
    assert in_short(error) == "FileNotFoundError: [Errno 2] No such file or directory: 'model.safetensors'"
    assert in_short(OSError("See https://example.org/a/b")) == "OSError: See https://example.org/a/b"
