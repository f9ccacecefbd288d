"""Columns of events to the tables of a trace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from torchprof.importers.kineto import memory as of_memory
from torchprof.importers.kineto.attribution import ENGINE, attribute
from torchprof.importers.kineto.columns import Ints, Numbered
from torchprof.importers.kineto.counting import flops_of, mark_nested
from torchprof.importers.kineto.launches import CUDA, Launches, kernels_of
from torchprof.importers.kineto.modules import model_of, modules_of
from torchprof.importers.kineto.nesting import levels, nest, order_of
from torchprof.importers.kineto.numbers import NONE
from torchprof.importers.kineto.phase_times import fill_steps, phase_segments, times_within
from torchprof.importers.kineto.read_events import CATEGORIES, Events
from torchprof.importers.kineto.signatures import Signatures, fill_ops
from torchprof.importers.kineto.threads import Threads, threads_of, torch_ids_of
from torchprof.trace.schema import LAYOUTS, SCOPE_BACKWARD, SCOPE_USER, Phase, Rows, phases
from torchprof.trace.trace import Trace
from torchprof.trace.type_names import DeviceTypes

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
        problems: what formulas could not count.
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
    """Make a trace of all events of a file."""
    ops_read, calls_read, runtime_read, kernels_read, memory = (
        columns.take() for columns in (events.ops, events.calls, events.runtime_calls, events.kernels, events.memory)
    )
    names = events.names.list()
    origin = _to_origin([ops_read, calls_read, runtime_read, kernels_read], memory, events.steps)
    in_order = np.argsort(memory["time"], kind="stable")
    memory = {name: column[in_order] for name, column in memory.items()}
    has_addresses = len(memory["address"]) > 0 and bool((memory["address"] != NONE).all())

    threads = threads_of([ops_read, calls_read, memory], events)
    ops, op_order = _ops(ops_read, names, threads)
    calls, call_order = _calls(calls_read, threads)
    nesting = nest(ops, calls)
    ops["parent"], ops["module_call"] = nesting.op_parent, nesting.op_call
    calls["parent"], calls["op"] = nesting.call_parent, nesting.call_op
    torch_ids = torch_ids_of(ops, len(threads.table))
    threads.table["torch_id"] = torch_ids
    module_names: Numbered[str] = Numbered()
    calls["module"] = [module_names.row(names[name]) for name in calls_read["name"][call_order].tolist()]
    name_of_op = ops_read["name"][op_order]
    attribute(ops, calls, nesting, names, name_of_op, torch_ids)

    launches = Launches(runtime_read, names, kernels_read["correlation"])
    launches.attribute(ops, calls, nesting, threads.rows)
    by_id, same_ids = _ops_by_id(kernels_read, ops_read["external_id"][op_order])
    kernels, kernel_order = kernels_of(kernels_read, names, launches, events.launches.list(), by_id)
    _follow_ops(kernels, ops)

    places = of_memory.places_of(memory, ops, calls, nesting, threads.rows)
    of_thread = threads.row_of(memory["thread"])
    empty = np.zeros(0, dtype=LAYOUTS["allocations"])
    allocations = of_memory.allocations_of(memory, places, ops, calls, nesting, of_thread) if has_addresses else empty
    totals = of_memory.totals_of(memory) if has_addresses else np.zeros(0, dtype=LAYOUTS["allocator_totals"])

    signatures = Signatures(events.names)
    signature = _signatures(signatures, name_of_op, ops_read["arguments"][op_order], events, ops, kernels)
    modules = modules_of(module_names.list(), events.names)
    tables = {**{name: np.zeros(0, dtype=layout) for name, layout in LAYOUTS.items()}, **signatures.tables()}
    fill_ops(ops, signature, tables["signatures"])
    strings = events.names.list()
    tables |= {"ops": ops, "module_calls": calls, "modules": modules, "kernels": kernels, "runtime_calls": launches.calls}
    tables |= {"allocations": allocations, "allocator_totals": totals, "threads": threads.table}
    mark_nested(ops, nesting.op_parent, tables, strings)
    flops, problems = flops_of(tables, strings, signatures.dtypes.dtypes)

    end = max(
        int(table[column].max(initial=0)) for table in (ops, calls, kernels, launches.calls) for column in ("start", "end")
    )
    end = max(end, int(memory["time"].max(initial=0)), *(step_end - origin for _, _, step_end, _ in events.steps), 0)
    segments = phase_segments(ops, calls, nesting, end, threads.main)
    steps, unfinished = _steps(events.steps, origin, kernels, launches.calls, ops)
    tables["steps"] = steps
    fill_steps(steps, segments)
    of_memory.fill_steps(steps, allocations)
    trace = Trace(
        **tables,
        strings=strings,
        model=model_of(module_names.list(), calls["module"], nesting.call_parent, calls["flags"]),
        dtypes=signatures.dtypes.dtypes,
        device_types=DeviceTypes(
            DEVICE_TYPES
            | {int(number): f"device type {number}" for number in set(memory["device_type"].tolist()) - DEVICE_TYPES.keys()}
        ),
        signature_flops=flops,
        facts={
            "duration_ns": end,
            "ops": len(ops) > 0,
            "shapes": signatures.given,
            "modules": len(calls) > 0,
            "memory": has_addresses,
            "parameters": False,
            "outputs": False,
            "addresses": False,
            "counts_flops": signatures.given,
            "phase_ns": times_within(segments, 0, end).tolist(),
            "collectives": _collectives(events, op_order, kernel_order),
            "gpu_clock_error_ns": _clock_error(kernels, launches.calls),
        },
    )
    return Assembled(trace, origin, problems, same_ids, unfinished, len(memory["time"]) > 0)


def _to_origin(spans: list[Arrays], memory: Arrays, steps: list[tuple[int, int, int, int]]) -> int:
    """Make the earliest time 0, and return what it was."""
    starts = [int(columns["start"].min()) for columns in spans if len(columns["start"])]
    starts += [int(memory["time"].min())] if len(memory["time"]) else []
    origin = min([*starts, *(start for _, start, _, _ in steps)], default=0)
    for columns in spans:
        columns["start"] = columns["start"] - origin
        columns["end"] = columns["end"] - origin
    memory["time"] = memory["time"] - origin
    return origin


def _ops(columns: Arrays, names: list[str], threads: Threads) -> tuple[Rows, Ints]:
    """The table of ops, without what follows from others; and the row in the file of each."""
    thread = threads.row_of(columns["thread"])
    order = order_of(thread, columns["start"], columns["end"])
    ops = np.zeros(len(order), dtype=LAYOUTS["ops"])
    ops["thread"] = thread[order]
    for name in ("start", "end", "sequence_nr"):
        ops[name] = columns[name][order]
    name_of_op, category = columns["name"][order], columns["category"][order]
    is_engine = np.array([name.startswith(ENGINE) for name in names] or [False])[name_of_op]
    has_forward = columns["forward_thread"][order] > 0
    # Of one category for all, a range is what has no namespace and is no node of autograd.
    plain = np.array(["::" not in name for name in names] or [False])[name_of_op] & ~has_forward
    is_user = (category == CATEGORIES["user_annotation"]) | ((category == CATEGORIES["Operator"]) & plain)
    is_node = has_forward & ~is_engine & ~is_user
    is_accumulation = np.array([name == "torch::autograd::AccumulateGrad" for name in names] or [False])[name_of_op]
    ops["scope"] = np.where(is_user, SCOPE_USER, np.where(is_node | is_accumulation, SCOPE_BACKWARD, 0))
    ops["forward_thread"] = np.where(is_node, columns["forward_thread"][order] & 0xFFFFFFFF, 0)
    ops["sequence_nr"][is_engine | is_user] = -1  # the engine's op carries that of the node inside it
    return ops, order


def _calls(columns: Arrays, threads: Threads) -> tuple[Rows, Ints]:
    """The table of module calls, likewise."""
    thread = threads.row_of(columns["thread"])
    order = order_of(thread, columns["start"], columns["end"])
    calls = np.zeros(len(order), dtype=LAYOUTS["module_calls"])
    calls["thread"] = thread[order]
    calls["start"], calls["end"] = columns["start"][order], columns["end"][order]
    return calls, order


def _ops_by_id(kernels: Arrays, external_id: Ints) -> tuple[Ints, int]:
    """For every kernel in the file, the op with its ``External id`` (-1: none); and how many ops have that of another one."""
    rows = np.flatnonzero(external_id >= 0)
    ids, first = np.unique(external_id[rows], return_index=True)
    wanted = kernels["external_id"]
    if not len(ids) or np.array_equal(wanted, kernels["correlation"]):  # until PyTorch 1.13 it is no more than that
        return np.full(len(wanted), -1, dtype=np.int64), len(rows) - len(ids)
    at = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
    return np.where(ids[at] == wanted, rows[first][at], -1), len(rows) - len(ids)


def _follow_ops(kernels: Rows, ops: Rows) -> None:
    """Give kernels whose op is known by its id the module call and the phase of that op."""
    rows = np.flatnonzero((kernels["runtime_call"] < 0) & (kernels["op"] >= 0))
    kernels["module_call"][rows] = ops["module_call"][kernels["op"][rows]]
    kernels["phase"][rows] = phases(ops)[kernels["op"][rows]]


def _signatures(found: Signatures, name: Ints, arguments: Ints, events: Events, ops: Rows, kernels: Rows) -> Ints:
    """The row of the signature of every op."""
    names, listed = events.names.list(), events.arguments.list()
    pairs, of_op = np.unique(name.astype(np.int64) * max(1, len(listed)) + arguments, return_inverse=True)
    device = np.full(len(pairs), -1, dtype=np.int64)
    np.maximum.at(device, of_op, _devices(ops, kernels))
    elsewhere = (UNKNOWN_DEVICE if len(kernels) else CPU, NONE)
    rows = [
        found.add(
            names[pair // len(listed)],
            pair % len(listed),
            listed[pair % len(listed)],
            (CUDA, index) if index >= 0 else elsewhere,
        )
        for pair, index in zip(pairs.tolist(), device.tolist(), strict=True)
    ]
    return np.array(rows, dtype=np.int64)[of_op] if rows else np.zeros(0, dtype=np.int64)


def _devices(ops: Rows, kernels: Rows) -> Ints:
    """The index of the device that every op, or one inside it, launched kernels on; -1: none."""
    found = np.full(len(ops) + 1, -1, dtype=np.int64)
    launched = kernels[kernels["op"] >= 0]
    np.maximum.at(found, launched["op"], launched["device_index"])
    for rows in reversed(levels(ops["parent"])):
        np.maximum.at(found, ops["parent"][rows], found[rows])
        found[-1] = -1  # what has no parent
    return found[:-1]


def _steps(
    read: list[tuple[int, int, int, int]], origin: int, kernels: Rows, runtime_calls: Rows, ops: Rows
) -> tuple[Rows, int]:
    """The table of steps, with what devices did for them; and how many are left out.

    After the last call of ``step()``, torch.profiler begins another step, which ends with the recording. If no op of a
    model, of backward or of an optimizer ran in it, and no kernel, then it is none.
    """
    steps = np.zeros(len(read), dtype=LAYOUTS["steps"])
    for row, (number, start, end, _) in enumerate(sorted(read, key=lambda step: step[1])):
        steps[row]["number"], steps[row]["start"], steps[row]["end"] = number, start - origin, end - origin
    call = kernels["runtime_call"]
    launched = np.where(call >= 0, np.append(runtime_calls["start"], -1)[call], kernels["start"])
    for step in steps:
        mine = (launched >= step["start"]) & (launched < step["end"])
        begins, ends = kernels["start"][mine], np.maximum.accumulate(kernels["end"][mine])
        step["kernels"] = len(begins)
        step["busy"] = np.maximum(0, ends - np.maximum(begins, np.append(begins[:1], ends[:-1]))).sum()
    works = ops["start"][~np.isin(phases(ops), [Phase.OTHER, Phase.DATA])]
    works = works if len(works) else ops["start"]
    idle = len(steps) > 1 and not steps["kernels"][-1] and not (works >= steps["start"][-1]).any()
    return (steps[:-1].copy(), 1) if idle else (steps, 0)


def _clock_error(kernels: Rows, runtime_calls: Rows) -> int:
    """The longest time by which a kernel seems to begin before its launch: the clocks are off by at least as much."""
    launched = kernels[kernels["runtime_call"] >= 0]
    return max(0, int((runtime_calls["start"][launched["runtime_call"]] - launched["start"]).max(initial=0)))


def _collectives(events: Events, op_order: Ints, kernel_order: Ints) -> list[dict[str, Any]]:
    """What the file says of collectives, each with the row of its op or kernel."""
    if not events.collectives:
        return []
    rows = {"ops": np.argsort(op_order), "kernels": np.argsort(kernel_order)}
    return [
        {"table": table, "row": int(rows[table][row]), **collective} for (table, row), collective in events.collectives.items()
    ]
