"""``[memory]`` events to allocations, and the totals that allocators reported with them.

Blocks are found first, from the events alone; what they were allocated and freed in, when ops and calls are in their tables.
"""

from __future__ import annotations

from array import array
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from torchprof.importers.kineto.columns import Ints, at
from torchprof.importers.kineto.nesting import AT_ONCE, Nesting, open_at
from torchprof.importers.kineto.numbers import NONE
from torchprof.trace.schema import LAYOUTS, NO_THREAD, SCOPE_USER, Phase, Rows, Use, phases

__all__ = ["Blocks", "blocks_of", "drop_impossible_totals", "fill_steps", "place", "totals_of"]

Memory = dict[str, npt.NDArray[Any]]


class Blocks(NamedTuple):
    """Blocks of memory.

    Attributes:
        table: the table of allocations, without what they were made in.
        freed_on: of each, the row of the thread that freed it; ``NO_THREAD`` where that is not known.
    """

    table: Rows
    freed_on: Ints


def blocks_of(memory: Memory, threads: Ints) -> Blocks:
    """The blocks of these events, which are in order of time.

    Args:
        threads: of every event, the row of its thread in the trace.
    """
    first, last = _pairs(memory)
    freed, unfreed = last >= 0, first >= 0
    rows = np.zeros(len(first), dtype=LAYOUTS["allocations"])
    example = np.where(unfreed, first, last)
    rows["start"] = np.where(unfreed, memory["time"][first], -1)
    rows["end"] = np.where(freed, memory["time"][last], -1)
    rows["bytes"] = np.abs(memory["bytes"][example])
    rows["thread"] = threads[example]
    for name in ("address", "device_type", "device_index"):
        rows[name] = memory[name][example]
    # Where the next allocation at an address tells that a block was freed, it is not known by what.
    told = freed & (memory["bytes"][last] < 0)
    return Blocks(rows, np.where(told, threads[last], NO_THREAD).astype(np.uint16))


def place(blocks: Blocks, ops: Rows, calls: Rows, nesting: Nesting) -> None:
    """Fill in what blocks were allocated and freed in."""
    for begin in range(0, len(blocks.table), AT_ONCE):
        part = slice(begin, begin + AT_ONCE)
        _place(blocks.table[part], blocks.freed_on[part], ops, calls, nesting)


def _place(rows: Rows, freed_on: Ints, ops: Rows, calls: Rows, nesting: Nesting) -> None:
    unfreed, freed = rows["start"] >= 0, rows["end"] >= 0
    made_on = np.where(unfreed, rows["thread"], NO_THREAD)
    op = _open_on(made_on, rows["start"], ops, nesting.op_parent)
    ran_in = _open_on(made_on, rows["start"], calls, nesting.call_parent)
    rows["op"], rows["free_op"] = op, _open_on(freed_on, rows["end"], ops, nesting.op_parent)
    call = np.where((op >= 0) & (at(nesting.op_call, op) == ran_in), at(ops["module_call"], op), ran_in)
    rows["module_call"], rows["module"] = call, at(calls["module"], call)
    held = unfreed & (~freed | (rows["end"] > _ends_of_what_made(rows, ran_in, ops, calls, nesting)))
    rows["uses"] = np.where(held, int(Use.HELD_AFTER_CALL), 0)


def _open_on(threads: Ints, times: Ints, spans: Rows, parent: Rows) -> Ints:
    """The innermost span that was open on these threads at these times; -1: none."""
    found = np.full(len(threads), -1, dtype=np.int64)
    for thread in np.unique(threads).tolist():
        rows = np.flatnonzero(threads == thread)
        found[rows] = open_at(spans, parent, thread, times[rows])
    return found


def _pairs(memory: Memory) -> tuple[Ints, Ints]:
    """The events with which each block was allocated (-1: before the recording) and freed (-1: never)."""
    first, last = array("i"), array("i")
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
    return np.array(first, dtype=np.int32), np.array(last, dtype=np.int32)


def _ends_of_what_made(rows: Rows, ran_in: Ints, ops: Rows, calls: Rows, nesting: Nesting) -> Ints:
    """The end of the outermost call or, if there is none, of the outermost op, or of the whole step of an optimizer."""
    row = rows["op"].astype(np.int64)
    above = np.where(row >= 0, at(nesting.op_call, row), ran_in)
    while (inside := at(nesting.call_parent, above) >= 0).any():
        above = np.where(inside, at(nesting.call_parent, above), above)
    end = rows["start"].copy()
    of_optimizer = _phase(ops, row) == Phase.OPTIMIZER
    while (row >= 0).any():
        counts = (row >= 0) & ((at(ops["scope"], row) != SCOPE_USER) | (of_optimizer & (_phase(ops, row) == Phase.OPTIMIZER)))
        end = np.where(counts, np.maximum(end, at(ops["end"], row)), end)
        row = at(nesting.op_parent, row)
    return np.where(above >= 0, at(calls["end"], above), end)


def _phase(ops: Rows, rows: Ints) -> Ints:
    """The phase of each of these ops; that of none is -1."""
    return np.where(rows >= 0, phases(ops[rows]).astype(np.int64), -1) if len(ops) else np.full(len(rows), -1)


def drop_impossible_totals(memory: Memory) -> int:
    """Of devices whose totals cannot be, less than the block that was just allocated or more than is reserved, drop all. How
    many cannot be."""
    if "allocated" not in memory:
        return 0
    allocated = memory["allocated"]
    wrong = (allocated >= 0) & ((allocated < memory["bytes"]) | (memory["reserved"] < allocated))
    for device_type, index in set(
        zip(*(memory[name][wrong].tolist() for name in ("device_type", "device_index")), strict=True)
    ):
        allocated[(memory["device_type"] == device_type) & (memory["device_index"] == index)] = NONE
    return int(wrong.sum())


def totals_of(memory: Memory) -> Rows:
    """The table of allocator totals: where what is reserved or not reported changes. The CPU's allocator has none."""
    found: list[Rows] = []
    if "allocated" not in memory:
        return np.zeros(0, dtype=LAYOUTS["allocator_totals"])
    has_totals = memory["allocated"] >= 0
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
    for begin in range(0, len(rows), AT_ONCE):
        part = rows[begin : begin + AT_ONCE]
        events = zip(memory["address"][part].tolist(), memory["bytes"][part].tolist(), strict=True)
        for event, (address, count) in enumerate(events, start=begin):
            known = blocks.pop(address, 0)
            if count > 0:
                held += count - known
                blocks[address] = count
            else:
                held -= known or -count
            found[event] = held
    return found


def fill_steps(steps: Rows, allocations: Rows) -> None:
    """Fill in the memory of steps: of what was allocated since the recording began, on all devices."""
    unfreed = allocations["start"] >= 0
    freed = unfreed & (allocations["end"] >= 0)
    times = np.concatenate([allocations["start"][unfreed], allocations["end"][freed]])
    order = np.argsort(times, kind="stable")
    times = times[order]
    changes = np.concatenate([allocations["bytes"][unfreed], -allocations["bytes"][freed]])[order]
    del order
    held = np.append(0, np.cumsum(changes))
    for step in steps:
        first, last = np.searchsorted(times, [step["start"], step["end"]], side="left")
        step["allocated"] = np.maximum(changes[first:last], 0).sum()
        step["peak"] = held[first : last + 1].max()
        step["held"] = held[last]
