"""Kernels of a GPU, as CUPTI reports them: each belongs to the op, module call, phase and step that launched it.

No GPU is needed: tests/native/fake_cupti.cpp takes the place of CUPTI; the rest is the code that runs on a GPU."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compiled import CSRC, HERE
from fake_gpu import GET_DEVICE, LAUNCH_GRAPH, SYNCHRONIZE, FakeGpu, KernelForEveryOp
from torch import nn

import torchprof
from torchprof import ArgumentError, RecordingError
from torchprof.record import gpu_backends
from torchprof.trace.schema import NO_THREAD, Activity, Direction, Phase, RuntimeCallKind
from torchprof.trace.trace import Trace

CUDA_HEADERS = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"), "include")


class Launching(nn.Module):
    """Launches kernels in forward, in backward, and outside of all ops."""

    def __init__(self, gpu: FakeGpu) -> None:
        super().__init__()
        self.gpu = gpu
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.gpu.launch("of_no_op")
        return InAnOp.apply(self.linear(x), self.gpu)  # type: ignore[no-untyped-call, no-any-return]


class InAnOp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, gpu: FakeGpu) -> torch.Tensor:
        ctx.gpu = gpu
        gpu.launch("of_forward")
        return x * 2

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        ctx.gpu.launch("of_backward")
        return gradients[0] * 2, None


def op_of(trace: Trace, row: np.void) -> str | None:
    return trace.strings[trace.op_names[row["op"]]] if row["op"] >= 0 else None


def module_of(trace: Trace, row: np.void) -> str | None:
    if row["module_call"] < 0:
        return None
    return trace.strings[trace.modules["type"][trace.module_calls["module"][row["module_call"]]]]


def by_name(trace: Trace) -> dict[str, np.void]:
    return {trace.strings[row["name"]]: row for row in trace.kernels}


def test_a_kernel_belongs_to_the_op_module_and_phase_that_launched_it(gpu: FakeGpu) -> None:
    model = Launching(gpu)
    with torchprof.profile(model, gpu="cupti") as prof:
        model(torch.ones(2, 4)).sum().backward()
    trace = prof.trace
    kernels = by_name(trace)
    assert {name: (op_of(trace, row), module_of(trace, row), Phase(row["phase"])) for name, row in kernels.items()} == {
        "of_no_op": (None, "Launching", Phase.FORWARD),
        "of_forward": ("InAnOp", "Launching", Phase.FORWARD),
        "of_backward": ("InAnOpBackward", "Launching", Phase.BACKWARD),
    }
    assert trace.facts["gpu"] == "cupti"
    assert trace.losses == {}


def test_a_kernel_runs_after_its_launch_and_in_the_order_of_its_stream(gpu: FakeGpu) -> None:
    with torchprof.profile(gpu="cupti") as prof:
        for _ in range(3):
            gpu.launch("slow", 500_000)
    kernels, calls = prof.trace.kernels, prof.trace.runtime_calls
    assert (kernels["start"] >= calls["start"][kernels["runtime_call"]]).all()
    assert (kernels["start"][1:] >= kernels["end"][:-1] - 1).all()
    assert {prof.trace.strings[row] for row in calls["name"]} == {"cudaLaunchKernel"}
    assert (calls["kind"] == RuntimeCallKind.LAUNCH).all()
    assert kernels["end"] - kernels["start"] == pytest.approx(500_000, rel=0.01)
    assert prof.trace.facts["gpu_clock_error_ns"] < 100_000


def test_every_field_of_a_kernel_record_is_in_its_row(gpu: FakeGpu) -> None:
    with torchprof.profile(gpu="cupti") as prof:
        gpu.launch("_ZN2at6native6vectorIfEEvT_", stream=13)
    (row,) = prof.trace.kernels
    assert prof.trace.strings[row["name"]] == "void at::native::vector<float>(float)"
    assert row["grid"].tolist() == [108, 1, 1]
    assert row["block"].tolist() == [256, 1, 1]
    assert (row["registers"], row["shared_memory"], row["stream"], row["kind"]) == (32, 1536, 13, Activity.KERNEL)
    assert (row["device_type"], row["device_index"], row["graph"]) == (1, 0, 0)


def test_copies_and_memsets_are_named_as_torch_profiler_names_them(gpu: FakeGpu) -> None:
    with torchprof.profile(gpu="cupti") as prof:
        gpu.copy(1, 1, 3, 4096)
        gpu.copy(2, 3, 2, 512)
        gpu.copy(10, 3, 3, 64)
        gpu.memset(1024)
    trace = prof.trace
    assert [
        (trace.strings[row["name"]], row["bytes"], Activity(row["kind"]), Direction(row["direction"])) for row in trace.kernels
    ] == [
        ("Memcpy HtoD (Pageable -> Device)", 4096, Activity.COPY, Direction.HOST_TO_DEVICE),
        ("Memcpy DtoH (Device -> Pinned)", 512, Activity.COPY, Direction.DEVICE_TO_HOST),
        ("Memcpy PtoP (Device -> Device)", 64, Activity.COPY, Direction.BETWEEN_DEVICES),
        ("Memset (Device)", 1024, Activity.MEMSET, Direction.OTHER),
    ]
    assert [RuntimeCallKind(kind) for kind in trace.runtime_calls["kind"]] == [
        RuntimeCallKind.COPY,
        RuntimeCallKind.COPY,
        RuntimeCallKind.COPY,
        RuntimeCallKind.MEMSET,
    ]


def test_synchronization_is_recorded_with_the_module_that_waits(gpu: FakeGpu) -> None:
    class Impatient(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            gpu.call(SYNCHRONIZE, 200_000)
            return x

    with torchprof.profile(gpu="cupti") as prof:
        Impatient()(torch.ones(1))
    (row,) = prof.trace.runtime_calls
    assert RuntimeCallKind(row["kind"]) is RuntimeCallKind.SYNCHRONIZE
    assert prof.trace.strings[row["name"]] == "cudaStreamSynchronize"
    assert module_of(prof.trace, row) == "Impatient"
    assert row["end"] - row["start"] > 10_000


def test_another_thread_has_its_own_ops(gpu: FakeGpu) -> None:
    model = Launching(gpu)
    with torchprof.profile(model, gpu="cupti", memory=False) as prof:
        thread = threading.Thread(target=model, args=(torch.ones(1, 4),))
        thread.start()
        thread.join()
        gpu.launch("here")
    kernels = by_name(prof.trace)
    assert op_of(prof.trace, kernels["of_forward"]) == "InAnOp"
    assert op_of(prof.trace, kernels["here"]) is None
    calls = prof.trace.runtime_calls
    assert calls["thread"][kernels["of_forward"]["runtime_call"]] != calls["thread"][kernels["here"]["runtime_call"]]


def test_a_thread_that_runs_no_op_is_not_a_thread_of_the_trace(gpu: FakeGpu) -> None:
    with torchprof.profile(gpu="cupti") as prof:
        thread = threading.Thread(target=gpu.launch, args=("elsewhere",))
        thread.start()
        thread.join()
    (call,) = prof.trace.runtime_calls
    assert (call["thread"], call["op"], call["module_call"]) == (NO_THREAD, -1, -1)


def test_a_kernel_without_a_recorded_launch_is_kept_and_belongs_to_nothing(gpu: FakeGpu) -> None:
    with torchprof.profile(gpu="cupti") as prof:
        gpu.launch("from_nowhere", launched_by=0)
    (row,) = prof.trace.kernels
    assert (row["runtime_call"], row["op"], row["module_call"], Phase(row["phase"])) == (-1, -1, -1, Phase.OTHER)


def test_a_driver_call_inside_a_runtime_call_is_not_recorded_twice(gpu: FakeGpu) -> None:
    with torchprof.profile(gpu="cupti") as prof:
        gpu.launch("both", launched_by=3)
        gpu.launch("driver", launched_by=2)
    names = [prof.trace.strings[row] for row in prof.trace.runtime_calls["name"]]
    assert names == ["cudaLaunchKernel", "cuLaunchKernel"]
    assert prof.trace.kernels["runtime_call"].tolist() == [0, 1]


def test_the_kernels_of_a_graph_belong_to_what_launched_it(gpu: FakeGpu) -> None:
    with torchprof.profile(gpu="cupti") as prof, torch.profiler.record_function("replay"):
        gpu.launch("node", graph=5)
    (row,) = prof.trace.kernels
    assert row["graph"] == 5
    assert op_of(prof.trace, row) == "replay"
    assert RuntimeCallKind(prof.trace.runtime_calls["kind"][0]) is RuntimeCallKind.GRAPH_LAUNCH


def test_a_step_counts_the_kernels_it_launched_and_overlapping_time_once(gpu: FakeGpu) -> None:
    long = 100_000_000  # than which the second launch is not later, however busy the machine
    with torchprof.profile(gpu="cupti") as prof:
        gpu.launch("a", long, stream=1)
        gpu.launch("b", long, stream=2)
        prof.step()
        gpu.launch("c", 2 * long, stream=1)
        prof.step()
    assert prof.trace.steps["kernels"].tolist() == [2, 1]
    first, second = prof.trace.steps["busy"].tolist()
    assert long <= first < 1.9 * long
    assert second == pytest.approx(2 * long, rel=0.01)


def test_records_come_in_any_order_and_in_many_buffers(gpu: FakeGpu) -> None:
    gpu.limit_buffers(700)  # three records
    model = Launching(gpu)
    with torchprof.profile(model, gpu="cupti") as prof:
        for _ in range(40):
            model(torch.ones(1, 4))
    trace = prof.trace
    assert len(trace.kernels) == 80
    assert (trace.kernels["runtime_call"] >= 0).all()
    assert (np.diff(trace.kernels["start"]) >= 0).all()
    assert [op_of(trace, row) for row in trace.kernels] == [None, "InAnOp"] * 40


def test_records_lost_for_want_of_buffers_are_counted(gpu: FakeGpu) -> None:
    gpu.limit_buffers(300)
    gpu.keep_buffers_until_flush()
    with torchprof.profile(gpu="cupti") as prof:
        for _ in range(400):
            gpu.launch("one")
    trace = prof.trace
    lost = trace.losses["kernels"]
    assert lost > 0
    assert len(trace.kernels) + len(trace.runtime_calls) + lost == 800


def test_a_cupti_version_that_must_always_get_a_buffer_gets_one(gpu: FakeGpu) -> None:
    gpu.set_version(26)
    gpu.limit_buffers(300)
    gpu.keep_buffers_until_flush()
    with torchprof.profile(gpu="cupti") as prof:
        for _ in range(400):
            gpu.launch("one")
    assert prof.trace.losses == {}
    assert len(prof.trace.kernels) == 400


def test_records_beyond_the_budget_are_counted_as_lost(gpu: FakeGpu) -> None:
    with torchprof.profile(gpu="cupti", budget=2**20, ops=False, memory=False, modules=False) as prof:
        for _ in range(20_000):
            gpu.launch("one")
    trace = prof.trace
    assert trace.losses["kernels"] > 0
    assert len(trace.kernels) + len(trace.runtime_calls) + trace.losses["kernels"] == 40_000


def test_kernels_without_valid_times_are_lost_and_unknown_records_are_skipped(gpu: FakeGpu) -> None:
    with torchprof.profile(gpu="cupti") as prof:
        gpu.kernel_with_times(0, 0)
        gpu.kernel_with_times(2**62, 2**62 + 1)  # of no known clock
        gpu.kernel_with_times(2**63, 2**63)
        gpu.unknown_record()
        gpu.launch("good")
    assert prof.trace.losses == {"kernels": 3}
    assert list(by_name(prof.trace)) == ["good"]


def test_where_single_runtime_calls_cannot_be_enabled_all_others_are_skipped(gpu: FakeGpu) -> None:
    gpu.cannot_select_calls()
    with torchprof.profile(gpu="cupti") as prof:
        gpu.call(GET_DEVICE)
        gpu.launch("kernel")
    assert [prof.trace.strings[row] for row in prof.trace.runtime_calls["name"]] == ["cudaLaunchKernel"]


@pytest.mark.parametrize("clock", ["wall", "ticks"])
def test_kernel_times_are_converted_to_the_clock_of_the_host(gpu: FakeGpu, clock: str) -> None:
    """torch.profiler leaves a clock callback in CUPTI, so timestamps may be of another clock than the host's."""
    if clock == "ticks":
        gpu.report_ticks(0)
    model = Launching(gpu)
    with torchprof.profile(model, gpu="cupti") as prof:
        for _ in range(10):
            model(torch.ones(1, 4)).sum().backward()
    trace = prof.trace
    assert trace.losses == {}
    assert [op_of(trace, row) for row in trace.kernels] == [None, "InAnOp", "InAnOpBackward"] * 10
    launches = trace.runtime_calls[trace.kernels["runtime_call"]]
    assert (trace.kernels["start"] >= launches["start"] - trace.facts["gpu_clock_error_ns"]).all()
    assert (trace.kernels["start"] <= trace.facts["duration_ns"] + 1_000_000).all()


