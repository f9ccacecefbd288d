"""`torchprof run` where its file cannot be written: known at the start, or else the recording is kept in another place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from handwritten import loop_trace
from run_programs import by_run, in_a_shell

import torchprof
from torchprof.running.keep import keep

TRAINS = """
    import os, shutil, sys
    import torch
    model = torch.nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for step in range(3):
        model(torch.ones(2, 4)).sum().backward()
        optimizer.step()
    shutil.rmtree("out", ignore_errors=True)
    sys.exit(3)
"""


def test_a_folder_that_is_deleted_meanwhile_loses_nothing(tmp_path: Path) -> None:
    tmp_path.joinpath("out").mkdir()
    tmp_path.joinpath("a.torchprof").write_text("another's")
    ran = by_run(tmp_path, TRAINS, options=["-o", "out/a.torchprof"])
    assert (ran.code, ran.err) == (3, "")
    assert ran.files == ["a-2.torchprof", "a.torchprof"]
    assert len(ran.trace("a-2.torchprof").steps) == 3
    assert f"into {tmp_path}/a-2.torchprof" in ran.verdict
    assert f"Instead  of {tmp_path}/out/a.torchprof: No such file or directory\n" in ran.verdict
    assert f"Next     torchprof show {tmp_path}/a-2.torchprof, " in ran.verdict
    assert tmp_path.joinpath("a.torchprof").read_text() == "another's"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_disk_that_is_full_loses_nothing(tmp_path: Path) -> None:
    ran = by_run(tmp_path, TRAINS, options=["-o", "/dev/full"])
    assert (ran.code, ran.err) == (3, "")
    assert "Instead  of /dev/full: No space left on device\n" in ran.verdict
    assert len(torchprof.load(tmp_path / "full").steps) == 3


def test_a_file_that_is_none_is_written_and_not_read(tmp_path: Path) -> None:
    ran = by_run(tmp_path, TRAINS, options=["-o", "/dev/null"])
    assert (ran.code, ran.err, ran.verdict) == (3, "", "torchprof: recorded 3 steps into /dev/null\n")


def test_a_place_that_is_none_is_known_before_the_program_runs(tmp_path: Path) -> None:
    tmp_path.joinpath("program.py").write_text("print('ran')\n")
    ran = in_a_shell(tmp_path, "run", "-o", "missing/a.torchprof", "program.py")
    assert (ran.code, ran.out) == (2, "")
    assert "there is no folder" in ran.err + ran.verdict


def test_where_nothing_can_be_written_the_error_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "none"))
    tmp_path.joinpath("gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    tmp_path.joinpath("gone").rmdir()
    with pytest.raises(OSError, match="No such file or directory; nor can it be written anywhere else") as raised:
        keep(loop_trace(), str(tmp_path / "missing" / "a.torchprof"))
    assert raised.value.filename == str(tmp_path / "missing" / "a.torchprof")


def test_the_folder_for_temporary_files_is_the_last_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr("os.getcwd", lambda: str(tmp_path / "none"))
    file, why = keep(loop_trace(), "/no/such/folder/a.torchprof")
    assert file == str(tmp_path / "a.torchprof")
    assert why == "/no/such/folder/a.torchprof: No such file or directory"
    assert len(torchprof.load(file).steps) == len(loop_trace().steps)
