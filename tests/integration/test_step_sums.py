"""With ``aggregate``, long steps are added up on another thread while the next one runs: nothing of it is seen but the sums."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from sums import rows_of_modules, sums_of_calls, sums_of_ops
from torch import Tensor, nn

import torchprof
from torchprof import _C
from torchprof.trace.trace import Trace

LAYERS = 300
"""So many that a step has more ops than are added up at once."""

ROOT = Path(__file__).parents[2]


class Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(4, 4) for _ in range(4)))

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(LAYERS // 4):
            x = self.layers(x).tanh()
        return x


def record(steps: int, **options: Any) -> Trace:
    torch.manual_seed(0)
    model = Deep()
    update = torch.optim.AdamW(model.parameters())
    with torchprof.profile(model, **options) as prof:
        for step in range(steps):
            model(torch.ones(2 + step % 2, 4)).sum().backward()
            update.step()
            update.zero_grad()
            prof.step()
    return prof.trace


def calls_of(trace: Trace, name: str) -> int:
    """How often an op ran, from the sums."""
    totals = trace.op_totals
    return sum(int(total["count"]) for total in totals if trace.strings[trace.signatures["name"][total["signature"]]] == name)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_long_steps_have_the_sums_of_the_whole_trace(steps: int) -> None:
    whole, folded = record(steps), record(steps, aggregate=True)
    assert len(whole.ops) > 1000 * steps
    assert sums_of_ops(folded) == sums_of_ops(whole)
    assert sums_of_calls(folded) == sums_of_calls(whole)
    assert rows_of_modules(folded) == rows_of_modules(whole)
    assert folded.losses == {}
    columns = ["number", "allocated"]
    assert folded.steps[columns].tolist() == whole.steps[columns].tolist()


def test_long_and_short_steps_in_turn_lose_nothing() -> None:
    with torchprof.profile(aggregate=True) as prof:
        for step in range(9):
            for _ in range(2000 if step % 2 else 3):
                torch.ones(2)
            prof.step()
    assert calls_of(prof.trace, "aten::ones") == 4 * 2000 + 5 * 3
    assert len(prof.trace.steps) == 9


def test_a_small_budget_has_room_for_what_it_had_room_for() -> None:
    """Then a step is added up before the next one begins, as both would not fit."""
    with torchprof.profile(aggregate=True, budget=2**21) as prof:
        for _ in range(12):
            for _ in range(2000):
                torch.ones(2)
            prof.step()
    assert prof.trace.losses == {}
    assert calls_of(prof.trace, "aten::ones") == 12 * 2000


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_meanwhile_ends_and_may_record_itself() -> None:
    codes: list[int] = []
    with torchprof.profile(aggregate=True) as prof:
        for _ in range(4):
            for _ in range(3000):
                torch.ones(2)
            prof.step()
            pid = os.fork()
            if pid == 0:
                try:
                    with torchprof.profile(aggregate=True) as own:
                        for _ in range(2):
                            for _ in range(2000):
                                torch.ones(2)
                            own.step()
                    os._exit(0 if len(own.trace.steps) == 2 else 1)
                except BaseException:
                    os._exit(99)
            codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    assert codes == [0] * 4
    assert calls_of(prof.trace, "aten::ones") == 4 * 3000


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_a_fork_waits_for_the_helper() -> None:
    """Python warns of a fork of a process with threads, and the program started none."""
    done = run("""
        import os, torch, torchprof
        torch.set_num_threads(1)
        tasks = lambda: set(os.listdir("/proc/self/task"))
        with torchprof.profile(aggregate=True) as prof:
            for _ in range(200_000):
                torch.ones(2)
            before = tasks()
            prof.step()
            pid = os.fork()
            after = tasks()
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)
        print(len(after - before))
    """)
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def test_a_program_may_end_meanwhile() -> None:
    done = run("""
        import torch, torchprof
        prof = torchprof.profile(aggregate=True)
        prof.__enter__()
        for _ in range(20000):
            torch.ones(2)
        prof.step()
        print("ended")
    """)
    assert (done.returncode, done.stdout) == (0, "ended\n"), done.stderr


def test_an_interrupt_goes_to_the_thread_that_waits() -> None:
    done = run("""
        import os, signal, threading, time, torch, torchprof
        try:
            with torchprof.profile(aggregate=True) as prof:
                for _ in range(30000):
                    torch.ones(2)
                prof.step()
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(100)
        except KeyboardInterrupt:
            print(len(prof.trace.steps), prof.trace.facts["ended_by"])
    """)
    assert done.stdout == "1 KeyboardInterrupt\n", done.stderr


def test_a_recording_that_is_given_up_meanwhile_is_let_go_of() -> None:
    model = Deep()
    prof = torchprof.profile(model, aggregate=True)
    prof.__enter__()
    model(torch.ones(2, 4))
    prof.step()
    freed = weakref.ref(prof)
    del prof
    gc.collect()
    with torchprof.profile(model) as after:
        model(torch.ones(2, 4))
    assert freed() is None
    assert len(after.trace.module_calls) == 1 + LAYERS // 4 * 5


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_no_thread_is_left() -> None:
    record(2)  # PyTorch starts threads of its own
    before, threads = len(os.listdir("/proc/self/task")), threading.active_count()
    record(3, aggregate=True)
    deadline = time.monotonic() + 10
    while len(os.listdir("/proc/self/task")) > before and time.monotonic() < deadline:
        time.sleep(0.01)  # the system takes a moment to forget a thread that was joined
    assert len(os.listdir("/proc/self/task")) == before
    assert threading.active_count() == threads
    assert not _C.installed(nn.Module)["recording"]
