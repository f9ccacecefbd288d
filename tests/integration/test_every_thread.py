"""The CPU's memory on every thread: whoever allocates it, and whoever frees it."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from counting import memory_reports
from torch import Tensor, nn

import torchprof
from torchprof import _C
from torchprof.trace.schema import Use

MIB = 2**20
ELEMENTS = MIB // 4
"""Of a float32 tensor of 1 MiB."""


def on_a_thread(function: Callable[[], object]) -> None:
    """Run on a thread of its own, and wait for its end."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert not failed, failed


def time_of(prof: Any, mark: str) -> int:
    time = prof.trace.mark(mark)
    assert time is not None
    return int(time)


def held(prof: Any) -> list[int]:
    return prof.trace.steps["held"].tolist()


def test_what_another_thread_frees_is_no_leak() -> None:
    box: list[Tensor] = []
    with torchprof.profile() as prof:
        for _ in range(4):
            box.extend(torch.ones(ELEMENTS).clone() for _ in range(2))
            on_a_thread(box.clear)
            prof.step()
    account = torchprof.memory(prof.trace)
    assert account.leaks == []
    assert held(prof) == [0, 0, 0, 0]
    assert account.peak.bytes == 3 * MIB  # two clones, and what the second is cloned from


def test_what_a_thread_allocates_is_held_until_any_thread_frees_it() -> None:
    box: list[Tensor] = []
    with torchprof.profile() as prof:
        on_a_thread(lambda: box.append(torch.ones(ELEMENTS)))
        prof.step()
        on_a_thread(lambda: box.append(torch.ones(2 * ELEMENTS)))
        prof.step()
        box.pop(0)
        prof.step()
        on_a_thread(box.clear)
        prof.step()
    assert held(prof) == [MIB, 3 * MIB, 2 * MIB, 0]


