"""Columns of events to a trace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from torchprof.importers.kineto import memory as of_memory
from torchprof.importers.kineto.attribution import attribute, mark_compiled
from torchprof.importers.kineto.columns import Ints, Numbered, field
from torchprof.importers.kineto.counting import flops_of, mark_nested
from torchprof.importers.kineto.freed import give_back
from torchprof.importers.kineto.launches import CUDA, Launches, clock_error, find_by_id, kernels_of
from torchprof.importers.kineto.modules import model_of, modules_of
from torchprof.importers.kineto.nesting import Nesting, nest
from torchprof.importers.kineto.numbers import NONE
from torchprof.importers.kineto.phase_times import fill_steps, phase_segments, times_within
from torchprof.importers.kineto.read_events import OP_KIND, Events
from torchprof.importers.kineto.signatures import Signatures, fill_ops
from torchprof.importers.kineto.spans import calls_of, ops_of
from torchprof.importers.kineto.stacks import stacks_of
from torchprof.importers.kineto.steps import steps_of
from torchprof.importers.kineto.threads import Threads, threads_of, torch_ids_of
from torchprof.trace.schema import LAYOUTS, Rows
from torchprof.trace.trace import Trace
from torchprof.trace.type_names import DeviceTypes
from torchprof.wording import counted

__all__ = ["Assembled", "assemble"]

CPU: Final = 0
UNKNOWN_DEVICE: Final = 127
DEVICE_TYPES: Final = {CPU: "cpu", CUDA: "cuda", UNKNOWN_DEVICE: "unknown"}
"""Of most ops the file does not say on which device their tensors are."""

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Assembled:
    """A trace, and what there is to say of it.

    Attributes:
        trace: without the facts of the file.
        origin: its start, in nanoseconds as in the file.
        problems: what formulas could not count, and totals of allocators that cannot be.
        same_ids: ops with the ``External id`` of another one.
        unfinished: steps that began and in which nothing ran.
        has_memory: whether the file has memory events, with addresses or not.
    """

    trace: Trace
    origin: int
    problems: list[str]
    same_ids: int
    unfinished: int
    has_memory: bool


def assemble(events: Events) -> Assembled:
    """Make a trace of all events of a file, whose columns are taken over."""
    give_back()
    frames = events.frames.take()
    ops_read, calls_read, runtime_read, kernels_read, memory, totals_read = (
        columns.take()
        for columns in (events.ops, events.calls, events.runtime_calls, events.kernels, events.memory, events.totals)
    )
    names, op_kinds = events.names.list(), events.op_kinds.list()
    origin = _to_origin([ops_read, calls_read, runtime_read, kernels_read], memory, events.steps, frames)
    of_ops = field(op_kinds, OP_KIND, "thread")[ops_read["kind"]].astype(np.int32)
    threads = threads_of([of_ops, calls_read["thread"], memory["thread"]], events)
    del of_ops
    blocks, totals, of_devices, wrong_totals = _memory_of(memory, totals_read, threads)
    memory_ends = int(memory["time"].max(initial=0))
    has_memory, has_addresses = len(memory["time"]) > 0, len(blocks.table) > 0
    del memory
    give_back()

    module_names = Numbered[str]()
    ops, kind, op_ids, order = ops_of(ops_read, op_kinds, names, threads)
    collectives = _collectives("ops", order, events.collectives["ops"])
    del order
    give_back()
    calls = calls_of(calls_read, names, threads, module_names)
    nesting = nest(ops, calls)
    give_back()
    ops["parent"], ops["module_call"] = nesting.op_parent, nesting.op_call
    calls["parent"], calls["op"] = nesting.call_parent, nesting.call_op
    threads.table["torch_id"] = torch_ids_of(ops, len(threads.table))
    name_of_op = field(op_kinds, OP_KIND, "name").astype(np.int32)[kind]
    attribute(ops, calls, nesting, names, name_of_op, threads.table["torch_id"])
    give_back()
    stacks = {}
    if events.frames.count:
        stacks = stacks_of(frames, events.frames.functions, ops, calls, module_names.list(), threads, events.names)
    compiled_outside = mark_compiled(calls, nesting, names, name_of_op)
    del name_of_op
    give_back()

    launches = Launches(runtime_read, events.call_kinds.list(), names, kernels_read["correlation"])
    launches.attribute(ops, calls, nesting, threads.rows)
    give_back()
    kernels, ids, order = kernels_of(kernels_read, events.kernel_kinds.list(), names, launches)
    same_ids = find_by_id(kernels, ids, ops, op_ids)
    collectives += _collectives("kernels", order, events.collectives["kernels"])
    calls_made = launches.calls
    del launches, ids, op_ids, order
    give_back()

    of_memory.place(blocks, ops, calls, nesting)
    allocations = blocks.table
    del blocks
    give_back()

    signatures = Signatures(events.names)
    signature = _signatures(signatures, kind, nesting, events, kernels)
    modules = modules_of(module_names.list(), events.names)
    tables = {**{name: np.zeros(0, dtype=layout) for name, layout in LAYOUTS.items()}, **signatures.tables()}
    fill_ops(ops, signature, tables["signatures"])
    tables |= {"ops": ops, "module_calls": calls, "modules": modules, "kernels": kernels, "runtime_calls": calls_made}
    if stacks:
        stacks["allocation_stacks"] = np.append(stacks["op_stacks"], np.int32(-1))[allocations["op"]]
    tables |= {"allocations": allocations, "allocator_totals": totals, "threads": threads.table, **stacks}
    strings = events.names.list()
    mark_nested(ops, nesting, tables, strings, signatures.dtypes.dtypes)
    flops, problems = flops_of(tables, strings, signatures.dtypes.dtypes)
    if wrong_totals:
        less = "less than was just allocated, or more than was reserved"
        problems.append(f"{counted(wrong_totals, 'total')} of an allocator cannot be, {less}: all of its device are left out")
    order = nesting.order
    del nesting, kind, signature
    give_back()

    ends = [int(table[column].max(initial=0)) for table in (ops, calls, kernels, calls_made) for column in ("start", "end")]
    end = max(*ends, memory_ends, *(ends_at - origin for _, _, ends_at, _ in events.steps))
    segments = phase_segments(ops, calls, order, end, threads.main)
    steps, unfinished = steps_of(events.steps, origin, kernels, calls_made, ops)
    fill_steps(steps, segments)
    give_back()
    of_memory.fill_steps(steps, allocations)
    tables["steps"] = steps
    trace = Trace(
        **tables,
        strings=strings,
        model=model_of(module_names.list(), calls["module"], calls["parent"], calls["flags"]),
        dtypes=signatures.dtypes.dtypes,
        device_types=of_devices,
        signature_flops=flops,
        facts={
            "duration_ns": end,
            "ops": len(ops) > 0,
            "shapes": signatures.given,
            "values": signatures.has_values,
            "modules": len(calls) > 0,
            "stacks": "torch.profiler" if stacks else False,
            "memory": has_addresses,
            "compiled_outside_calls": compiled_outside,
            "parameters": False,
            "outputs": False,
            "addresses": False,
            "counts_flops": signatures.given,
            "phase_ns": times_within(segments, 0, end).tolist(),
            "collectives": collectives,
            "gpu_clock_error_ns": clock_error(kernels, calls_made),
        },
    )
    return Assembled(trace, origin, problems, same_ids, unfinished, has_memory)


def _to_origin(spans: list[Arrays], memory: Arrays, steps: list[tuple[int, int, int, int]], frames: Arrays) -> int:
    """Make the earliest time 0, and return what it was. Functions of Python may have begun before it."""
    starts = [int(columns["start"].min()) for columns in spans if len(columns["start"])]
    starts += [int(memory["time"].min())] if len(memory["time"]) else []
    origin = min([*starts, *(start for _, start, _, _ in steps)], default=0)
    for columns in (*spans, memory, frames):
        for name in ("start", "end", "time"):
            if name in columns:
                columns[name] -= origin
    return origin


def _signatures(found: Signatures, kind: Ints, nesting: Nesting, events: Events, kernels: Rows) -> Ints:
    """The row of the signature of every op."""
    kinds, listed, names = events.op_kinds.list(), events.arguments.list(), events.names.list()
    pairs = Numbered[tuple[int, int]]()
    pair_of_kind = np.array(
        [
            pairs.row(pair)
            for pair in zip(*(field(kinds, OP_KIND, name).tolist() for name in ("name", "arguments")), strict=True)
        ],
        dtype=np.int32,
    )
    of_op = pair_of_kind[kind] if len(kind) else np.zeros(0, dtype=np.int32)
    device = np.full(len(pairs.rows), -1, dtype=np.int64)
    np.maximum.at(device, of_op, _devices(nesting, kernels))
    elsewhere = (UNKNOWN_DEVICE if len(kernels) else CPU, NONE)
    rows = [
        found.add(names[name], arguments, listed[arguments], (CUDA, index) if index >= 0 else elsewhere)
        for (name, arguments), index in zip(pairs.list(), device.tolist(), strict=True)
    ]
    return np.array(rows, dtype=np.uint32)[of_op] if rows else np.zeros(0, dtype=np.uint32)


def _devices(nesting: Nesting, kernels: Rows) -> Ints:
    """The index of the device that every op, or one inside it, launched kernels on; -1: none."""
    found = np.full(len(nesting.op_parent) + 1, -1, dtype=np.int8)
    launched = np.flatnonzero(kernels["op"] >= 0)
    np.maximum.at(found, kernels["op"][launched], kernels["device_index"][launched])
    for rows in reversed(nesting.levels):
        np.maximum.at(found, nesting.op_parent[rows], found[rows])
        found[-1] = -1  # what has no parent
    return found[:-1]


def _memory_of(memory: Arrays, totals: Arrays, threads: Threads) -> tuple[of_memory.Blocks, Rows, DeviceTypes, int]:
    """The blocks of memory, the totals of allocators, the types of devices, and how many totals cannot be. Events without
    addresses make none."""
    if len(totals["event"]):
        for name in ("allocated", "reserved"):
            memory[name] = np.full(len(memory["time"]), NONE, dtype=np.int64)
            memory[name][totals["event"]] = totals.pop(name)
    if (np.diff(memory["time"]) < 0).any():
        in_order = np.argsort(memory["time"], kind="stable")
        for name in memory:
            memory[name] = memory[name][in_order]
    wrong = of_memory.drop_impossible_totals(memory)
    found = memory if (memory["address"] != NONE).all() else {name: column[:0] for name, column in memory.items()}
    of_thread = threads.row_of(found["thread"]).astype(np.uint16)
    return of_memory.blocks_of(found, of_thread), of_memory.totals_of(found), _device_types(memory), wrong


def _device_types(memory: Arrays) -> DeviceTypes:
    """The device types, with those that only memory events have: these keep their number for a name."""
    return DeviceTypes({**{number: f"device type {number}" for number in set(memory["device_type"].tolist())}, **DEVICE_TYPES})


def _collectives(table: str, order: Ints, found: dict[int, dict[str, Any]]) -> list[dict[str, Any]]:
    """What the file says of collectives, each with the row of its op or kernel.

    Args:
        order: the row in the file of every row of the table.
        found: by row in the file.
    """
    rows = np.flatnonzero(np.isin(order, list(found))) if found else ()
    return [{"table": table, "row": int(row), **found[int(order[row])]} for row in rows]