def test_kernels_without_times_after_torch_profiler_are_counted_as_lost(gpu: FakeGpu) -> None:
    gpu.report_ticks(2)
    with torchprof.profile(gpu="cupti") as prof:
        for _ in range(5):
            gpu.launch("kernel")
    assert (len(prof.trace.kernels), prof.trace.losses) == (3, {"kernels": 2})
    assert len(prof.trace.runtime_calls) == 5


def test_buffers_that_arrive_after_the_flush_are_waited_for(gpu: FakeGpu) -> None:
    gpu.return_buffers_late(50)
    with torchprof.profile(gpu="cupti", aggregate=True) as prof:
        for _ in range(3):
            gpu.launch("kernel")
            prof.step()
    assert prof.trace.kernel_totals["count"].tolist() == [3]
    assert prof.trace.steps["kernels"].tolist() == [1, 1, 1]


def test_a_note_says_that_another_profiler_took_over_cupti(gpu: FakeGpu) -> None:
    with torchprof.profile(gpu="cupti") as prof:
        gpu.launch("seen")
        gpu.another_takes_over()
        gpu.launch("unseen")
    assert "INCOMPLETE: another tool, such as torch.profiler, took CUPTI over" in prof.trace.facts["gpu_note"]
    with torchprof.profile(gpu="cupti") as prof:
        gpu.launch("again")
    assert list(by_name(prof.trace)) == ["again"]
    assert "INCOMPLETE" not in prof.trace.facts["gpu_note"]


