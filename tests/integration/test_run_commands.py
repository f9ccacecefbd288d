"""`torchprof run -- COMMAND`: it ends as the command ends, and says where nothing was recorded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from run_programs import TRAINING, by_run, in_a_shell

import torchprof
from torchprof.running.diary import BEGAN, RECORDED, Diary, write

NOTHING = "torchprof: nothing was recorded: no Python of the command recorded anything ("


@pytest.mark.parametrize(
    ("command", "code", "why"),
    [
        ("echo hi", 0, "on this machine it started none, or one with -I, -E or -S, which cannot be recorded"),
        (f"{sys.executable} -I -c 'import torch'; echo hi; exit 4", 4, "on this machine it started none, or one with -I"),
        ("echo hi; kill -9 $$", -9, "on this machine it started none"),
        (f"echo hi; {sys.executable} -m this >/dev/null; exit 3", 3, "what it started did not import PyTorch"),
    ],
)
def test_a_command_that_records_nothing_says_so_in_a_line(tmp_path: Path, command: str, code: int, why: str) -> None:
    done = in_a_shell(tmp_path, "run", "--", "sh", "-c", command)
    assert (done.code, done.out, done.err, done.files) == (code, "hi\n", "", [])
    assert done.verdict.startswith(NOTHING + why)
    assert done.verdict.count("\n") == 1
    assert in_a_shell(tmp_path, "run", "--quiet", "--", "sh", "-c", command).own == (code, "hi\n", "")


def test_why_a_python_of_the_command_recorded_nothing_is_said(tmp_path: Path) -> None:
    tmp_path.joinpath("train.py").write_text("import torch")
    done = in_a_shell(tmp_path, "run", "--steps-by", "range:nope", "--", "sh", "-c", f"{sys.executable} train.py")
    assert done.verdict == f"{NOTHING}no record_function('nope') was entered)\n"


def test_a_command_that_records_says_no_more_than_its_verdict(tmp_path: Path) -> None:
    tmp_path.joinpath("train.py").write_text("import torch; torch.nn.Linear(2, 2)(torch.ones(1, 2))")
    done = in_a_shell(tmp_path, "run", "-o", "x.torchprof", "--", "sh", "-c", f"{sys.executable} train.py; exit 5")
    assert (done.code, done.files) == (5, ["x.torchprof"])
    assert done.verdict.startswith("torchprof: recorded ")
    assert "nothing was recorded" not in done.verdict


def test_the_command_gets_the_signals_that_are_sent(tmp_path: Path) -> None:
    script = "trap 'echo told; exit 6' TERM; echo ready; while :; do sleep 0.05; done"
    environment = {**os.environ, "PYTHONPATH": str(Path(torchprof.__file__).parents[1])}
    started = subprocess.Popen(
        [sys.executable, "-m", "torchprof", "run", "--", "sh", "-c", script],
        cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert started.stdout is not None
    assert started.stdout.readline() == "ready\n"
    started.send_signal(signal.SIGTERM)
    out, err = started.communicate(timeout=60)
    assert (started.returncode, out) == (6, "told\n")
    assert err.startswith(NOTHING)


def test_the_command_ends_where_what_waits_for_it_is_killed(tmp_path: Path) -> None:
    script = "trap 'echo told; exit 6' TERM; echo ready; while :; do sleep 0.05; done"
    environment = {**os.environ, "PYTHONPATH": str(Path(torchprof.__file__).parents[1])}
    started = subprocess.Popen(
        [sys.executable, "-m", "torchprof", "run", "--", "sh", "-c", script],
        cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert started.stdout is not None
    assert started.stdout.readline() == "ready\n"
    started.kill()
    assert started.communicate(timeout=60)[0] == "told\n"


def test_a_second_signal_waits_until_the_file_is_written() -> None:
    program = """
        import os, signal
        from torchprof.running.ending import Ending

        def end(by):
            os.kill(os.getpid(), signal.SIGTERM)
            for _ in range(1000):
                pass
            print("written after", by, flush=True)

        Ending(end)
        os.kill(os.getpid(), signal.SIGTERM)
    """
    source = "\n".join(line.removeprefix("        ") for line in program.splitlines())
    environment = {**os.environ, "PYTHONPATH": str(Path(torchprof.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", source], env=environment, capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "written after SIGTERM\n")


@pytest.mark.parametrize(
    ("by", "said"),
    [
        ("range:nope", "no record_function('nope') was entered"),
        ("batches", "no DataLoader was iterated"),
    ],
)
def test_what_never_began_is_named(tmp_path: Path, by: str, said: str) -> None:
    done = by_run(tmp_path, TRAINING + "\n    train(2)", options=["--steps-by", by])
    assert (done.verdict, done.files) == (f"torchprof: nothing was recorded: {said}\n", [])


@pytest.mark.parametrize(("by", "said"), [("optimizer", "no optimizer stepped"), ("forward", "no model was called")])
def test_a_program_that_does_not_what_a_step_is_is_told(tmp_path: Path, by: str, said: str) -> None:
    done = by_run(tmp_path, "import torch; torch.ones(2).exp()", options=["--steps-by", by, "--steps", "3:8"])
    assert done.verdict == f"torchprof: nothing was recorded: {said}\n"


def test_calls_are_steps_because_it_was_asked_for(tmp_path: Path) -> None:
    asked = by_run(tmp_path, TRAINING + "\n    train(3)", options=["--steps-by", "forward"]).verdict
    assert "a step is a call of the model, as --steps-by forward says" in asked
    assert "no optimizer stepped" not in asked
    found = by_run(tmp_path, "import torch\nm = torch.nn.Linear(2, 2)\nfor _ in 'abc': m(torch.ones(1, 2))").verdict
    assert "a step is a call of the model: no optimizer stepped" in found


def test_a_diary_says_why_only_where_nobody_recorded(tmp_path: Path) -> None:
    path, output = str(tmp_path / "diary"), str(tmp_path / "x.torchprof")
    Path(path).touch()
    diary = Diary(path, output)
    assert "started none" in diary.why_nothing()
    write(path, BEGAN)
    assert diary.why_nothing() == "what it started did not import PyTorch"
    for line in ("one", "the\nother", "the\nother"):
        write(path, line)
    assert diary.why_nothing() == "the other"
    write(path, RECORDED)
    assert diary.why_nothing() == ""


def test_files_of_ranks_on_other_machines_are_seen(tmp_path: Path) -> None:
    path, output = str(tmp_path / "diary"), str(tmp_path / "x.torchprof")
    Path(path).touch()
    tmp_path.joinpath("x.rank0.torchprof").touch()
    diary = Diary(path, output)
    tmp_path.joinpath("y.rank1.torchprof").touch()
    assert diary.why_nothing()
    tmp_path.joinpath("x.rank1.torchprof").touch()
    assert diary.why_nothing() == ""
    assert Diary(None, output).why_nothing() == ""
    write(None, BEGAN)
    write(str(tmp_path / "gone"), BEGAN)
    assert not tmp_path.joinpath("gone").exists()
