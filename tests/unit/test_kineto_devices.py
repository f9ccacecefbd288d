"""Kernels, copies, fills and runtime calls of files of torch.profiler, with what launched them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kineto_files import AUTOGRAD, copy, event, kernel, launch, module, names, op, read, step

import torchprof
from torchprof.importers.kineto.launches import direction_of, kind_of
from torchprof.trace.schema import NO_THREAD, Activity, Direction, Phase, RuntimeCallKind

OF_CUPTI = {"grid": [64, 2, 1], "block": [128, 1, 1], "registers per thread": 122, "shared memory": 49152}


def ops_of_kernels(trace: torchprof.Trace) -> list[str]:
    return [names(trace)[row] if row >= 0 else "" for row in trace.kernels["op"].tolist()]


def test_a_kernel_has_what_the_file_says_of_it(tmp_path: Path) -> None:
    fill = {**kernel("Memset (Device)", 30, 1, 3, bytes=512), "cat": "gpu_memset"}
    copied = copy("Memcpy HtoD (Pageable -> Device)", 20, 4, 2, bytes=4096, stream=20)
    trace = read(tmp_path, kernel("gemm", 10, 5, 1, device=3, **{**OF_CUPTI, "graph id": 9}), copied, fill)
    gemm, copied_row, filled = trace.kernels
    assert (gemm["start"], gemm["end"], trace.strings[gemm["name"]], gemm["kind"]) == (0, 5_000, "gemm", Activity.KERNEL)
    assert (gemm["grid"].tolist(), gemm["block"].tolist()) == ([64, 2, 1], [128, 1, 1])
    assert (gemm["registers"], gemm["shared_memory"], gemm["graph"], gemm["stream"]) == (122, 49152, 9, 7)
    assert (trace.device_types[int(gemm["device_type"])], gemm["device_index"]) == ("cuda", 3)
    assert (copied_row["kind"], copied_row["bytes"], copied_row["stream"]) == (Activity.COPY, 4096, 20)
    assert copied_row["direction"] == Direction.HOST_TO_DEVICE
    assert (filled["kind"], filled["bytes"]) == (Activity.MEMSET, 512)


def test_a_kernel_belongs_to_what_was_open_at_its_launch(tmp_path: Path) -> None:
    trace = read(
        tmp_path,
        module("Net_0", 0, 100),
        op("aten::linear", 10, 50),
        op("aten::addmm", 20, 20),
        launch(25, 5, 7),
        kernel("gemm", 500, 10, 7),
    )
    assert ops_of_kernels(trace) == ["aten::addmm"]
    (kernel_row,) = trace.kernels
    assert (kernel_row["runtime_call"], kernel_row["module_call"], kernel_row["phase"]) == (0, 0, Phase.FORWARD)
    assert trace.runtime_calls[["kind", "correlation", "thread"]].tolist() == [(RuntimeCallKind.LAUNCH, 7, 0)]
    rows = {row["name"]: row for row in torchprof.by_op(trace).rows}
    assert (rows["aten::addmm"]["device_self"], rows["aten::linear"]["device"], rows["aten::linear"]["kernels"]) == (
        10_000,
        10_000,
        0,
    )


def test_kernels_of_backward_belong_to_the_module_of_forward(tmp_path: Path) -> None:
    trace = read(
        tmp_path,
        module("Linear_0", 0, 50),
        op("aten::addmm", 10, 20, seq=5, fwd=0),
        op("AddmmBackward0", 100, 50, tid=AUTOGRAD, seq=5, fwd=1),
        op("aten::mm", 110, 20, tid=AUTOGRAD),
        launch(112, 5, 1, tid=AUTOGRAD),
        kernel("gemm", 200, 10, 1),
    )
    assert (trace.kernels["module_call"].tolist(), trace.kernels["phase"].tolist()) == ([0], [Phase.BACKWARD])


def test_without_a_launch_the_external_id_tells_the_op(tmp_path: Path) -> None:
    trace = read(
        tmp_path,
        op("aten::mm", 0, 5, id=11),
        op("aten::add", 10, 5, id=12),
        kernel("known", 20, 5, 90, **{"External id": 12}),
        kernel("unknown", 30, 5, 91, **{"External id": 999}),
        kernel("without", 40, 5, 92),
    )
    assert ops_of_kernels(trace) == ["aten::add", "", ""]
    assert trace.kernels["runtime_call"].tolist() == [-1, -1, -1]
    assert "3 launches were not seen" in str(torchprof.by_kernel(trace))


def test_an_external_id_that_repeats_the_correlation_says_nothing(tmp_path: Path) -> None:
    kernels = [kernel("k", 20 + n, 0.5, n, **{"External id": n}) for n in (1, 2)]
    assert ops_of_kernels(read(tmp_path, op("aten::mm", 0, 5, id=1), op("aten::add", 6, 5, id=2), *kernels)) == ["", ""]


def test_files_of_2021_call_all_things_otherwise(tmp_path: Path) -> None:
    old = {"device": 0, "stream": 7, "correlation": 5, "external id": 23, "grid": [13, 1, 1]}
    trace = read(
        tmp_path,
        op("aten::empty", 0, 50, category="Operator", tid="25738", id=23),
        event("Runtime", "cudaLaunchKernel", 5, 5, tid="25738", args={"cbid": 211, "correlation": 6, "external id": 23}),
        event("Kernel", "first", 20, 2, pid=0, tid="stream 7", args=old),
        event("Kernel", "second", 30, 2, pid=0, tid="stream 7", args={**old, "correlation": 6}),
        event("Memset", "Memset (Device)", 40, 1, pid=0, tid="stream 7", args={"bytes": 128, "stream": 7, "correlation": 8}),
    )
    assert ops_of_kernels(trace) == ["aten::empty", "aten::empty", ""]
    assert trace.kernels["runtime_call"].tolist() == [-1, 0, -1]
    assert trace.kernels["grid"][:, 0].tolist() == [13, 13, 0]
    assert trace.kernels["bytes"].tolist() == [0, 0, 128]


def test_hip_says_grids_and_sizes_beside_the_launch(tmp_path: Path) -> None:
    of_launch = {"grid": [1, 40, 1], "block": [256, 1, 1], "shared memory": 64, "kernel": "k"}
    trace = read(
        tmp_path,
        launch(0, 5, 1, "hipLaunchKernel", **of_launch),
        launch(6, 5, 2, "hipMemcpyWithStream", size="2560", kind="1", stream="0x0"),
        kernel("k", 20, 5, 1, stream=0, kind="Dispatch Kernel"),
        copy("Memcpy HtoD (Host -> Device)", 30, 5, 2, stream=0, kind="HtoD"),
        copy("Memcpy DtoD (Device -> Device)", 40, 5, 3, stream=0, kind="DtoD"),
    )
    launched, copied, unknown = trace.kernels
    assert (launched["grid"].tolist(), launched["block"].tolist(), launched["shared_memory"]) == ([1, 40, 1], [256, 1, 1], 64)
    assert (copied["bytes"], copied["direction"]) == (2560, Direction.HOST_TO_DEVICE)
    assert unknown["bytes"] == 0
    sizes = {row["name"]: row["total"] for row in torchprof.gpu(trace).by_copy.rows}
    assert sizes == {"host to device": 2560, "on device": None}  # unknown is not 0
    assert any("1 copy has no size" in note for note in trace.facts["notes"])


def test_kernels_of_a_graph_are_of_its_launch(tmp_path: Path) -> None:
    kernels = [kernel(f"node {n}", 20 + 5 * n, 4, 9) for n in range(3)]
    trace = read(tmp_path, launch(0, 5, 9, "cudaGraphLaunch"), *kernels)
    assert trace.kernels["runtime_call"].tolist() == [0, 0, 0]
    assert trace.kernels["graph"].all()
    assert trace.runtime_calls["kind"].tolist() == [RuntimeCallKind.GRAPH_LAUNCH]
    graphs = torchprof.gpu(trace).graphs
    assert (graphs.launches, graphs.kernels, graphs.time) == (1, 3, 12_000)


def test_a_call_of_the_driver_inside_one_of_the_runtime_is_the_same_launch(tmp_path: Path) -> None:
    inner = {**launch(2, 2, 4, "cuLaunchKernel"), "cat": "cuda_driver"}
    trace = read(tmp_path, launch(0, 10, 4), inner, kernel("k", 20, 5, 4))
    assert [trace.strings[row] for row in trace.runtime_calls["name"]] == ["cudaLaunchKernel"]
    assert trace.kernels["runtime_call"].tolist() == [0]


def test_a_number_that_was_used_again_is_that_of_the_latest_launch(tmp_path: Path) -> None:
    trace = read(tmp_path, launch(0, 2, 4), kernel("a", 5, 1, 4), launch(10, 2, 4), kernel("b", 15, 1, 4))
    assert trace.kernels["runtime_call"].tolist() == [0, 1]


def test_many_launches_with_one_number_are_no_trouble(tmp_path: Path) -> None:
    many = 3_000
    events = [event for n in range(many) for event in (launch(4 * n, 1, 5), kernel("k", 4 * n + 2, 1, 5))]
    assert read(tmp_path, *events).kernels["runtime_call"].tolist() == list(range(many))


def test_a_kernel_that_seems_to_begin_before_its_launch_is_still_of_it(tmp_path: Path) -> None:
    trace = read(tmp_path, launch(10, 2, 4), kernel("a", 8, 1, 4), launch(30, 2, 5), kernel("b", 35, 1, 5))
    assert trace.kernels["runtime_call"].tolist() == [0, 1]
    assert trace.facts["gpu_clock_error_ns"] == 2_000


def test_nodes_of_a_graph_with_unknown_numbers_are_of_its_latest_launch(tmp_path: Path) -> None:
    nodes = [kernel(f"node {ts}", ts, 2, 900 + ts, **{"graph id": 3, "graph node id": ts}) for ts in (10, 15, 60)]
    launches = [launch(ts, 2, ts + 1, "cudaGraphLaunch") for ts in (5, 50)]
    assert read(tmp_path, *nodes, *launches).kernels["runtime_call"].tolist() == [0, 0, 1]


def test_a_launch_on_an_unknown_thread_leaves_the_op_to_the_external_id(tmp_path: Path) -> None:
    trace = read(tmp_path, op("aten::mm", 0, 5, id=11), launch(1, 2, 4, tid=-5), kernel("k", 20, 5, 4, **{"External id": 11}))
    assert (trace.kernels["runtime_call"].tolist(), ops_of_kernels(trace)) == ([0], ["aten::mm"])


def test_calls_that_do_nothing_are_left_out_unless_they_launched(tmp_path: Path) -> None:
    trace = read(
        tmp_path,
        launch(0, 1, 1, "cudaGetDevice"),
        launch(2, 1, 2, "INVALID"),
        launch(4, 1, 3, "INVALID"),
        launch(6, 1, 4, "cudaStreamSynchronize"),
        kernel("k", 20, 1, 3),
    )
    found = [(trace.strings[row["name"]], row["correlation"]) for row in trace.runtime_calls]
    assert found == [("INVALID", 3), ("cudaStreamSynchronize", 4)]


def test_a_thread_that_ran_nothing_else_is_none(tmp_path: Path) -> None:
    trace = read(tmp_path, op("aten::mm", 0, 5), launch(1, 2, 4, "cudaDeviceSynchronize", tid=-247463936))
    assert trace.runtime_calls["thread"].tolist() == [NO_THREAD]
    assert len(trace.threads) == 1


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("cudaLaunchKernel", RuntimeCallKind.LAUNCH),
        ("cudaLaunchKernelExC", RuntimeCallKind.LAUNCH),
        ("cuLaunchKernelEx", RuntimeCallKind.LAUNCH),
        ("hipExtModuleLaunchKernel", RuntimeCallKind.LAUNCH),
        ("cudaGraphLaunch", RuntimeCallKind.GRAPH_LAUNCH),
        ("hipGraphLaunch", RuntimeCallKind.GRAPH_LAUNCH),
        ("hipMemcpyWithStream", RuntimeCallKind.COPY),
        ("cudaMemsetAsync", RuntimeCallKind.MEMSET),
        ("hipDeviceSynchronize", RuntimeCallKind.SYNCHRONIZE),
        ("cudaEventSynchronize", RuntimeCallKind.SYNCHRONIZE),
        ("cudaMalloc", RuntimeCallKind.MEMORY),
        ("hipFree", RuntimeCallKind.MEMORY),
        ("cuMemCreate", RuntimeCallKind.MEMORY),
        ("cudaHostAlloc", RuntimeCallKind.MEMORY),
        ("cudaMemGetInfo", None),
        ("cudaFuncGetAttributes", None),
        ("cudaLaunchHostFunc", None),
    ],
)
def test_runtime_calls_are_told_by_their_names(name: str, kind: RuntimeCallKind | None) -> None:
    assert kind_of(name) == (255 if kind is None else kind)


@pytest.mark.parametrize(
    ("name", "direction"),
    [
        ("Memcpy HtoD (Pinned -> Device)", Direction.HOST_TO_DEVICE),
        ("Memcpy DtoH (Device -> Pageable)", Direction.DEVICE_TO_HOST),
        ("Memcpy DtoD (Device -> Device)", Direction.ON_DEVICE),
        ("Memcpy PtoP (Device -> Device)", Direction.BETWEEN_DEVICES),
        ("CopyDeviceToHost", Direction.DEVICE_TO_HOST),
        ("Memcpy", Direction.OTHER),
    ],
)
def test_directions_are_told_by_their_names(name: str, direction: Direction) -> None:
    assert direction_of(name) == direction


def test_busy_and_idle_time_are_exact_to_the_nanosecond(tmp_path: Path) -> None:
    """With times in us since 1970, which have more digits than a float."""
    base = 1_712_195_495_519_000

    def at(ns: int) -> Any:
        return f"{base + ns // 1000}.{ns % 1000:03d}"

    events = [("a", 7, 1_001), ("b", 500, 1_000), ("c", 2_010, 13), ("d", 2_023, 1)]
    text = ",".join(
        f'{{"ph": "X", "cat": "kernel", "name": "{name}", "ts": {at(start)}, "dur": {took / 1000:.3f}, '
        f'"args": {{"device": 0, "stream": {stream}, "correlation": {stream}}}}}'
        for stream, (name, start, took) in enumerate(events)
    )
    path = tmp_path / "trace.json"
    path.write_text(f'{{"schemaVersion": 1, "traceEvents": [{text}]}}')
    (device,) = torchprof.gpu(torchprof.load(path)).devices
    assert (device.span, device.busy, sum(device.idle.values())) == (2_024 - 7, (1_500 - 7) + 14, 2_010 - 1_500)


def test_the_metadata_of_collectives_is_kept(tmp_path: Path) -> None:
    of_nccl = {
        "Collective name": "allreduce",
        "dtype": "BFloat16",
        "In msg nelems": 9600,
        "Out msg nelems": 9600,
        "Group size": 8,
        "Process Group Name": "0",
        "Process Group Description": "default_pg",
        "Process Group Ranks": "[0, 1, 2, 3, 4, 5, 6, 7]",
    }
    known = {
        **{"name": "allreduce", "dtype": "BFloat16", "in_elements": 9600, "out_elements": 9600, "group": "0", "group_size": 8},
        **{"group_description": "default_pg", "ranks": "[0, 1, 2, 3, 4, 5, 6, 7]"},
    }
    trace = read(
        tmp_path,
        op("aten::add", 20, 5),
        op("record_param_comms", 10, 5, **of_nccl),
        kernel("k", 30, 1, 1),
        kernel("ncclDevKernel", 25, 1, 2, **of_nccl),
        distributedInfo={"backend": "nccl", "rank": 3, "world_size": 8},
    )
    assert trace.facts["collectives"] == [{"table": "ops", "row": 0, **known}, {"table": "kernels", "row": 0, **known}]
    assert trace.facts["distributed"] == {"backend": "nccl", "rank": 3, "world_size": 8}


def test_gaps_have_their_causes(tmp_path: Path) -> None:
    """The device waits for the host, which waits for the device; then the host is too slow."""
    trace = read(
        tmp_path,
        step(0, 0, 200),
        launch(0, 2, 1),
        kernel("a", 10, 20, 1),
        launch(3, 37, 2, "cudaDeviceSynchronize"),
        launch(45, 2, 3),
        kernel("b", 50, 10, 3),
    )
    (device,) = torchprof.gpu(trace).devices
    assert device.idle == {"launch-bound": 0, "data": 0, "synchronization": 20_000, "other": 0}
    assert torchprof.gpu(trace).waits[0].time == 37_000
    assert str(torchprof.gpu(trace)).startswith("GPU: kernels of one step, recorded by torch.profiler")


def test_without_events_of_devices_it_is_said_why(tmp_path: Path) -> None:
    with pytest.raises(torchprof.ArgumentError, match=r"ProfilerActivity\.CUDA was not recorded"):
        torchprof.gpu(read(tmp_path, op("aten::mm", 0, 5)))


def test_kernels_that_were_launched_before_the_recording_began_are_said_and_not_counted(tmp_path: Path) -> None:
    trace = read(
        tmp_path,
        step(1, 0, 100),
        op("aten::mm", 20, 10),
        kernel("old", 2, 8, 90),
        kernel("old", 12, 8, 91),
        kernel("of another stream", 5, 3, 92, stream=9),
        launch(22, 2, 100),
        kernel("new", 40, 10, 100),
        kernel("lost", 60, 5, 101),
    )
    assert trace.steps[["kernels", "busy"]].tolist() == [(3, 18_000)]
    [device] = torchprof.gpu(trace).devices
    assert (device.kernels, device.span, device.busy) == (3, 60_000, 28_000)  # busy with what was there, too
    for shown in (str(torchprof.gpu(trace)), str(torchprof.by_kernel(trace))):
        assert "2 kernels were launched before the recording began: of no step" in shown
    assert "Launches not seen: 2 kernels" in str(torchprof.gpu(trace))


def test_kernels_of_a_file_without_launches_all_count(tmp_path: Path) -> None:
    trace = read(tmp_path, step(1, 0, 100), kernel("a", 2, 8, 90), kernel("b", 12, 8, 91))
    assert torchprof.gpu(trace).devices[0].kernels == 2
    assert "before the recording" not in str(torchprof.gpu(trace))
