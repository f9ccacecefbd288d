"""The memory account, on allocations written by hand."""

from __future__ import annotations

from typing import Any

import pytest
from handwritten import module, trace

from torchprof import ArgumentError, by_module, by_step, memory
from torchprof.analysis.memory.account import MemoryAccount
from torchprof.analysis.memory.categories import CATEGORIES
from torchprof.trace.model import Model
from torchprof.trace.schema import CALL_LOADED_DATA, Phase, Use
from torchprof.trace.trace import Trace

FORWARD, RECOMPUTATION, BACKWARD, OPTIMIZER, OTHER, DATA = range(6)
PHASES = [Phase.FORWARD, Phase.RECOMPUTATION, Phase.BACKWARD, Phase.OPTIMIZER, Phase.OTHER, Phase.DATA]


def recorded(*allocations: dict[str, int], **tables: Any) -> Trace:
    """One op per phase, in the rows above; modules ``Net`` (row 0) and ``fc`` (row 1)."""
    ops = [{"name": row, "start": 0, "end": 1, "flags": int(phase) << 4} for row, phase in enumerate(PHASES)]
    model = Model((module("", "Net", -1, 100), module("fc", "Linear", 0, 101)))
    return trace(
        model=model,
        strings=["aten::f", "aten::r", "aten::b", "aten::o", "aten::x", "aten::d"],
        modules=[{"address": 100}, {"address": 101}],
        ops=ops,
        allocations=list(allocations),
        **tables,
    )


@pytest.mark.parametrize(
    ("category", "allocation"),
    [
        ("parameters", {"start": -1, "uses": Use.PARAMETER | Use.READ_BY_FORWARD | Use.READ_BY_OPTIMIZER}),
        ("buffers", {"start": -1, "uses": Use.BUFFER | Use.READ_BY_FORWARD}),
        ("gradients", {"op": BACKWARD, "uses": Use.GRADIENT | Use.READ_BY_OPTIMIZER | Use.HELD_AFTER_CALL}),
        ("gradients", {"start": -1, "uses": Use.GRADIENT}),
        ("gradients", {"start": -1, "uses": Use.READ_BY_BACKWARD | Use.READ_BY_OPTIMIZER}),  # of another model
        ("optimizer state", {"op": OPTIMIZER, "uses": Use.HELD_AFTER_CALL | Use.READ_BY_OPTIMIZER}),
        ("optimizer state", {"start": -1, "uses": Use.READ_BY_OPTIMIZER}),
        ("parameters", {"start": -1, "uses": Use.READ_BY_OPTIMIZER | Use.READ_BY_FORWARD}),  # of another model
        ("parameters", {"op": OTHER, "uses": Use.HELD_AFTER_CALL | Use.READ_BY_OPTIMIZER | Use.READ_BY_FORWARD}),
        ("gradients", {"start": -1, "uses": Use.GRADIENT | Use.READ_BY_OPTIMIZER | Use.READ_BY_FORWARD}),
        ("inputs", {"op": OTHER, "uses": Use.HELD_AFTER_CALL | Use.MODULE_INPUT}),
        ("inputs", {"start": -1, "uses": Use.READ_BY_FORWARD}),
        ("inputs", {"op": OTHER, "uses": Use.HELD_AFTER_CALL | Use.READ_BY_FORWARD}),  # a target
        ("inputs", {"op": DATA, "uses": Use.HELD_AFTER_CALL | Use.MODULE_INPUT | Use.READ_BY_FORWARD}),
        ("inputs", {"op": DATA, "uses": Use.HELD_AFTER_CALL | Use.READ_BY_FORWARD | Use.READ_BY_BACKWARD, "end": 9}),
        ("temporaries", {"op": DATA, "end": 9}),
        ("other", {"op": DATA, "uses": Use.HELD_AFTER_CALL}),
        ("activations", {"op": FORWARD, "uses": Use.HELD_AFTER_CALL | Use.READ_BY_BACKWARD, "free_op": BACKWARD, "end": 9}),
        ("activations", {"op": FORWARD, "uses": Use.HELD_AFTER_CALL, "free_op": BACKWARD, "end": 9}),
        ("activations", {"op": FORWARD, "uses": Use.HELD_AFTER_CALL | Use.READ_BY_BACKWARD | Use.MODULE_OUTPUT}),
        ("activations", {"op": FORWARD, "module_call": 0, "uses": Use.HELD_AFTER_CALL}),
        ("activations", {"op": RECOMPUTATION, "module_call": 0, "uses": Use.HELD_AFTER_CALL | Use.READ_BY_BACKWARD, "end": 9}),
        ("outputs", {"op": FORWARD, "module_call": 0, "uses": Use.HELD_AFTER_CALL | Use.MODULE_OUTPUT}),
        ("outputs", {"op": FORWARD, "uses": Use.HELD_AFTER_CALL}),
        ("temporaries", {"op": FORWARD, "end": 9, "free_op": FORWARD}),
        ("temporaries", {"op": RECOMPUTATION, "end": 9, "free_op": RECOMPUTATION}),
        ("temporaries", {"op": BACKWARD, "uses": Use.HELD_AFTER_CALL, "end": 9}),
        ("temporaries", {"op": OPTIMIZER, "end": 9}),
        ("temporaries", {"op": OTHER, "end": 9}),
        ("other", {"op": OTHER, "uses": Use.HELD_AFTER_CALL}),
        ("other", {"start": -1}),
    ],
)
def test_the_category_of_an_allocation_follows_from_its_phases_and_uses(category: str, allocation: dict[str, int]) -> None:
    account = MemoryAccount.of(recorded({"bytes": 8, **{name: int(value) for name, value in allocation.items()}}))
    assert CATEGORIES[account.category[0]] == category


