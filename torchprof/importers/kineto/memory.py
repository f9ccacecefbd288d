"""``[memory]`` events to allocations, and the totals that allocators reported with them."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from torchprof.importers.kineto.columns import Ints
from torchprof.importers.kineto.nesting import AT_ONCE, Nesting, open_at
from torchprof.trace.schema import LAYOUTS, SCOPE_USER, Phase, Rows, Use, phases

__all__ = ["allocations_of", "fill_steps", "places_of", "totals_of"]

CPU: Final = 0
LARGEST: Final = 2**56

Memory = dict[str, npt.NDArray[Any]]


def places_of(memory: Memory, ops: Rows, calls: Rows, nesting: Nesting, thread_rows: dict[int, int]) -> tuple[Ints, Ints]:
    """For every event, the op and the module call that were open on its thread; -1: none."""
    op, call = np.full(len(memory["time"]), -1, dtype=np.int64), np.full(len(memory["time"]), -1, dtype=np.int64)
    for of_file, thread in thread_rows.items():
        rows = np.flatnonzero(memory["thread"] == of_file)
        op[rows] = open_at(ops, nesting.op_parent, thread, memory["time"][rows])
        call[rows] = open_at(calls, nesting.call_parent, thread, memory["time"][rows])
    return op, call


def allocations_of(memory: Memory, places: tuple[Ints, Ints], ops: Rows, calls: Rows, nesting: Nesting, threads: Ints) -> Rows:
    """The table of allocations. Events are in order of time.

    Args:
        places: what `places_of` found.
        threads: of every event, the row of its thread in the trace.
    """
    op, ran_in = places
    call = np.where((op >= 0) & (np.append(nesting.op_call, -1)[op] == ran_in), np.append(ops["module_call"], -1)[op], ran_in)
    first, last = _pairs(memory)
    freed, unfreed = last >= 0, first >= 0
    rows = np.zeros(len(first), dtype=LAYOUTS["allocations"])
    example = np.where(unfreed, first, last)
    rows["start"] = np.where(unfreed, memory["time"][first], -1)
    rows["end"] = np.where(freed, memory["time"][last], -1)
    rows["address"] = memory["address"][example]
    rows["bytes"] = np.abs(memory["bytes"][example])
    rows["op"], rows["module_call"] = np.where(unfreed, op[first], -1), np.where(unfreed, call[first], -1)
    # Where the next allocation at an address tells that a block was freed, it is not known by what.
    rows["free_op"] = np.where(freed & (memory["bytes"][last] < 0), op[last], -1)
    rows["module"] = np.where(unfreed, np.append(calls["module"].astype(np.int64), -1)[call[first]], -1)
    rows["thread"] = threads[example]
    rows["device_type"], rows["device_index"] = memory["device_type"][example], memory["device_index"][example]
    held = unfreed & (~freed | (rows["end"] > _ends_of_what_made(rows, ran_in[first], ops, calls, nesting)))
    rows["uses"] = np.where(held, int(Use.HELD_AFTER_CALL), 0)
    return rows


def _pairs(memory: Memory) -> tuple[Ints, Ints]:
    """The events with which each block was allocated (-1: before the recording) and freed (-1: never)."""
    first: list[int] = []
    last: list[int] = []
    open_rows: dict[tuple[int, int, int], int] = {}
    names = ("address", "bytes", "device_type", "device_index")
    for begin in range(0, len(memory["time"]), AT_ONCE):
        blocks = (memory[name][begin : begin + AT_ONCE].tolist() for name in names)
        for event, (address, count, device_type, index) in enumerate(zip(*blocks, strict=True), start=begin):
            key = address, device_type, index
            row = open_rows.pop(key, -1)
            if row >= 0:
                last[row] = event  # or it was freed without a report, and allocated again
            if count > 0:
                open_rows[key] = len(first)
                first.append(event)
                last.append(-1)
            elif row < 0:
                first.append(-1)
                last.append(event)
    return np.array(first, dtype=np.int64), np.array(last, dtype=np.int64)


def _ends_of_what_made(rows: Rows, ran_in: Ints, ops: Rows, calls: Rows, nesting: Nesting) -> Ints:
    """The end of the outermost call or, if there is none, of the outermost op, or of the whole step of an optimizer."""
    op = rows["op"].astype(np.int64)
    call = np.where(op >= 0, np.append(nesting.op_call, -1)[op], ran_in)
    above = call
    while (inside := np.append(nesting.call_parent, -1)[above] >= 0).any():
        above = np.where(inside, np.append(nesting.call_parent, -1)[above], above)
    end = rows["start"].copy()
    phase, scope = np.append(phases(ops), 0), np.append(ops["scope"], 0)
    of_optimizer = phase[op] == Phase.OPTIMIZER
    row = op
    while (row >= 0).any():
        counts = (row >= 0) & ((scope[row] != SCOPE_USER) | (of_optimizer & (phase[row] == Phase.OPTIMIZER)))
        end = np.where(counts, np.maximum(end, np.append(ops["end"], -1)[row]), end)
        row = np.append(nesting.op_parent, -1)[row]
    return np.where(above >= 0, np.append(calls["end"], -1)[above], end)


def totals_of(memory: Memory) -> Rows:
    """The table of allocator totals: where what is reserved or not reported changes. The CPU's allocator has none."""
    found: list[Rows] = []
    has_totals = (memory["device_type"] != CPU) & (memory["allocated"] >= 0) & (memory["reserved"] > 0)
    for device_type, index in sorted(
        set(zip(*(memory[name][has_totals].tolist() for name in ("device_type", "device_index")), strict=True))
    ):
        mine = np.flatnonzero((memory["device_type"] == device_type) & (memory["device_index"] == index))
        unreported = memory["allocated"][mine] - _held(memory, mine)
        told = has_totals[mine]
        rows, unreported = mine[told], unreported[told]
        changes = np.ones(len(rows), dtype=np.bool_)
        changes[1:] = (np.diff(unreported) != 0) | (np.diff(memory["reserved"][rows]) != 0)
        rows, unreported = rows[changes], unreported[changes]
        table = np.zeros(len(rows), dtype=LAYOUTS["allocator_totals"])
        table["time"], table["allocated"], table["reserved"] = (
            memory[name][rows] for name in ("time", "allocated", "reserved")
        )
        table["unreported"] = unreported
        table["device_type"], table["device_index"] = device_type, index
        found.append(table)
    if not found:
        return np.zeros(0, dtype=LAYOUTS["allocator_totals"])
    together = np.concatenate(found).astype(LAYOUTS["allocator_totals"])  # which concatenate() makes denser
    return together[np.argsort(together["time"], kind="stable")]


