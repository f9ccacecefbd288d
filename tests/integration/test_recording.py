"""Starting, ending and nesting recordings; several threads and processes; budgets."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import networks
import numpy as np
import pytest
import torch
from reading import op_names, rows_named
from torch import nn

import torchprof
from torchprof import _C


def test_a_recording_inside_a_recording_is_refused_and_the_outer_one_goes_on() -> None:
    with torchprof.profile() as outer:
        said = "already recording, on thread 'MainThread': one recording at a time; end that one first"
        with pytest.raises(torchprof.RecordingError, match=said), torchprof.profile():
            pass
        torch.ones(3)
    assert "aten::ones" in op_names(outer.trace)


def test_a_recording_on_another_thread_is_refused_while_one_runs() -> None:
    errors = []

    def record() -> None:
        try:
            with torchprof.profile():
                pass
        except torchprof.RecordingError as error:
            errors.append(str(error))

    with torchprof.profile():
        thread = threading.Thread(target=record)
        thread.start()
        thread.join()
    assert "one recording at a time" in errors[0]


def test_a_recording_is_ended_by_the_thread_that_began_it() -> None:
    prof = torchprof.profile()
    errors = []

    def leave() -> None:
        try:
            prof.__exit__(None, None, None)
        except torchprof.RecordingError as error:
            errors.append(str(error))

    with prof:
        thread = threading.Thread(target=leave)
        thread.start()
        thread.join()
        torch.ones(2)
    assert "on the thread that started it" in errors[0]
    assert "aten::ones" in op_names(prof.trace)


def test_the_trace_is_there_after_the_block_and_not_before() -> None:
    prof = torchprof.profile()
    with pytest.raises(torchprof.RecordingError, match="has not run"):
        _ = prof.trace
    with prof, pytest.raises(torchprof.RecordingError, match="still running"):
        _ = prof.trace
    assert len(prof.trace.ops) == 0


def test_an_exception_passes_through_and_leaves_a_trace() -> None:
    def work() -> None:
        torch.ones(1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), torchprof.profile() as prof:
        work()
    assert "aten::ones" in op_names(prof.trace)


def test_profile_is_a_decorator_too() -> None:
    prof = torchprof.profile()

    @prof
    def work() -> torch.Tensor:
        return torch.ones(4)

    assert work().numel() == 4
    assert "aten::ones" in op_names(prof.trace)


def test_one_recording_after_another_starts_anew() -> None:
    prof = torchprof.profile()
    for count in (1, 2):
        with prof:
            for _ in range(count):
                torch.ones(1)
        assert len(rows_named(prof.trace, "aten::ones")) == count


def test_what_to_record_can_be_chosen() -> None:
    model, x = nn.Sequential(nn.Linear(2, 2)), torch.ones(1, 2)
    with torchprof.profile(model, ops=False, memory=False) as calls:
        model(x)
    with torchprof.profile(model, modules=False, shapes=False) as ops:
        model(x)
    assert (len(calls.trace.ops), len(calls.trace.allocations), len(calls.trace.module_calls)) == (0, 0, 2)
    assert (len(ops.trace.operands), len(ops.trace.module_calls)) == (0, 0)
    assert len(ops.trace.ops) > 0
    assert len(ops.trace.allocations) > 0


def test_marks_have_a_name_and_a_time() -> None:
    with torchprof.profile() as prof:
        torch.ones(1)
        prof.mark("here")
        torch.ones(2)
    trace = prof.trace
    first, second = rows_named(trace, "aten::ones")
    time = trace.mark("here")
    assert time is not None
    assert trace.ops["end"][first] <= time <= trace.ops["start"][second]
    assert trace.mark("nowhere") is None


def test_memory_is_reported_with_its_op_and_address() -> None:
    with torchprof.profile() as prof:
        x = torch.empty(1000)
        address = x.untyped_storage().data_ptr()
        del x
    rows = prof.trace.allocations[prof.trace.allocations["address"] == address]
    assert rows["bytes"].tolist() == [4000]
    assert 0 <= rows["start"][0] < rows["end"][0]
    assert op_names(prof.trace)[int(rows["op"][0])] == "aten::empty"


def test_meta_tensors_are_counted_though_they_take_nothing() -> None:
    with torchprof.profile() as prof:
        x = torch.empty(10**12, device="meta")
        del x
    (row,) = prof.trace.allocations
    assert (row["bytes"], row["end"] > row["start"]) == (4 * 10**12, True)


def test_every_thread_has_rows_of_its_own() -> None:
    def work(index: int) -> None:
        model = nn.Sequential(nn.Linear(index + 1, 3), nn.Tanh())
        for _ in range(20):
            model(torch.ones(2, index + 1)).sum().backward()

    with torchprof.profile() as prof:
        threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    trace = prof.trace
    calls = trace.module_calls
    for thread in np.unique(calls["thread"]):
        own = calls["thread"] == thread
        assert own.sum() == 60
        assert (calls["thread"][calls["parent"][own & (calls["parent"] >= 0)]] == thread).all()
    nested = trace.ops[trace.ops["parent"] >= 0]
    around = trace.ops[nested["parent"]]
    assert (around["thread"] == nested["thread"]).all()
    assert ((around["start"] <= nested["start"]) & (nested["end"] <= around["end"])).all()
    attributed = trace.ops[(trace.ops["flags"] & 1 != 0) & (trace.ops["module_call"] >= 0)]
    assert len(attributed) > 0
    assert (
        calls["thread"][attributed["module_call"]] == attributed["thread"]
    ).all()  # a backward is attributed to its own thread's forward


def test_replicas_on_threads_as_data_parallel_runs_them() -> None:
    model = networks.Nested().eval()
    with torchprof.profile(model) as prof, ThreadPoolExecutor(3) as pool:
        list(pool.map(model, [torch.ones(1, 3, 16, 16)] * 6))
    roots = prof.trace.module_calls["parent"] == -1
    assert roots.sum() == 6
    assert len(prof.trace.module_calls) % 6 == 0


def test_threads_that_are_still_running_ops_when_the_recording_ends_are_cut_off() -> None:
    stop = threading.Event()

    def spin() -> None:
        x = torch.ones(10)
        while not stop.is_set():
            torch.relu(x)

    threads = [threading.Thread(target=spin) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            with torchprof.profile() as prof:
                torch.ones(1000).sum()
            assert (prof.trace.ops["parent"] < len(prof.trace.ops)).all()
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_many_short_threads_come_and_go() -> None:
    with torchprof.profile() as prof:
        for _ in range(200):
            thread = threading.Thread(target=torch.ones, args=(3,))
            thread.start()
            thread.join()
    assert len(rows_named(prof.trace, "aten::ones")) == 200
    assert len(prof.trace.threads) == 200


def test_what_does_not_fit_the_budget_is_counted_and_not_stored() -> None:
    def work() -> None:
        for size in range(1, 15_000):
            torch.ones(size % 100 + 1)

    with torchprof.profile() as whole:
        work()
    with torchprof.profile(budget=2**20) as bounded:
        work()
    assert whole.trace.losses == {}
    assert bounded.trace.nbytes <= 2**20
    assert len(bounded.trace.ops) + bounded.trace.losses["ops"] == len(whole.trace.ops)
    assert memory_events(bounded.trace) + bounded.trace.losses.get("allocations", 0) == memory_events(whole.trace)
    assert "'ops'" in str(bounded.trace.losses)


def memory_events(trace: torchprof.Trace) -> int:
    return int((trace.allocations["start"] >= 0).sum() + (trace.allocations["end"] >= 0).sum())


def test_a_mark_in_a_step_that_is_not_recorded_does_nothing_and_one_outside_is_refused() -> None:
    with torchprof.profile(schedule=torchprof.schedule(wait=1, active=1)) as prof:
        for _ in range(2):
            prof.mark("here")
            prof.step()
    assert len(prof.trace.marks) == 1
    with pytest.raises(torchprof.RecordingError, match="outside the recording"):
        prof.mark("there")


class Stubborn(nn.Module):
    """Has its own idea of what parameters are, as wrappers do."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, 4)

    def parameters(self) -> object:  # type: ignore[override]
        return self.net.parameters()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.net(x)
        return y