def test_what_a_transform_of_data_made_without_an_op_is_an_input() -> None:
    calls = [{"end": 1}, {"end": 1, "flags": CALL_LOADED_DATA}]
    read = int(Use.HELD_AFTER_CALL | Use.READ_BY_FORWARD)
    made = [{"module_call": call, "uses": read, "bytes": 8} for call in (1, 0)]
    account = MemoryAccount.of(recorded(*made, module_calls=calls))
    assert [CATEGORIES[category] for category in account.category.tolist()] == ["inputs", "outputs"]


def four_blocks() -> Trace:
    """100 bytes from before the recording; 30 from 10 to 40; 50 from 20 to 30, when the most is held: 180; 45 from 30 on."""
    return recorded(
        {"start": -1, "bytes": 100, "uses": Use.PARAMETER, "module": 1},
        {"start": 10, "end": 40, "bytes": 30, "op": FORWARD, "module": 1, "uses": Use.HELD_AFTER_CALL | Use.READ_BY_BACKWARD},
        {"start": 20, "end": 30, "bytes": 50, "op": FORWARD, "module": 0},
        {"start": 30, "bytes": 45, "op": BACKWARD, "module": -1, "uses": Use.GRADIENT},
        steps=[{"start": 0, "end": 25, "number": 4}, {"start": 25, "end": 50, "number": 5}],
    )


def test_the_peak_has_its_time_step_phase_op_and_module() -> None:
    peak = MemoryAccount.of(four_blocks()).peak
    assert (peak.bytes, peak.time, peak.step) == (180, 20, 4)
    assert (peak.phase, peak.op, peak.module) == ("forward", "aten::f", "")
    assert "(step 4, forward, aten::f, in Net)" in str(memory(four_blocks()))


def test_a_peak_in_a_warm_up_step_is_said_to_be() -> None:
    found = memory(recorded({"start": 2, "bytes": 8, "op": OTHER}, steps=[{"start": 0, "end": 9, "number": 3, "warmup": 1}]))
    assert (found.peak.step, found.peak.warmup, found.peak.module) == (3, True, "(no module)")
    assert "(warm-up step 3, other, aten::x, in no module)" in str(found)


def test_what_is_of_the_root_stands_under_its_class_and_not_under_no_module() -> None:
    found = memory(
        recorded(
            {"start": -1, "bytes": 100, "uses": int(Use.PARAMETER), "module": 0},
            {"start": 5, "bytes": 8, "op": OTHER, "uses": int(Use.HELD_AFTER_CALL)},
        )
    )
    assert found.by_module == {"": {"parameters": 100}, "(no module)": {"other": 8}}
    assert [(row["name"], row["at_peak"]) for row in found.modules.rows] == [("Net", 100), ("(no module)", 8)]


def test_the_op_of_a_peak_is_the_outermost_one() -> None:
    nested = [{"name": 0, "scope": 7}, {"name": 1, "parent": 0}, {"name": 2, "parent": 1}]
    in_backward = [{"name": 3}, {"name": 4, "parent": 3, "scope": 1}, {"name": 1, "parent": 4}, {"name": 2, "parent": 5}]
    strings = ["Optimizer.step#SGD.step", "aten::randn", "aten::empty", "autograd::engine::evaluate_function: F", "F"]
    for op, name in ((2, "aten::randn"), (6, "aten::randn"), (4, "F"), (3, "F"), (0, strings[0])):
        ops = [{"end": 1, **row} for row in nested + in_backward]
        found = memory(trace(strings=strings, ops=ops, allocations=[{"bytes": 8, "op": op}]))
        assert found.peak.op == name


