"""Tables of a trace with a GPU in it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from aggregating import aggregate
from goldens import Golden
from handwritten import ADD_KERNEL, gpu_trace, loop_trace, trace

import torchprof
from torchprof import ArgumentError, Ceilings
from torchprof.trace.schema import Activity, Phase
from torchprof.trace.trace import Trace

H100 = Ceilings("made up", "float32", 0, flops=50e12, bytes=3e12)


def row_of(table: torchprof.Table, name: str) -> dict[str, Any]:
    (row,) = [row for row in table.rows if row["name"] == name]
    return row


def test_the_table_by_module_has_device_time_beside_host_time(golden: Golden) -> None:
    golden(str(torchprof.by_module(gpu_trace())), "gpu_by_module.txt")


def test_the_table_by_op_has_rates_against_device_time(golden: Golden) -> None:
    golden(str(torchprof.by_op(gpu_trace(), ceilings=H100)), "gpu_by_op.txt")


def test_the_table_by_step_has_the_time_in_which_devices_were_busy(golden: Golden) -> None:
    golden(str(torchprof.by_step(gpu_trace())), "gpu_by_step.txt")


def test_the_table_by_kernel(golden: Golden) -> None:
    golden(str(torchprof.by_kernel(gpu_trace())), "gpu_by_kernel.txt")


def test_device_time_adds_up_over_phases_and_includes_modules_below() -> None:
    rows = torchprof.by_module(gpu_trace()).rows
    for row in rows:
        phases = ("forward", "recompute", "backward", "optimizer", "data", "other")
        assert sum(row[f"device_{phase}"] for phase in phases) == row["device"]
    net, fc, act, outside, other = rows
    assert net["device"] == net["device_self"] + fc["device"] + act["device"]
    assert (fc["device_forward"], fc["device_backward"], fc["kernels"]) == (110_000, 100_000, 2)
    assert (outside["name"], outside["device_forward"], outside["device_optimizer"]) == ("outside modules", 70_000, 40_000)
    assert (other["name"], other["device_other"]) == ("other", 107_000)
    assert net["device_share"] + outside["device_share"] + other["device_share"] == pytest.approx(1)
    assert net["share"] + outside["share"] + other["share"] == pytest.approx(1)


def test_device_time_of_no_module_has_a_row_even_without_host_time() -> None:
    (row,) = torchprof.by_module(trace(strings=["k"], kernels=[{"start": 5, "end": 12}])).rows
    assert (row["name"], row["device"], row["time"]) == ("other", 7, 0)


def test_rates_are_against_device_time_and_ops_without_launches_have_none() -> None:
    table = torchprof.by_op(gpu_trace(), ceilings=H100)
    addmm, linear = row_of(table, "aten::addmm"), row_of(table, "aten::linear")
    assert addmm["flop_rate"] == pytest.approx(2 * 512 * 1024 * 1024 / 110e-6)
    assert addmm["roofline"] == addmm["flop_rate"] / 50e12
    assert (linear["device"], linear["device_self"], linear["flop_rate"]) == (110_000, 0, None)


def test_most_device_time_comes_first() -> None:
    assert [row["name"] for row in torchprof.by_op(gpu_trace()).rows[:2]] == ["aten::addmm", "aten::mm"]


def test_ceilings_of_a_cpu_are_refused_for_device_time() -> None:
    with pytest.raises(ArgumentError, match=r"those of a CPU.*torchprof\.ceilings\('cuda'\)"):
        torchprof.by_op(gpu_trace(), ceilings=replace(H100, threads=4))


def test_kernels_are_chosen_by_phase_and_module() -> None:
    def names(**chosen: str) -> list[str]:
        return [row["name"] for row in torchprof.by_kernel(gpu_trace(), **chosen).rows]

    assert names(phase="backward") == ["ampere_sgemm_128x64_nt"]
    assert names(module="fc") == ["ampere_sgemm_128x64_tn", "ampere_sgemm_128x64_nt"]
    assert names(module="fc", phase="optimizer") == []
    assert len(names(module="")) == 3
    with pytest.raises(ArgumentError, match=r"phase='sideways'.*'forward'"):
        names(phase="sideways")
    with pytest.raises(ArgumentError, match=r"module='decoder'.*path"):
        names(module="decoder")


def test_the_short_name_is_printed_and_the_full_one_is_kept() -> None:
    row = row_of(torchprof.by_kernel(gpu_trace()), "vectorized_elementwise_kernel<CUDAFunctor_add<float>>")
    assert row["full_name"] == ADD_KERNEL


def test_copies_have_bytes_and_a_rate() -> None:
    row = row_of(torchprof.by_kernel(gpu_trace()), "Memcpy HtoD (Pageable -> Device)")
    assert (row["kind"], row["direction"], row["bytes"]) == ("copy", "host to device", 400_000)
    assert row["byte_rate"] == 400_000 / 20e-6


def test_launched_by_lists_the_op_with_the_most_device_time_first() -> None:
    recorded = trace(
        strings=["a", "b", "k"],
        ops=[{"name": 0}, {"name": 1}],
        kernels=[{"end": 5, "op": 0, "name": 2}, {"end": 9, "op": 1, "name": 2}, {"end": 1, "name": 2}],
    )
    table = torchprof.by_kernel(recorded)
    assert table.rows[0]["launched_by"] == ["b", "a", "(no op)"]
    assert "b +2" in str(table)


def test_kernels_of_graphs_and_of_unrecorded_launches_are_named() -> None:
    table = torchprof.by_kernel(gpu_trace())
    assert row_of(table, "first_node")["launched_by"] == ["(CUDA graph)"]
    assert row_of(table, "unseen")["launched_by"] == ["(no op)"]
    assert sum(row["count"] for row in table.rows) == 12
    assert sum(row["device_share"] for row in table.rows) == pytest.approx(1)


def test_a_trace_without_a_recorded_device_has_no_table_by_kernel() -> None:
    with pytest.raises(ArgumentError, match="no device was recorded"):
        torchprof.by_kernel(loop_trace())


def test_a_device_that_ran_nothing_changes_no_rows_and_is_printed() -> None:
    idle, plain = loop_trace(), loop_trace()
    idle.facts["gpu"] = "cupti"
    for table in (torchprof.by_module, torchprof.by_op, torchprof.by_step):
        with_note, without = str(table(idle)).splitlines(), str(table(plain)).splitlines()
        assert "Devices were recorded, and did nothing" in with_note
        assert [line for line in with_note if line not in ("Devices were recorded, and did nothing",)] == without
        assert table(idle).rows == table(plain).rows
    assert len(torchprof.by_kernel(idle)) == 0


def test_an_aggregated_trace_prints_the_same_tables() -> None:
    single, aggregated = gpu_trace(), aggregate(gpu_trace())
    for left, right in (
        (torchprof.by_module(single).without_columns("spread"), torchprof.by_module(aggregated)),
        (torchprof.by_op(single, ceilings=H100), torchprof.by_op(aggregated, ceilings=H100)),
    ):
        assert str(left) == str(right)
    sums = torchprof.by_kernel(aggregated).rows
    assert sorted(sums, key=json.dumps) == sorted(torchprof.by_kernel(single).rows, key=json.dumps)
    assert [row["device"] for row in torchprof.by_step(aggregated).rows] == [437_000, 437_000, 457_000]


def events_trace() -> Trace:
    """What events measure: an interval of the stream for the outermost op, and no runtime calls."""
    return trace(
        strings=["Net", "aten::linear", "aten::addmm"],
        modules=[{"address": 1}],
        module_calls=[{"start": 0, "end": 50}],
        ops=[
            {"name": 1, "start": 5, "end": 40, "module_call": 0, "flags": int(Phase.FORWARD) << 4},
            {"name": 2, "start": 10, "end": 35, "parent": 0, "module_call": 0, "flags": int(Phase.FORWARD) << 4},
        ],
        kernels=[
            {"start": 20, "end": 90, "name": 1, "op": 0, "module_call": 0, "kind": Activity.INTERVAL, "phase": Phase.FORWARD}
        ],
        facts={"gpu": "events", "gpu_note": "device times are intervals of streams between events: launch gaps included"},
    )


def test_what_events_measure_is_printed_below_every_table() -> None:
    note = "Devices were recorded with events: device times are intervals of streams between events: launch gaps included"
    for table in (torchprof.by_module, torchprof.by_op, torchprof.by_kernel):
        assert note in str(table(events_trace()))
    (row,) = torchprof.by_kernel(events_trace()).rows
    assert (row["name"], row["kind"], row["device"], row["launched_by"]) == ("aten::linear", "interval", 70, ["aten::linear"])
    assert "launches were not seen" not in str(torchprof.by_kernel(events_trace()))


def test_lost_kernels_are_printed_below_every_table() -> None:
    recorded = gpu_trace(losses={"kernels": 7})
    for table in (torchprof.by_module, torchprof.by_op, torchprof.by_step, torchprof.by_kernel):
        assert "INCOMPLETE: 7 kernels did not fit the budget, or the device's own buffers" in str(table(recorded))