def test_a_buffer_of_another_profiler_is_left_alone(gpu: FakeGpu) -> None:
    with torchprof.profile(gpu="cupti") as prof:
        gpu.return_buffer_of_another()
        gpu.launch("own")
    assert list(by_name(prof.trace)) == ["own"]


def test_graph_kernels_with_an_unknown_correlation_belong_to_the_latest_graph_launch(gpu: FakeGpu) -> None:
    with torchprof.profile(gpu="cupti") as prof:
        for step in range(2):
            with torch.profiler.record_function(f"replay {step}"):
                launch = gpu.call(LAUNCH_GRAPH)
                gpu.launch("node", graph=5, launched_by=0)
                gpu.launch("other")
    trace = prof.trace
    assert launch not in trace.kernels["runtime_call"]
    assert [op_of(trace, row) for row in trace.kernels if row["graph"]] == ["replay 0", "replay 1"]
    assert {RuntimeCallKind(trace.runtime_calls["kind"][row["runtime_call"]]) for row in trace.kernels if row["graph"]} == {
        RuntimeCallKind.GRAPH_LAUNCH
    }


def test_only_launches_inside_the_recording_are_recorded(gpu: FakeGpu) -> None:
    gpu.launch("before")
    for _ in range(2):
        with torchprof.profile(gpu="cupti") as prof:
            gpu.launch("inside")
        assert list(by_name(prof.trace)) == ["inside"]
        gpu.launch("after")
    with torchprof.profile(gpu="off") as prof:
        gpu.launch("unseen")
    assert len(prof.trace.kernels) == 0


