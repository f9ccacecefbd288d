"""The memory account, on allocations written by hand."""

from __future__ import annotations

import pytest
from handwritten import module, trace

from torchprof import ArgumentError, memory
from torchprof.analysis.memory.account import MemoryAccount
from torchprof.analysis.memory.categories import CATEGORIES
from torchprof.analysis.memory.leaks import Leak
from torchprof.trace.model import Model
from torchprof.trace.schema import Phase, Use
from torchprof.trace.trace import Trace

FORWARD, RECOMPUTATION, BACKWARD, OPTIMIZER, OTHER = range(5)
PHASES = [Phase.FORWARD, Phase.RECOMPUTATION, Phase.BACKWARD, Phase.OPTIMIZER, Phase.OTHER]


def recorded(*allocations: dict[str, int], **tables: list[dict[str, int]]) -> Trace:
    """One op per phase, with the rows above, in modules ``Net`` (row 0) and ``Net.fc`` (row 1)."""
    ops = [{"name": row, "start": 0, "end": 1, "flags": int(phase) << 4} for row, phase in enumerate(PHASES)]
    model = Model((module("", "Net", -1, 100), module("fc", "Linear", 0, 101)))
    return trace(
        model=model,
        strings=["aten::f", "aten::r", "aten::b", "aten::o", "aten::x"],
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
        ("optimizer state", {"op": OPTIMIZER, "uses": Use.HELD_AFTER_CALL | Use.READ_BY_OPTIMIZER}),
        ("optimizer state", {"start": -1, "uses": Use.READ_BY_OPTIMIZER}),
        ("inputs", {"op": OTHER, "uses": Use.HELD_AFTER_CALL | Use.MODULE_INPUT}),
        ("inputs", {"start": -1, "uses": Use.READ_BY_FORWARD}),
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
def test_every_block_has_the_category_of_how_it_was_made_and_used(category: str, allocation: dict[str, int]) -> None:
    account = MemoryAccount.of(recorded({"bytes": 8, **{name: int(value) for name, value in allocation.items()}}))
    assert CATEGORIES[account.category[0]] == category


def three_blocks() -> Trace:
    """100 bytes from before; 30 from 10 to 40 in fc; 50 from 20 to 30 in fc: the most, 180, from 20 to 30."""
    return recorded(
        {"start": -1, "bytes": 100, "uses": Use.PARAMETER, "module": 1},
        {"start": 10, "end": 40, "bytes": 30, "op": FORWARD, "module": 1, "uses": Use.HELD_AFTER_CALL | Use.READ_BY_BACKWARD},
        {"start": 20, "end": 30, "bytes": 50, "op": FORWARD, "module": 0},
        {"start": 30, "bytes": 45, "op": BACKWARD, "module": -1, "uses": Use.GRADIENT},
        steps=[{"start": 0, "end": 25, "number": 4}, {"start": 25, "end": 50, "number": 5}],
    )


def test_the_peak_knows_when_and_where_it_was() -> None:
    peak = MemoryAccount.of(three_blocks()).peak
    assert (peak.bytes, peak.time, peak.step) == (180, 20, 4)
    assert (peak.phase, peak.op, peak.module) == ("forward", "aten::f", "")


def test_categories_and_modules_add_up_to_the_peak() -> None:
    account = MemoryAccount.of(three_blocks())
    assert {name: count for name, count in account.by_category.items() if count} == {
        "parameters": 100,
        "activations": 30,
        "temporaries": 50,
    }
    assert account.by_module == {"fc": {"parameters": 100, "activations": 30}, "": {"temporaries": 50}}


def test_what_is_given_back_and_what_is_taken_at_the_same_time_are_not_both_held() -> None:
    account = MemoryAccount.of(recorded({"start": 0, "end": 5, "bytes": 10}, {"start": 5, "bytes": 10}))
    assert account.peak.bytes == 10


def test_what_is_kept_for_backward_is_counted_when_the_most_is_kept() -> None:
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
    account = MemoryAccount.of(three_blocks())
    times, held = account.timeline(points=2)
    assert times.tolist() == [10, 30]
    assert held.sum(axis=1).max() >= account.peak.bytes - 30
    times, held = account.timeline()
    assert held.sum(axis=1).tolist() == [130, 180, 130, 175, 145]
    assert held[:, CATEGORIES.index("parameters")].tolist() == [100] * 5


def test_a_leak_is_what_is_held_when_the_step_after_its_own_is_over() -> None:
    steps = [{"start": 10 * number, "end": 10 * number + 10, "number": number} for number in range(4)]
    held = {"op": FORWARD, "module": 1, "bytes": 8, "uses": int(Use.HELD_AFTER_CALL)}
    account = MemoryAccount.of(
        recorded(
            {**held, "start": 2},  # still held at the end
            {**held, "start": 12, "end": 35},  # held for longer than a step
            {**held, "start": 3, "end": 15},  # until the next step replaced it
            {**held, "start": 32},  # who knows
            {**held, "start": 4, "uses": int(Use.GRADIENT)},  # meant to stay
            steps=steps,
        )
    )
    assert account.leaks == [Leak("aten::f", "fc", "outputs", 2, 16, 2)]


def test_devices_are_accounted_for_one_by_one() -> None:
    both = recorded({"bytes": 8}, {"bytes": 3, "device_type": 14})
    assert MemoryAccount.of(both).device == "cpu"
    assert MemoryAccount.of(both, "meta").peak.bytes == 3
    with pytest.raises(ArgumentError, match=r"device='cuda'.*'cpu', 'meta'"):
        MemoryAccount.of(both, "cuda")


def of_a_gpu(*totals: dict[str, int]) -> Trace:
    """On cuda:0 100 bytes from before, 30 more from 10 on, and what the allocator says of it."""
    device = {"device_type": 1, "device_index": 0}
    return recorded(
        {**device, "start": -1, "bytes": 100, "uses": int(Use.PARAMETER), "module": 1},
        {**device, "start": 10, "end": 20, "bytes": 30, "op": FORWARD, "module": 1},
        {**device, "start": 30, "bytes": 20, "op": BACKWARD, "module": 1, "uses": int(Use.GRADIENT)},
        allocator_totals=[{**device, **total} for total in totals],
    )


def test_the_peak_of_a_gpu_is_what_its_allocator_had_handed_out() -> None:
    account = memory(of_a_gpu({"time": 10, "allocated": 230, "reserved": 512, "unreported": 200}))
    assert (account.device, account.peak.bytes, account.reserved, account.fragmentation) == ("cuda:0", 230, 512, 282)
    assert account.by_module == {"fc": {"parameters": 100, "temporaries": 30}, "": {"untracked": 100}}
    assert "Untracked:" not in str(account)


def test_what_came_and_went_unreported_moves_the_peak_of_a_gpu_and_is_said() -> None:
    account = memory(
        of_a_gpu(
            {"time": 10, "allocated": 140, "reserved": 512, "unreported": 110},
            {"time": 30, "allocated": 180, "reserved": 1024, "unreported": 160},
        )
    )
    assert (account.peak.bytes, account.peak.time, account.peak.phase) == (180, 30, "backward")
    assert (account.untracked_at_start, account.untracked, account.reserved) == (10, 60, 1024)
    assert "Untracked: 10 B from before the recording, 50 B of threads that do not report to it" in str(account)
    assert account.timeline()[1].sum(axis=1).tolist() == [140, 110, 180]


def test_blocks_that_were_given_back_unreported_are_less_than_nothing() -> None:
    account = memory(of_a_gpu({"time": 10, "allocated": 40, "reserved": 512, "unreported": 10}))
    assert (account.peak.bytes, account.by_category["untracked"]) == (40, -90)


def test_a_device_is_named_by_its_kind_where_there_is_one_of_it() -> None:
    two = recorded(*({"bytes": 8, "device_type": 1, "device_index": index} for index in range(2)), {"bytes": 1})
    assert MemoryAccount.of(of_a_gpu(), "cuda").device == "cuda:0"
    assert MemoryAccount.of(two, "cuda:1").peak.bytes == 8
    with pytest.raises(ArgumentError, match=r"device='cuda' could be any of 'cuda:0', 'cuda:1': name one of these"):
        MemoryAccount.of(two, "cuda")
    with pytest.raises(ArgumentError, match=r"device='cuda:2': no memory .* the trace has 'cuda:0', 'cuda:1', 'cpu'"):
        MemoryAccount.of(two, "cuda:2")


def test_sums_have_no_account() -> None:
    folded = recorded()
    folded.facts["aggregate"] = True
    with pytest.raises(ArgumentError, match="aggregate=True"):
        memory(folded)


def test_a_trace_without_memory_has_an_empty_account() -> None:
    account = memory(recorded())
    assert (account.peak.bytes, sum(account.by_category.values()), account.leaks) == (0, 0, [])
    assert "Peak on cpu: 0 B" in str(account)
