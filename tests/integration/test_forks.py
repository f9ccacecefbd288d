"""Processes that are forked inside a recording: they record nothing, and what they do is their own."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from reading import rows_named
from torch import nn
from torch.utils.data import DataLoader, Dataset

import torchprof
from torchprof import _C

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def exit_code(child: Callable[[], object]) -> int:
    """What the interpreter makes of a child that runs to its end."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 0
    try:
        child()
    except SystemExit as exit:
        code = exit.code if isinstance(exit.code, int) else 1
    except BaseException:
        code = 99
    os._exit(code)


def leave(inside: Callable[[torchprof.profile], object], outside: Callable[[torchprof.profile], object], **options: Any) -> int:
    """The exit code of a child that is forked inside a recording, goes on in its block and leaves it."""
    code = -1

    class Parent(Exception):
        pass

    prof = torchprof.profile(**options)

    def child() -> None:
        with prof:
            torch.ones(2)
            pid = os.fork()
            if pid == 0:
                inside(prof)
            else:
                nonlocal code
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                raise Parent
        outside(prof)

    own = os.getpid()
    try:
        child()
    except Parent:
        assert prof.trace.facts["ended_by"] == "Parent"
        return code
    except SystemExit as exit:
        os._exit(exit.code if isinstance(exit.code, int) else 1)
    except BaseException:
        os._exit(99)
    assert os.getpid() != own
    os._exit(0)


def nothing(prof: torchprof.profile) -> None:
    pass


def test_a_child_exits_with_its_own_code() -> None:
    assert leave(lambda prof: sys.exit(7), nothing) == 7
    assert leave(lambda prof: sys.exit(0), nothing) == 0


def test_a_child_that_goes_on_with_the_loop_is_not_disturbed() -> None:
    def go_on(prof: torchprof.profile) -> None:
        for _ in range(5):
            torch.ones(3)
            prof.mark("here")
            prof.step()
        assert not _C.is_recording()

    assert leave(go_on, nothing) == 0
    assert leave(go_on, nothing, aggregate=True) == 0
    assert leave(go_on, nothing, schedule=torchprof.schedule(active=2, repeat=0)) == 0


def test_a_child_writes_nothing_and_has_no_trace(tmp_path: Any) -> None:
    def write(prof: torchprof.profile) -> None:
        (tmp_path / str(os.getpid())).write_text("ready")

    def has_none(prof: torchprof.profile) -> None:
        with pytest.raises(torchprof.RecordingError, match="forked inside the recording"):
            _ = prof.trace

    assert leave(nothing, has_none, on_trace_ready=write) == 0
    assert [path.name for path in tmp_path.iterdir()] == [str(os.getpid())]


def test_a_fork_records_nothing_and_the_parent_goes_on() -> None:
    with torchprof.profile() as prof:

        def child() -> None:
            torch.ones(5)
            assert not _C.is_recording()

        assert exit_code(child) == 0
        torch.ones(5)
    assert len(rows_named(prof.trace, "aten::ones")) == 1


def records_two_calls(model: nn.Module) -> bool:
    with torchprof.profile(model) as own:
        model(torch.ones(2, 3))
    return len(own.trace.module_calls) == 2 and len(rows_named(own.trace, "aten::linear")) == 1


def test_a_fork_of_a_recording_can_record_for_itself() -> None:
    model = nn.Sequential(nn.Linear(3, 3))

    def record() -> None:
        found = [records_two_calls(model)]
        thread = threading.Thread(target=lambda: found.append(records_two_calls(model)))
        thread.start()
        thread.join()
        assert found == [True, True]

    with torchprof.profile(model) as prof:
        assert exit_code(record) == 0
        model(torch.ones(2, 3))
    assert len(prof.trace.module_calls) == 2


def test_a_child_that_recorded_for_itself_leaves_the_block_of_its_parent() -> None:
    def inside(prof: torchprof.profile) -> None:
        assert records_two_calls(nn.Sequential(nn.Linear(3, 3)))
        prof.step()
        sys.exit(7)

    assert leave(inside, nothing) == 7


@pytest.mark.filterwarnings("ignore")
def test_a_child_can_use_torch_profiler() -> None:
    def inside(prof: torchprof.profile) -> None:
        with torch.profiler.profile() as theirs:
            torch.ones(3)
        assert any(event.key == "aten::ones" for event in theirs.key_averages())

    assert leave(inside, nothing) == 0


def _work(queue: Any) -> None:
    torch.ones(4).sum()
    queue.put(_C.is_recording())


def test_forked_workers_of_multiprocessing() -> None:
    context = multiprocessing.get_context("fork")
    with torchprof.profile() as prof:
        queue = context.Queue()
        workers = [context.Process(target=_work, args=(queue,)) for _ in range(2)]
        for worker in workers:
            worker.start()
        found = [queue.get(timeout=60) for _ in workers]
        for worker in workers:
            worker.join()
        torch.ones(4)
    assert found == [False, False]
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len(rows_named(prof.trace, "aten::ones")) == 1


class Squares(Dataset[torch.Tensor]):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((2,), float(index)) ** 2


def test_workers_of_a_data_loader() -> None:
    with torchprof.profile() as prof:
        for batch in DataLoader(Squares(), batch_size=4, num_workers=2, multiprocessing_context="fork"):
            batch.neg()
            prof.step()
    assert len(prof.trace.steps) == 2
    assert len(rows_named(prof.trace, "aten::neg")) == 2
    assert len(rows_named(prof.trace, "aten::full")) == 0