def test_a_schedule_records_kernels_of_its_active_steps(gpu: FakeGpu) -> None:
    traces = []
    schedule = torchprof.schedule(wait=1, active=1, repeat=2)
    with torchprof.profile(gpu="cupti", schedule=schedule, on_trace_ready=lambda prof: traces.append(prof.trace)) as prof:
        for step in range(6):
            gpu.launch(f"kernel_{step}")
            prof.step()
    assert [list(by_name(trace)) for trace in traces] == [["kernel_1"], ["kernel_3"]]


def test_an_exception_leaves_nothing_recording(gpu: FakeGpu) -> None:
    prof = torchprof.profile(gpu="cupti")

    @prof
    def fails() -> None:
        gpu.launch("one")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert list(by_name(prof.trace)) == ["one"]
    assert gpu.enabled() == 0


def train(gpu: FakeGpu, **options: Any) -> Trace:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.AdamW(model.parameters())
    with torchprof.profile(model, gpu="cupti", **options) as prof, KernelForEveryOp(gpu):
        for _ in range(3):
            model(torch.ones(2, 4)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            prof.step()
    return prof.trace


def test_every_phase_of_training_has_its_kernels(gpu: FakeGpu) -> None:
    trace = train(gpu)
    found = {(module_of(trace, row), Phase(row["phase"])) for row in trace.kernels}
    assert {("Linear", phase) for phase in (Phase.FORWARD, Phase.BACKWARD, Phase.OPTIMIZER)} <= found
    assert (trace.kernels["op"] >= 0).all()


def test_aggregated_kernels_have_the_counts_of_single_ones(gpu: FakeGpu) -> None:
    rows, sums = train(gpu), train(gpu, aggregate=True)

    def counts(trace: Trace) -> dict[tuple[str, int], int]:
        table, weight = (trace.kernels, None) if len(trace.kernels) else (trace.kernel_totals, trace.kernel_totals["count"])
        keys = list(zip((trace.strings[row] for row in table["name"]), table["phase"].tolist(), strict=True))
        found: dict[tuple[str, int], int] = {}
        for index, key in enumerate(keys):
            found[key] = found.get(key, 0) + (1 if weight is None else int(weight[index]))
        return found

    assert len(sums.kernels) == len(sums.runtime_calls) == 0
    assert counts(sums) == counts(rows)
    assert sums.steps["kernels"].tolist() == rows.steps["kernels"].tolist()
    assert sums.op_totals["kernels"].sum() == sums.kernel_totals["count"].sum()
    assert sums.op_totals["device_self"].sum() == sums.kernel_totals["time"].sum()
    assert (sums.op_totals["device_time"] >= sums.op_totals["device_self"]).all()
    assert (sums.steps["busy"] > 0).all()


def test_results_are_the_same_to_the_bit(gpu: FakeGpu) -> None:
    def trained(gpu_backend: str) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        with torchprof.profile(model, gpu=gpu_backend), KernelForEveryOp(gpu):
            model(torch.ones(2, 4)).sum().backward()
        return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]

    assert all(torch.equal(a, b) for a, b in zip(trained("off"), trained("cupti"), strict=True))


