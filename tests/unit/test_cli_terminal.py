"""The command line on a terminal, in pipes, and where what it writes to is closed, full or of another encoding."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from handwritten import gpu_trace
from shell import DEADLINE, command, on_a_terminal, torchprof_in_a_shell

import torchprof
from torchprof.cli import progress

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[=>]")
LOW, HIGH = 10, 60
"""Rows of a terminal that has no room for the table, and of one that has."""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("terminal") / "gpu.torchprof"
    gpu_trace().save(path)
    return path


@pytest.fixture(scope="module")
def table(file: Path) -> str:
    return torchprof.by_op(torchprof.load(file)).to_text(120) + "\n"


def plain(text: str) -> str:
    return ESCAPES.sub("", text)


def marking_pager(folder: Path) -> str:
    """A pager that says that it ran."""
    script = folder / "the pager"
    script.write_text("#!/bin/sh\necho PAGED\ncat\n")
    script.chmod(0o755)
    return f"'{script}' --option"


def test_what_is_longer_than_the_screen_goes_through_the_pager_in_color(tmp_path: Path, file: Path, table: str) -> None:
    shown = on_a_terminal(command("show", file, "--by", "op"), rows=LOW, environment={"PAGER": marking_pager(tmp_path)})
    assert shown.code == 0
    assert plain(shown.text) == f"PAGED\n{table}"
    assert "\x1b[1m" in shown.text


@pytest.mark.parametrize(
    ("rows", "options", "environment"),
    [(HIGH, [], {}), (LOW, ["--no-pager"], {}), (LOW, [], {"PAGER": ""}), (LOW, [], {"PAGER": "cat"})],
)
def test_what_fits_or_is_not_to_be_paged_is_printed(
    tmp_path: Path, file: Path, table: str, rows: int, options: list[str], environment: dict[str, str]
) -> None:
    pager = {"PAGER": marking_pager(tmp_path)}
    shown = on_a_terminal(command("show", file, "--by", "op", *options), rows=rows, environment={**pager, **environment})
    assert shown.code == 0
    assert plain(shown.text) == table
    assert "\x1b[1m" in shown.text


def test_a_pager_that_is_not_there_loses_nothing(file: Path, table: str) -> None:
    shown = on_a_terminal(command("show", file, "--by", "op"), rows=LOW, environment={"PAGER": "no-such-pager"})
    assert shown.code == 0
    assert plain(shown.text).endswith(f"\n{table}")


def test_a_pager_that_ends_early_is_no_error(file: Path, table: str) -> None:
    shown = on_a_terminal(command("show", file, "--by", "op", "--width", "120"), rows=LOW, environment={"PAGER": "head -n 2"})
    assert shown.code == 0
    assert plain(shown.text) == "".join(table.splitlines(keepends=True)[:2])


@pytest.mark.skipif(shutil.which("less") is None, reason="needs less")
def test_less_shows_colors_and_knows_what_to_do_with_an_interrupt(file: Path) -> None:
    # It rings the bell. Then it may draw the screen again, and what was typed meanwhile is lost.
    keys = [("lines 1-", b"\x03"), ("\a", b"q"), ("lines 1-", b"q")]
    shown = on_a_terminal(command("show", file, "--by", "op"), rows=LOW, environment={"LESS": "-M"}, keys=keys)
    assert shown.code == 0
    assert "\x1b[1m" in shown.text
    assert "Traceback" not in shown.text


def test_a_dumb_terminal_has_no_pager(file: Path, table: str) -> None:
    shown = on_a_terminal(command("show", file, "--by", "op"), rows=LOW, environment={"TERM": "dumb"})
    assert shown.text == table


def test_the_width_is_that_of_the_terminal_or_of_columns(file: Path) -> None:
    trace = torchprof.load(file)
    for columns, environment, width in ((70, {}, 70), (70, {"COLUMNS": "60"}, 60)):
        shown = on_a_terminal(command("show", file), columns=columns, environment=environment)
        assert plain(shown.text) == torchprof.by_module(trace).to_text(width) + "\n"


def test_without_color_there_is_none(file: Path) -> None:
    assert "\x1b[36m" in on_a_terminal(command("show", file), rows=HIGH).text
    assert "\x1b[36m" not in on_a_terminal(command("show", file), rows=HIGH, environment={"NO_COLOR": "1"}).text


def test_data_is_neither_paged_nor_colored(tmp_path: Path, file: Path) -> None:
    shown = on_a_terminal(command("show", file, "--json"), rows=LOW, environment={"PAGER": marking_pager(tmp_path)})
    assert json.loads(shown.text) == json.loads(torchprof.by_module(torchprof.load(file)).to_json())


def test_a_pipe_gets_plain_text_in_full_width(file: Path) -> None:
    shown = torchprof_in_a_shell("show", file, "--by", "op", env={**os.environ, "PAGER": "false", "COLUMNS": "30"})
    assert shown.stdout == f"{torchprof.by_op(torchprof.load(file))}\n"


def test_other_encodings_lose_only_what_they_do_not_have(file: Path) -> None:
    ascii_only = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = torchprof_in_a_shell("show", file, env=ascii_only)
    assert (done.returncode, done.stderr) == (0, "")
    assert "?? fc (Linear)" in done.stdout
    assert torchprof_in_a_shell("--help", env=ascii_only).returncode == 0


def test_names_of_files_that_are_no_text_are_read_written_and_told(tmp_path: Path, file: Path) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9\xff.torchprof"
    shutil.copy(file, name)
    done = subprocess.run([*command("export", "--to", "folded"), name], capture_output=True, cwd=tmp_path, timeout=DEADLINE)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"Wrote caf\\udce9\\udcff.folded, " in done.stdout
    assert os.path.getsize(os.fsencode(tmp_path) + b"/caf\xe9\xff.folded") > 0
    missing = subprocess.run([*command("show"), b"no\xff\n\x1b[31m"], capture_output=True, timeout=DEADLINE)
    assert missing.stderr == b"torchprof: no\\udcff\\n\\x1b[31m: No such file or directory\n"


@pytest.mark.parametrize("arguments", [["show"], ["show", "--json"], ["export", "--to", "folded", "-o", "-"], ["info"]])
def test_where_nothing_can_be_written_one_line_says_so(file: Path, arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(command(*arguments, file), stdout=full, stderr=subprocess.PIPE, text=True, timeout=DEADLINE)
    assert done.returncode == 1
    assert done.stderr == "torchprof: standard output: No space left on device\n"


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_help_that_nobody_reads_is_no_error(argument: str) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{' '.join(command(argument))} | true; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_disk_is_told_with_the_name_of_the_file(file: Path) -> None:
    done = torchprof_in_a_shell("export", file, "--to", "speedscope", "-o", "/dev/full")
    assert (done.returncode, done.stderr) == (1, "torchprof: /dev/full: No space left on device\n")


def test_closed_streams_are_no_reason_for_a_traceback(file: Path) -> None:
    line = " ".join(command("show", file))
    closed = subprocess.run(["bash", "-c", f"{line} >&-"], capture_output=True, text=True, timeout=DEADLINE)
    assert (closed.returncode, closed.stderr) == (1, "torchprof: standard output is closed: nothing can be printed\n")
    both = subprocess.run(["bash", "-c", f"{line}.missing 2>&-"], capture_output=True, text=True, timeout=DEADLINE)
    assert (both.returncode, both.stdout) == (1, "")


def test_what_goes_to_standard_output_stands_behind_what_is_there(tmp_path: Path, file: Path) -> None:
    out = tmp_path / "out"
    line = " ".join(command("export", file, "--to", "folded", "-o", "-"))
    subprocess.run(["bash", "-c", f"(echo before; {line}) > {out}"], check=True, timeout=DEADLINE)
    torchprof.export_folded(torchprof.load(file), tmp_path / "folded")
    assert out.read_text() == "before\n" + (tmp_path / "folded").read_text()


def test_an_interrupt_is_silent_and_told_by_the_code(tmp_path: Path) -> None:
    waited_for = tmp_path / "pipe"
    os.mkfifo(waited_for)
    running = subprocess.Popen(command("show", waited_for), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with open(waited_for, "wb"):  # which waits until it is opened to be read
        time.sleep(0.2)
        running.send_signal(signal.SIGINT)
        said = running.communicate(timeout=DEADLINE)
    assert (running.returncode, *said) == (130, b"", b"")


def test_what_takes_its_time_is_shown_on_a_terminal_until_it_is_done(tmp_path: Path) -> None:
    program = f"""