def test_a_model_with_methods_of_its_own_is_recorded() -> None:
    model = Stubborn()
    with torchprof.profile(model) as prof:
        model(torch.ones(1, 4)).sum().backward()
    assert torchprof.memory(prof.trace).by_category["parameters"] == 80


def test_a_recording_ends_whatever_a_model_has_to_say() -> None:
    class Broken(nn.Linear):
        def __getattr__(self, name: str) -> object:
            if name == "_buffers":
                raise ValueError("no buffers")
            return super().__getattr__(name)

    model = Broken(2, 2)
    del model.__dict__["_buffers"]
    with pytest.raises(ValueError, match="no buffers"), torchprof.profile() as prof:
        prof.watch(model)
    assert not _C.is_recording()


def test_generators_and_coroutines_cannot_be_decorated() -> None:
    def generate() -> object:
        yield torch.ones(1)

    async def wait() -> None:
        torch.ones(1)

    for function in (generate, wait):
        with pytest.raises(torchprof.ModuleTypeError, match=r"generator or a coroutine.*with torchprof\.profile"):
            torchprof.profile()(function)


def test_calls_are_seen_again_in_the_step_after_fx_has_reset_them() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    with torchprof.profile(model) as prof:
        for _ in range(8):
            torch.fx.symbolic_trace(model)
            prof.step()
            model(torch.ones(1, 2))
    assert (prof.trace.module_calls["parent"] == -1).sum() >= 8
