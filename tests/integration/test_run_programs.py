"""`torchprof run`: a program runs as it does without, whichever way it ends, and is recorded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
from run_programs import TRAINING, by_run, in_a_shell, plainly

import torchprof

AT_THE_TOP = """
    import torch

    model = torch.nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def train(steps):
        for step in range(steps):
            model(torch.ones(2, 4)).sum().backward()
            optimizer.step()

"""
"""The model is there until the process is gone."""

ENDS = {
    "by itself": "train(3)",
    "with a code": "import sys; train(3); sys.exit(3)",
    "with a text": "import sys; train(3); sys.exit('that was it')",
    "by an exception": "train(3); raise ValueError('boom')",
    "by an exception in a step": "train(3); model(torch.ones(2, 5))",
    "by SIGTERM": "import os, signal; train(3); os.kill(os.getpid(), signal.SIGTERM); train(9)",
    "by SIGHUP while it waits": "import os, signal, subprocess; train(3)\n"
    "subprocess.Popen(['sh', '-c', f'sleep 1; kill -HUP {os.getpid()}'])\n"
    "import time; time.sleep(60)",
    "by Ctrl-C": "import os, signal; train(3); os.kill(os.getpid(), signal.SIGINT); train(9)",
    "by becoming another": "import os, sys; train(3); os.execl(sys.executable, 'python', '-c', 'print(3); exit(4)')",
    "by becoming another that it looks for": "import os; train(3); os.execvp('sh', ['sh', '-c', 'echo 3; exit 4'])",
    "by becoming another that is not there": "import os; train(1)\n"
    "try:\n    os.execv('/no/such/program', ['x'])\nexcept OSError as error:\n    print(error, flush=True); train(2)",
    "by os._exit": "import os; train(3); os._exit(7)",
    "by a signal that it handles": "import os, signal, sys\n"
    "signal.signal(signal.SIGTERM, lambda *_: sys.exit(5)); train(3); os.kill(os.getpid(), signal.SIGTERM)",
}


@pytest.mark.parametrize("end", ENDS)
def test_a_program_ends_as_it_does_without(tmp_path: Path, end: str) -> None:
    program = dedent(AT_THE_TOP) + f"print('begun', flush=True)\n{ENDS[end]}\n"
    ran = by_run(tmp_path, program)
    assert ran.own == plainly(tmp_path, program).own
    assert "recorded 3 of 3 steps" in ran.verdict
    trace = ran.trace()
    assert trace.steps["number"].tolist() == [0, 1, 2]
    assert trace.model is not None
    assert [info.type for info in trace.model.modules] == ["Linear"]


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&-"])
def test_a_program_runs_where_a_stream_is_closed(tmp_path: Path, closed: str) -> None:
    (tmp_path / "program.py").write_text(f"{dedent(AT_THE_TOP)}train(3)\n")
    command = f"'{sys.executable}' -m torchprof run program.py {closed}"
    environment = {**os.environ, "PYTHONPATH": str(Path(torchprof.__file__).parents[1])}
    assert subprocess.run(command, shell=True, cwd=tmp_path, env=environment).returncode == 0
    assert len(torchprof.load(tmp_path / "program.torchprof").steps) == 3


def test_the_file_says_what_ended_the_recording(tmp_path: Path) -> None:
    ran = by_run(tmp_path, dedent(AT_THE_TOP) + "train(3); raise ValueError('boom')\n")
    assert ran.trace().facts["ended_by"] == "ValueError"
    ran = by_run(tmp_path, dedent(AT_THE_TOP) + "train(3); raise ValueError('boom')\n", options=["--steps", "2", "-o", "b"])
    assert "ended_by" not in ran.trace("b").facts  # it had ended


def test_arguments_are_the_programs_own(tmp_path: Path) -> None:
    program = (
        dedent(TRAINING)
        + """
import argparse, pathlib, pickle, sys
class Named:
    pass
if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int)
    parser.add_argument("-o")
    parser.add_argument("-m")
    print(parser.parse_args(), sys.argv, __file__, __spec__, sys.path[0], [path for path in sys.path if "startup" in path])
    print(pickle.loads(pickle.dumps(Named)) is Named, sys.stdin.read(), train(3))
"""
    )
    arguments = ["--steps", "4", "-o", "there", "-m", "x"]
    ran = by_run(tmp_path, program, *arguments, options=["--steps", "1:3", "-o", "here.torchprof"], stdin="typed")
    assert ran.own == plainly(tmp_path, program, *arguments, stdin="typed").own
    assert ran.files == ["here.torchprof"]
    assert ran.trace("here.torchprof").steps["number"].tolist() == [1, 2]


def test_a_module_runs_as_python_runs_it(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    program = tmp_path / "package" / "train.py"
    program.write_text(dedent(TRAINING) + "import sys; print(__name__, __spec__.name, __package__, sys.argv, train(2))\n")
    ran = in_a_shell(tmp_path, "run", "-m", "package.train", "--steps", "9")
    assert ran.out.startswith(f"__main__ package.train package ['{program}', '--steps', '9']")
    assert (ran.code, ran.err, ran.files) == (0, "", ["package.train.torchprof"])


def test_processes_that_it_starts_are_as_without_and_write_no_file(tmp_path: Path) -> None:
    program = (
        dedent(AT_THE_TOP)
        + """
import multiprocessing, os, signal, subprocess, sys, time

class Batches(torch.utils.data.Dataset):
    def __len__(self):
        return 8
    def __getitem__(self, row):
        return torch.full((4,), float(row))

