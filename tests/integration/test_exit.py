"""A process that ends while it records: its exit code is its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PROGRAM = """
import sys, threading, time
import torch
from torch import nn
import torchprof

def forever():
    inside.set()
    while True:
        time.sleep(0.001)

class Waits(nn.Module):
    def forward(self, x):
        forever()

class Loader(torch.utils.data.DataLoader):
    def _get_iterator(self):
        forever()

model = nn.Sequential(Waits())
inside = threading.Event()
recording = torchprof.profile(model, aggregate={aggregate})
recording.__enter__()
threading.Thread(target=lambda: {body}, daemon=True).start()
inside.wait()
{end}
sys.exit(7)
"""


def exit_of(body: str, *, end: str = "", aggregate: bool = False) -> tuple[int, str]:
    """The exit code of a process whose thread is inside of something then, and what it printed."""
    program = textwrap.dedent(PROGRAM).format(body=body, end=end, aggregate=aggregate)
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    "body",
    [
        "model(torch.ones(1))",
        "model.__call__(torch.ones(1))",
        "iter(Loader([1]))",
    ],
    ids=["a module", "its function", "a loader"],
)
def test_a_daemon_thread_inside_a_call_when_python_ends(body: str) -> None:
    assert exit_of(body) == (7, "")


def test_a_daemon_thread_whose_call_began_while_something_was_recorded() -> None:
    assert exit_of("model(torch.ones(1))", end="recording.__exit__(None, None, None)") == (7, "")
    assert exit_of("model(torch.ones(1))", end="recording.step()", aggregate=True) == (7, "")
