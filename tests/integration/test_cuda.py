"""On a GPU: what is recorded, accounted for and replayed, against CUDA's own statistics."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from needs_events import CANNOT_TELL, TELLS_CAPTURE
from torch import nn
from torch.profiler import ProfilerActivity

import torchprof
from torchprof.trace.schema import Activity, Direction, Phase, RuntimeCallKind
from torchprof.trace.trace import Trace

pytestmark = pytest.mark.cuda


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 10)).cuda()


def test_a_summary_of_a_model_on_a_gpu_has_shapes_and_memory() -> None:
    summary = torchprof.summary(network(), (64, 512), backward=True, verbose=0)
    assert [row.output_shapes for row in summary.rows[1:]] == [((64, 1024),), ((64, 1024),), ((64, 10),)]
    assert summary.totals.saved > 0
    assert summary.totals.backward_unattributed < 0.1 * summary.totals.backward


def test_the_account_of_a_gpu_is_that_of_its_allocator() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters())
    x = torch.rand(64, 512, device="cuda")
    model(x).sum().backward()  # workspaces and handles are there from now on
    model.zero_grad()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    with torchprof.profile(model) as prof:
        model(x).sum().backward()
        optimizer.step()
        torch.cuda.synchronize()
    account = torchprof.memory(prof.trace, "cuda")
    assert (account.allocations["start"] >= 0).any()
    assert account.peak.bytes == torch.cuda.max_memory_allocated()
    assert account.max_reserved == torch.cuda.max_memory_reserved()
    assert sum(account.by_category.values()) == account.peak.bytes


def test_backward_on_a_device_thread_is_joined_to_its_modules() -> None:
    model = network()
    with torchprof.profile(model) as prof:
        model(torch.rand(64, 512, device="cuda")).sum().backward()
    rows = {row["name"]: row["backward"] for row in torchprof.by_module(prof.trace).rows}
    assert rows["0"] > 0
    assert rows["2"] > 0
    assert len(prof.trace.threads) > 1


def test_a_recorded_snapshot_replays_to_the_byte() -> None:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.memory._record_memory_history(context=None)
    model = network()
    for batch in (32, 64, 128):
        model(torch.rand(batch, 512, device="cuda")).sum().backward()
    snapshot = torch.cuda.memory._snapshot()
    torch.cuda.memory._record_memory_history(enabled=None)
    replayed = torchprof.replay_snapshot(snapshot)
    assert replayed.misplaced == 0
    assert replayed.max_reserved == replayed.recorded_max_reserved


def kernel_names(trace: Trace) -> Counter[str]:
    return Counter(trace.strings[row] for row in trace.kernels["name"])


def places(trace: Trace) -> set[tuple[str, str, Phase]]:
    """Op, class of the module and phase of every kernel that an op of a module launched."""
    placed = trace.kernels[(trace.kernels["op"] >= 0) & (trace.kernels["module_call"] >= 0)]
    modules = trace.modules["type"][trace.module_calls["module"][placed["module_call"]]]
    names = trace.op_names[placed["op"]]
    phases = [Phase(phase) for phase in placed["phase"]]
    return {(trace.strings[op], trace.strings[module], phase) for op, module, phase in zip(names, modules, phases, strict=True)}


def test_the_kernels_are_those_that_torch_profiler_sees() -> None:
    model, x = network(), torch.rand(64, 512, device="cuda")

    def step() -> None:
        model(x).sum().backward()
        model.zero_grad()

    step()
    torch.cuda.synchronize()
    with torchprof.profile(model, gpu="cupti") as prof:
        step()
        torch.cuda.synchronize()
    with torch.profiler.profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as theirs:
        step()
        torch.cuda.synchronize()
    expected = Counter(
        event.name
        for event in theirs.events()
        if event.device_type == torch.autograd.DeviceType.CUDA and not event.is_user_annotation
    )
    assert prof.trace.losses == {}
    assert kernel_names(prof.trace) == expected  # in the first session of torch.profiler in this process: see below


def test_every_kernel_is_tied_to_what_launched_it() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters())
    with torchprof.profile(model, gpu="cupti") as prof:
        model(torch.rand(64, 512, device="cuda")).sum().backward()
        optimizer.step()
    trace = prof.trace
    assert (trace.kernels["runtime_call"] >= 0).all()
    assert (trace.kernels["op"] >= 0).all()
    found = places(trace)
    assert ("aten::addmm", "Linear", Phase.FORWARD) in found
    assert ("aten::mm", "Linear", Phase.BACKWARD) in found
    assert any(module == "ReLU" and phase is Phase.BACKWARD for _, module, phase in found)
    assert Phase.OPTIMIZER in {Phase(phase) for phase in trace.kernels["phase"]}


@pytest.mark.skipif(not TELLS_CAPTURE, reason=CANNOT_TELL)
def test_intervals_between_events_hold_the_kernels_of_their_ops() -> None:
    x = torch.rand(2048, 2048, device="cuda")
    x @ x
    torch.cuda.synchronize()
    traces = {}
    for way in ("cupti", "events"):
        with torchprof.profile(gpu=way) as prof:
            for _ in range(20):
                x @ x
        traces[way] = prof.trace
    kernels, intervals = (trace.kernels["end"] - trace.kernels["start"] for trace in traces.values())
    events = traces["events"]
    began = events.ops["start"][events.kernels["op"]]
    assert (events.kernels["kind"] == Activity.INTERVAL).all()
    assert kernel_names(events) == {"aten::matmul": 20}
    assert intervals.sum() > 0.5 * kernels.sum(), "a GPU may be faster the second time"
    assert (events.kernels["start"] >= began - events.facts["gpu_clock_error_ns"]).all()
    assert (events.kernels["start"][1:] >= events.kernels["end"][:-1]).all()
    assert events.losses == {}


def test_device_times_are_on_the_hosts_axis() -> None:
    x = torch.rand(2048, 2048, device="cuda")
    x @ x
    torch.cuda.synchronize()
    with torchprof.profile(gpu="cupti") as prof:
        for _ in range(20):
            x = x @ x
            torch.cuda.synchronize()
    trace = prof.trace
    kernels = trace.kernels[trace.kernels["kind"] == Activity.KERNEL]
    assert (kernels["runtime_call"] >= 0).all()
    launches = trace.runtime_calls[kernels["runtime_call"]]
    waits = trace.runtime_calls[trace.runtime_calls["kind"] == RuntimeCallKind.SYNCHRONIZE]
    assert trace.facts["gpu_clock_error_ns"] < 50_000
    assert (kernels["start"] >= launches["start"] - 50_000).all()
    assert len(waits) >= 20
    assert kernels["end"][-1] <= waits["end"].max() + 50_000


def test_copies_and_the_waits_of_item_are_seen() -> None:
    with torchprof.profile(gpu="cupti") as prof:
        torch.ones(1000).cuda().sum().item()
    trace = prof.trace
    copies = trace.kernels[trace.kernels["kind"] == Activity.COPY]
    assert {Direction(row) for row in copies["direction"]} == {Direction.HOST_TO_DEVICE, Direction.DEVICE_TO_HOST}
    assert 4000 in copies["bytes"]
    waits = trace.runtime_calls[(trace.runtime_calls["kind"] == RuntimeCallKind.SYNCHRONIZE) & (trace.runtime_calls["op"] >= 0)]
    assert "aten::_local_scalar_dense" in {trace.strings[trace.op_names[op]] for op in waits["op"]}


def test_streams_are_told_apart() -> None:
    other = torch.cuda.Stream()
    x = torch.rand(512, 512, device="cuda")
    with torchprof.profile(gpu="cupti") as prof:
        x @ x
        with torch.cuda.stream(other):
            x @ x
        torch.cuda.synchronize()
    assert len(set(prof.trace.kernels["stream"].tolist())) == 2


def test_the_kernels_of_a_graph_are_seen_and_said_to_be_its() -> None:
    model, x = network(), torch.rand(64, 512, device="cuda")
    side = torch.cuda.Stream()
    with torch.cuda.stream(side), torch.no_grad():
        model(x)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        model(x)
    with torchprof.profile(model, gpu="cupti") as prof:
        graph.replay()
        graph.replay()
    trace = prof.trace
    assert len(trace.kernels) >= 6
    assert (trace.kernels["graph"] != 0).all()
    assert set(trace.runtime_calls["kind"][trace.kernels["runtime_call"]].tolist()) == {RuntimeCallKind.GRAPH_LAUNCH}


def test_compiled_kernels_belong_to_the_module_that_was_called() -> None:
    pytest.importorskip("triton")
    model = network()
    compiled = torch.compile(model)
    x = torch.rand(64, 512, device="cuda")
    compiled(x).sum().backward()
    torch.cuda.synchronize()
    with torchprof.profile(model, gpu="cupti") as prof:
        compiled(x).sum().backward()
    trace = prof.trace
    assert any(name.startswith("triton_") for name in kernel_names(trace))
    assert (trace.kernels["runtime_call"] >= 0).all()
    forward = trace.kernels[trace.kernels["phase"] == Phase.FORWARD]
    assert len(forward)


def test_aggregated_kernels_are_those_of_single_rows() -> None:
    model, x = network(), torch.rand(64, 512, device="cuda")

    def recorded(aggregate: bool) -> Trace:
        with torchprof.profile(model, gpu="cupti", aggregate=aggregate) as prof:
            for _ in range(3):
                model(x).sum().backward()
                model.zero_grad()
                prof.step()
        return prof.trace

    recorded(False)
    rows, sums = recorded(False), recorded(True)
    assert int(sums.kernel_totals["count"].sum()) == len(rows.kernels)
    assert sums.steps["kernels"].tolist() == rows.steps["kernels"].tolist()


def test_torch_profiler_works_before_and_after() -> None:
    """Each of its sessions loses a kernel or two of those that come after, in PyTorch without torchprof as well: #192021."""
    x = torch.rand(64, 64, device="cuda")

    def theirs() -> int:
        with torch.profiler.profile(activities=[ProfilerActivity.CUDA]) as profiler:
            for _ in range(64):
                x @ x
            torch.cuda.synchronize()
        return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in profiler.events())

    assert theirs() > 32
    with torchprof.profile(gpu="cupti") as prof:
        for _ in range(64):
            x @ x
    assert len(prof.trace.kernels) + prof.trace.losses.get("kernels", 0) >= 64
    assert len(prof.trace.kernels) > 32
    assert theirs() > 32


