"""`torchprof run -- COMMAND` ends as the command does, passes signals on, and says so where nothing of it was recorded."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
from run_programs import SAID, by_run, in_a_shell

import torchprof

MODEL = "import torch\nmodel = torch.nn.Linear(4, 4)\nmodel(torch.ones(2, 4)).sum().backward()\n"
PROGRAMS = {
    "model.py": MODEL,
    "ops.py": "import torch\ntorch.ones(2) + 1\n",
    "plain.py": "import sys\nsys.exit(5)\n",
    "killed.py": f"{MODEL}import os\nos.kill(os.getpid(), 9)\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in PROGRAMS.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        (
            ["sh", "-c", "exit 3"],
            3,
            "sh started no Python that is watched, as those with -c, -I, -E or -S, .*: give the script",
        ),
        ([sys.executable, "-I", "ops.py"], 0, r"started no Python that is watched, .*: .* as in torchprof run ops\.py"),
        ([sys.executable, "plain.py"], 5, "no Python process of python[0-9.]* imported PyTorch"),
        (["sh", "-c", "python plain.py; python plain.py"], 5, "none of the 2 Python processes of sh imported PyTorch"),
        ([sys.executable, "ops.py"], 0, "the program called no model and made no step, .*: to have all of it, give the script"),
        ([sys.executable, "killed.py"], -9, "1 process that imports PyTorch was killed before the end: give fewer steps"),
        (["sh", "-c", "kill -TERM $$"], -15, "sh started no Python that is watched"),
    ],
)
def test_a_command_of_which_nothing_is_recorded_is_told_why(
    folder: Path, command: list[str], code: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    ran = in_a_shell(folder, "run", "--", *command)
    assert (ran.code, ran.out, ran.err, ran.files) == (code, "", "", [])
    assert ran.verdict.startswith("torchprof: nothing was recorded: ")
    assert ran.verdict.count("\n") == 1
    assert re.search(said, ran.verdict), ran.verdict
    assert in_a_shell(folder, "run", "--quiet", "--", *command).verdict == ""


def test_a_command_of_which_a_process_is_recorded_says_that_alone(folder: Path) -> None:
    ran = in_a_shell(folder, "run", "--", "sh", "-c", f"{sys.executable} plain.py; {sys.executable} model.py; exit 4")
    assert (ran.code, ran.files) == (4, ["sh.torchprof"])
    assert ran.verdict.startswith("torchprof: recorded 1 of 1 step")
    assert ran.verdict.count("torchprof: ") == 1


def test_what_cannot_be_run_is_one_line(folder: Path) -> None:
    (folder / "text").write_text("no program")
    (folder / "text").chmod(0o755)
    ran = in_a_shell(folder, "run", "--", "./text")
    assert (ran.code, ran.verdict) == (1, "torchprof: ./text: Exec format error\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_passed_on_and_the_end_is_that_of_the_command(folder: Path, number: signal.Signals) -> None:
    (folder / "waits.py").write_text(
        dedent(
            """
            import signal, sys, time
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
                signal.signal(number, lambda number, frame: (print(signal.Signals(number).name, flush=True), sys.exit(9)))
            print("waits", flush=True)
            time.sleep(60)
            """
        )
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(torchprof.__file__).parents[1])}
    run = [sys.executable, "-m", "torchprof", "run", "--", sys.executable, "waits.py"]
    with subprocess.Popen(
        run, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == "waits\n"
        started.send_signal(number)
        out, err = started.communicate(timeout=60)
    assert (started.returncode, out) == (9, f"{number.name}\n")
    assert err.startswith(SAID)


def test_nothing_is_left_behind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = folder / "tmp"
    left.mkdir()
    monkeypatch.setenv("TMPDIR", str(left))
    in_a_shell(folder, "run", "--", "true")
    assert list(left.iterdir()) == []


def test_processes_that_a_program_starts_itself_are_said_to_be_missing(tmp_path: Path) -> None:
    program = """
        import torch, torch.multiprocessing
        def work():
            torch.nn.Linear(4, 4)(torch.ones(2, 4))
        if __name__ == "__main__":
            torch.ones(3) + 1
            process = torch.multiprocessing.get_context("spawn").Process(target=work)
            process.start()
            process.join()
    """
    ran = by_run(tmp_path, program)
    said = "the processes that the program starts, as multiprocessing.Process does: torchprof run -- torchrun does"
    assert f"  Missing  {said}\n" in ran.verdict
    assert f"Not recorded: {said}" in str(torchprof.by_op(ran.trace()))


def test_steps_of_another_thread_are_said_to_be_missing_below_tables(tmp_path: Path) -> None:
    program = f"""
        import threading
        def work():
            {"; ".join(MODEL.splitlines()[1:])}
        import torch
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    """
    said = "Not recorded: steps: the model is called on another thread than the one that imports torch"
    assert said in str(torchprof.by_op(by_run(tmp_path, program).trace()))
