"""The command line, in a process of its own, on traces that were written by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from handwritten import gpu_trace, loop_trace
from stacked import training

import torchprof
from torchprof.cli.main import main


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "step.torchprof"
    loop_trace().save(path)
    return path


def torchprof_in_a_shell(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "torchprof", *map(str, arguments)], capture_output=True, text=True)


def test_show_prints_the_table_of_the_library(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(file)]) == 0
    assert capsys.readouterr().out == f"{torchprof.by_module(torchprof.load(file))}\n"


@pytest.mark.parametrize("by", ["module", "op", "step", "kernel"])
def test_show_has_every_table_of_ops(tmp_path: Path, capsys: pytest.CaptureFixture[str], by: str) -> None:
    path = tmp_path / "gpu.torchprof"
    gpu_trace().save(path)
    assert main(["show", str(path), "--by", by]) == 0
    assert capsys.readouterr().out == f"{getattr(torchprof, f'by_{by}')(torchprof.load(path))}\n"


@pytest.mark.parametrize("by", ["line", "function"])
def test_show_has_every_table_of_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str], by: str) -> None:
    path = tmp_path / "lines.torchprof"
    training().trace().save(path)
    assert main(["show", str(path), "--by", by]) == 0
    assert capsys.readouterr().out == f"{getattr(torchprof, f'by_{by}')(torchprof.load(path))}\n"


def test_show_sorts_selects_and_cuts(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(file), "--by", "op", "--sort", "calls", "--columns", "calls,time", "--head", "2"]) == 0
    expected = torchprof.by_op(torchprof.load(file)).sort("calls").select("calls", "time").head(2)
    assert capsys.readouterr().out == f"{expected}\n"


def test_chosen_columns_are_those_of_json_and_csv(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(file), "--by", "op", "--columns", "calls, self", "--csv"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "name,calls,self"
    assert main(["show", str(file), "--columns", "time,calls", "--json"]) == 0
    assert {tuple(row) for row in json.loads(capsys.readouterr().out)} == {("name", "path", "time", "calls")}


def test_show_gives_every_figure_as_json_and_csv(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = torchprof.by_op(torchprof.load(file))
    assert main(["show", str(file), "--by", "op", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(table.to_json())
    assert main(["show", str(file), "--by", "op", "--csv"]) == 0
    assert capsys.readouterr().out == table.to_csv()


def test_info_says_what_a_file_holds(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = torchprof.load(file)
    assert main(["info", str(file)]) == 0
    said = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert said["Ops"].strip() == f"{len(trace.ops):,}"
    assert said["Steps"].split(",")[0].strip() == f"{len(trace.steps)}"
    assert "Lost" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "/nowhere/step.torchprof"], "No such file"),
        (["show", __file__], "torchprof run"),
        (["info", __file__.replace(".py", ".pyi")], "No such file"),
    ],
)
def test_what_cannot_be_read_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 1
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert said.err.startswith("torchprof: ")
    assert message in said.err


def test_an_unknown_column_is_one_line(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(file), "--sort", "speed"]) == 1
    assert "column 'speed' is unknown" in capsys.readouterr().err


def test_a_process_exits_with_the_code_of_what_happened(file: Path) -> None:
    done = torchprof_in_a_shell("show", file, "--by", "step")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Step" in done.stdout
    assert torchprof_in_a_shell("show", file.with_name("missing")).returncode == 1
    assert torchprof_in_a_shell("show").returncode == 2
    assert torchprof_in_a_shell("--version").stdout == f"torchprof {torchprof.__version__}\n"


def test_a_reader_that_leaves_early_is_no_error(file: Path) -> None:
    command = f"{sys.executable} -m torchprof show {file} --by op --json | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
