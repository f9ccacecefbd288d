"""Files with names that are new: nothing is written over."""

from __future__ import annotations

from pathlib import Path

import pytest

from torchprof.errors import ArgumentError
from torchprof.paths import new_file


def test_the_first_one_has_the_plain_name_and_its_folder_is_made(tmp_path: Path) -> None:
    with new_file(tmp_path / "a" / "b", "trace", ".txt") as path:
        Path(path).write_text("one")
    assert Path(path) == tmp_path / "a" / "b" / "trace.txt"
    assert Path(path).read_text() == "one"


def test_further_ones_are_numbered(tmp_path: Path) -> None:
    names = []
    for _ in range(3):
        with new_file(tmp_path, "trace", ".txt") as path:
            names.append(Path(path).name)
    assert names == ["trace.txt", "trace-2.txt", "trace-3.txt"]


def test_a_name_is_held_while_the_file_is_written(tmp_path: Path) -> None:
    with new_file(tmp_path, "trace", ".txt") as first, new_file(tmp_path, "trace", ".txt") as second:
        assert first != second


def test_a_file_that_could_not_be_written_is_removed(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="full"), new_file(tmp_path, "trace", ".txt"):
        raise RuntimeError("the disk is full")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_the_systems_own_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"), new_file(tmp_path / "file", "trace", ".txt"):
        pass


@pytest.mark.parametrize("folder", [3, None, "a\0b"])
def test_what_is_no_path_is_named(folder: object) -> None:
    with pytest.raises(ArgumentError, match="is not a path"), new_file(folder, "trace", ".txt"):
        pass
