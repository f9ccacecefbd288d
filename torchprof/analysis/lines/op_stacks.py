"""The stack of every op: its own and, in a backward pass, that of the forward op that it differentiates.

    x = self.fc(x)      an op of forward: its own stack
    loss.backward()     an op of backward, and the accumulation of a gradient: that of the forward op; this line is ``called``
    return grad * 2     what Python runs inside backward (``Function.backward``, hooks, recomputation): its own stack
    optimizer.step()    its own stack

An autograd node finds its forward op by sequence number and thread. A ``Function`` creates its node without an op of that
number: then it is the call of ``apply`` around the ops that follow. A gradient is accumulated for the node that ran before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.analysis.autograd import last_with_number
from torchprof.analysis.remembered import remembered
from torchprof.trace.schema import SCOPE_BACKWARD, SCOPE_USER, Phase, phases
from torchprof.trace.trace import Trace

__all__ = ["OpStacks", "op_stacks"]

Ints = npt.NDArray[np.int64]

ENGINE: Final = "autograd::engine::evaluate_function"
RUN: Final = "run_backward(autograd)"
"""The range that is recorded around the engine, on the thread that called it."""
ACCUMULATION: Final = "AccumulateGrad"
APPLY: Final = "torch/autograd/function.py"
MOST_BACKWARD: Final = 8
"""How many backward passes of one another are followed."""


@dataclass(frozen=True, slots=True)
class OpStacks:
    """Rows of ``trace.stacks``, one value per op; -1: not known.

    Attributes:
        own: in which it began. Where none was recorded for an op inside another, that of the other.
        called: of ops in a backward pass, in which this pass was called; -1 for others.
        forward: of ops in a backward pass, the stack of the forward op that their node differentiates; -1 for others.
        forward_op: the row of that op, where there is one; -1 for others.
        on_caller: whether ``called`` is around ``own``: the thread that called the pass ran the op.
    """

    own: Ints
    called: Ints
    forward: Ints
    forward_op: Ints
    on_caller: npt.NDArray[np.bool_]

    def attributed(self, counted: Ints) -> Ints:
        """The stack that each op is attributed to.

        Args:
            counted: of every row of ``trace.stacks``, the innermost row in it that counts; -1: none. What runs inside a
                backward pass keeps its own stack where a frame counts that is inside the pass.
        """
        around = np.where(self.on_caller, self.called, -1)
        runs_itself = (self.own >= 0) & (np.append(counted, -1)[self.own] > around)
        moves = np.flatnonzero(((self.forward >= 0) | (self.forward_op >= 0)) & ~runs_itself)
        found = np.where(self.own >= 0, self.own, self.called)
        op = self.forward_op[moves]
        stays = moves[op < 0]
        found[stays] = self.forward[stays]
        moves, op = moves[op >= 0], op[op >= 0]
        for _ in range(MOST_BACKWARD):  # the forward op may be one of a backward pass itself
            there = found[op]
            there = np.where(there >= 0, there, found[moves])
            if (there == found[moves]).all():
                break
            found[moves] = there
        return found


@remembered
def op_stacks(trace: Trace) -> OpStacks:
    """The stacks of the ops of a trace that has stacks."""
    parent = trace.ops["parent"].astype(np.int64)
    own = _inherited(trace.op_stacks.astype(np.int64), parent)
    node, pass_op = _nodes(trace, parent)
    forward_op = _forward_ops(trace)
    forward = np.where(forward_op >= 0, own[forward_op], -1) if len(own) else own
    called = np.append(own, -1)[pass_op]
    _of_functions(trace, own, called, forward_op, forward)
    _of_accumulations(trace, forward_op, forward)
    forward_op, forward = (np.append(values, -1)[node] for values in (forward_op, forward))
    on_caller = called >= 0
    elsewhere = np.flatnonzero((pass_op >= 0) & ~on_caller)
    if len(elsewhere):
        called[elsewhere] = _callers_on_other_threads(trace, own, elsewhere)
    return OpStacks(own, called, forward, forward_op, on_caller)


def _inherited(values: Ints, parent: Ints) -> Ints:
    """The values, those of -1 replaced by that of the nearest op around which has one."""
    found = values.copy()
    left = np.flatnonzero((found < 0) & (parent >= 0))
    at = parent[left]
    while len(left):
        found[left] = values[at]
        goes_on = (values[at] < 0) & (parent[at] >= 0)
        left, at = left[goes_on], parent[at[goes_on]]
    return found


def _nodes(trace: Trace, parent: Ints) -> tuple[Ints, Ints]:
    """For every op in a backward pass, the node that it is of, and the outermost op of the engine's around; -1 for others.

    The engine's op around a node is of that node too.
    """
    ops = trace.ops
    is_engine = _named(trace, ENGINE)
    node = np.where(ops["scope"] == SCOPE_BACKWARD, np.arange(len(ops)), -1)
    of_engine = np.flatnonzero((node >= 0) & (parent >= 0))
    of_engine = of_engine[is_engine[parent[of_engine]]]
    node[parent[of_engine]] = of_engine
    in_backward = np.isin(phases(ops), (Phase.BACKWARD, Phase.RECOMPUTATION))
    begins = np.where(is_engine | ((node >= 0) & ~np.append(is_engine, False)[parent]), np.arange(len(ops)), -1)
    return _inherited(node, parent), np.where(in_backward | (begins >= 0), _inherited(begins, parent), -1)


def _named(trace: Trace, beginning: str) -> npt.NDArray[np.bool_]:
    """Which ops have a name that begins like this."""
    named = np.array([name.startswith(beginning) for name in trace.strings], dtype=np.bool_)
    found: npt.NDArray[np.bool_] = named[trace.op_names] if named.any() else np.zeros(len(trace.ops), dtype=np.bool_)
    return found


def _forward_ops(trace: Trace) -> Ints:
    """For every node the op that created it; -1 for others."""
    found = np.full(len(trace.ops), -1, dtype=np.int64)
    nodes = np.flatnonzero((trace.ops["forward_thread"] != 0) & (trace.ops["sequence_nr"] >= 0))
    found[nodes] = last_with_number(trace, nodes)
    return found


def _of_functions(trace: Trace, own: Ints, called: Ints, forward_op: Ints, forward: Ints) -> None:
    """Of nodes that no op created, the stack in which ``Function.apply`` was called: the first around ops that came then."""
    ops = trace.ops
    number, is_node = ops["sequence_nr"], ops["forward_thread"] != 0
    left = np.flatnonzero(is_node & (number >= 0) & (forward_op < 0))
    outermost, innermost = _applies(trace)
    if not len(left) or not (innermost >= 0).any():
        return
    torch_ids = trace.threads["torch_id"]
    for torch_id in np.unique(ops["forward_thread"][left]):
        rows = np.flatnonzero(np.isin(ops["thread"], np.flatnonzero(torch_ids == torch_id)) & ~is_node)
        applied = rows[np.append(innermost, -1)[own[rows]] >= 0]
        numbered = rows[number[rows] >= 0]
        numbered = numbered[np.argsort(number[numbered], kind="stable")]
        mine = left[ops["forward_thread"][left] == torch_id]
        # Between the last op of no higher number and the first of a higher one.
        at = np.searchsorted(number[numbered], number[mine], side="right")
        after, before = np.append(numbered, -1)[at - 1], np.append(numbered, len(ops))[at]
        first = np.append(applied, len(ops))[np.searchsorted(applied, after, side="right")]
        mine, first = mine[first <= before], first[first <= before]
        mine, first = mine[first < len(ops)], first[first < len(ops)]
        stack = own[first]
        forward[mine] = np.where(called[first] >= 0, innermost[stack], outermost[stack])


def _applies(trace: Trace) -> tuple[Ints, Ints]:
    """For every stack the rows of the outermost and of the innermost call of ``Function.apply`` in it; -1: none."""
    files = {row for row, text in enumerate(trace.strings) if text.replace("\\", "/").endswith(APPLY)}
    names = {row for row, text in enumerate(trace.strings) if text in ("apply", "Function.apply")}
    is_apply = [file in files and name in names for name, file, _ in trace.functions.tolist()]
    found: list[tuple[int, int]] = []
    columns = zip(trace.stacks["parent"].tolist(), trace.stacks["function"].tolist(), strict=True)
    for row, (parent, function) in enumerate(columns):
        outermost, innermost = found[parent] if parent >= 0 else (-1, -1)
        applies = is_apply[function]
        found.append((row if applies and outermost < 0 else outermost, row if applies else innermost))
    outer, inner = np.array(found, dtype=np.int64).reshape(-1, 2).T
    return outer, inner


def _of_accumulations(trace: Trace, forward_op: Ints, forward: Ints) -> None:
    """A gradient is accumulated as soon as it is there: for the node that ran before, on the same thread."""
    ops = trace.ops
    nodes = np.flatnonzero(ops["scope"] == SCOPE_BACKWARD)
    accumulates = _accumulations(trace)[nodes]
    if not accumulates.any():
        return
    at = np.where(accumulates, -1, np.arange(len(nodes)))
    before = nodes[np.maximum(np.maximum.accumulate(at), 0)]
    mine = accumulates & ~accumulates[np.searchsorted(nodes, before)] & (ops["thread"][before] == ops["thread"][nodes])
    forward_op[nodes[mine]], forward[nodes[mine]] = forward_op[before[mine]], forward[before[mine]]


def _accumulations(trace: Trace) -> npt.NDArray[np.bool_]:
    named = np.array([name.endswith(ACCUMULATION) for name in trace.strings], dtype=np.bool_)
    found: npt.NDArray[np.bool_] = named[trace.op_names] & (trace.ops["scope"] == SCOPE_BACKWARD)
    return found


def _callers_on_other_threads(trace: Trace, own: Ints, rows: Ints) -> Ints:
    """Of ops that the threads of autograd ran, the stack of the call of the engine that was open then; -1: none."""
    ops = trace.ops
    runs = np.flatnonzero(_named(trace, RUN) & (ops["scope"] == SCOPE_USER) & (own >= 0))
    if not len(runs):
        return np.full(len(rows), -1, dtype=np.int64)
    runs = runs[np.argsort(ops["start"][runs], kind="stable")]
    at = np.searchsorted(ops["start"][runs], ops["start"][rows], side="right") - 1
    run = runs[np.maximum(at, 0)]
    is_open = (at >= 0) & ((ops["end"][run] < 0) | (ops["start"][rows] < ops["end"][run]))
    return np.where(is_open, own[run], -1)
