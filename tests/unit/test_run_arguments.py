"""What ``torchprof run`` makes of its arguments, before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from torchprof.cli import run as subcommand
from torchprof.cli.main import main
from torchprof.record.rank import own_rank
from torchprof.running.options import RunOptions
from torchprof.running.rank import file_of
from torchprof.trace.rank import Rank


class Started(Exception):
    """In place of the program."""

    def __init__(self, how: str, arguments: list[str], options: RunOptions) -> None:
        super().__init__(how)
        self.how, self.arguments, self.options = how, list(arguments), options


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tmp_path.joinpath("train.py").touch()
    for how in ("start_python", "start_command"):

        def start(arguments: list[str], options: RunOptions, how: str = how) -> None:
            raise Started(how, arguments, options)

        monkeypatch.setattr(subcommand, how, start)


def started(*arguments: str) -> Started:
    with pytest.raises(Started) as raised:
        main(["run", *arguments])
    return raised.value


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as exit:
        main(["run", *arguments])
    captured = capsys.readouterr()
    assert (exit.value.code, captured.out) == (2, "")
    line, end = captured.err.removeprefix("torchprof run: ").split("\n")
    assert not end
    return line


def test_what_comes_after_the_script_is_its_own() -> None:
    program = ["train.py", "--steps", "9", "-o", "x", "-m", "y", "--", "z", "--help"]
    found = started("--steps", "3:8", "-o", "a.torchprof", *program)
    assert (found.how, found.arguments) == ("start_python", program)
    assert (found.options.first, found.options.last, found.options.output) == (3, 8, str(Path.cwd() / "a.torchprof"))


def test_what_comes_after_the_module_is_its_own() -> None:
    found = started("--quiet", "-m", "package.train", "--steps", "9", "-m", "x")
    assert (found.how, found.arguments) == ("start_python", ["-m", "package.train", "--steps", "9", "-m", "x"])
    assert (found.options.quiet, found.options.shown) == (True, "package.train.torchprof")


def test_what_comes_after_two_dashes_is_a_command() -> None:
    found = started("--aggregate", "--", "torchrun", "--nproc-per-node", "2", "some/train.py", "-o", "x")
    assert (found.how, found.arguments[0], found.arguments[-1]) == ("start_command", "torchrun", "x")
    assert (found.options.aggregate, found.options.last, found.options.shown) == (True, None, "train.torchprof")


@pytest.mark.parametrize(
    ("text", "first", "last"), [("3:8", 3, 8), ("5", 0, 5), (":5", 0, 5), ("3:", 3, None), (":", 0, None), (" 1:2", 1, 2)]
)
def test_steps_are_slices(text: str, first: int, last: int | None) -> None:
    found = started("--steps", text, "train.py").options
    assert (found.first, found.last) == (first, last)


@pytest.mark.parametrize("text", ["8:3", "3:3", "0", "-1:3", "1:2:3", "all", "", "1.5"])
def test_other_steps_are_refused(capsys: pytest.CaptureFixture[str], text: str) -> None:
    assert complaint(capsys, f"--steps={text}", "train.py").startswith("--steps takes FIRST:LAST, such as 3:8 for steps 3 to 7")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "which program?"),
        (["--"], "which program?"),
        (["-m"], "-m needs the name of a module"),
        (["tarin.py"], "there is no script 'tarin.py'"),
        (["-o", ".", "train.py"], "-o . is a folder"),
        (["-o", "none/a", "train.py"], "-o none/a: there is no folder"),
        (["--budget", "0", "train.py"], "argument --budget: '0' must be at least 1 MiB"),
        (["--budget", "10kB", "train.py"], "argument --budget: '10kB' must be at least 1 MiB"),
        (["--budget", "1 parsec", "train.py"], "argument --budget: '1 parsec' is no size: give memory such as '64 MiB'"),
        (["--budget", "9" * 400, "train.py"], "argument --budget: '999"),
        (["--seconds", "0", "train.py"], "--seconds takes a number above 0, not 0"),
        (["--seconds", "nan", "train.py"], "--seconds takes a number above 0, not nan"),
        (["--steps-by", "range:", "train.py"], "--steps-by takes optimizer, forward, batches or range:NAME, not 'range:'"),
        (["--steps-by", "epochs", "train.py"], "--steps-by takes optimizer, forward, batches or range:NAME, not 'epochs'"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    assert complaint(capsys, *arguments).startswith(said)


def test_a_file_that_is_there_is_not_overwritten_unasked() -> None:
    assert started("train.py").options.shown == "train.torchprof"
    Path("train.torchprof").touch()
    assert started("train.py").options.shown == "train-2.torchprof"
    Path("train-2.rank0.torchprof").touch()
    assert started("train.py").options.shown == "train-3.torchprof"
    assert started("-o", "train.torchprof", "train.py").options.shown == "train.torchprof"


def test_options_arrive_as_they_were_given() -> None:
    options = started(
        "--no-memory", "--no-stacks", "--seconds", "1.5", "--budget", "3", "--steps-by", "range:é", "train.py"
    ).options
    assert RunOptions.from_text(options.to_text()) == options
    assert (options.memory, options.stacks, options.seconds, options.budget) == (False, False, 1.5, 3 * 2**20)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64", 64 * 2**20),
        ("64MiB", 64 * 2**20),
        ("1 GiB", 2**30),
        ("1.5gib", 3 * 2**29),
        ("2 MB", 2 * 10**6),
        ("1048576 B", 2**20),
    ],
)
def test_a_budget_has_a_unit_or_is_of_mib(text: str, size: int) -> None:
    assert started("--budget", text, "train.py").options.budget == size
    assert started("train.py").options.budget == 2**30


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        ({}, None),
        ({"RANK": "3", "WORLD_SIZE": "8"}, Rank(3, 8)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, None),
        ({"RANK": "3"}, None),
        ({"RANK": "-1", "WORLD_SIZE": "x"}, None),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, Rank(1, 2)),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "4", "RANK": "2", "WORLD_SIZE": "4"}, Rank(2, 4)),
    ],
)
def test_a_rank_is_known_by_its_environment(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], rank: Any) -> None:
    for name in ("RANK", "WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "PMI_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert own_rank() == rank


def test_the_file_of_a_rank_has_its_number() -> None:
    assert file_of("/a/train.torchprof", Rank(3, 8)) == "/a/train.rank3.torchprof"
    assert file_of("/a.b/train", Rank(0, 2)) == "/a.b/train.rank0"
    assert file_of("/a/train.torchprof", None) == "/a/train.torchprof"
