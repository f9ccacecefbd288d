"""What was done in every stack: times, FLOPs, kernels and memory, summed over the active steps.

From these sums come all figures by line and by function, which know how stacks belong to lines and need no single op.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from torchprof.analysis.gpu.backend import has_kernels
from torchprof.analysis.gpu.kernels import kernel_steps, kernel_times
from torchprof.analysis.gpu.waits import waiting_calls
from torchprof.analysis.groups import Groups
from torchprof.analysis.lines.called_functions import called_forward
from torchprof.analysis.lines.memory_costs import memory_costs
from torchprof.analysis.lines.op_stacks import OpStacks, op_stacks
from torchprof.analysis.lines.python_times import python_times
from torchprof.analysis.lines.running import running_at_launches
from torchprof.analysis.lines.user_code import counted_rows
from torchprof.analysis.model.flops import counted_flops, is_unknown, unknown_op
from torchprof.analysis.remembered import remembered
from torchprof.analysis.steps import active_steps, step_of, step_times
from torchprof.analysis.time.self_times import nested_self_times, self_times_in_steps
from torchprof.analysis.time.totals import step_totals
from torchprof.trace.schema import OP_NESTED, SCOPE_USER, Phase, phases
from torchprof.trace.trace import Trace

__all__ = ["InSteps", "StackCosts", "is_aggregated", "stack_costs", "weighted"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

PHASES: Final = len(Phase)


class InSteps(NamedTuple):
    """Times of rows in steps, all of the same length: the row, the index of the step, and nanoseconds."""

    row: Ints
    step: Ints
    time: Floats

    @classmethod
    def of(cls, row: Ints, step: Ints, time: npt.ArrayLike) -> InSteps:
        """Summed, one for each row and step."""
        groups = Groups.by([row, step])
        return cls(row[groups.first], step[groups.first], weighted(groups.of, time, len(groups.first)))

    def sums(self, of: Ints, groups: int, steps: int) -> Floats:
        """Summed by what ``of`` says of every row: ``[groups, steps]``."""
        return weighted(of[self.row] * steps + self.step, self.time, groups * steps).reshape(groups, steps)


@dataclass(frozen=True)
class StackCosts:
    """Sums, one row for each stack and the call of a backward pass in which it was worked for.

    Attributes:
        stack: the row of ``trace.stacks``; -1: not known.
        called: the stack in which the backward pass was called; -1: none, or it is not known.
        line_known: whether the line was running of the innermost row that counts; else only its function was.
        times: nanoseconds of self time, ``[rows, phases]``.
        sums: others by name: ``calls flops``; with kernels ``device kernels synchronizations waited``; with memory
            ``allocated``, which is per step as well, and ``at_peak saved leaked growth``, which are not.
        unknown_flops: the ops whose FLOPs are unknown, by row.
        steps: the number of active steps. A recording without steps counts as one.
        by_step: times of every step by name, ``self`` and, with kernels, ``device``; None where they are not known.
    """

    stack: Ints
    called: Ints
    line_known: Flags
    times: Floats
    sums: dict[str, Floats]
    unknown_flops: dict[int, frozenset[str]]
    steps: int
    by_step: dict[str, InSteps] | None = None


def weighted(row: Ints, values: npt.ArrayLike, count: int = 0) -> Floats:
    """The values summed by row, of which there are at least so many. Of no values, numpy counts in integers."""
    return np.bincount(row, weights=np.asarray(values, dtype=np.float64), minlength=count).astype(np.float64)


class _Stacks:
    """Rows of `StackCosts`, as they are met."""

    def __init__(self) -> None:
        self._parts: list[tuple[Ints, Ints, Flags]] = []

    def add(self, stack: Ints, called: Ints | None = None, line_known: Flags | None = None) -> int:
        """The number of the part that these are."""
        count = len(stack)
        called = np.full(count, -1) if called is None else np.where(called == stack, -1, called)
        self._parts.append((stack, called, np.ones(count, dtype=np.bool_) if line_known is None else line_known))
        return len(self._parts) - 1

    def numbered(self) -> tuple[tuple[Ints, Ints, Flags], list[Ints]]:
        """The columns of the rows, and for each part the rows of its stacks."""
        columns = [np.concatenate(column) for column in zip(*self._parts, strict=True)]
        groups = Groups.by(columns)
        ends = np.cumsum([len(stack) for stack, _, _ in self._parts])
        stack, called, known = (column[groups.first] for column in columns)
        return (stack.astype(np.int64), called.astype(np.int64), known.astype(np.bool_)), np.split(groups.of, ends[:-1])


def is_aggregated(trace: Trace) -> bool:
    """Whether the trace holds sums alone."""
    return bool(trace.facts.get("aggregate")) or (len(trace.op_totals) > 0 and not len(trace.ops))


@remembered
def stack_costs(trace: Trace, libraries: bool, at_call: bool) -> StackCosts:
    """The sums of a trace that has stacks.

    Args:
        libraries: whether lines of libraries count: what Python runs inside a backward pass is then of its own line, also
            where it is a library that runs it.
        at_call: whether backward is of the line that called it, and not of the lines that it differentiates.
    """
    counted = counted_rows(trace, libraries)
    if is_aggregated(trace):
        return _of_totals(trace, counted)
    stacks = op_stacks(trace)
    op_stack = np.where(stacks.own >= 0, stacks.own, stacks.called) if at_call else stacks.attributed(counted)
    return _of_rows(trace, stacks, counted, op_stack)


def _of_rows(trace: Trace, stacks: OpStacks, counted: Ints, op_stack: Ints) -> StackCosts:
    ops, active = trace.ops, active_steps(trace)
    python = python_times(trace, stacks, counted, *nested_self_times(trace))
    op_self, _ = self_times_in_steps(trace)
    step = step_of(ops["start"], trace, active)
    in_step = step >= 0
    known = _Stacks()
    parts = {
        "unknown": known.add(np.full(1, -1)),
        "ops": known.add(op_stack, stacks.called),
        "python": known.add(python.stack, None, python.line_known),
    }
    kernels, waits = trace.kernels, trace.runtime_calls[waiting_calls(trace)]
    for name, rows in (("kernels", kernels), ("waits", waits)):
        stack, line_known = running_at_launches(trace, rows, op_stack)
        line_known |= np.append(counted, -1)[stack] != stack
        parts[name] = known.add(stack, np.append(stacks.called, -1)[rows["op"]], line_known)
    memory = memory_costs(trace)
    if memory is not None:
        op = memory.allocations["op"].astype(np.int64)
        own = trace.allocation_stacks[memory.rows].astype(np.int64)
        of_op, called = np.append(op_stack, -1)[op], np.append(stacks.called, -1)[op]
        parts["memory"] = known.add(np.where((own >= 0) & (called < 0), own, of_op), called)
    (stack, called, line_known), numbers = known.numbered()
    row = {name: numbers[part] for name, part in parts.items()}
    count = len(stack)

    def summed(part: str, values: npt.ArrayLike) -> Floats:
        return weighted(row[part], values, count)

    phase = np.minimum(phases(ops), PHASES - 1).astype(np.int64)
    own = np.where(in_step & (ops["scope"] != SCOPE_USER), op_self, 0)
    times = weighted(row["ops"] * PHASES + phase, own, count * PHASES)
    times += weighted(row["python"] * PHASES + python.phase, python.time, count * PHASES)
    unknown_row = int(row["unknown"][0])
    worked = np.flatnonzero(own)
    parts_of_steps: list[tuple[Ints, Ints, npt.NDArray[Any]]] = [
        (row["ops"][worked], step[worked], own[worked]),
        (row["python"], python.step, python.time),
    ]
    of_step = step_times(trace)
    if of_step is not None and (left := float(of_step.time.sum()) - float(times.sum())) > 0:
        times[unknown_row * PHASES + Phase.OTHER] += left
        known_of = sum(weighted(each, time, len(of_step.time)) for _, each, time in parts_of_steps)
        steps = np.arange(len(of_step.time))
        parts_of_steps.append((np.full(len(steps), unknown_row), steps, of_step.time - known_of))
    by_step = {"self": InSteps.of(*(np.concatenate(columns) for columns in zip(*parts_of_steps, strict=True)))}
    nested = ops["flags"] & OP_NESTED != 0
    sums = {
        "calls": summed("ops", in_step & _is_called(trace)),
        "flops": summed("ops", np.where(in_step, counted_flops(trace, ops["signature"], nested), 0)),
    }
    if has_kernels(trace):
        launched_in = kernel_steps(trace, active)
        launched = launched_in >= 0
        by_step["device"] = InSteps.of(row["kernels"][launched], launched_in[launched], kernel_times(kernels)[launched])
        waited = step_of(waits["start"], trace, active) >= 0
        sums["device"] = summed("kernels", np.where(launched, kernel_times(kernels), 0))
        sums["kernels"] = summed("kernels", launched)
        sums["synchronizations"] = summed("waits", waited)
        sums["waited"] = summed("waits", np.where(waited, waits["end"] - waits["start"], 0))
    if memory is not None:
        made = step_of(memory.allocations["start"], trace, active) >= 0
        size = memory.allocations["bytes"]
        sums["allocated"] = summed("memory", np.where(made & (memory.allocations["start"] >= 0), size, 0))
        sums["at_peak"] = summed("memory", np.where(memory.at_peak, size, 0))
        if memory.saved is not None:
            sums["saved"] = summed("memory", np.where(memory.saved, size, 0))
        grown = memory.grown(row["memory"])
        for name, of_stacks in zip(("leaked", "growth"), zip(*grown.values(), strict=True), strict=False):
            sums[name] = np.zeros(count)
            sums[name][list(grown)] = of_stacks
    unknown = is_unknown(trace, ops["signature"], nested) & in_step
    return StackCosts(
        stack,
        called,
        line_known,
        times.reshape(count, PHASES),
        sums,
        _names(trace, row["ops"], unknown),
        max(1, len(active)),
        by_step,
    )


def _is_called(trace: Trace) -> Flags:
    """Which ops Python called: those of the dispatcher in no other op, and in no backward pass but by Python."""
    ops = trace.ops
    scope = ops["scope"]
    in_range = np.append(scope == SCOPE_USER, True)[ops["parent"]]
    called: Flags = in_range & (scope == 0) & (phases(ops) != Phase.BACKWARD)
    return called


def _names(trace: Trace, row: Ints, unknown: Flags) -> dict[int, frozenset[str]]:
    """The ops whose FLOPs are unknown, by row."""
    found: dict[int, set[str]] = defaultdict(set)
    ops = np.flatnonzero(unknown)
    signature = trace.ops["signature"] if len(trace.ops) else trace.op_totals["signature"]
    for at, of in dict.fromkeys(zip(row[ops].tolist(), signature[ops].tolist(), strict=True)):
        found[at].add(unknown_op(trace, of))
    return {at: frozenset(names) for at, names in found.items()}


def _of_totals(trace: Trace, counted: Ints) -> StackCosts:
    """The sums of an aggregated trace: of ops and, as far as they are known, of the Python in module calls."""
    rows, calls, totals = trace.op_totals, trace.call_totals, step_totals(trace)
    known = _Stacks()
    known.add(np.full(1, -1))
    op_stack, call_stack = (table["stack"].astype(np.int64) for table in (rows, calls))
    forward = called_forward(trace, counted, call_stack, np.append(op_stack, call_stack))
    known.add(op_stack)
    known.add(np.where(forward >= 0, forward, call_stack), None, forward < 0)
    (stack, called, line_known), ((unknown,), row, call) = known.numbered()
    count = len(stack)
    times = np.zeros(count * PHASES)
    for table, at in ((rows, row), (calls, call)):
        times += weighted(at * PHASES + np.minimum(table["phase"], PHASES - 1), table["self_time"], count * PHASES)
    of_step = step_times(trace)
    if of_step is not None:
        times[unknown * PHASES + Phase.OTHER] += max(0.0, float(of_step.time.sum()) - float(times.sum()))
    sums = {"flops": weighted(row, totals.op_flops, count)}
    if trace.facts.get("memory") is not False:
        sums["allocated"] = weighted(row, rows["allocated"], count)
    if has_kernels(trace):
        sums |= {"device": weighted(row, rows["device_self"], count), "kernels": weighted(row, rows["kernels"], count)}
    names = _names(trace, row, totals.op_unknown)
    return StackCosts(stack, called, line_known, times.reshape(count, PHASES), sums, names, totals.steps)