def child(queue):
    train(1)
    queue.put((__name__, [name for name in os.environ if "TORCHPROF" in name], os.environ.get("PYTHONPATH")))

if __name__ == "__main__":
    for how in ("fork", "spawn"):
        loader = torch.utils.data.DataLoader(Batches(), 4, num_workers=1, multiprocessing_context=how)
        print([batch.sum().item() for batch in loader])
        context = multiprocessing.get_context(how)
        queue = context.Queue()
        process = context.Process(target=child, args=(queue,))
        process.start()
        print(how, queue.get(), process.join(), process.exitcode)
        process = context.Process(target=time.sleep, args=(60,))
        process.start()
        process.terminate()  # at once
        print(process.join(), process.exitcode)
    asks = "import sys; print('sitecustomize' in sys.modules)"
    print(subprocess.run([sys.executable, "-c", asks], capture_output=True).stdout)
    train(3)
    fork = os.fork()
    if not fork:
        train(2)
        sys.exit(5)
    print(os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1]))
    print(signal.getsignal(signal.SIGTERM))
    os.chdir("/")
"""
    )
    ran = by_run(tmp_path, program)
    assert ran.own == plainly(tmp_path, program).own
    assert ran.files == ["program.torchprof"]
    assert len(ran.trace().steps) == 3


def test_pytorch_is_imported_by_the_program(tmp_path: Path) -> None:
    program = """
        import os, sys
        print([name for name in ("torch", "numpy") if name in sys.modules])
        os.environ["OMP_NUM_THREADS"] = "1"
        import torch
        print(torch.get_num_threads(), type(torch.__loader__), type(torch.__spec__.loader), list(map(type, sys.meta_path)))
        print(torch.get_rng_state().sum(), torch.optim.optimizer._global_optimizer_pre_hooks)
    """
    assert by_run(tmp_path, program).own == plainly(tmp_path, program).own


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("print(1)", "nothing was recorded: the program did not import PyTorch"),
        ("import torch", "nothing was recorded: the program ran no op of PyTorch"),
        ("syntax error", "nothing was recorded: the program did not import PyTorch"),
    ],
)
def test_a_program_with_nothing_to_record_is_told_so(tmp_path: Path, program: str, said: str) -> None:
    ran = by_run(tmp_path, program)
    assert ran.own == plainly(tmp_path, program).own
    assert ran.verdict == f"torchprof: {said}\n"
    assert ran.files == []


def test_files_of_before_are_kept_unless_they_are_named(tmp_path: Path) -> None:
    program = dedent(AT_THE_TOP) + "train(2)\n"
    by_run(tmp_path, program)
    assert by_run(tmp_path, program, options=["--quiet"]).verdict == ""
    by_run(tmp_path, program, options=["-o", "program.torchprof", "--steps", "1"])
    ran = by_run(tmp_path, program, options=["--no-memory", "--no-stacks", "--aggregate", "-o", "c.torchprof"])
    assert ran.files == ["c.torchprof", "program-2.torchprof", "program.torchprof"]
    assert len(ran.trace().steps) == 1
    facts = ran.trace("c.torchprof").facts
    assert [facts[name] for name in ("memory", "stacks", "aggregate")] == [False, False, True]


def test_another_sitecustomize_is_imported_too(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('the other')\n")
    program = "import os, sys; print(sys.modules['sitecustomize'].__file__, os.environ['PYTHONPATH'])\n"
    path = os.pathsep.join([str(tmp_path), str(Path(torchprof.__file__).parents[1])])
    (tmp_path / "program.py").write_text(program)
    outs = [
        subprocess.run(
            [sys.executable, *how, "program.py"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
        ).stdout
        for how in ([], ["-m", "torchprof", "run"])
    ]
    assert outs[1].removeprefix("the other\n") == outs[0]  # torchprof's own Python has it as well


def test_steps_that_are_not_like_others_are_said(tmp_path: Path) -> None:
    program = """
        import torch

        model = torch.nn.Linear(4, 4)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for epoch in range(3):
            for batch in range(4):
                model(torch.ones(2, 4)).sum().backward()
                optimizer.step()
            with torch.no_grad():
                model(torch.ones(2, 4))
    """
    ran = by_run(tmp_path, program, options=["--steps", "0:12"])
    assert "Steps    0 to 11, the first as warm-up; a step ends when the optimizer has stepped" in ran.verdict
    assert "\n           steps 4 and 8 also evaluate a model: left out of what follows\n" in ran.verdict
    info = in_a_shell(tmp_path, "info", "program.torchprof").out
    assert "Steps          12, 1 of them warm-up\nEvaluation     in steps 4 and 8; left out of tables\n" in info
    ran = by_run(tmp_path, program, options=["--steps", "0:2", "-o", "two.torchprof"])
    assert "step 0 is the program's first: it includes what runs once, such as compiling and first allocations" in ran.verdict


def test_two_runs_of_one_program_are_no_change_of_it(tmp_path: Path) -> None:
    program = dedent(TRAINING) + "train(12)\n"
    for name in ("a", "b"):
        by_run(tmp_path, program, options=["-o", f"{name}.torchprof"])
    step = in_a_shell(tmp_path, "diff", "a.torchprof", "b.torchprof").out.splitlines()[2]
    assert step.startswith("Step: ")
    assert step.endswith((", within noise", ", within run-to-run noise", ", same ops", ", the same"))
