"""Runs programs as a shell does, plainly and by `torchprof run`; and records functions of a test as that records a program."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import dedent

import torchprof
from torchprof.running.options import RunOptions
from torchprof.running.recording import Outcome, Recording

SAID = "torchprof: "
"""How the verdict begins."""

TRAINING = """
    import torch

    def train(steps, after=lambda step: None):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
        optimizer = torch.optim.Adam(model.parameters())
        loss = torch.nn.CrossEntropyLoss()
        for step in range(steps):
            optimizer.zero_grad()
            loss(model(torch.randn(4, 8)), torch.zeros(4, dtype=torch.int64)).backward()
            optimizer.step()
            after(step)
        return sum(parameter.double().sum().item() for parameter in model.parameters())
"""
"""A program begins with it: the model is gone when ``train`` returns what its parameters add up to."""


@dataclass(frozen=True)
class Ran:
    """What came of a program.

    Attributes:
        code: its exit code; below 0, the signal that it died of.
        out, err: what it wrote.
        verdict: what `torchprof run` wrote after it.
        folder: where it ran.
    """

    code: int
    out: str
    err: str
    verdict: str
    folder: Path

    @property
    def own(self) -> tuple[int, str, str]:
        """What is the program's own."""
        return self.code, self.out, self.err

    @property
    def files(self) -> list[str]:
        """The traces that are there."""
        return sorted(path.name for path in self.folder.glob("*.torchprof"))

    def trace(self, name: str = "program.torchprof") -> torchprof.Trace:
        return torchprof.load(self.folder / name)


def plainly(folder: Path, program: str, *arguments: str, stdin: str = "") -> Ran:
    """Run a program as it is."""
    return _ran(folder, [_written(folder, program), *arguments], stdin)


def by_run(folder: Path, program: str, *arguments: str, options: Sequence[str] = (), stdin: str = "") -> Ran:
    """Run a program by `torchprof run`."""
    return _ran(folder, ["-m", "torchprof", "run", *options, _written(folder, program), *arguments], stdin)


def in_a_shell(folder: Path, *arguments: str) -> Ran:
    """Run ``torchprof ARGUMENTS``."""
    return _ran(folder, ["-m", "torchprof", *arguments], "")


def _written(folder: Path, program: str) -> str:
    folder.joinpath("program.py").write_text(dedent(program))
    return "program.py"


def _ran(folder: Path, arguments: Sequence[str], stdin: str) -> Ran:
    sources = str(Path(torchprof.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": sources, "TRANSFORMERS_VERBOSITY": "error"}
    environment.pop("PYTHONSAFEPATH", None)  # which hides modules in the folder
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, input=stdin, capture_output=True, text=True, timeout=600
    )
    err, said, verdict = done.stderr.partition(SAID)
    return Ran(done.returncode, done.stdout, err, said + verdict, folder)


def record(folder: Path, program: Callable[[], object], **options: object) -> tuple[torchprof.Trace | None, Outcome]:
    """Run a function as `torchprof run` runs a program: the trace, if there is one, and the outcome."""
    file = folder / "function.torchprof"
    recording = Recording(replace(RunOptions(str(file), file.name), **options), str(file), None)
    recording.begin()
    try:
        program()
    finally:
        recording.end("")
    outcome = recording.outcome()
    return torchprof.load(file) if outcome.is_written else None, outcome