def test_steps_have_one_peak_whether_by_step_or_the_account_says_it() -> None:
    recorded_steps = four_blocks()
    steps = memory(recorded_steps).steps
    assert (steps.allocated.tolist(), steps.peak.tolist(), steps.held.tolist()) == ([80, 45], [180, 180], [180, 145])
    rows = by_step(recorded_steps).rows
    assert [(row["allocated"], row["peak"], row["held"]) for row in rows] == [(80, 180, 180), (45, 180, 145)]
    said = "Peak and held: of all memory on cpu, also what was there before the recording"
    assert said in str(by_step(recorded_steps))
    assert said in str(memory(recorded_steps))


def test_categories_and_modules_add_up_to_the_peak() -> None:
    account = MemoryAccount.of(four_blocks())
    assert {name: count for name, count in account.by_category.items() if count} == {
        "parameters": 100,
        "activations": 30,
        "temporaries": 50,
    }
    assert account.by_module == {"fc": {"parameters": 100, "activations": 30}, "": {"temporaries": 50}}


def test_memory_freed_and_allocated_at_the_same_time_is_not_held_together() -> None:
    account = MemoryAccount.of(recorded({"start": 0, "end": 5, "bytes": 10}, {"start": 5, "bytes": 10}))
    assert account.peak.bytes == 10


def test_saved_activations_are_those_at_the_moment_when_the_most_are_held() -> None:
    kept = {"op": FORWARD, "uses": Use.HELD_AFTER_CALL | Use.READ_BY_BACKWARD}
    account = MemoryAccount.of(
        recorded(
            {**kept, "start": 0, "end": 10, "bytes": 7, "module": 0},
            {**kept, "start": 5, "end": 20, "bytes": 5, "module": 1},
            {**kept, "start": 15, "end": 30, "bytes": 6, "module": 1},
        )
    )
    assert account.saved_by_module == {"": 7, "fc": 5}


def test_the_timeline_keeps_the_highest_points() -> None:
    account = MemoryAccount.of(four_blocks())
    times, held = account.timeline(points=2)
    assert times.tolist() == [10, 30]
    assert held.sum(axis=1).max() >= account.peak.bytes - 30
    times, held = account.timeline()
    assert held.sum(axis=1).tolist() == [130, 180, 130, 175, 145]
    assert held[:, CATEGORIES.index("parameters")].tolist() == [100] * 5


def test_every_device_has_an_account_of_its_own() -> None:
    both = recorded({"bytes": 8}, {"bytes": 3, "device_type": 14})
    assert MemoryAccount.of(both).device == "cpu"
    assert MemoryAccount.of(both, "meta").peak.bytes == 3
    with pytest.raises(ArgumentError, match=r"device='cuda'.*'cpu', 'meta'"):
        MemoryAccount.of(both, "cuda")


def on_a_gpu(*totals: dict[str, int]) -> Trace:
    """On cuda:0, 100 bytes from before the recording, 30 from 10 to 20, 20 from 30 on, and what the allocator reports."""
    device = {"device_type": 1, "device_index": 0}
    return recorded(
        {**device, "start": -1, "bytes": 100, "uses": int(Use.PARAMETER), "module": 1},
        {**device, "start": 10, "end": 20, "bytes": 30, "op": FORWARD, "module": 1},
        {**device, "start": 30, "bytes": 20, "op": BACKWARD, "module": 1, "uses": int(Use.GRADIENT)},
        allocator_totals=[{**device, **total} for total in totals],
    )


def test_the_peak_of_a_gpu_is_what_its_allocator_had_allocated() -> None:
    account = memory(on_a_gpu({"time": 10, "allocated": 230, "reserved": 512, "unreported": 200}))
    assert (account.device, account.peak.bytes, account.reserved, account.fragmentation) == ("cuda:0", 230, 512, 282)
    assert account.by_module == {"fc": {"parameters": 100, "temporaries": 30}, "(no module)": {"untracked": 100}}
    assert "Untracked:" not in str(account)