def test_a_fork_records_for_itself(gpu: FakeGpu) -> None:
    with torchprof.profile(gpu="cupti") as prof:
        gpu.launch("parent")
        child = os.fork()
        if child == 0:
            try:
                with torchprof.profile(gpu="off") as own:
                    torch.ones(2) + 1
                os._exit(0 if len(own.trace.ops) else 1)
            except BaseException:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        gpu.launch("still")
    assert list(by_name(prof.trace)) == ["parent", "still"]


def test_a_trace_with_kernels_is_saved_and_read_back(gpu: FakeGpu, tmp_path: Path) -> None:
    trace = train(gpu)
    trace.save(tmp_path / "gpu.torchprof")
    again = torchprof.load(tmp_path / "gpu.torchprof")
    assert np.array_equal(again.kernels, trace.kernels)
    assert np.array_equal(again.runtime_calls, trace.runtime_calls)


def test_an_error_of_cupti_is_in_the_message(gpu: FakeGpu) -> None:
    gpu.refuse(b"cuptiActivityEnable")
    with pytest.raises(RecordingError, match="kind 5: CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED"):
        torchprof.profile(gpu="cupti").__enter__()
    assert gpu.enabled() == 0
    with torchprof.profile(gpu="off"):  # the failed start has left nothing behind
        pass


