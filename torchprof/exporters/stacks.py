"""Stacks of phase, modules, ops and kernels, each with a value: what flame graphs show.

Stacks are nodes of one tree, whose roots are the phases. Below a phase are module calls, and below these the ops that are
attributed to them. Nodes of ops are found in one pass over the rows of ops: the node of an op follows from the node of its
parent, which has a lower row, and its name.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.analysis.gpu.kernel_names import short_name
from torchprof.analysis.gpu.kernels import kernel_times
from torchprof.analysis.groups import Groups
from torchprof.analysis.model.flops import counted_bytes, counted_flops
from torchprof.analysis.model.module_tree import ModuleNode, module_tree
from torchprof.analysis.time.self_times import nested_self_times
from torchprof.errors import ArgumentError
from torchprof.trace.schema import OP_NESTED, OP_WRAPPER, Activity, Phase, phases, phases_of_calls
from torchprof.trace.trace import Trace

__all__ = ["UNITS", "Stacks"]

Values = npt.NDArray[np.int64]

CHUNK: Final = 50_000
PHASES: Final = 8
"""A bound on the number of phases: a module call and a phase are one number, ``call * PHASES + phase``."""
UNITS: Final = {"time": "nanoseconds", "device": "nanoseconds", "flops": "none", "bytes": "bytes"}
"""What the values of stacks may be, and their units as speedscope names them."""


class Stacks:
    """A tree of stacks. Iterating gives every stack with a value, as frames from the outermost to the innermost.

    Attributes:
        frames: the texts that stacks refer to by index.
        values: the value of every node of the tree.
    """

    def __init__(self, trace: Trace, by: str) -> None:
        """
        Args:
            by: a key of ``UNITS``.

        Raises:
            ArgumentError: ``by`` is unknown, the trace holds sums only, or has no kernels for ``by="device"``.
        """
        if by not in UNITS:
            raise ArgumentError(f"by must be one of {', '.join(map(repr, UNITS))}, not {by!r}")
        if trace.facts.get("aggregate") and not len(trace.ops):
            raise ArgumentError(
                f"trace must hold single ops, and {trace!r} holds sums, which have no stacks: record without aggregate=True"
            )
        if by == "device" and not len(trace.kernels):
            raise ArgumentError(f"by={by!r}: the trace has no kernels: no device was recorded, or none ran anything")
        self.frames: list[str] = []
        self._index_of_frame: dict[str, int] = {}
        self._parent: list[int] = []  # of every node; -1 for a root
        self._frame: list[int] = []  # of every node
        self._nodes: dict[tuple[int, int], int] = {}  # by parent and frame

        node_of_call = self._call_nodes(trace)
        op_nodes = self._op_nodes(trace, node_of_call)
        if by == "device":
            kernel_nodes = self._kernel_nodes(trace, node_of_call, op_nodes)
            self.values = np.zeros(len(self._frame), dtype=np.int64)
            np.add.at(self.values, kernel_nodes, kernel_times(trace.kernels))
            return
        op_values, call_values = VALUES[by](trace)
        phase = phases_of_calls(trace.module_calls).tolist()
        calls = np.flatnonzero(call_values)
        call_nodes = [node_of_call(call * PHASES + phase[call]) for call in calls.tolist()]
        self.values = np.zeros(len(self._frame), dtype=np.int64)
        np.add.at(self.values, op_nodes, op_values)
        np.add.at(self.values, np.array(call_nodes, dtype=np.int64), call_values[calls])

    def __iter__(self) -> Iterator[tuple[list[int], int]]:
        for node in np.flatnonzero(self.values).tolist():
            stack = []
            above = node
            while above >= 0:
                stack.append(self._frame[above])
                above = self._parent[above]
            yield stack[::-1], int(self.values[node])

    def _frame_index(self, text: str) -> int:
        index = self._index_of_frame.setdefault(text, len(self.frames))
        if index == len(self.frames):
            self.frames.append(text)
        return index

    def _node(self, parent: int, frame: int) -> int:
        node = self._nodes.setdefault((parent, frame), len(self._frame))
        if node == len(self._frame):
            self._parent.append(parent)
            self._frame.append(frame)
        return node

    def _call_nodes(self, trace: Trace) -> Callable[[int], int]:
        """A function that gives the node of a module call in a phase, ``call * PHASES + phase``; a call of -1 is none."""
        parents = trace.module_calls["parent"].tolist()
        modules = trace.module_calls["module"].tolist()
        module_nodes: dict[int, ModuleNode] = {
            row: node for root in module_tree(trace) for node in root.walk() for row in node.modules
        }
        known: dict[int, int] = {}

        def node_of_call(key: int) -> int:
            found = known.get(key)
            if found is None:
                call, phase = divmod(key, PHASES)
                if call < 0:
                    found = self._node(-1, self._frame_index(Phase(phase).name.lower()))
                else:
                    parent = parents[call]
                    caller = module_nodes[modules[parent]].path if parent >= 0 else ""
                    frame = self._frame_index(_label(module_nodes[modules[call]], caller))
                    found = self._node(node_of_call(parent * PHASES + phase), frame)
                known[key] = found
            return found

        return node_of_call

    def _op_nodes(self, trace: Trace, node_of_call: Callable[[int], int]) -> Values:
        """The node of every op."""
        ops, names, phase = trace.ops, trace.op_names, phases(trace.ops)
        call, parent = ops["module_call"], ops["parent"]
        # An op is below its parent if both have the same module call and phase; otherwise it is directly below its call.
        parent = np.where((parent >= 0) & (call[parent] == call) & (phase[parent] == phase), parent, -1)
        keys = call.astype(np.int64) * PHASES + phase
        frames = {row: self._frame_index(trace.strings[row]) for row in np.unique(names).tolist()}
        found: list[int] = []
        for first in range(0, len(ops), CHUNK):
            part = slice(first, first + CHUNK)
            for above, key, name in zip(parent[part].tolist(), keys[part].tolist(), names[part].tolist(), strict=True):
                found.append(self._node(found[above] if above >= 0 else node_of_call(key), frames[name]))
        return np.array(found, dtype=np.int64)

    def _kernel_nodes(self, trace: Trace, node_of_call: Callable[[int], int], op_nodes: Values) -> Values:
        """The node of every kernel: below the op that launched it or, without one, below its module call or its phase."""
        kernels = trace.kernels
        phase = np.where(kernels["phase"] <= max(Phase), kernels["phase"], int(Phase.OTHER))
        op_node = np.append(op_nodes, -1)[np.where(kernels["op"] >= 0, kernels["op"], -1)]
        key = np.where(op_node >= 0, 0, kernels["module_call"].astype(np.int64) * PHASES + phase)
        groups = Groups.by([op_node, key, kernels["name"], kernels["kind"]])
        found = []
        for row in groups.first.tolist():
            name = trace.strings[int(kernels["name"][row])]
            frame = self._frame_index(short_name(name) if kernels["kind"][row] == Activity.KERNEL else name)
            found.append(self._node(int(op_node[row]) if op_node[row] >= 0 else node_of_call(int(key[row])), frame))
        return np.array(found, dtype=np.int64)[groups.of]


def _label(module: ModuleNode, caller: str) -> str:
    """``attn (GPT2Attention)``: the path of a module, relative to the module that called it, and its class."""
    if module.info is None:  # its name is its class
        return module.name
    if not module.path:
        return module.type
    return f"{module.path.removeprefix(f'{caller}.') if caller else module.path} ({module.type})"


def _flops(trace: Trace) -> tuple[Values, Values]:
    counted = counted_flops(trace, trace.ops["signature"], trace.ops["flags"] & OP_NESTED != 0)
    return counted, np.zeros(len(trace.module_calls), dtype=np.int64)


def _bytes(trace: Trace) -> tuple[Values, Values]:
    flags = trace.ops["flags"]
    moved = counted_bytes(trace, trace.ops["signature"], flags & OP_NESTED != 0, flags & OP_WRAPPER != 0)
    unknown = np.isnan(moved)
    if unknown.any():
        warnings.warn(
            f"the bytes of {int(unknown.sum()):,} ops are unknown, and they are left out: the trace does not know the size of "
            "their dtypes",
            RuntimeWarning,
            stacklevel=4,
        )
    known: Values = np.where(unknown, 0, moved).astype(np.int64)
    return known, np.zeros(len(trace.module_calls), dtype=np.int64)


VALUES: Final[dict[str, Callable[[Trace], tuple[Values, Values]]]] = {
    "time": nested_self_times,
    "flops": _flops,
    "bytes": _bytes,
}
"""The values of every op and of every module call."""
