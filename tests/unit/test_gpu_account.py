"""How busy devices were and why they were idle, on timelines written by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aggregating import aggregate
from goldens import Golden
from handwritten import gpu_trace, loop_trace, module, trace
from hypothesis import given
from hypothesis import strategies as st

import torchprof
from torchprof import ArgumentError, Ceilings, Gpu
from torchprof.trace.model import Model
from torchprof.trace.schema import NO_THREAD, PHASE_SHIFT, UNKNOWN_FLOPS, Activity, Direction, Phase, RuntimeCallKind

H100 = Ceilings("NVIDIA H100", "float32", 0, flops=50e12, bytes=3e12)
NOTE = "kernels, copies and fills as the driver reports them"


def test_the_report(golden: Golden) -> None:
    golden(str(torchprof.gpu(gpu_trace(gpu_note=NOTE), ceilings=H100)), "gpu.txt")


def test_the_guide_shows_what_is_printed() -> None:
    guide = Path(__file__).parents[2] / "docs" / "guides" / "why-is-the-gpu-idle.md"
    _, _, text = guide.read_text().partition("```text\nGPU:")
    example, _, _ = text.partition("\n```")
    assert str(torchprof.gpu(gpu_trace(), ceilings=H100)) == f"GPU:{example}"


def test_the_report_of_devices_that_did_nothing(golden: Golden) -> None:
    golden(str(torchprof.gpu(trace(facts={"gpu": "cupti", "losses": {"kernels": 3}}), ceilings=H100)), "gpu_idle.txt")


def test_a_saved_trace_gives_the_same_report(tmp_path: Path, golden: Golden) -> None:
    gpu_trace(gpu_note=NOTE).save(tmp_path / "steps.torchprof")
    read = torchprof.load(tmp_path / "steps.torchprof")
    golden(str(torchprof.gpu(read, ceilings=H100)), "gpu.txt")


def timeline(
    *kernels: dict[str, int], calls: list[dict[str, int]] | None = None, facts: dict[str, Any] | None = None, **more: Any
) -> Gpu:
    """The account of these kernels and runtime calls: launches, unless they say otherwise."""
    strings = ["k", "aten::first", "aten::second"]
    return torchprof.gpu(
        trace(
            strings=strings, kernels=list(kernels), runtime_calls=calls or [], facts={"gpu": "cupti", **(facts or {})}, **more
        )
    )


def idle(account: Gpu) -> dict[str, int]:
    """Idle time of the only device by cause, where there is any."""
    (device,) = account.devices
    return {cause: time for cause, time in device.idle.items() if time}


def test_a_device_is_busy_while_any_stream_is() -> None:
    account = timeline(
        {"start": 10, "end": 30, "stream": 1}, {"start": 20, "end": 50, "stream": 2}, {"start": 70, "end": 80, "stream": 1}
    )
    (device,) = account.devices
    assert (device.span, device.busy, idle(account)) == (70, 50, {"other": 20})
    assert [(stream.number, stream.kernels, stream.busy) for stream in device.streams] == [(1, 2, 30), (2, 1, 30)]


def test_devices_have_accounts_of_their_own() -> None:
    account = timeline({"start": 0, "end": 10}, {"start": 10, "end": 30, "device_index": 1})
    assert [(device.name, device.span, device.busy) for device in account.devices] == [("cuda:0", 10, 10), ("cuda:1", 20, 20)]
    assert account.span == 30


def test_a_gap_before_a_kernel_launched_into_an_empty_queue_is_launch_bound() -> None:
    calls = [{"start": 0, "end": 2}, {"start": 41, "end": 45}]
    account = timeline({"start": 5, "end": 40, "runtime_call": 0}, {"start": 50, "end": 60, "runtime_call": 1}, calls=calls)
    assert idle(account) == {"launch-bound": 10}


def test_a_gap_before_a_kernel_that_was_launched_in_time_has_another_cause() -> None:
    calls = [{"start": 0, "end": 2}, {"start": 40, "end": 45}]
    account = timeline({"start": 5, "end": 40, "runtime_call": 0}, {"start": 50, "end": 60, "runtime_call": 1}, calls=calls)
    assert idle(account) == {"other": 10}


def after_a_wait(wait: dict[str, int], launched: int = 60, **facts: Any) -> dict[str, int]:
    """Idle time of a gap from 40 to 70 that ends with a kernel launched at ``launched``, after this runtime call."""
    calls = [{"start": 0, "end": 2}, {"kind": RuntimeCallKind.SYNCHRONIZE, **wait}, {"start": launched, "end": launched + 2}]
    kernels = ({"start": 5, "end": 40, "runtime_call": 0}, {"start": 70, "end": 80, "runtime_call": 2})
    return idle(timeline(*kernels, calls=calls, facts=facts))


def test_a_gap_after_a_long_wait_is_synchronization() -> None:
    assert after_a_wait({"start": 3, "end": 45}) == {"synchronization": 30}


def test_allocating_from_the_driver_counts_as_a_wait() -> None:
    assert after_a_wait({"start": 3, "end": 45, "kind": RuntimeCallKind.MEMORY}) == {"synchronization": 30}


def test_a_short_wait_causes_no_more_idle_time_than_its_length() -> None:
    assert after_a_wait({"start": 38, "end": 45}) == {"launch-bound": 23, "synchronization": 7}
    assert after_a_wait({"start": 50, "end": 51}) == {"launch-bound": 29, "synchronization": 1}


def test_a_wait_that_ended_before_the_queue_was_empty_causes_no_idle_time() -> None:
    assert after_a_wait({"start": 3, "end": 39}) == {"launch-bound": 30}


def test_a_wait_counts_if_it_ended_within_the_clock_error() -> None:
    assert after_a_wait({"start": 3, "end": 39}, gpu_clock_error_ns=1) == {"synchronization": 30}


def test_a_wait_after_the_launch_of_the_kernel_is_not_the_cause() -> None:
    assert after_a_wait({"start": 20, "end": 65}, launched=10) == {"other": 30}


def test_a_wait_that_began_after_a_late_launch_is_not_the_cause() -> None:
    assert after_a_wait({"start": 62, "end": 65}) == {"launch-bound": 30}


def test_waits_of_unknown_threads_cause_no_idle_time() -> None:
    assert after_a_wait({"start": 3, "end": 45, "thread": NO_THREAD}) == {"launch-bound": 30}


def after_data(*waits: tuple[int, int], calls: list[dict[str, int]] | None = None, thread: int = 0) -> Gpu:
    """A gap from 40 to 70 that ends with a kernel launched at 60, with these waits for data of a thread."""
    data = Phase.DATA << PHASE_SHIFT
    rows = [{"name": 1, "start": start, "end": end, "flags": data, "thread": thread} for start, end in waits]
    inside = [{**row, "name": 2, "start": row["start"] + 1, "parent": at} for at, row in enumerate(rows)]  # ops of a loader
    launches = [{"start": 0, "end": 2}, {"start": 60, "end": 62}, *(calls or [])]
    kernels = ({"start": 5, "end": 40, "runtime_call": 0}, {"start": 70, "end": 80, "runtime_call": 1})
    return timeline(*kernels, calls=launches, ops=[*rows, *inside])


def test_idle_time_in_which_the_host_waited_for_data_has_a_cause_of_its_own() -> None:
    assert idle(after_data((42, 58))) == {"launch-bound": 14, "data": 16}
    assert idle(after_data((20, 58))) == {"launch-bound": 12, "data": 18}, "of the wait, what lies in the gap"
    assert idle(after_data((20, 45), (50, 55))) == {"launch-bound": 20, "data": 10}
    assert idle(after_data((10, 30))) == {"launch-bound": 30}, "it was over before the queue was empty"


def test_waits_for_data_name_what_waited() -> None:
    (data,) = (each for each in after_data((42, 58)).idle if each.cause == "data")
    assert (data.op, data.gaps, data.time) == ("aten::first", 1, 16)


def test_a_thread_that_loads_ahead_makes_no_device_idle() -> None:
    assert idle(after_data((20, 58), thread=1)) == {"launch-bound": 30}


def test_of_a_gap_after_both_data_has_its_time_and_synchronization_what_is_left() -> None:
    wait = {"start": 3, "end": 45, "kind": RuntimeCallKind.SYNCHRONIZE}
    assert idle(after_data((46, 58), calls=[wait])) == {"data": 12, "synchronization": 18}


def test_a_column_of_data_is_shown_where_there_was_a_wait() -> None:
    assert "Data" in str(after_data((42, 58)).by_device)
    assert "data: of that, the time in which the thread that launched it waited for data" in str(after_data((42, 58)))
    assert "Data" not in str(after_data((10, 30)).by_device)


def copy_until(end: int) -> Gpu:
    """A copy to the host from 40 to 50, whose call returns at ``end``; the next kernel is launched at 60."""
    calls = [{"start": 0, "end": 2}, {"start": 10, "end": end, "kind": RuntimeCallKind.COPY, "op": 0}, {"start": 60, "end": 62}]
    return timeline(
        {"start": 5, "end": 40, "runtime_call": 0},
        {"start": 40, "end": 50, "runtime_call": 1, "kind": Activity.COPY, "direction": Direction.DEVICE_TO_HOST, "op": 0},
        {"start": 70, "end": 80, "runtime_call": 2},
        calls=calls,
        ops=[{"name": 1, "start": 8, "end": 55}],
    )


def test_a_copy_that_returned_after_it_had_ended_is_a_wait() -> None:
    account = copy_until(51)
    assert idle(account) == {"synchronization": 20}
    (wait,) = account.waits
    assert (wait.op, wait.count, wait.time) == ("aten::first", 1, 41)


def test_a_copy_that_returned_at_once_is_no_wait() -> None:
    account = copy_until(14)
    assert idle(account) == {"launch-bound": 20}
    assert account.waits == []


def test_without_runtime_calls_the_launch_time_is_that_of_the_op() -> None:
    ops = [{"name": 1, "start": 0, "end": 4}, {"name": 2, "start": 45, "end": 49}]
    kernels = [
        {"start": 2, "end": 40, "op": 0, "kind": Activity.INTERVAL},
        {"start": 50, "end": 60, "op": 1, "kind": Activity.INTERVAL},
    ]
    account = timeline(*kernels, ops=ops, facts={"gpu": "events"})
    assert idle(account) == {"launch-bound": 10}
    assert "Waits of the host: not known" in str(account)
    assert "Launches not seen" not in str(account)


def test_idle_time_names_the_module_of_the_kernel_after_the_gap_or_of_the_wait() -> None:
    account = torchprof.gpu(gpu_trace())
    found = {(idle.cause, idle.module, idle.op): idle.time for idle in account.idle}
    assert found["launch-bound", "fc", "aten::addmm"] == 2 * 47_000
    assert found["other", "act", "aten::relu"] == 2 * 5_000
    assert found["synchronization", "outside modules", "aten::_local_scalar_dense"] == 2 * 46_000 + 53_000
    assert sum(found.values()) == sum(device.span - device.busy for device in account.devices)


def test_idle_time_is_a_tree_of_causes_and_modules_whose_causes_add_up() -> None:
    rows = torchprof.gpu(gpu_trace()).by_cause.rows
    assert [(row["name"], row["depth"]) for row in rows][:3] == [("launch-bound", 0), ("outside modules", 1), ("fc", 1)]
    idle_time = {depth: sum(row["idle"] for row in rows if row["depth"] == depth) for depth in (0, 1)}
    assert idle_time[0] == idle_time[1] == 973_000 + 1_040_000
    assert rows[2]["at"] == ["aten::addmm"]


def test_many_modules_are_printed_as_the_first_few_and_the_others() -> None:
    modules = range(9)
    recorded = trace(
        strings=[f"M{at}" for at in modules],
        modules=[{"address": 1 + at, "type": at} for at in modules],
        module_calls=[{"module": at} for at in modules],
        kernels=[{"start": 100 * at, "end": 100 * at + 99 - at, "runtime_call": at, "module_call": at} for at in modules],
        runtime_calls=[{"start": 100 * at - 1} for at in modules],
    )
    account = torchprof.gpu(recorded)
    assert len(account.by_cause) == 2 + 8
    shown = [line.split("─ ")[1].split("  ")[0] for line in str(account).splitlines() if "─ " in line]
    assert shown == ["stream 0", "<M8>", "<M7>", "<M6>", "<M5>", "<M4>", "2 other modules", "<M1>"]


def test_waits_name_what_the_program_called_and_what_waited() -> None:
    (wait,) = torchprof.gpu(gpu_trace()).waits
    assert (wait.op, wait.inner, wait.call) == ("aten::item", "aten::_local_scalar_dense", "cudaStreamSynchronize")
    assert (wait.count, wait.time) == (2, 106_000)


def test_copies_are_summed_by_direction() -> None:
    found = {copies.direction: (copies.count, copies.bytes, copies.time) for copies in torchprof.gpu(gpu_trace()).copies}
    assert found == {
        "host to device": (2, 800_000, 40_000),
        "between devices": (2, 2_000_000, 40_000),
        "device to host": (2, 8, 4_000),
    }


def test_graphs_are_counted() -> None:
    graphs = torchprof.gpu(gpu_trace()).graphs
    assert (graphs.launches, graphs.unseen, graphs.kernels, graphs.time) == (2, 0, 4, 80_000)


def test_graph_launches_without_recorded_kernels_are_printed() -> None:
    recorded = gpu_trace()
    account = torchprof.gpu(replace(recorded, kernels=recorded.kernels[recorded.kernels["graph"] == 0]))
    assert (account.graphs.launches, account.graphs.unseen, account.graphs.kernels) == (2, 2, 0)
    assert "2 launches (2 of them show no kernels), 0 kernels" in str(account)


def test_a_module_is_launch_bound_if_the_host_takes_longer_than_its_kernels() -> None:
    (bound,) = torchprof.gpu(gpu_trace()).launch_bound
    assert (bound.module, bound.host, bound.device) == ("act", 80_000, 40_000)


def test_waits_do_not_make_a_module_launch_bound() -> None:
    def bound(kind: RuntimeCallKind) -> list[tuple[str, int, int]]:
        recorded = trace(
            model=Model((module("", "Net", -1, 1),)),
            strings=["Net", "k"],
            modules=[{"address": 1}],
            module_calls=[{"start": 0, "end": 100}],
            kernels=[{"start": 10, "end": 60, "module_call": 0, "name": 1}],
            runtime_calls=[{"start": 20, "end": 80, "kind": kind, "module_call": 0, "name": 1}],
        )
        return [(each.module, each.host, each.device) for each in torchprof.gpu(recorded).launch_bound]

    assert bound(RuntimeCallKind.LAUNCH) == [("Net", 100, 50)]
    assert bound(RuntimeCallKind.SYNCHRONIZE) == []


def test_the_utilization_is_counted_flops_relative_to_peak_flops() -> None:
    found = torchprof.gpu(gpu_trace(), ceilings=H100).utilization
    assert found is not None
    assert found.flops == 4 * 2 * 512 * 1024 * 1024
    assert found.span == 1_812_000
    assert found.mfu == found.hfu == found.flops / (2 * found.span * 1e-9 * 50e12)


def test_the_utilization_names_ops_on_devices_whose_flops_are_unknown() -> None:
    recorded = gpu_trace()
    unknown = np.where(recorded.signature_flops >= 0, UNKNOWN_FLOPS, recorded.signature_flops)
    found = torchprof.gpu(replace(recorded, signature_flops=unknown), ceilings=H100).utilization
    assert found is not None
    assert (found.flops, found.unknown) == (0, ("aten::addmm", "aten::mm"))


def test_recomputation_counts_for_the_hardware_utilization_only() -> None:
    recorded = gpu_trace()
    ops = recorded.ops.copy()
    ops["flags"][recorded.op_names == recorded.strings.index("aten::mm")] = int(Phase.RECOMPUTATION) << 4
    found = torchprof.gpu(replace(recorded, ops=ops), ceilings=H100)
    assert found.utilization is not None
    assert found.utilization.mfu == found.utilization.hfu / 2
    assert "HFU: 2.4%, with 2.15 GFLOPs of recomputation" in str(found)


def test_flops_of_cpu_ops_do_not_count_for_the_utilization() -> None:
    recorded = gpu_trace()
    tensors = recorded.tensors.copy()
    tensors["device_type"] = 0
    account = torchprof.gpu(replace(recorded, tensors=tensors), ceilings=H100)
    assert "MFU: not known, no FLOPs were counted" in str(account)


def test_an_aggregated_trace_has_no_gpu_account() -> None:
    with pytest.raises(ArgumentError, match=r"aggregate=True.*by_kernel.*without aggregate"):
        torchprof.gpu(aggregate(gpu_trace()))


def test_a_trace_without_a_recorded_device_has_no_gpu_account() -> None:
    with pytest.raises(ArgumentError, match=r"no device was recorded.*facts\['gpu'\] is 'off'"):
        torchprof.gpu(loop_trace())
    without_device = trace(facts={"gpu": "off", "gpu_note": "no GPU was in use when the recording began"})
    with pytest.raises(ArgumentError, match=r"no device was recorded .*no GPU was in use"):
        torchprof.gpu(without_device)


def test_ceilings_of_a_cpu_are_refused() -> None:
    with pytest.raises(ArgumentError, match=r"torchprof\.ceilings\('cuda'\)"):
        torchprof.gpu(gpu_trace(), ceilings=Ceilings("a CPU", "float32", 8, 1e11, 1e10))


def test_a_trace_of_warm_up_steps_only_has_no_devices() -> None:
    recorded = gpu_trace()
    recorded.steps.flags.writeable = True
    recorded.steps["warmup"] = 1
    assert torchprof.gpu(recorded).devices == []


times = st.integers(-20, 200)
rows_of_kernels = st.lists(
    st.fixed_dictionaries(
        {
            "start": times,
            "end": times,
            "stream": st.integers(0, 2),
            "device_index": st.integers(0, 1),
            "runtime_call": st.integers(-1, 3),
            "op": st.integers(-1, 1),
            "kind": st.sampled_from([Activity.KERNEL, Activity.COPY]),
        }
    ),
    max_size=15,
)
rows_of_calls = st.lists(
    st.fixed_dictionaries(
        {
            "start": st.integers(0, 200),
            "end": st.integers(-1, 250),
            "kind": st.sampled_from(list(RuntimeCallKind)),
            "thread": st.sampled_from([0, 1, NO_THREAD]),
        }
    ),
    min_size=4,
    max_size=8,
)


@given(rows_of_kernels, rows_of_calls, st.integers(0, 10))
def test_causes_add_up_to_idle_and_idle_and_busy_to_the_span(
    kernels: list[dict[str, int]], calls: list[dict[str, int]], error: int
) -> None:
    loads = Phase.DATA << PHASE_SHIFT
    ops = [{"name": 1, "start": 30, "end": 90}, {"name": 2, "start": 95, "end": 150, "flags": loads}]
    account = timeline(*kernels, calls=calls, ops=ops, facts={"gpu_clock_error_ns": error})
    for device in account.devices:
        own = [row for row in kernels if f"cuda:{row['device_index']}" == device.name]
        worked = {moment for row in own if row["end"] != -1 for moment in range(row["start"], row["end"])}
        assert device.span == max(worked) + 1 - min(worked)
        assert device.busy == len(worked)
        assert sum(device.idle.values()) == device.span - device.busy
        assert all(time >= 0 for time in device.idle.values())
        assert sum(stream.kernels for stream in device.streams) == device.kernels == len(own)
    assert sum(idle.time for idle in account.idle) == sum(device.span - device.busy for device in account.devices)
    assert str(account)
