"""config.yml of a tuned prompt, as often as it is asked for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from caikit_pt.errors import DamagedArtifact
from caikit_pt.soft_prompt import config_file
from caikit_pt.soft_prompt.config_file import CONFIG, check_config


def written(directory: Path, name: str, more: str = "") -> Path:
    (directory / CONFIG).write_text(f"module_id: {name}\n{more}")
    # As where a file system's clock stands still.
    os.utime(directory / CONFIG, ns=(0, 0))
    return directory


def test_what_is_written_anew_is_read_anew(tmp_path: Path) -> None:
    assert [check_config(written(tmp_path, name))["module_id"] for name in "aba"] == ["a", "b", "a"]


def test_the_same_text_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = check_config(written(tmp_path, "same"))
    monkeypatch.setattr(config_file, "_check_size", None)
    assert check_config(written(tmp_path, "same")) == first == {"module_id": "same"}


@pytest.mark.parametrize("more", ["other: [", "- no mapping", "model_path: /elsewhere"])
def test_what_is_damaged_is_refused_each_time(more: str, tmp_path: Path) -> None:
    written(tmp_path, "a", more)
    for _ in range(2):
        with pytest.raises(DamagedArtifact):
            check_config(tmp_path)


def test_a_long_one_is_not_kept(tmp_path: Path) -> None:
    before = config_file._values_again.cache_info().currsize
    labels = ", ".join(f"label {number}" for number in range(2000))
    found = check_config(written(tmp_path, "long", f"labels: [{labels}]"))
    assert (len(found["labels"]), config_file._values_again.cache_info().currsize) == (2000, before)
