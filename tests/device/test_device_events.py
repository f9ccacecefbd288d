"""Intervals between events around ops, on a device whose clock and failures are ours."""

from __future__ import annotations

import os
import threading
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import torchprof
from torchprof.trace.schema import Activity, Phase, phases
from torchprof.trace.trace import Trace

pytestmark = pytest.mark.events


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).to("fake")


def named(trace: Trace) -> list[tuple[str, int]]:
    """Every interval: what it is of, and how long it took."""
    return [(trace.strings[row["name"]], int(row["end"] - row["start"])) for row in trace.kernels]


def module_of(trace: Trace, row: np.void) -> str:
    return trace.strings[trace.modules["type"][trace.module_calls["module"][row["module_call"]]]]


def test_an_op_takes_what_its_stream_was_busy_for(fake: Any) -> None:
    fake.op_duration(5_000)
    x = torch.ones(4, device="fake")
    with torchprof.profile(gpu="events") as prof:
        y = x + 1
        fake.work(70_000)  # of no op
        y.mul_(2)
    trace = prof.trace
    assert named(trace) == [("aten::add", 5_000), ("aten::mul_", 5_000)]
    assert trace.kernels["start"][1] - trace.kernels["end"][0] == 70_000
    assert [trace.strings[trace.op_names[row]] for row in trace.kernels["op"]] == ["aten::add", "aten::mul_"]
    for column, value in (
        ("kind", Activity.INTERVAL),
        ("device_type", 20),
        ("device_index", 0),
        ("stream", 0),
        ("runtime_call", -1),
    ):
        assert set(trace.kernels[column].tolist()) == {value}
    assert trace.facts["gpu"] == "events"
    assert "intervals" in trace.facts["gpu_note"]
    assert not trace.losses


def test_of_nested_ops_the_outermost_has_the_interval(fake: Any) -> None:
    fake.op_duration(1_000)
    linear, x = nn.Linear(4, 8).to("fake"), torch.ones(2, 4, device="fake")
    with torchprof.profile(linear, gpu="events") as prof:
        linear(x)
    ((name, took),) = named(prof.trace)
    assert (name, took, module_of(prof.trace, prof.trace.kernels[0])) == ("aten::linear", 1_000, "Linear")


def test_an_op_that_only_looks_has_none_and_what_it_copies_with_does(fake: Any) -> None:
    x = torch.ones(4, 6, device="fake")
    with torchprof.profile(gpu="events") as prof:
        x.t().view(6, 4)[0].detach()
        x.t().reshape(24)
        x.cpu()
    assert [name for name, _ in named(prof.trace)] == ["aten::clone", "aten::_to_copy"]


def test_what_ran_on_the_host_only_has_none(fake: Any) -> None:
    with torchprof.profile(gpu="events") as prof:
        torch.ones(3) + 1
    assert len(prof.trace.kernels) == 0


def test_backward_on_the_thread_of_the_device_has_intervals_in_its_modules_and_phase(fake: Any) -> None:
    fake.op_duration(1_000)
    model, x = network(), torch.ones(2, 4, device="fake")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with torchprof.profile(model, gpu="events") as prof:
        for _ in range(2):
            model(x).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            prof.step()
    trace = prof.trace
    by_phase = Counter(Phase(phase).name for phase in trace.kernels["phase"])
    assert set(by_phase) >= {"FORWARD", "BACKWARD", "OPTIMIZER"}
    backward = trace.kernels[trace.kernels["phase"] == Phase.BACKWARD]
    assert {module_of(trace, row) for row in backward if row["module_call"] >= 0} == {"Linear", "ReLU"}
    assert (trace.ops["thread"][backward["op"]] != trace.ops["thread"][trace.kernels["op"][0]]).all()
    assert (trace.kernels["phase"] == phases(trace.ops)[trace.kernels["op"]]).all()
    assert (trace.kernels["module_call"] == trace.ops["module_call"][trace.kernels["op"]]).all()
    assert not any("autograd" in name for name, _ in named(trace))
    assert trace.steps["kernels"].sum() == len(trace.kernels)
    assert trace.steps["busy"].sum() == sum(took for _, took in named(trace))