@pytest.mark.parametrize("aggregate", [False, True])
def test_the_peak_is_that_of_the_process(aggregate: bool) -> None:
    count = 4
    together = threading.Barrier(count)

    def work() -> None:
        block = torch.ones(ELEMENTS)
        together.wait()  # all hold one now
        del block

    with torchprof.profile(aggregate=aggregate) as prof:
        threads = [threading.Thread(target=work) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        prof.step()
    assert prof.trace.steps["peak"].tolist() == [count * MIB]
    assert prof.trace.steps["allocated"].tolist() == [count * MIB]
    if not aggregate:
        assert torchprof.memory(prof.trace).peak.bytes == count * MIB


@pytest.mark.parametrize("seed", range(5))
def test_what_is_held_at_any_moment_is_what_the_program_holds(seed: int) -> None:
    """A program that allocates, hands on and frees at random, on threads that take turns; it counts for itself."""
    random = Random(seed)
    workers = [ThreadPoolExecutor(1) for _ in range(3)]
    here = [torch.ones(random.randint(1, 1000) * 16) for _ in range(5)]  # from before
    blocks = dict(enumerate(here))
    here.clear()
    expected = []

    def act(number: int) -> None:
        kind = random.choice(["new", "new", "free", "resize", "numpy", "use"])
        count = random.randint(1, 1000) * 16
        if kind == "new":
            blocks[number] = torch.ones(count)
        elif kind == "numpy":
            blocks[number] = torch.from_numpy(np.ones(count, dtype=np.float32)).mul_(1)
        elif blocks:
            chosen = random.choice(list(blocks))
            if kind == "free":
                del blocks[chosen]
            elif kind == "use":
                blocks[chosen].mul_(1)
            else:
                block = blocks[chosen]
                if block.untyped_storage().resizable():
                    block.untyped_storage().resize_(4 * count)
                    block.resize_(count)  # so that a later use stays within it

    with torchprof.profile() as prof:
        for block in blocks.values():
            block.mul_(1)
        del block
        for number in range(5, 105):
            random.choice(workers).submit(act, number).result()
            prof.mark(f"{number}")
            expected.append(sum(block.untyped_storage().nbytes() for block in blocks.values()))
    rows = torchprof.memory(prof.trace).allocations
    found = []
    for number in range(5, 105):
        time = time_of(prof, f"{number}")
        alive = (rows["start"] <= time) & ((rows["end"] < 0) | (rows["end"] > time))
        found.append(int(rows["bytes"][alive].sum()))
    assert found == expected
    for worker in workers:
        worker.shutdown()


class OnAThread(nn.Module):
    """Runs a module on another thread, as DataParallel and pipelines do."""

    def __init__(self, inner: nn.Module, threaded: bool) -> None:
        super().__init__()
        self.inner, self.threaded = inner, threaded

    def forward(self, x: Tensor) -> Tensor:
        results: list[Tensor] = []
        if self.threaded:
            on_a_thread(lambda: results.append(self.inner(x)))
            return results[0]
        return self.inner(x)


def test_the_memory_of_a_module_that_is_called_on_another_thread_is_counted() -> None:
    def allocated(threaded: bool) -> tuple[dict[str, int], dict[str, int]]:
        model = OnAThread(nn.Sequential(nn.Linear(16, 64), nn.Tanh()), threaded)
        with torchprof.profile(model) as prof:
            model(torch.rand(8, 16)).sum().backward()
        rows = torchprof.by_module(prof.trace).rows
        return {row["path"]: row["allocated"] for row in rows if row["path"]}, torchprof.memory(prof.trace).saved_by_module

    of_modules, saved = allocated(threaded=True)
    assert (of_modules, saved) == allocated(threaded=False)
    result = 8 * 64 * 4
    assert (of_modules["inner.1"], saved["inner.1"]) == (2 * result, result)  # and the gradient of its input


def test_a_summary_counts_the_memory_of_a_child_that_is_called_on_another_thread() -> None:
    def report(threaded: bool) -> Any:
        return torchprof.summary(OnAThread(nn.Linear(16, 64), threaded), (8, 16), verbose=0)

    here, there = report(False), report(True)
    assert (there.totals.allocated, there.totals.peak) == (here.totals.allocated, here.totals.peak) == (8 * 64 * 4,) * 2
    assert f"Forward allocated: {8 * 64 * 4 // 1024}.0 KiB" in str(there)


def test_what_was_there_before_and_another_thread_frees_is_gone() -> None:
    box = [torch.ones(ELEMENTS)]
    with torchprof.profile() as prof:
        box[0].sum()
        prof.mark("used")
        on_a_thread(box.clear)
        prof.mark("freed")
        kept = torch.ones(2 * ELEMENTS)
    account = torchprof.memory(prof.trace)
    (row,) = (row for row in account.allocations if row["bytes"] == MIB)
    assert row["start"] == -1
    assert time_of(prof, "used") < row["end"] < time_of(prof, "freed")
    assert account.peak.bytes == 2 * MIB
    del kept


def test_gradients_and_parameters_from_before_are_gone_when_another_thread_frees_them() -> None:
    model = nn.Linear(ELEMENTS, 1, bias=False)
    model.weight.grad = torch.ones(1, ELEMENTS)
    with torchprof.profile(model) as prof:
        on_a_thread(lambda: model.zero_grad(set_to_none=True))
        prof.mark("without")
        block = torch.ones(ELEMENTS)
    account = torchprof.memory(prof.trace)
    (gradient,) = (row for row in account.allocations if row["uses"] & Use.GRADIENT)
    assert gradient["start"] == -1
    assert 0 <= gradient["end"] < time_of(prof, "without")
    assert account.peak.bytes == 2 * MIB  # the weight and its gradient
    del block


# It is PyTorch's memory, in every respect


def test_blocks_outlive_the_recording_on_any_thread_and_the_next_one_sees_their_end() -> None:
    with torchprof.profile():
        box = [torch.ones(ELEMENTS) for _ in range(3)]
    on_a_thread(box.pop)
    assert box[0].sum() == box[1].sum() == ELEMENTS
    with torchprof.profile() as prof:
        (box[0] + 1).sum()
        prof.mark("used")
        box.pop(0)
        prof.mark("freed")
        box[0].sum()
    rows = [row for row in torchprof.memory(prof.trace).allocations if row["start"] == -1 and row["bytes"] == MIB]
    used, freed = time_of(prof, "used"), time_of(prof, "freed")
    assert sorted(int(row["end"]) == -1 for row in rows) == [False, True]
    assert sum(used < row["end"] < freed for row in rows) == 1


def test_after_a_recording_pytorch_allocates_as_before() -> None:
    before = _C.installed(nn.Module)["cpu_allocator"]
    with torchprof.profile():
        assert _C.installed(nn.Module)["cpu_allocator"] != before
        block = torch.ones(4)
    assert _C.installed(nn.Module)["cpu_allocator"] == before
    block.untyped_storage().resize_(MIB)  # by the allocator that it was made with
    assert block.tolist() == [1, 1, 1, 1]
    assert block.untyped_storage().nbytes() == MIB


@pytest.mark.parametrize("made", ["before", "in"])
def test_a_storage_that_was_recorded_can_do_all_that_a_storage_can(made: str) -> None:
    values = torch.arange(1000.0)
    with torchprof.profile() as prof:
        if made == "in":
            values = torch.arange(1000.0)
        total = values.sum()
        array = values.numpy()
        again = torch.from_numpy(array)
        lazy = torch._lazy_clone(values)
        lazy[0] = 5
        shared = values.clone().share_memory_()
        prof.step()
    assert (int(total), int(again.sum()), int(lazy[0]), int(values[0])) == (499500, 499500, 5, 0)
    assert (shared.is_shared(), values.is_shared()) == (True, False)
    assert torch.equal(pickle.loads(pickle.dumps(values)), values)
    del array, again, lazy
    values.share_memory_()
    assert (values.is_shared(), int(values.sum())) == (True, 499500)


def test_a_profiler_of_the_program_on_another_thread_still_gets_its_reports() -> None:
    def run() -> None:
        block = torch.ones(ELEMENTS)
        (block + 1).sum()
        del block

    found: list[list[int]] = []
    on_a_thread(lambda: found.append(memory_reports(run)))
    with torchprof.profile() as prof:
        on_a_thread(lambda: found.append(memory_reports(run)))
        prof.step()
    assert found[0] == found[1]
    assert found[0].count(MIB) == 2
    assert sum(found[0]) == 0
    assert 2 * MIB + 4 <= prof.trace.steps["allocated"].tolist()[0] < 2 * MIB + 100  # with the numbers that are added


BLOCKS_FROM_BEFORE = """
import torch, torchprof
from counting import memory_reports
with torchprof.profile():
    blocks = [torch.ones({elements})]
def run():
    blocks.append(torch.ones({elements}))
    blocks.clear()
print(memory_reports(run))
"""


def test_a_profiler_of_the_program_sees_blocks_of_a_recording_as_blocks_from_before() -> None:
    # In a process of its own, as what threads of earlier tests have left is freed at any time.
    script = BLOCKS_FROM_BEFORE.format(elements=ELEMENTS)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (0, f"{[MIB, -MIB]}\n"), done.stderr


SCRIPT = """
import os, threading, torch, torchprof
held = [torch.ones(1000) for _ in range(3)]
class Late:
    def __del__(self):
        self.block = None
with torchprof.profile(torch.nn.Linear(4, 4)) as prof:
    kept = held[0] + 1
    late = Late()
    late.block = torch.ones(1000) * held[1]
    local = threading.local()
    local.block = torch.ones(10)
    def of_a_thread():
        local.block = torch.ones(1000)  # freed when the thread ends
    thread = threading.Thread(target=of_a_thread)
    thread.start()
    thread.join()
    {fork}
torch.kept_until_the_end = kept
print("done", len(prof.trace.allocations) > 0)
{end}
"""
FORK = """child = os.fork()
    if child == 0:
        box = [torch.ones(1000) for _ in range(10)]
        held.clear()
        box.clear()
        os._exit(0 if torch.ones(10).sum() == 10 else 1)
    assert os.waitpid(child, 0)[1] == 0"""


@pytest.mark.parametrize("fork", ["pass", FORK], ids=["alone", "fork"])
@pytest.mark.parametrize("end", ["", "import sys; sys.exit(0)", "torchprof.profile().__enter__(); x = torch.ones(9)"])
def test_a_process_ends_with_blocks_alive(fork: str, end: str) -> None:
    script = SCRIPT.format(fork=fork, end=end)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=dict(os.environ))
    assert (done.returncode, done.stdout, done.stderr) == (0, "done True\n", "")


def test_steps_are_added_up_while_other_threads_allocate_and_free() -> None:
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            torch.ones(100).add_(1)

    threads = [threading.Thread(target=work) for _ in range(2)]
    with torchprof.profile(aggregate=True) as prof:
        for thread in threads:
            thread.start()
        for _ in range(50):
            torch.ones(100).sum()
            prof.step()
        stop.set()
        for thread in threads:
            thread.join()
        prof.step()
    assert held(prof)[-1] == 0
    assert max(held(prof)) <= 2 * (400 + 24)  # what they had in hand


def test_threads_may_begin_and_end_while_recordings_do() -> None:
    stop = threading.Event()
    sums: list[float] = []

    def work() -> None:
        while not stop.is_set():
            sums.append(float(torch.ones(100).clone().sum()))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(30):
        with torchprof.profile(aggregate=True) as prof:
            for _ in range(3):
                torch.ones(100).sum()
                prof.step()
    stop.set()
    for thread in threads:
        thread.join()
    assert set(sums) == {100.0}
