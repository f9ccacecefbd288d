"""Files at paths: a file is written as a whole, or the old one stays as it was."""

from __future__ import annotations

import gzip
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from handwritten import loop_trace

import torchprof
from torchprof.errors import ArgumentError
from torchprof.paths import opened, text_of, written
from torchprof.trace.trace import Trace

WRITERS: dict[str, Callable[[Trace, Any], object]] = {
    "save": lambda trace, path: trace.save(path),
    "chrome": torchprof.export_chrome,
    "folded": torchprof.export_folded,
    "speedscope": torchprof.export_speedscope,
    "CSV": lambda trace, path: torchprof.by_op(trace).to_csv(path),
    "JSON": lambda trace, path: torchprof.by_op(trace).to_json(path),
}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_where_writing_fails_the_old_file_stays_and_nothing_beside_it(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "steps"
    path.write_text("old")

    def fails() -> None:
        with written(path) as file:
            file.write(b"new")
            raise error

    with pytest.raises(error):
        fails()
    assert (path.read_text(), [each.name for each in tmp_path.iterdir()]) == ("old", ["steps"])


def test_an_export_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "timeline.json"
    torchprof.export_chrome(loop_trace(), path)
    before = path.read_bytes()

    def fails(*_: object) -> None:
        raise RuntimeError("in the middle")

    monkeypatch.setattr("torchprof.exporters.chrome._arrows", fails)
    with pytest.raises(RuntimeError, match="in the middle"):
        torchprof.export_chrome(loop_trace(), path)
    assert path.read_bytes() == before
    assert json.loads(before)["traceEvents"]
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("kind", [str, os.fsencode, Path], ids=["str", "bytes", "PathLike"])
@pytest.mark.parametrize("name", WRITERS)
def test_a_path_may_be_text_bytes_or_an_object(tmp_path: Path, name: str, kind: Callable[[Path], Any]) -> None:
    path = tmp_path / f"{name}-é"
    WRITERS[name](loop_trace(), kind(path))
    written_to = path.read_bytes()
    assert written_to
    if name == "save":
        assert len(torchprof.load(kind(path)).ops) == len(loop_trace().ops)


def test_a_new_file_has_the_rights_of_new_files_and_an_old_one_keeps_its_own(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    (tmp_path / "old").write_text("")
    (tmp_path / "old").chmod(0o640)
    for name in ("new", "old"):
        with written(tmp_path / name) as file:
            file.write(b"x")
    rights = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert (rights["new"], rights["old"]) == (rights["plain"], 0o640)


def test_what_a_link_points_to_is_written(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder" / "file")
    for text in (b"first", b"second"):
        with written(tmp_path / "link") as file:
            file.write(text)
        assert (tmp_path / "folder" / "file").read_bytes() == text
    assert (tmp_path / "link").is_symlink()


def test_what_is_no_plain_file_is_written_to_directly(tmp_path: Path) -> None:
    with written("/dev/null") as file:
        file.write(b"x")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_pipe_that_is_standard_output_is_written_to() -> None:
    program = "from torchprof.paths import written\nwith written('/dev/stdout') as file: file.write(b'x')"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout == b"x"


def test_a_full_disk_is_told_with_the_path() -> None:
    with pytest.raises(OSError, match="No space left on device") as full, written("/dev/full") as file:
        file.write(bytes(2**20))
    assert full.value.filename == "/dev/full"


def test_the_error_names_the_path_that_was_given(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as missing, written(tmp_path / "nowhere" / "file"):
        pass
    assert missing.value.filename == str(tmp_path / "nowhere" / "file")
    with pytest.raises(IsADirectoryError), written(tmp_path):
        pass
    with pytest.raises(FileNotFoundError), written(""):
        pass


@pytest.mark.parametrize("path", [None, 3, ["a"], "a\0b", b"a\0b"])
def test_what_is_no_path_is_named(path: Any) -> None:
    for use in (lambda: opened(path), lambda: written(path).__enter__()):
        with pytest.raises(ArgumentError, match="is not a path"):
            use()


def test_a_path_in_bytes_is_text() -> None:
    assert text_of("é".encode()) == "é"


def test_a_timeline_is_packed_by_its_name(tmp_path: Path) -> None:
    torchprof.export_chrome(loop_trace(), tmp_path / "a.json.gz")
    torchprof.export_chrome(loop_trace(), tmp_path / "a.json")
    assert gzip.decompress((tmp_path / "a.json.gz").read_bytes()) == (tmp_path / "a.json").read_bytes()