def test_untracked_memory_may_move_the_peak_of_a_gpu_and_is_printed() -> None:
    account = memory(
        on_a_gpu(
            {"time": 10, "allocated": 140, "reserved": 512, "unreported": 110},
            {"time": 30, "allocated": 180, "reserved": 1024, "unreported": 160},
        )
    )
    assert (account.peak.bytes, account.peak.time, account.peak.phase) == (180, 30, "backward")
    assert (account.untracked_at_start, account.untracked, account.reserved) == (10, 60, 1024)
    assert "Untracked: 10 B from before the recording, 50 B of threads that do not report to it" in str(account)
    assert account.timeline()[1].sum(axis=1).tolist() == [140, 110, 180]


def test_moments_add_up_to_what_the_allocator_had_allocated_then() -> None:
    trace = on_a_gpu(
        {"time": 0, "allocated": 1100, "reserved": 2048, "unreported": 1100},
        {"time": 25, "allocated": 1380, "reserved": 2048, "unreported": 1280},
    )
    account = MemoryAccount.of(trace, "cuda:0")
    found = account.moments()
    totals = account.timeline()[1].sum(axis=1)
    assert found.held.sum(axis=1).max() == account.peak.bytes == totals.max()
    assert found.held[0].sum() == 1100  # before anything was recorded
    for held, alive in zip(found.held, found.alive, strict=True):
        assert sum(each.bytes for each in alive) == held.sum()


def test_untracked_memory_is_negative_where_frees_were_not_recorded() -> None:
    account = memory(on_a_gpu({"time": 10, "allocated": 40, "reserved": 512, "unreported": 10}))
    assert (account.peak.bytes, account.by_category["untracked"]) == (40, -90)


def test_a_type_names_a_device_if_there_is_one_of_it() -> None:
    two = recorded(*({"bytes": 8, "device_type": 1, "device_index": index} for index in range(2)), {"bytes": 1})
    assert MemoryAccount.of(on_a_gpu(), "cuda").device == "cuda:0"
    assert MemoryAccount.of(two, "cuda:1").peak.bytes == 8
    with pytest.raises(ArgumentError, match=r"device='cuda' could be any of 'cuda:0', 'cuda:1': name one of these"):
        MemoryAccount.of(two, "cuda")
    with pytest.raises(ArgumentError, match=r"device='cuda:2': no memory .* the trace has 'cuda:0', 'cuda:1', 'cpu'"):
        MemoryAccount.of(two, "cuda:2")


def test_an_aggregated_trace_has_no_memory_account() -> None:
    aggregated = recorded()
    aggregated.facts["aggregate"] = True
    with pytest.raises(ArgumentError, match="aggregate=True"):
        memory(aggregated)


def test_a_trace_that_was_recorded_without_memory_has_no_account() -> None:
    with pytest.raises(ArgumentError, match=r"memory=False.*record with memory=True"):
        memory(trace(facts={"memory": False}))


@pytest.mark.parametrize("missing", ["ops", "shapes"])
def test_an_account_says_what_it_cannot_tell_without_ops_or_shapes(missing: str) -> None:
    kept = {"op": FORWARD, "uses": int(Use.HELD_AFTER_CALL), "free_op": BACKWARD, "module": 1}
    without = recorded(
        {**kept, "start": 1, "end": 9, "bytes": 8},
        steps=[{"start": 0, "end": 10}],
        facts={"ops": True, "shapes": True, "memory": True, missing: False},
    )
    text = str(memory(without))
    assert f"Recorded with {missing}=False" in text
    assert f"Kept for backward: unknown, because {missing} were not recorded" in text
    assert [(row["name"], row["saved"]) for row in memory(without).modules.rows] == [("fc", None)]
    said = (
        "Peak and held: of what was allocated on cpu since the recording began; of what was there before, of inputs of "
        "modules only"
    )
    for table in (text, str(by_step(without))):
        assert said in table
        assert "also what was there before" not in table
    assert all("saved" not in row for row in by_module(without).rows)


def test_with_an_allocators_totals_all_memory_is_known_also_without_ops() -> None:
    on_gpu = on_a_gpu({"time": 10, "allocated": 230, "reserved": 512, "unreported": 200})
    on_gpu.facts["ops"] = False
    assert "Peak and held: of all memory on cuda:0, also what was there before the recording" in str(memory(on_gpu))


def test_a_trace_without_memory_has_an_empty_account() -> None:
    account = memory(recorded())
    assert (account.peak.bytes, sum(account.by_category.values()), account.leaks) == (0, 0, [])
    assert "Peak on cpu: 0 B" in str(account)