def test_intervals_of_a_thread_do_not_overlap(fake: Any) -> None:
    fake.op_duration(1_000)
    model, x = network(), torch.ones(2, 4, device="fake")
    with torchprof.profile(model, gpu="events") as prof:
        for _ in range(5):
            model(x).sum().backward()
    trace = prof.trace
    threads = trace.ops["thread"][trace.kernels["op"]]
    for thread in np.unique(threads):
        rows = trace.kernels[threads == thread]
        assert (rows["end"][:-1] <= rows["start"][1:]).all()


def test_two_streams_and_two_devices_have_intervals_of_their_own(fake: Any) -> None:
    fake.op_duration(3_000)
    x, other = torch.ones(4, device="fake:0"), torch.ones(4, device="fake:1")
    stream = torch.Stream(device="fake:0")
    with torchprof.profile(gpu="events") as prof:
        x.add_(1)
        with stream:
            fake.work(10_000)
            x.mul_(2)
        other.sub_(1)
    rows = {prof.trace.strings[row["name"]]: row for row in prof.trace.kernels}
    assert rows["aten::mul_"]["stream"] == stream.stream_id != rows["aten::add_"]["stream"]
    assert rows["aten::mul_"]["start"] - rows["aten::add_"]["start"] == 10_000
    assert (rows["aten::add_"]["device_index"], rows["aten::sub_"]["device_index"]) == (0, 1)
    assert {took for _, took in named(prof.trace)} == {3_000}


def test_a_stream_that_is_captured_gets_no_events_and_what_was_missed_is_counted(fake: Any) -> None:
    x = torch.ones(4, device="fake")
    with torchprof.profile(gpu="events") as prof:
        x.add_(1)
        fake.capture(True)
        for _ in range(3):
            x.add_(1)
        fake.capture(False)
        x.add_(1)
    assert fake.captured_events() == 0
    assert len(prof.trace.kernels) == 2
    assert prof.trace.losses == {"kernels": 3}


def test_nothing_is_asked_of_a_device_whose_graph_is_still_captured_at_the_end(fake: Any) -> None:
    x = torch.ones(4, device="fake")
    with torchprof.profile(gpu="events") as prof:
        x.add_(1)
        fake.capture(True)
        before = fake.synchronizations(0)
        x.add_(1)
    assert fake.synchronizations(0) == before
    assert fake.captured_events() == fake.live_events() == 0
    assert prof.trace.losses == {"kernels": 2}


@pytest.mark.parametrize(("what", "after", "kept"), [("record", 15, 5), ("query", 15, 3), ("elapsed", 2, 1)])
def test_a_device_that_fails_ends_the_watching_and_nothing_else(fake: Any, what: str, after: int, kept: int) -> None:
    model, x = network(), torch.ones(2, 4, device="fake")
    expected = model(x).cpu()
    with torchprof.profile(model, gpu="events") as prof:
        fake.fail(what, after)
        results = [model(x).cpu() for _ in range(10)]
        prof.mark("end")
    assert all(torch.equal(result, expected) for result in results)
    assert f"INCOMPLETE, it failed: fake device: {what} failed" in prof.trace.facts["gpu_note"]
    assert len(prof.trace.kernels) <= kept
    assert prof.trace.losses["kernels"] > 0
    assert fake.live_events() == 0


def test_an_op_that_fails_ends_its_interval(fake: Any) -> None:
    x = torch.ones(4, device="fake")
    with torchprof.profile(gpu="events") as prof:
        with pytest.raises(RuntimeError, match="size of tensor"):
            x + torch.ones(3, device="fake")
        x.add_(1)
    assert [name for name, _ in named(prof.trace)][-2:] == ["aten::add", "aten::add_"]
    assert not prof.trace.losses


def test_events_are_used_again_when_they_are_over(fake: Any) -> None:
    fake.op_duration(10)
    x = torch.ones(4, device="fake")
    with torchprof.profile(gpu="events") as prof:
        made = fake.made_events()
        for _ in range(5_000):
            x.add_(1)
            fake.advance(10)
        made = fake.made_events() - made
    assert len(prof.trace.kernels) == 5_000
    assert not prof.trace.losses
    assert set(named(prof.trace)) == {("aten::add_", 10)}
    assert made < 2 * 1_500