import time
from torchprof.cli import progress
progress.PATIENCE = {0.01}
with progress.working("making [bold]it[/bold]"):
    time.sleep(0.8)
print("done")
"""
    shown = on_a_terminal([sys.executable, "-c", program])
    assert shown.code == 0
    assert "making [bold]it[/bold]" in plain(shown.text)
    assert plain(shown.text).rstrip().endswith("done")
    piped = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=DEADLINE)
    assert (piped.stdout, piped.stderr) == ("done\n", "")


def test_what_is_quick_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.working("nothing"):
        pass
    assert capsys.readouterr().err == ""


HEAVY = (
    "torch",
    "pandas",
    "rich",
    "plotly",
    "jinja2",
    "argcomplete",
    "subprocess",
    "multiprocessing",
    "asyncio",
    "numpy.ma.mrecords",
)


@pytest.mark.parametrize(
    "arguments",
    [
        ["show"],
        ["show", "--by", "op", "--sort", "calls"],
        ["memory"],
        ["info"],
        ["findings"],
        ["gpu"],
        ["export", "--to", "folded", "-o", "/dev/null"],
    ],
    ids=" ".join,
)
def test_files_are_read_without_what_takes_long_to_import(file: Path, arguments: list[str]) -> None:
    program = f"""
import sys
from torchprof.cli.main import main
code = main({[*arguments[:1], str(file), *arguments[1:]]!r})
print(code, *(name for name in {HEAVY!r} if name in sys.modules), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=DEADLINE)
    assert done.stderr == "0\n"


