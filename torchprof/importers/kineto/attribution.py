"""The phase of every op, and the module call that it worked for: as the recorder finds them, without addresses.

What the recorder finds by the addresses of tensors, the file does not tell: which module an optimizer's op updates stays
unknown, and a gradient belongs to the node of autograd that ran just before it was accumulated, which made it.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.flops.classes import COMPILED_REGION
from torchprof.importers.kineto.columns import Ints
from torchprof.importers.kineto.freed import give_back
from torchprof.importers.kineto.nesting import Nesting, parts
from torchprof.trace.schema import (
    CALL_COMPILED,
    CALL_LOADED_DATA,
    CALL_RECOMPUTED,
    OP_ATTRIBUTED,
    SCOPE_BACKWARD,
    SCOPE_USER,
    Phase,
    Rows,
)

__all__ = ["ACCUMULATION", "ENGINE", "attribute", "mark_compiled"]

ENGINE: Final = "autograd::engine::evaluate_function"
ACCUMULATION: Final = "torch::autograd::AccumulateGrad"
OPTIMIZERS: Final = ("Optimizer.step#", "Optimizer.zero_grad#")
LOADERS: Final = ("enumerate(DataLoader)", "enumerate(DataPipe)", "iter(DataLoader)", "torchprof.data(")
PHASE_SHIFT: Final = 4
MOST_ORDERS: Final = 8
"""Of derivatives: ops of a backward pass that are differentiated in turn."""

Flags = npt.NDArray[np.bool_]


def attribute(ops: Rows, calls: Rows, nesting: Nesting, names: list[str], name_of_op: Rows, torch_ids: Rows) -> None:
    """Fill in ``module_call`` and ``flags`` of ops, and ``flags`` of calls.

    Args:
        nesting: what they ran in.
        name_of_op: rows of ``names``.
        torch_ids: of the threads, as ``forward_thread`` has them.
    """
    found = _Attribution(ops, nesting, names, name_of_op)
    phase = found.phases()
    give_back()
    nodes = found.attribute_backward(torch_ids)
    give_back()
    found.mark_forward_outside_modules(phase, nodes)
    ops["flags"] |= phase << PHASE_SHIFT
    around = nesting.call_op
    phase_around = np.append(phase, Phase.OTHER)[around]
    in_backward = (around >= 0) & _is_backward(phase_around)
    calls["flags"] |= np.where(in_backward, CALL_RECOMPUTED, 0).astype(np.uint8)
    calls["flags"] |= np.where((around >= 0) & (phase_around == Phase.DATA), CALL_LOADED_DATA, 0).astype(np.uint8)


def mark_compiled(calls: Rows, nesting: Nesting, names: list[str], name_of_op: Rows) -> int:
    """Flag the calls that compiled code began in, and return how often it began outside of all."""
    is_region = np.array([name.startswith(COMPILED_REGION) for name in names] or [False])[name_of_op]
    began_in = nesting.op_call[is_region]
    calls["flags"][began_in[began_in >= 0]] |= CALL_COMPILED
    return int((began_in < 0).sum())


def _is_backward(phase: Ints) -> Flags:
    found: Flags = (phase == Phase.BACKWARD) | (phase == Phase.RECOMPUTATION)
    return found


class _Attribution:
    def __init__(self, ops: Rows, nesting: Nesting, names: list[str], name_of_op: Rows) -> None:
        self.ops, self.nesting = ops, nesting
        self.parent = nesting.op_parent
        self.levels = nesting.levels
        self.is_user = ops["scope"] == SCOPE_USER

        def named(matches: list[bool]) -> Flags:
            found: Flags = np.append(np.array(matches, dtype=np.bool_), False)[name_of_op]
            return found

        self.is_engine = named([name.startswith(ENGINE) for name in names])
        self.is_accumulation = named([name == ACCUMULATION for name in names])
        self.is_optimizer = named([name.startswith(OPTIMIZERS) for name in names]) & self.is_user
        self.is_loader = named([name.startswith(LOADERS) for name in names]) & self.is_user

    def phases(self) -> Ints:
        """Of every op. The innermost of what began around it counts."""
        ops, parent = self.ops, self.parent
        ran_in = self.nesting.op_call
        called_here, in_node, runs_without_grad = (np.zeros(len(ops), dtype=np.bool_) for _ in range(3))
        for part in parts(len(ops)):
            above, inside = parent[part], parent[part] >= 0
            called_here[part] = (ran_in[part] >= 0) & (~inside | (ran_in[part] != ran_in[above]))
            in_node[part] = inside & (ops["scope"][above] == SCOPE_BACKWARD)
            runs_without_grad[above[in_node[part] & (ops["sequence_nr"][part] < 0)]] = True
        builds_again = in_node & (ops["sequence_nr"] >= 0) & (ops["forward_thread"] == 0)
        for part in parts(len(ops)):
            builds_again[part] &= runs_without_grad[parent[part]]
        alone = np.where(ran_in >= 0, np.uint8(Phase.FORWARD), np.uint8(Phase.OTHER))
        data, backward, optimizer, recomputation = (
            np.uint8(each) for each in (Phase.DATA, Phase.BACKWARD, Phase.OPTIMIZER, Phase.RECOMPUTATION)
        )
        phase = np.zeros(len(ops) + 1, dtype=np.uint8)
        for rows in self.levels:
            around = phase[parent[rows]]
            again = called_here[rows] | builds_again[rows]
            phase[rows] = np.select(
                [
                    (around == Phase.DATA) | self.is_loader[rows],
                    self.is_engine[rows],
                    self.is_optimizer[rows],
                    _is_backward(around) & again,
                    _is_backward(around),
                    ops["scope"][rows] == SCOPE_BACKWARD,
                    (around == Phase.OPTIMIZER) & ~called_here[rows],
                ],
                [data, backward, optimizer, recomputation, around, backward, optimizer],
                alone[rows],
            )
        return phase[:-1]

    def attribute_backward(self, torch_ids: Rows) -> Ints:
        """Attribute every op of a backward pass to the call of the forward op that it differentiates.

        Returns:
            For every op, the last op that ran its node; -1: none.
        """
        ops, ran_in = self.ops, self.nesting.op_call
        nodes = np.flatnonzero((ops["forward_thread"] != 0) & (ops["sequence_nr"] >= 0))
        creators = _creators(ops, torch_ids, nodes)
        nodes, creators = nodes[creators >= 0], creators[creators >= 0]
        ran_as = np.full(len(ops), -1, dtype=np.int32)
        ran_as[creators] = nodes  # of several, the last
        call, attributed = ran_in, np.zeros(0, dtype=np.bool_)
        for _ in range(MOST_ORDERS):  # an op in a backward pass may itself be differentiated
            before = call
            call, attributed = self._follow(nodes, before[creators])
            if np.array_equal(call, before):
                break
        ops["module_call"] = call
        ops["flags"] |= np.where(attributed, np.uint8(OP_ATTRIBUTED), np.uint8(0))
        return ran_as

    def _follow(self, nodes: Ints, calls_of_nodes: Ints) -> tuple[Ints, Flags]:
        """The call of every op, and whether it is attributed to it, where these nodes belong to these calls."""
        parent, ran_in = self.parent, self.nesting.op_call
        call, attributed = ran_in.copy(), np.zeros(len(ran_in) + 1, dtype=np.bool_)
        call[nodes], attributed[nodes] = calls_of_nodes, True
        accumulations, before = self._nodes_before(attributed)
        call[accumulations], attributed[accumulations] = call[before], True
        engines = np.concatenate([nodes, accumulations])
        engines = engines[(parent[engines] >= 0) & np.append(self.is_engine, False)[parent[engines]]]
        call[parent[engines]], attributed[parent[engines]] = call[engines], True
        for rows in self.levels[1:]:
            above = parent[rows]
            inherits = ~attributed[rows] & attributed[above] & (ran_in[above] == ran_in[rows])
            call[rows[inherits]], attributed[rows[inherits]] = call[above[inherits]], True
        return call, attributed[:-1]

    def _nodes_before(self, attributed: Flags) -> tuple[Ints, Ints]:
        """Accumulations of gradients, and for each the attributed node that ran last before it on its thread."""
        ops = self.ops
        rows = np.flatnonzero(self.is_accumulation)
        candidates = np.flatnonzero(attributed[:-1] & (ops["scope"] == SCOPE_BACKWARD))
        at = np.searchsorted(candidates, rows) - 1
        rows, at = rows[at >= 0], at[at >= 0]
        before = candidates[at]
        same = ops["thread"][before] == ops["thread"][rows]
        return rows[same], before[same]

    def mark_forward_outside_modules(self, phase: Ints, nodes: Ints) -> None:
        """A loss is computed outside any module, but it is differentiated: it is forward, with what is around it and inside."""
        parent = self.parent
        rows = np.flatnonzero(nodes >= 0)
        of_closure = self._is_of_closure(rows, nodes[rows], phase)
        rows = rows[(phase[rows] == Phase.OTHER) | of_closure]
        is_user = np.append(self.is_user, True)
        while (climbs := (parent[rows] >= 0) & ~is_user[parent[rows]]).any():
            rows = np.unique(np.where(climbs, parent[rows], rows))
        forward = np.zeros(len(parent) + 1, dtype=np.bool_)
        forward[rows] = True
        for level in self.levels[1:]:
            forward[level] |= forward[parent[level]]
        phase[forward[:-1] & ((phase == Phase.OTHER) | (phase == Phase.OPTIMIZER))] = Phase.FORWARD

    def _is_of_closure(self, rows: Ints, nodes: Ints, phase: Ints) -> Flags:
        """Which ops in the step of an optimizer are of its closure: what these compute is differentiated before it ends."""
        in_step = phase[rows] == Phase.OPTIMIZER
        range_ = np.where(in_step, rows, -1)
        is_optimizer = np.append(self.is_optimizer, True)
        while (climbs := ~is_optimizer[range_]).any():
            range_ = np.where(climbs, self.parent[range_], range_)
        ends = np.append(self.ops["end"], -1)[range_]
        found: Flags = in_step & (range_ >= 0) & (self.ops["start"][nodes] < ends)
        return found


def _creators(ops: Rows, torch_ids: Rows, nodes: Ints) -> Ints:
    """For every node the forward op that created it: the last with its number on the thread of the forward pass."""
    found = np.full(len(nodes), -1, dtype=np.int64)
    numbered = np.flatnonzero((ops["sequence_nr"] >= 0) & (ops["forward_thread"] == 0))
    for thread, torch_id in enumerate(torch_ids.tolist()):
        mine = np.flatnonzero(ops["forward_thread"][nodes] == torch_id)
        on_thread = numbered[ops["thread"][numbered] == thread]
        if not len(mine) or not len(on_thread):
            continue
        on_thread = on_thread[np.argsort(ops["sequence_nr"][on_thread], kind="stable")]
        numbers, wanted = ops["sequence_nr"][on_thread], ops["sequence_nr"][nodes[mine]]
        last = np.searchsorted(numbers, wanted, side="right") - 1
        found[mine] = np.where((last >= 0) & (numbers[last] == wanted), on_thread[last], -1)
    return found