def test_a_device_that_lags_behind_has_more_events_out(fake: Any) -> None:
    fake.op_duration(10)
    x = torch.ones(4, device="fake")
    with torchprof.profile(gpu="events") as prof:
        for _ in range(2_500):
            x.add_(1)
    assert len(prof.trace.kernels) == 2_500
    assert not prof.trace.losses


def test_what_does_not_fit_the_budget_is_counted(fake: Any) -> None:
    x = torch.ones(4, device="fake")
    with torchprof.profile(gpu="events", shapes=False, memory=False, stacks=False, budget=1_150_000) as prof:
        for _ in range(5_000):
            x.add_(1)
    assert prof.trace.losses["kernels"] > 0
    whole = sum(prof.trace.strings[name] == "aten::add_" for name in prof.trace.op_names)
    assert prof.trace.losses["kernels"] + len(prof.trace.kernels) == whole
    assert fake.live_events() == 0


def test_nothing_is_left_behind_and_nothing_is_changed(fake: Any) -> None:
    def run() -> list[torch.Tensor]:
        model = network()
        x = torch.ones(2, 4, device="fake")
        model(x).square().sum().backward()
        return [parameter.grad.cpu() for parameter in model.parameters() if parameter.grad is not None]

    plain = run()
    allocated = fake.allocated()
    for _ in range(3):
        with torchprof.profile(gpu="events"):
            watched = run()
        assert all(torch.equal(one, other) for one, other in zip(plain, watched, strict=True))
    del watched
    assert fake.live_events() == 0
    assert fake.allocated() == allocated
    assert torch.accelerator.current_device_index() == 0


def test_only_devices_that_were_used_are_waited_for_at_the_end(fake: Any) -> None:
    x = torch.ones(4, device="fake:1")
    with torchprof.profile(gpu="events"):
        before = [fake.synchronizations(index) for index in range(2)]
        x.add_(1)
    assert [fake.synchronizations(index) for index in range(2)] == [before[0], before[1] + 1]


def test_long_after_the_start_times_are_as_exact_as_at_first(fake: Any) -> None:
    fake.op_duration(1_000)
    x = torch.ones(4, device="fake")
    with torchprof.profile(gpu="events") as prof:
        for _ in range(50):
            x.add_(1)
            fake.work(700_000_000)
    starts = prof.trace.kernels["start"]
    assert set(named(prof.trace)) == {("aten::add_", 1_000)}
    assert np.abs(np.diff(starts) - 700_001_000).max() < 100


@pytest.mark.parametrize("rate", [1.0, 1.0004, 0.9996])
def test_a_clock_that_drifts_is_put_right(fake: Any, rate: float) -> None:
    x = torch.ones(4, device="fake")
    fake.run_clock(rate)
    with torchprof.profile(gpu="events") as prof:
        for _ in range(20):
            torch.ones(200_000).sort()
            x.add_(1)
    trace = prof.trace
    rows = trace.kernels[[name == "aten::add_" for name, _ in named(trace)]]
    ops = trace.ops[rows["op"]]
    error = trace.facts["gpu_clock_error_ns"]
    assert len(rows) == 20
    assert (rows["start"] >= ops["start"] - error - 1_000).all()
    assert (rows["start"] <= ops["end"] + error + 1_000).all()


def test_a_clock_of_another_time_is_off_by_what_is_said(fake: Any) -> None:
    x = torch.ones(4, device="fake")
    with torchprof.profile(gpu="events") as prof:
        x.add_(1)
        fake.advance(10**9)
    assert prof.trace.facts["gpu_clock_error_ns"] > 5 * 10**8


def test_steps_that_are_folded_have_their_intervals(fake: Any) -> None:
    fake.op_duration(1_000)
    model, x = network(), torch.ones(2, 4, device="fake")
    with torchprof.profile(model, gpu="events", aggregate=True) as prof:
        for _ in range(4):
            model(x).sum().backward()
            prof.step()
    totals = prof.trace.kernel_totals
    linear = totals[[prof.trace.strings[row["name"]] == "aten::linear" for row in totals]]
    assert linear["count"].tolist() == [4, 4]
    assert (linear["kind"] == Activity.INTERVAL).all()
    assert fake.live_events() == 0
    assert not prof.trace.losses
    kernels = prof.trace.steps["kernels"].tolist()
    assert kernels[1:] == [kernels[0] + 4] * 3, "from the second step on, four gradients are added"


