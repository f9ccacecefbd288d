"""Timelines and flame graphs of devices, from traces written by hand."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from handwritten import ADD_KERNEL, FORWARD, gpu_trace, trace
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_exports import KEYS, Event, events, exported, folded

from torchprof import ArgumentError
from torchprof.analysis.gpu.kernels import kernel_times
from torchprof.exporters.flame_graphs import export_folded, export_speedscope
from torchprof.trace.schema import NO_THREAD, Phase
from torchprof.trace.trace import Trace


def ns(event: Event) -> tuple[int, int]:
    """When a slice starts and ends."""
    start = round(1000 * event["ts"])
    return start, start + round(1000 * event["dur"])


def assert_valid(found: list[Event]) -> None:
    """Every event has the keys of its kind, no slice ends before it starts, and slices of a track nest."""
    tracks: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for event in found:
        assert KEYS[event["ph"]] <= set(event), event
        if event["ph"] == "X":
            start, end = ns(event)
            assert 0 <= start <= end
            tracks[event["pid"], event["tid"]].append((start, -end))
    for slices in tracks.values():
        open_ends: list[int] = []
        for start, minus_end in sorted(slices):
            while open_ends and open_ends[-1] <= start:
                open_ends.pop()
            assert not open_ends or -minus_end <= open_ends[-1]
            open_ends.append(-minus_end)


def test_a_timeline_with_devices_is_valid(tmp_path: Path) -> None:
    assert_valid(exported(gpu_trace(), tmp_path)["traceEvents"])


def test_every_device_is_a_process_and_every_stream_a_track(tmp_path: Path) -> None:
    found = events(gpu_trace(), tmp_path, ph="M")
    processes = {event["pid"]: event["args"]["name"] for event in found if event["name"] == "process_name"}
    assert processes == {1: "torchprof", 2: "GPU 0", 3: "GPU 1"}
    tracks = {(event["pid"], event["tid"]): event["args"]["name"] for event in found if event["name"] == "thread_name"}
    assert [name for (pid, _), name in tracks.items() if pid > 1] == ["stream 7", "stream 20", "stream 7"]


def test_a_kernel_event_has_its_module_op_and_launch_configuration(tmp_path: Path) -> None:
    matmul = events(gpu_trace(), tmp_path, name="ampere_sgemm_128x64_tn")[0]
    assert (matmul["pid"], matmul["cat"], matmul["ts"], matmul["dur"]) == (2, "kernel", 75.0, 100.0)
    assert matmul["args"] == {
        "phase": "forward",
        "module": "fc",
        "op": "aten::addmm",
        "grid": [8, 16, 1],
        "block": [256, 1, 1],
        "registers": 122,
        "shared_memory": 49152,
    }


def test_a_copy_has_bytes_a_kernel_its_full_name_and_a_graph_node_its_graph(tmp_path: Path) -> None:
    copy = events(gpu_trace(), tmp_path, name="Memcpy HtoD (Pageable -> Device)")[0]
    assert (copy["cat"], copy["args"]["bytes"], copy["args"]["direction"]) == ("copy", 400_000, "host to device")
    add = events(gpu_trace(), tmp_path, name="vectorized_elementwise_kernel<CUDAFunctor_add<float>>")[0]
    assert add["args"]["kernel"] == ADD_KERNEL
    assert events(gpu_trace(), tmp_path, name="first_node")[0]["args"]["graph"] == 3


def test_runtime_calls_are_on_the_thread_that_made_them(tmp_path: Path) -> None:
    found = events(gpu_trace(), tmp_path, cat="runtime")
    assert len(found) == len(gpu_trace().runtime_calls)
    launches = [event for event in found if event["name"] == "cudaLaunchKernel"]
    assert [(event["tid"], event["ts"]) for event in launches][3:5] == [(4, 440.0), (3, 620.0)]


def test_a_runtime_call_is_drawn_inside_its_op_even_where_clocks_disagree(tmp_path: Path) -> None:
    recorded = trace(
        strings=["op", "call"],
        ops=[{"name": 0, "start": 100, "end": 200}, {"name": 0, "start": 200, "end": 300}],
        runtime_calls=[{"start": 90, "end": 210, "op": 0, "name": 1}, {"start": 290, "end": 340, "op": 1, "name": 1}],
    )
    assert [ns(event) for event in events(recorded, tmp_path, cat="runtime")] == [(100, 200), (290, 300)]


def test_runtime_calls_of_unknown_threads_have_tracks_of_their_own(tmp_path: Path) -> None:
    times = [(0, 10), (5, 15), (20, 30)]
    recorded = trace(
        strings=["call"],
        runtime_calls=[{"start": start, "end": end, "thread": NO_THREAD} for start, end in times],
        threads=[{"native_id": 7}],
    )
    assert [event["tid"] for event in events(recorded, tmp_path, cat="runtime")] == [4, 5, 4]
    assert_valid(events(recorded, tmp_path))


def test_an_arrow_leads_from_every_launch_to_its_kernel(tmp_path: Path) -> None:
    recorded = gpu_trace()
    found = events(recorded, tmp_path, cat="launch")
    starts = {event["id"]: event for event in found if event["ph"] == "s"}
    ends = {event["id"]: event for event in found if event["ph"] == "f"}
    assert set(starts) == set(ends)
    assert len(starts) == 3 * 11, "all but the kernel whose launch was not recorded"
    slices = {(event["pid"], event["tid"], event["ts"]) for event in events(recorded, tmp_path, ph="X")}
    for number, start in starts.items():
        assert start["ts"] < ends[number]["ts"]
        for event in (start, ends[number]):
            assert (event["pid"], event["tid"], event["ts"]) in slices
    assert not {event["id"] for event in events(recorded, tmp_path, cat="backward", ph="s")} & set(starts)


def test_what_overlaps_on_a_stream_gets_another_track(tmp_path: Path) -> None:
    times = [(0, 10), (5, 15), (10, 20), (12, 13)]
    recorded = trace(strings=["k"], kernels=[{"start": start, "end": end, "stream": 9} for start, end in times])
    found = events(recorded, tmp_path)
    assert [event["tid"] for event in found if event["ph"] == "X"] == [1, 2, 1, 3]
    names = [event["args"]["name"] for event in found if event["name"] == "thread_name" and event["pid"] == 2]
    assert names == ["stream 9", "stream 9 (2)", "stream 9 (3)"]


def test_kernels_without_valid_times_are_drawn_where_they_started(tmp_path: Path) -> None:
    times = [(50, 40), (60, -1), (-30, 10), (-30, -20)]
    recorded = trace(strings=["k"], kernels=[{"start": start, "end": end} for start, end in times])
    assert [ns(event) for event in events(recorded, tmp_path, ph="X")] == [(50, 50), (60, 60), (0, 10), (0, 0)]


def test_the_gpu_backend_is_in_other_data(tmp_path: Path) -> None:
    facts = exported(gpu_trace(), tmp_path)["otherData"]
    assert (facts["gpu"], facts["gpu_clock_error_ns"]) == ("cupti", 1500)


def test_a_stack_of_device_time_is_phase_modules_ops_and_kernel(tmp_path: Path) -> None:
    found = folded(gpu_trace(), tmp_path, "device")
    assert found["forward;Net;fc (Linear);aten::linear;aten::addmm;ampere_sgemm_128x64_tn"] == 320_000
    engine = "autograd::engine::evaluate_function:AddmmBackward0"
    backward = f"backward;Net;fc (Linear);{engine};AddmmBackward0;aten::mm;ampere_sgemm_128x64_nt"
    assert found[backward] == 300_000
    assert found["other;first_node"] == 60_000
    assert found["other;unseen"] == 15_000
    assert found["forward;aten::mse_loss;reduce_kernel"] == 210_000
    assert sum(found.values()) == kernel_times(gpu_trace().kernels).sum()


def test_a_kernel_without_an_op_is_directly_below_its_module_call(tmp_path: Path) -> None:
    recorded = trace(
        strings=["Net", "k"],
        modules=[{"address": 1}],
        module_calls=[{"start": 0, "end": 9}],
        kernels=[{"start": 2, "end": 5, "name": 1, "module_call": 0, "phase": Phase.FORWARD}],
    )
    assert folded(recorded, tmp_path, "device") == {"forward;<Net>;k": 3}


def test_speedscope_files_hold_the_same_stacks_of_device_time(tmp_path: Path) -> None:
    export_speedscope(gpu_trace(), tmp_path / "out.json", "device")
    (profile,) = json.loads((tmp_path / "out.json").read_text())["profiles"]
    assert profile["unit"] == "nanoseconds"
    assert profile["endValue"] == kernel_times(gpu_trace().kernels).sum()


def test_stacks_of_device_time_need_kernels(tmp_path: Path) -> None:
    recorded = trace(strings=["a"], ops=[{"name": 0, "end": 5, "flags": FORWARD}])
    with pytest.raises(ArgumentError, match="trace has no kernels, which by='device' adds up"):
        export_folded(recorded, tmp_path / "out", "device")
    assert not list(tmp_path.iterdir())


rows: Any = st.lists(
    st.fixed_dictionaries(
        {
            "start": st.integers(-20, 200),
            "end": st.integers(-20, 250),
            "stream": st.integers(0, 1),
            "device_index": st.integers(-1, 1),
            "device_type": st.sampled_from([1, 12, 100]),
            "op": st.integers(-1, 1),
            "runtime_call": st.integers(-1, 1),
            "kind": st.integers(0, 4),
            "phase": st.integers(0, 6),
            "direction": st.integers(0, 6),
        }
    ),
    max_size=10,
)


def odd_trace(kernels: list[dict[str, int]], thread: int) -> Trace:
    return trace(
        strings=["a", 'k"\n'],
        ops=[{"name": 0, "start": 10, "end": 100}, {"name": 0, "start": 20, "end": -1, "parent": 0}],
        runtime_calls=[{"start": 5, "end": 300, "op": 1, "name": 1}, {"start": 400, "end": 300, "thread": thread, "name": 1}],
        kernels=[{**row, "name": 1} for row in kernels],
        threads=[{"native_id": 7}],
        facts={"duration_ns": 500},
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows, st.sampled_from([0, NO_THREAD]))
def test_any_kernels_and_runtime_calls_give_valid_files(tmp_path: Path, kernels: list[dict[str, int]], thread: int) -> None:
    recorded = odd_trace(kernels, thread)
    found = events(recorded, tmp_path)
    assert_valid(found)
    assert sum(event.get("name", "") == 'k"\n' and event["pid"] > 1 for event in found) == len(kernels)
    if kernels:
        assert sum(folded(recorded, tmp_path, "device").values()) == kernel_times(recorded.kernels).sum()