def test_torch_profiler_started_inside_ends_what_is_seen_and_that_is_said() -> None:
    x = torch.rand(64, 64, device="cuda")
    with torchprof.profile(gpu="cupti", memory=False) as prof:
        x @ x
        with torch.profiler.profile(activities=[ProfilerActivity.CUDA]):
            x @ x
        x @ x
    assert "INCOMPLETE" in prof.trace.facts["gpu_note"]
    with torchprof.profile(gpu="cupti") as prof:
        x @ x
    assert len(prof.trace.runtime_calls) > 0
    assert "INCOMPLETE" not in prof.trace.facts["gpu_note"]


def test_while_torch_profiler_is_active_the_gpu_is_not_recorded_and_that_is_said() -> None:
    x = torch.rand(64, 64, device="cuda")
    with torch.profiler.profile(activities=[ProfilerActivity.CUDA]), torchprof.profile(memory=False) as prof:
        x @ x
    assert prof.trace.facts["gpu"] != "cupti"
    assert "torch.profiler" in prof.trace.facts["gpu_note"]


def test_results_on_a_gpu_are_the_same_to_the_bit() -> None:
    def trained(gpu: str) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = network()
        optimizer = torch.optim.AdamW(model.parameters())
        with torchprof.profile(model, gpu=gpu):
            for _ in range(3):
                model(torch.ones(64, 512, device="cuda")).sum().backward()
                optimizer.step()
                optimizer.zero_grad()
        return [parameter.detach().clone() for parameter in model.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(trained("off"), trained("cupti"), strict=True))
