"""Limits of changes: what they say, and when they are passed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from two_runs import run

import torchprof
from torchprof.comparison.limits import Limit

BEFORE = [{"fc": fc, "act": 50} for fc in (100, 98, 102, 99, 101)]
AFTER = [{"fc": fc, "act": 50} for fc in (111, 108, 112, 109, 110)]
"""10 of 160 more: +6.25%, in an interval of +4.83 to +7.7%."""


@pytest.fixture(scope="module")
def diff() -> torchprof.Diff:
    return torchprof.diff(run(BEFORE), run(AFTER, sizes={"fc": 6}))


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("time > +5%", ("", "time", ">", 0.05, True)),
        ("time>5%", ("", "time", ">", 0.05, True)),
        ("step < -2.5 %", ("", "time", "<", -0.025, True)),
        ("peak > +200 MiB", ("", "peak", ">", 200 * 2**20, False)),
        ("memory > +1.5GB", ("", "peak", ">", 1.5e9, False)),
        ("flops > +3 G", ("", "flops", ">", 3e9, False)),
        ("calls > +2", ("", "calls", ">", 2, False)),
        ("encoder.0: backward > +1 ms", ("encoder.0", "backward", ">", 1e6, False)),
        ("aten::mm: self > +1_000 us", ("aten::mm", "self", ">", 1e6, False)),
        ("void kernel<int, 4>(a::b): device > +5%", ("void kernel<int, 4>(a::b)", "device", ">", 0.05, True)),
    ],
)
def test_a_limit_is_read(text: str, limit: tuple[object, ...]) -> None:
    found = Limit.parse(text)
    assert (found.row, found.figure, found.than, found.amount, found.of_a) == limit


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "cannot be read"),
        ("time", "cannot be read"),
        ("time > lots", "cannot be read"),
        ("time >= +5%", "cannot be read"),
        ("tiem > +5%", "is it 'time'?"),
        ("quality > +5%", "use one of time, self"),
        ("time > +5 MiB", "time is not in MiB: use one of %, ns, us"),
        ("calls > +5 ms", "calls is not in ms"),
        ("peak > +200", "peak is not in plain numbers: use one of %, B"),
        ("time > 5 ms", r"has no sign: a limit is of the change, such as \+5 ms"),
        (5, "cannot be read"),
    ],
)
def test_what_is_no_limit_is_refused(diff: torchprof.Diff, text: str, says: str) -> None:
    with pytest.raises(torchprof.ArgumentError, match=says):
        diff.failures(text)


@pytest.mark.parametrize(
    ("text", "failed"),
    [
        ("time > +4%", True),  # all of the interval is beyond it
        ("time > +6%", False),  # the mean is, and it may be noise
        ("time > +7%", False),
        ("time < +4%", False),
        ("time < +9%", True),
        ("time > +5 ns", True),
        ("time > +9.9 ns", False),
        ("fc: self > +7%", True),
        ("act: self > +0%", False),
        ("flops > +24%", True),
        ("flops > +25%", False),
        ("fc: flops > +15", True),
        ("fc: params < -1", False),
        ("ops > +0", False),
    ],
)
def test_when_a_limit_is_passed(diff: torchprof.Diff, text: str, failed: bool) -> None:
    (check,) = diff.check(text)
    assert check.failed is failed, str(check)
    assert diff.failures(text) == ([check] if failed else [])


def test_a_time_beyond_the_limit_but_within_noise_fails_where_that_is_asked_for(diff: torchprof.Diff) -> None:
    (check,) = diff.check("time > +6%")
    assert not check.failed
    assert "beyond the limit, but within noise" in str(check)
    assert diff.check("time > +6%", strict=True)[0].failed


def test_noise_as_large_as_the_time_itself_is_known_too() -> None:
    """The change may then be any part of A, and is within noise like any other."""
    before, after = ([{"fc": fc, "act": 1} for fc in steps] for steps in ((10, 10, 900, 10), (20, 1300, 20, 20)))
    (check,) = torchprof.diff(run(before), run(after)).check("time > +5%")
    assert not check.failed
    assert str(check).endswith("beyond the limit, but within noise")
    assert "%)" not in str(check), "no interval of the percentage"


def test_where_noise_is_not_known_the_means_decide_and_it_is_said() -> None:
    (check,) = torchprof.diff(run(BEFORE[:2]), run(AFTER[:2])).check("time > +5%")
    assert check.failed
    assert "its noise is not known" in check.why


def test_a_figure_that_neither_side_has_fails(diff: torchprof.Diff) -> None:
    (check,) = diff.failures("peak > +5%")
    assert check.why == "it cannot be told: peak is known of neither"


def test_where_rows_were_lost_only_times_of_steps_can_be_told() -> None:
    found = torchprof.diff(run(BEFORE), run(BEFORE, losses={"ops": 3}))
    assert found.notes == ("INCOMPLETE: B lost 3 ops: what it has of these is too little",)
    assert [each.limit for each in found.failures("time > +1%", "flops > +1%", "fc: self > +1%")] == [
        "flops > +1%",
        "fc: self > +1%",
    ]


def test_a_row_that_is_added_is_no_part_of_nothing() -> None:
    found = torchprof.diff(
        run(BEFORE), run([{**step, "drop": 9} for step in AFTER], {"fc": "Linear", "act": "ReLU", "drop": "D"})
    )
    assert found.failures("drop: self > +5%")[0].why.endswith("there was none in A, and a part of it is no number")
    assert not found.failures("drop: self > +9 ns")
    assert found.failures("drop: self > +8 ns")


def test_a_row_that_there_is_not_is_named_with_the_nearest(diff: torchprof.Diff) -> None:
    with pytest.raises(torchprof.ArgumentError, match=r"no row 'fcc' by module: is it 'fc'\?"):
        diff.failures("fcc: self > +5%")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("runs")
    run(BEFORE).save(folder / "before.torchprof")
    run(AFTER).save(folder / "after.torchprof")
    return folder / "before.torchprof", folder / "after.torchprof"


def in_a_shell(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "torchprof", "diff", *map(str, arguments)], capture_output=True, text=True)


def test_the_command_prints_what_the_library_does(files: tuple[Path, Path]) -> None:
    ran = in_a_shell(*files)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == f"{torchprof.diff(*files)}\n"


def test_the_command_exits_with_1_where_a_limit_is_passed(files: tuple[Path, Path]) -> None:
    ran = in_a_shell(*files, "--fail-if", "time > +4%", "time > +6%", "--fail-if", "flops > +1%")
    assert ran.returncode == 1
    failed, noise, flops = ran.stdout.splitlines()[-3:]
    assert failed.startswith("FAILED: time > +4%: 0.16 us → 0.17 us, +6.2%")
    assert noise.endswith("beyond the limit, but within noise")
    assert flops == "passed: flops > +1%: 64 → 64, 0.0%"
    assert in_a_shell(*files, "--fail-if", "time > +6%").returncode == 0
    assert in_a_shell(*files, "--fail-if", "time > +6%", "--strict").returncode == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--fail-if", "tiem > +5%"], "there is no figure 'tiem'; is it 'time'?"),
        (["--fail-if", "nothing: time > +5%"], "there is no row 'nothing' by module"),
        (["--by", "layer"], "invalid choice: 'layer'"),
        (["--by", "kernel"], ""),
    ],
)
def test_the_command_exits_with_2_where_arguments_are_wrong(files: tuple[Path, Path], arguments: list[str], says: str) -> None:
    ran = in_a_shell(*files, *arguments)
    assert says in ran.stderr
    assert ran.returncode == (2 if says else 0)
    assert "Traceback" not in ran.stderr


def test_the_command_exits_with_2_where_a_file_is_not_there(files: tuple[Path, Path]) -> None:
    ran = in_a_shell(files[0], files[0].parent / "nothing")
    assert ran.returncode == 2
    assert "nothing" in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_the_command_gives_data_and_a_page(files: tuple[Path, Path]) -> None:
    page = files[0].parent / "diff.html"
    ran = in_a_shell(*files, "--json", "--html", page, "--fail-if", "time > +4%")
    assert ran.stdout == f"{torchprof.diff(*files).to_json()}\n"
    assert ran.stderr.startswith("FAILED: time > +4%")
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert in_a_shell(*files, "--csv").stdout == torchprof.diff(*files).to_csv()