def _held(memory: Memory, rows: Ints) -> Ints:
    """Bytes that blocks of the recording take after each of these events; negative where blocks from before are freed."""
    blocks: dict[int, int] = {}
    held = 0
    found = np.empty(len(rows), dtype=np.int64)
    for at, (address, count) in enumerate(zip(memory["address"][rows].tolist(), memory["bytes"][rows].tolist(), strict=True)):
        known = blocks.pop(address, 0)
        if count > 0:
            held += count - known
            blocks[address] = count
        else:
            held -= known or -count
        found[at] = held
    return found


def fill_steps(steps: Rows, allocations: Rows) -> None:
    """Fill in the memory of steps: of what was allocated since the recording began, on all devices."""
    mine = allocations[allocations["start"] >= 0]
    freed = mine[mine["end"] >= 0]
    times = np.concatenate([mine["start"], freed["end"]])
    changes = np.concatenate([mine["bytes"], -freed["bytes"]])
    order = np.argsort(times, kind="stable")
    times, changes = times[order], changes[order]
    held = np.append(0, np.cumsum(changes))
    allocated = np.append(0, np.cumsum(np.maximum(changes, 0)))
    for row, (start, end) in enumerate(zip(steps["start"].tolist(), steps["end"].tolist(), strict=True)):
        first, last = np.searchsorted(times, [start, end], side="left")
        steps["allocated"][row] = allocated[last] - allocated[first]
        steps["peak"][row] = held[first : last + 1].max()
        steps["held"][row] = held[last]