def test_a_report_is_written_without_pytorch(file: Path) -> None:
    pytest.importorskip("plotly")
    program = f"""
import sys
from torchprof.cli.main import main
code = main(["report", {str(file)!r}, "-o", "/dev/null"])
print(code, "torch" in sys.modules, "pandas" in sys.modules, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=DEADLINE)
    assert done.stderr == "0 False False\n"


def test_help_imports_no_numpy() -> None:
    program = "import sys, torchprof.cli.main as cli; cli.parser().format_help(); print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=DEADLINE)
    assert done.stdout == "False\n"


def test_data_is_exact_in_a_pipe_and_harmless_on_a_terminal(tmp_path: Path) -> None:
    name = "\x1b[31mred\x07\tand\x9b2J"
    odd = gpu_trace()
    strings = [f"{text}{name}" if text == "aten::mm" else text for text in odd.strings]
    replace(odd, strings=strings).save(tmp_path / "odd.torchprof")
    arguments = ("show", tmp_path / "odd.torchprof", "--by", "op")
    piped = torchprof_in_a_shell(*arguments, "--csv", encoding="utf-8").stdout
    assert f"aten::mm{name}" in piped
    shown = on_a_terminal(command(*arguments, "--csv"), rows=HIGH).text
    assert "aten::mm\\x1b[31mred\\x07\\tand\\x9b2J" in shown
    assert not {"\x1b", "\x07", "\x9b"} & set(shown)
    assert len(shown.splitlines()) == len(piped.split("\n")) - 1
    of_json = [torchprof_in_a_shell(*arguments, "--json").stdout, on_a_terminal(command(*arguments, "--json"), rows=HIGH).text]
    for text in of_json:
        assert any(row["name"] == f"aten::mm{name}" for row in json.loads(text))
        assert "\x1b" not in text
