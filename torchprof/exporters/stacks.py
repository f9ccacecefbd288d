"""Stacks of phase, modules, ops and kernels, each with a value: what flame graphs show.

Stacks are nodes of one tree, whose roots are the phases. Below a phase are module calls, and below these the ops that are
attributed to them. Or functions of Python take the place of phases and calls. Nodes of ops are found in one pass over the rows
of ops: the node of an op follows from the node of its parent, which has a lower row, and its name.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from torchprof.analysis.gpu.kernel_names import short_name
from torchprof.analysis.gpu.kernels import kernel_times
from torchprof.analysis.groups import Groups
from torchprof.analysis.model.flops import counted_bytes, counted_flops
from torchprof.analysis.model.module_tree import ModuleNode, module_tree
from torchprof.analysis.python_frames import python_frames
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


class _Places(NamedTuple):
    """What ops, module calls and kernels are below.

    Attributes:
        of_ops, of_calls, of_kernels: a number for each row.
        node: gives the node of such a number.
    """

    of_ops: Values
    of_calls: Values
    of_kernels: Values
    node: Callable[[int], int]


class Stacks:
    """A tree of stacks. Iterating gives every stack with a value, as frames from the outermost to the innermost.

    Attributes:
        frames: the texts that stacks refer to by index.
        values: the value of every node of the tree.
    """

    def __init__(self, trace: Trace, by: str, functions: bool = False) -> None:
        """
        Args:
            by: a key of ``UNITS``.
            functions: whether stacks are those of Python.

        Raises:
            ArgumentError: ``by`` is unknown, the trace holds sums only, has no kernels for ``by="device"`` or no stacks of
                Python.
        """
        if by not in UNITS:
            raise ArgumentError(f"by must be one of {', '.join(map(repr, UNITS))}, not {by!r}")
        if trace.facts.get("aggregate") and not len(trace.ops):
            raise ArgumentError(
                f"trace must hold single ops, and {trace!r} holds sums, which have no stacks: record without aggregate=True"
            )
        if by == "device" and not len(trace.kernels):
            raise ArgumentError(f"by={by!r}: the trace has no kernels: no device was recorded, or none ran anything")
        if functions and not len(trace.stacks):
            raise ArgumentError(
                f"functions={functions!r}: the trace has no stacks of Python. Files of torch.profiler have them that were "
                "recorded with with_stack=True"
            )
        self.frames: list[str] = []
        self._index_of_frame: dict[str, int] = {}
        self._parent: list[int] = []  # of every node; -1 for a root
        self._frame: list[int] = []  # of every node
        self._nodes: dict[tuple[int, int], int] = {}  # by parent and frame

        places = self._functions(trace) if functions else self._modules(trace)
        op_nodes = self._op_nodes(trace, places)
        if by == "device":
            kernel_nodes = self._kernel_nodes(trace, places, op_nodes)
            self.values = np.zeros(len(self._frame), dtype=np.int64)
            np.add.at(self.values, kernel_nodes, kernel_times(trace.kernels))
            return
        op_values, call_values = VALUES[by](trace)
        calls = np.flatnonzero(call_values)
        call_nodes = [places.node(place) for place in places.of_calls[calls].tolist()]
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

    def _modules(self, trace: Trace) -> _Places:
        """Module calls in a phase: ``call * PHASES + phase``. A call of -1 is none."""
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

        calls = trace.module_calls
        return _Places(
            trace.ops["module_call"].astype(np.int64) * PHASES + phases(trace.ops),
            np.arange(len(calls)) * PHASES + phases_of_calls(calls),
            trace.kernels["module_call"].astype(np.int64) * PHASES + _phases_of_kernels(trace),
            node_of_call,
        )

    def _functions(self, trace: Trace) -> _Places:
        """Rows of the stacks of Python; where there is none, the phase below all rows: ``-1 - phase``."""
        nodes: dict[int, int] = {}
        parents, frames = trace.stacks["parent"].tolist(), python_frames(trace)

        def node_of_stack(row: int) -> int:
            found = nodes.get(row)
            if found is None:
                if row < 0:
                    found = self._node(-1, self._frame_index(Phase(-1 - row).name.lower()))
                else:
                    above = node_of_stack(parents[row]) if parents[row] >= 0 else -1
                    found = self._node(above, self._frame_index(frames[row].text))
                nodes[row] = found
            return found

        for row in range(len(parents)):  # callers first, so that it calls itself once at most
            node_of_stack(row)

        def places(stack: Values, phase: Values) -> Values:
            return np.where(stack >= 0, stack, -1 - phase)

        of_calls = places(trace.call_stacks, phases_of_calls(trace.module_calls))
        call, phase = trace.kernels["module_call"], _phases_of_kernels(trace)
        of_kernels = np.where(call >= 0, np.append(of_calls, -1)[call], -1 - phase)
        return _Places(places(trace.op_stacks, phases(trace.ops).astype(np.int64)), of_calls, of_kernels, node_of_stack)

    def _op_nodes(self, trace: Trace, places: _Places) -> Values:
        """The node of every op."""
        ops, names, keys = trace.ops, trace.op_names, places.of_ops
        # An op is below its parent if both are in the same place; otherwise it is directly below that.
        parent = ops["parent"]
        parent = np.where((parent >= 0) & (keys[parent] == keys), parent, -1)
        frames = {row: self._frame_index(trace.strings[row]) for row in np.unique(names).tolist()}
        found: list[int] = []
        for first in range(0, len(ops), CHUNK):
            part = slice(first, first + CHUNK)
            for above, key, name in zip(parent[part].tolist(), keys[part].tolist(), names[part].tolist(), strict=True):
                found.append(self._node(found[above] if above >= 0 else places.node(key), frames[name]))
        return np.array(found, dtype=np.int64)

    def _kernel_nodes(self, trace: Trace, places: _Places, op_nodes: Values) -> Values:
        """The node of every kernel: below the op that launched it or, without one, below its module call or its phase."""
        kernels = trace.kernels
        op_node = np.append(op_nodes, -1)[np.where(kernels["op"] >= 0, kernels["op"], -1)]
        key = np.where(op_node >= 0, 0, places.of_kernels)
        groups = Groups.by([op_node, key, kernels["name"], kernels["kind"]])
        found = []
        for row in groups.first.tolist():
            name = trace.strings[int(kernels["name"][row])]
            frame = self._frame_index(short_name(name) if kernels["kind"][row] == Activity.KERNEL else name)
            found.append(self._node(int(op_node[row]) if op_node[row] >= 0 else places.node(int(key[row])), frame))
        return np.array(found, dtype=np.int64)[groups.of]


def _phases_of_kernels(trace: Trace) -> Values:
    phase = trace.kernels["phase"]
    return np.where(phase <= max(Phase), phase, int(Phase.OTHER)).astype(np.int64)


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
