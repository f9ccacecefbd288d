"""PyTorch's own profilers beside a recording: started before, inside or after, ended inside or after; both are right."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from reading import op_names, rows_named
from torch import nn

import torchprof
from torchprof import _C

pytestmark = pytest.mark.filterwarnings("ignore")

NOTE = "torch.profiler ran on the thread of the recording"


def kinds() -> Iterator[Any]:
    activities = [torch.profiler.ProfilerActivity.CPU]
    yield pytest.param(lambda: torch.profiler.profile(activities=activities), id="plain")
    yield pytest.param(
        lambda: torch.profiler.profile(activities=activities, profile_memory=True, record_shapes=True), id="memory"
    )
    yield pytest.param(lambda: torch.profiler.profile(activities=activities, with_stack=True, with_modules=True), id="stack")
    yield pytest.param(lambda: torch.profiler.profile(activities=activities, acc_events=True), id="accumulating")
    yield pytest.param(lambda: torch.autograd.profiler.profile(use_kineto=True), id="autograd")
    yield pytest.param(lambda: torch.autograd.profiler_legacy.profile(), id="legacy")


def counted(profiler: Any, name: str) -> int:
    """How often an op is in their account."""
    if isinstance(profiler, torch.autograd.profiler_legacy.profile):
        return sum(event.name == name for event in profiler.function_events)
    return sum(event.count for event in profiler.key_averages() if event.key == name)


def allocated(ours: torchprof.profile, tensor: torch.Tensor) -> list[int]:
    """The bytes of the latest allocation at this address."""
    rows = ours.trace.allocations
    found: list[int] = rows["bytes"][rows["address"] == tensor.data_ptr()].tolist()[-1:]
    return found


@pytest.mark.parametrize("make", list(kinds()))
def test_started_and_ended_inside(make: Any) -> None:
    model = nn.Sequential(nn.Linear(3, 3))
    with torchprof.profile(model) as ours:
        torch.ones(10)
        with make() as theirs:
            model(torch.ones(1, 3)).sum().backward()
            inside = torch.zeros(500)
        kept = torch.zeros(1000)
    assert counted(theirs, "aten::ones") == 1
    assert counted(theirs, "aten::linear") == 1
    assert len(rows_named(ours.trace, "aten::ones")) == 2
    assert len(ours.trace.module_calls) == 2
    assert [allocated(ours, tensor) for tensor in (inside, kept)] == [[2000], [4000]]
    assert NOTE in ours.trace.facts["memory_note"]
    assert NOTE in str(torchprof.by_op(ours.trace))
    assert NOTE in str(torchprof.memory(ours.trace))


@pytest.mark.parametrize("make", list(kinds()))
def test_started_inside_and_ended_after(make: Any) -> None:
    with torchprof.profile() as ours:
        theirs = make()
        theirs.__enter__()
        kept = torch.ones(10)
    torch.zeros(10)
    theirs.__exit__(None, None, None)
    assert (counted(theirs, "aten::ones"), counted(theirs, "aten::zeros")) == (1, 1)
    assert len(rows_named(ours.trace, "aten::ones")) == 1
    assert len(rows_named(ours.trace, "aten::zeros")) == 0
    assert allocated(ours, kept) == [40]


@pytest.mark.parametrize("make", list(kinds()))
def test_started_before_and_ended_inside(make: Any) -> None:
    theirs = make()
    theirs.__enter__()
    with torchprof.profile() as ours:
        first = torch.ones(10)
        theirs.__exit__(None, None, None)
        kept = torch.zeros(1000)
    assert (counted(theirs, "aten::ones"), counted(theirs, "aten::zeros")) == (1, 0)
    assert {"aten::ones", "aten::zeros"} <= set(op_names(ours.trace))
    assert [allocated(ours, tensor) for tensor in (first, kept)] == [[40], [4000]]
    assert NOTE in ours.trace.facts["memory_note"]


@pytest.mark.parametrize("make", list(kinds()))
def test_started_before_and_ended_after(make: Any) -> None:
    with make() as theirs:
        with torchprof.profile() as ours:
            kept = torch.ones(10)
        torch.zeros(10)
    assert (counted(theirs, "aten::ones"), counted(theirs, "aten::zeros")) == (1, 1)
    assert "aten::ones" in op_names(ours.trace)
    assert allocated(ours, kept) == [40]
    assert NOTE in ours.trace.facts["memory_note"]


def test_their_schedule_inside_ours() -> None:
    delivered = []
    plan = torch.profiler.schedule(wait=1, warmup=1, active=2, repeat=2)
    theirs = torch.profiler.profile(schedule=plan, on_trace_ready=lambda them: delivered.append(counted(them, "aten::ones")))
    with torchprof.profile() as ours, theirs:
        for _ in range(8):
            torch.ones(10)
            ours.step()
            theirs.step()
    assert delivered == [2, 2]
    assert len(ours.trace.steps) == 8
    assert len(rows_named(ours.trace, "aten::ones")) == 8


def test_our_schedule_inside_theirs() -> None:
    with torch.profiler.profile() as theirs, torchprof.profile(schedule=torchprof.schedule(active=1, repeat=3)) as ours:
        for _ in range(3):
            torch.ones(10)
            ours.step()
    assert counted(theirs, "aten::ones") == 3
    assert [len(rows_named(trace, "aten::ones")) for trace in ours.traces] == [1, 1, 1]


def test_their_memory_is_what_it_is_without_a_recording() -> None:
    def theirs() -> dict[str, int]:
        with torch.profiler.profile(profile_memory=True) as them:
            x = torch.ones(1000)
            y = x + 1
            del x, y
        return {event.key: event.cpu_memory_usage for event in them.key_averages()}

    alone = theirs()
    with torchprof.profile():
        beside = theirs()
    with torch.profiler.profile(profile_memory=True) as around, torchprof.profile():
        torch.ones(1000)
    assert beside == alone
    assert {event.key: event.cpu_memory_usage for event in around.key_averages()}["aten::ones"] in (0, 4000)
    assert max(event.cpu_memory_usage for event in around.key_averages()) == 4000


def test_our_recording_without_memory_leaves_the_slot_alone() -> None:
    with torchprof.profile(memory=False) as ours, torch.profiler.profile() as theirs:
        torch.ones(3)
    assert counted(theirs, "aten::ones") == 1
    assert "memory_note" not in ours.trace.facts


def test_ending_theirs_when_it_does_not_run_does_not_end_ours() -> None:
    with torchprof.profile() as ours:
        torch._C._autograd._disable_profiler()
        x = torch.ones(1000)
    assert (ours.trace.allocations["address"] == x.data_ptr()).any()
    assert "memory_note" not in ours.trace.facts


def switches() -> list[object]:
    names = ("_enable_profiler", "_disable_profiler")
    return [getattr(place, name) for place in (torch._C._autograd, torch.autograd.profiler) for name in names]


@contextmanager
def nothing_changed() -> Iterator[None]:
    functions = switches()
    before = _C.installed(nn.Module)
    yield
    assert _C.installed(nn.Module) == before
    assert functions == switches()


def test_no_attribute_of_pytorch_is_replaced() -> None:
    with nothing_changed(), torchprof.profile():
        assert all(type(each).__name__ == "builtin_function_or_method" for each in switches())


def test_ranges_for_other_tools() -> None:
    if torch.cuda.is_available():
        with torchprof.profile() as ours, torch.autograd.profiler.emit_nvtx():
            torch.ones(3)
        assert "aten::ones" in op_names(ours.trace)
    if torch.profiler.itt.is_available():
        with torchprof.profile() as ours, torch.autograd.profiler.emit_itt():
            torch.ones(3)
        assert "aten::ones" in op_names(ours.trace)