def test_gpu_auto_records_without_kernels_where_cupti_fails(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_backends, "_cuda_is_in_use", lambda: True)
    with torchprof.profile() as prof:
        gpu.launch("seen")
    assert (prof.trace.facts["gpu"], len(prof.trace.kernels)) == ("cupti", 1)
    gpu.refuse(b"cuptiActivityRegisterCallbacks")
    with torchprof.profile() as prof:
        torch.ones(2)
    assert prof.trace.facts["gpu"] == "off"
    assert "MULTIPLE_SUBSCRIBERS" in prof.trace.facts["gpu_note"]
    assert len(prof.trace.ops) > 0


def test_the_gpus_of_a_process_that_uses_cuda_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with torchprof.profile() as prof:
        pass
    assert torch.cuda.is_initialized() or "devices" not in prof.trace.facts
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", ["NVIDIA H200", "Tesla T4"].__getitem__)
    with torchprof.profile(gpu="off") as prof:
        pass
    assert prof.trace.facts["devices"] == ["NVIDIA H200", "Tesla T4"]

    def in_a_fork(number: int) -> str:
        raise RuntimeError("Cannot re-initialize CUDA in forked subprocess")

    monkeypatch.setattr(torch.cuda, "get_device_name", in_a_fork)
    with torchprof.profile(gpu="off") as prof:
        pass
    assert "devices" not in prof.trace.facts


@pytest.mark.skipif(torch.version.cuda is not None, reason="this PyTorch is built for CUDA")
def test_without_cuda_the_error_says_so_and_gpu_auto_records_without_kernels() -> None:
    with pytest.raises(RecordingError, match="is not built for CUDA; use gpu='auto'"):
        torchprof.profile(gpu="cupti").__enter__()
    with torchprof.profile(gpu="auto") as prof:
        pass
    assert prof.trace.facts["gpu"] == "off"


def test_a_library_that_is_not_cupti_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHPROF_CUPTI", "libm.so.6")
    with pytest.raises(RecordingError, match="CUPTI is not in TORCHPROF_CUPTI=libm"):
        torchprof.profile(gpu="cupti").__enter__()


def test_an_unknown_gpu_backend_is_an_error() -> None:
    with pytest.raises(ArgumentError, match=r"gpu must be one of 'auto', 'cupti', 'events', 'off', not 'nvml'"):
        torchprof.profile(gpu="nvml")


def test_importing_torchprof_and_recording_without_a_gpu_does_not_initialize_cuda() -> None:
    code = "import torch, torchprof\nwith torchprof.profile():\n    torch.ones(1)\nassert not torch.cuda.is_initialized()"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(not (CUDA_HEADERS / "cupti.h").exists(), reason="no CUDA toolkit here")
def test_the_declarations_of_cupti_agree_with_the_headers_of_the_toolkit() -> None:
    compiler = shutil.which("g++") or "c++"
    command = [compiler, "-std=c++20", "-fsyntax-only", "-Wno-invalid-offsetof", f"-I{CUDA_HEADERS}", f"-I{CSRC}"]
    subprocess.run([*command, str(HERE / "native" / "cupti_layout.cpp")], check=True)
