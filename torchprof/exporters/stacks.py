"""Stacks of phase, modules, ops and kernels, each with a value: what flame graphs show.

Stacks are nodes of one tree, whose roots are the phases. Below a phase are module calls, and below these the ops that are
attributed to them. Or functions of Python take the place of phases and calls. Nodes of ops are found in one pass over the rows
of ops: the node of an op follows from the node of its parent, which has a lower row, and its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from torchprof.analysis.gpu.kernel_names import short_name
from torchprof.analysis.gpu.kernels import kernel_times
from torchprof.analysis.groups import Groups
from torchprof.analysis.lines.op_stacks import op_stacks
from torchprof.analysis.lines.python_times import python_in_calls
from torchprof.analysis.lines.user_code import counted_rows
from torchprof.analysis.memory.categories import phase_at
from torchprof.analysis.model.module_tree import ModuleNode, module_tree
from torchprof.arguments import check_flag
from torchprof.errors import ArgumentError
from torchprof.exporters.python_stacks import Frame, PythonStacks
from torchprof.exporters.stack_values import MEMORY, UNITS, VALUES, Blocks, blocks
from torchprof.trace.checks import check_trace
from torchprof.trace.schema import Activity, Phase, phases, phases_of_calls
from torchprof.trace.trace import Trace
from torchprof.wording import shown

__all__ = ["Stacks"]

Values = npt.NDArray[np.int64]

CHUNK: Final = 50_000
PHASES: Final = 8
"""A bound on the number of phases: a module call and a phase are one number, ``call * PHASES + phase``."""
BEFORE, UNTRACKED = "before the recording", "untracked"
"""In place of a phase, for memory."""


class _Places(NamedTuple):
    """What ops, module calls, kernels and blocks of memory are below.

    Attributes:
        of_ops, of_kernels, of_blocks: a number for each row.
        node: gives the node of such a number.
        of_calls: gives such numbers and values, of values of every call.
    """

    of_ops: Values
    of_kernels: Values
    of_blocks: Values
    node: Callable[[int], int]
    of_calls: Callable[[Values], tuple[Values, Values]]


class Stacks:
    """A tree of stacks. Iterating gives every stack with a value, as frames from the outermost to the innermost.

    Attributes:
        frames: what stacks refer to by index.
        values: the value of every node of the tree.
    """

    def __init__(
        self,
        trace: Trace,
        by: str,
        *,
        functions: bool = False,
        libraries: bool = False,
        backward_at_call: bool = False,
        device: str | None = None,
    ) -> None:
        """
        Args:
            by: a key of ``UNITS``.
            functions: whether stacks are those of Python; ``libraries``: with the frames of libraries; ``backward_at_call``:
                backward is below the line that called it, and not below the one that it differentiates.
            device: whose memory it is, for ``MEMORY``.

        Raises:
            ArgumentError: ``by`` is unknown, the trace holds sums only, has no kernels for ``by="device"``, no memory for
                ``MEMORY`` or no stacks of Python.
        """
        check_trace(trace)
        if not isinstance(by, str) or by not in UNITS:
            raise ArgumentError(f"by must be one of {', '.join(map(repr, UNITS))}, not {shown(by)}")
        flags = {"functions": functions, "libraries": libraries, "backward_at_call": backward_at_call}
        for name, flag in flags.items():
            check_flag(name, flag)
        if device is not None and by not in MEMORY:
            raise ArgumentError(f"device={device!r} is that of memory, and by={by!r} is not: by='allocated' and by='peak' are")
        if trace.facts.get("aggregate") and not len(trace.ops):
            raise ArgumentError(
                f"trace must hold single ops, and {trace!r} holds sums, which have no stacks: record without aggregate=True"
            )
        if by == "device" and not len(trace.kernels):
            raise ArgumentError(f"trace has no kernels, which by={by!r} adds up: no device was recorded, or none ran anything")
        if functions and not len(trace.stacks) and not trace.facts.get("stacks"):
            raise ArgumentError(
                f"trace has no stacks of Python, which functions={functions!r} needs: torchprof.profile(stacks=True) records "
                "them; files of torch.profiler have them that were recorded with with_stack=True"
            )
        held = blocks(trace, by, device) if by in MEMORY else None
        self.frames: list[Frame] = []
        self._index_of_frame: dict[Frame, int] = {}
        self._parent: list[int] = []  # of every node; -1 for a root
        self._frame: list[int] = []  # of every node
        self._nodes: dict[tuple[int, int], int] = {}  # by parent and frame

        places = self._functions(trace, libraries, backward_at_call) if functions else self._modules(trace)
        op_nodes = self._op_nodes(trace, places)
        if by == "device":
            nodes, values = self._kernel_nodes(trace, places, op_nodes), kernel_times(trace.kernels)
        elif held is not None:
            nodes, values = self._block_nodes(trace, held, places, op_nodes)
        else:
            op_values, call_values = VALUES[by](trace)
            of_calls, call_values = places.of_calls(call_values)
            calls = np.flatnonzero(call_values)
            call_nodes = np.array([places.node(place) for place in of_calls[calls].tolist()], dtype=np.int64)
            nodes, values = np.append(op_nodes, call_nodes), np.append(op_values, call_values[calls])
        self.values = np.zeros(len(self._frame), dtype=np.int64)
        np.add.at(self.values, nodes, values)

    def __iter__(self) -> Iterator[tuple[list[int], int]]:
        for node in np.flatnonzero(self.values).tolist():
            stack = []
            above = node
            while above >= 0:
                stack.append(self._frame[above])
                above = self._parent[above]
            yield stack[::-1], int(self.values[node])

    def _frame_index(self, frame: Frame) -> int:
        index = self._index_of_frame.setdefault(frame, len(self.frames))
        if index == len(self.frames):
            self.frames.append(frame)
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
                    found = self._node(-1, self._frame_index(Frame(Phase(phase).name.lower())))
                else:
                    parent = parents[call]
                    caller = module_nodes[modules[parent]].path if parent >= 0 else ""
                    frame = self._frame_index(Frame(_label(module_nodes[modules[call]], caller)))
                    found = self._node(node_of_call(parent * PHASES + phase), frame)
                known[key] = found
            return found

        of_calls = np.arange(len(trace.module_calls)) * PHASES + phases_of_calls(trace.module_calls)
        return _Places(
            trace.ops["module_call"].astype(np.int64) * PHASES + phases(trace.ops),
            trace.kernels["module_call"].astype(np.int64) * PHASES + _phases_of_kernels(trace),
            trace.allocations["module_call"].astype(np.int64) * PHASES + _phases_of_blocks(trace),
            node_of_call,
            lambda values: (of_calls, values),
        )

    def _functions(self, trace: Trace, libraries: bool, backward_at_call: bool) -> _Places:
        """Rows of the stacks of Python; the functions of these, of which no line is known, behind all rows, in their order.

        Where there is none, the phase below all rows: ``-1 - phase``.
        """
        python = PythonStacks(trace, libraries)
        frames, above, count = python.frames(), python.above.tolist(), len(trace.stacks)
        nodes: dict[int, int] = {}

        def node_of_stack(row: int) -> int:
            if row < 0 and row not in nodes:
                nodes[row] = self._node(-1, self._frame_index(Frame(Phase(-1 - row).name.lower())))
            elif row >= count and row not in nodes:
                around = above[row - count]
                nodes[row] = self._node(nodes[around] if around >= 0 else -1, self._frame_index(functions[row - count]))
            return nodes[row]

        for row in np.unique(python.shown).tolist():  # callers come first
            nodes[row] = self._node(nodes[above[row]] if above[row] >= 0 else -1, self._frame_index(frames[row]))

        functions = python.frames(lines=False)

        def places(stack: Values, phase: Values) -> Values:
            return np.where(stack >= 0, np.append(python.shown, -1)[stack], -1 - phase)

        stacks = op_stacks(trace)
        counted = counted_rows(trace, libraries)
        of_ops = np.where(stacks.own >= 0, stacks.own, stacks.called) if backward_at_call else stacks.attributed(counted)

        def of_calls(values: Values) -> tuple[Values, Values]:
            if not values.any():
                return values[:0], values[:0]
            pieces = python_in_calls(trace, stacks, counted, values)
            place = places(pieces.stack, pieces.phase)
            return np.where((place >= 0) & ~pieces.line_known, place + count, place), pieces.time

        calls = np.append(trace.call_stacks.astype(np.int64), -1)
        own, call = trace.allocation_stacks.astype(np.int64), trace.allocations["module_call"]
        return _Places(
            places(of_ops, phases(trace.ops).astype(np.int64)),
            places(calls[trace.kernels["module_call"]], _phases_of_kernels(trace)),
            places(np.where(own >= 0, own, calls[call]), _phases_of_blocks(trace)),
            node_of_stack,
            of_calls,
        )

    def _op_nodes(self, trace: Trace, places: _Places) -> Values:
        """The node of every op."""
        ops, names, keys = trace.ops, trace.op_names, places.of_ops
        # An op is below its parent if both are in the same place; otherwise it is directly below that.
        parent = ops["parent"]
        parent = np.where((parent >= 0) & (keys[parent] == keys), parent, -1)
        frames = {row: self._frame_index(Frame(trace.strings[row])) for row in np.unique(names).tolist()}
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
            frame = self._frame_index(Frame(short_name(name) if kernels["kind"][row] == Activity.KERNEL else name))
            found.append(self._node(int(op_node[row]) if op_node[row] >= 0 else places.node(int(key[row])), frame))
        return np.array(found, dtype=np.int64)[groups.of]

    def _block_nodes(self, trace: Trace, held: Blocks, places: _Places, op_nodes: Values) -> tuple[Values, Values]:
        """The node of every block, and its bytes: below the op that allocated it or, without one, where Python did."""
        nodes, values = [], held.bytes.tolist()
        ops = trace.allocations["op"][held.rows].tolist()
        for op, place, before in zip(ops, places.of_blocks[held.rows].tolist(), held.before, strict=True):
            if before:
                root = self._node(-1, self._frame_index(Frame(BEFORE)))
                nodes.append(self._node(root, self._frame_index(Frame(before))))
            else:
                nodes.append(int(op_nodes[op]) if op >= 0 else places.node(place))
        if held.untracked > 0:  # below 0, what was freed unseen
            nodes.append(self._node(-1, self._frame_index(Frame(UNTRACKED))))
            values.append(held.untracked)
        return np.array(nodes, dtype=np.int64), np.array(values, dtype=np.int64)


def _phases_of_blocks(trace: Trace) -> Values:
    return phase_at(trace, trace.allocations["op"], trace.allocations["module_call"])


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