def test_without_ops_the_intervals_are_of_module_calls(fake: Any) -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            fake.work(1_000)
            y: torch.Tensor = self.inner(x)
            fake.work(50_000)
            return y

    fake.op_duration(300)
    model, x = Outer(), torch.ones(4, device="fake")
    with torchprof.profile(model, gpu="events", ops=False) as prof:
        model(x)
        fake.work(7)
        model(x)
    assert [took for _, took in named(prof.trace)] == [1_000, 300, 50_000] * 2
    assert [module_of(prof.trace, row) for row in prof.trace.kernels] == ["Outer", "ReLU", "Outer"] * 2
    assert [name.rpartition(".")[2] for name, _ in named(prof.trace)] == ["Outer", "ReLU", "Outer"] * 2
    assert (prof.trace.kernels["phase"] == Phase.FORWARD).all()
    assert fake.live_events() == 0


def test_a_fork_leaves_the_device_to_its_parent(fake: Any) -> None:
    x = torch.ones(4, device="fake")
    with torchprof.profile(gpu="events") as prof:
        child = os.fork()
        if child == 0:
            events = fake.live_events(), fake.made_events()
            x.add_(1)
            untouched = (fake.live_events(), fake.made_events()) == events
            with torchprof.profile(gpu="events") as own:
                x.mul_(2)
            os._exit(0 if untouched and [name for name, _ in named(own.trace)] == ["aten::mul_"] else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        x.sub_(1)
    assert [name for name, _ in named(prof.trace)] == ["aten::sub_"]


def test_threads_that_still_run_ops_when_the_recording_ends_are_cut_off(fake: Any) -> None:
    stop = threading.Event()

    def spin() -> None:
        x = torch.ones(4, device="fake")
        while not stop.is_set():
            x.add_(1)

    threads = [threading.Thread(target=spin) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            with torchprof.profile(gpu="events") as prof:
                torch.ones(1000, device="fake").sum()
            assert (prof.trace.kernels["op"] >= 0).all()
            assert (prof.trace.kernels["op"] < len(prof.trace.ops)).all()
            assert fake.live_events() == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()


Done = st.tuples(st.integers(0, 1), st.integers(0, 2), st.integers(0, 10**8), st.integers(0, 10**9))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.lists(Done, max_size=30), st.integers(0, 10**10))
def test_whatever_is_done_on_whatever_stream_has_the_time_it_took(fake: Any, done: list[Any], late: int) -> None:
    fake.reset()
    fake.advance(late)
    tensors = [torch.ones(4, device=f"fake:{index}") for index in range(2)]
    streams = [[torch.Stream(device=f"fake:{index}") for _ in range(3)] for index in range(2)]
    free = Counter[tuple[int, int]]()
    expected = []
    with torchprof.profile(gpu="events") as prof:
        began = fake.now()
        for index, which, duration, gap in done:
            with streams[index][which]:
                fake.op_duration(duration)
                tensors[index].add_(1)
                fake.work(gap)
            start = free[index, which]
            free[index, which] += duration + gap
            expected.append((index, streams[index][which].stream_id, start, start + duration))
    assert began == late
    rows = prof.trace.kernels[np.argsort(prof.trace.ops["start"][prof.trace.kernels["op"]])]
    assert [(row["device_index"], row["stream"]) for row in rows] == [(index, stream) for index, stream, *_ in expected]
    for index in range(2):
        mine = rows["device_index"] == index
        there = np.array([times for device, _, *times in expected if device == index]).reshape(-1, 2)
        found = np.stack([rows["start"][mine], rows["end"][mine]], axis=1)
        if len(there):
            shift = found[0, 0] - there[0, 0]
            exact = 2 + 1e-7 * there.max()  # devices tell times as floats
            assert np.abs(found - there - shift).max() <= exact
