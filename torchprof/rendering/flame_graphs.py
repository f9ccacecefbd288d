"""Flame graphs: where time, of host or devices, FLOPs or bytes went, as stacks of phase, modules and ops with a figure each.

Stacks are nodes of one tree, whose roots are the phases. Below a phase are the module calls that led to an op, below those
the ops. The stacks of ops are found in one pass over their rows: an op's node is known by that of the row above it and
by its name, and parents have lower rows.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.analysis.gpu.kernel_names import short_name
from torchprof.analysis.gpu.kernels import kernel_times
from torchprof.analysis.groups import Groups
from torchprof.analysis.model.flops import counted_bytes, counted_flops
from torchprof.analysis.model.module_tree import ModuleNode, module_tree
from torchprof.analysis.time.calls import closed_ends
from torchprof.errors import ArgumentError
from torchprof.trace.schema import CALL_RECOMPUTED, OP_ATTRIBUTED, OP_NESTED, OP_WRAPPER, Activity, Phase, phases
from torchprof.trace.trace import Trace

__all__ = ["export_folded", "export_speedscope"]

Values = npt.NDArray[np.int64]

CHUNK: Final = 50_000
PHASES: Final = 8  # more than there are
UNITS: Final = {"time": "nanoseconds", "device": "nanoseconds", "flops": "none", "bytes": "bytes"}


def export_folded(trace: Trace, path: str | os.PathLike[str], by: str = "time") -> None:
    """Write the folded stacks that Brendan Gregg's ``flamegraph.pl`` and its kin read: ``forward;Net;fc (Linear);aten::mm 12``.

    A stack is the phase, the chain of module calls that the op ran in, or worked for in a backward pass or an optimizer, and
    the chain of ops within the innermost of them. Equal stacks are one line. In names, what the format has a meaning
    for is replaced: ``;`` by ``,``, line breaks by spaces.

    Args:
        trace: what `torchprof.profile` recorded.
        path: the file to write.
        by: what to add up. ``"time"``: nanoseconds of host time of ops and module calls, each without what ran inside it,
            so that all lines add up to the time recorded. ``"device"``: nanoseconds of devices in the kernels that an op asked
            for, which are frames below it; they add up to the time of all. ``"flops"``. ``"bytes"``: read and written,
            counted where the work is done and not again for the ops around it.

    Raises:
        ArgumentError: ``by`` is none of these, the trace holds sums and no single ops, or no kernels by which to go.
        OSError: the file cannot be written.

    Example:
        >>> export_folded(prof.trace, "step.folded", by="flops")
    """
    stacks = _Stacks(trace, by)
    clean = [" ".join(frame.replace(";", ",").splitlines()) for frame in stacks.frames]
    with open(path, "w", encoding="utf-8") as file:
        for stack, value in stacks:
            file.write(f"{';'.join([clean[frame] for frame in stack])} {value}\n")


def export_speedscope(trace: Trace, path: str | os.PathLike[str], by: str = "time") -> None:
    """Write a profile for https://www.speedscope.app: one sample for each stack, in the order they first occurred.

    Args:
        trace, path, by: as for `export_folded`, whose stacks these are.

    Raises:
        ArgumentError, OSError: as `export_folded`.

    Example:
        >>> export_speedscope(prof.trace, "step.speedscope.json")
    """
    import torchprof

    stacks = _Stacks(trace, by)
    samples, weights = [], []
    for stack, value in stacks:
        samples.append(stack)
        weights.append(value)
    document = {
        "$schema": "https://www.speedscope.app/file-format-schema.json",
        "exporter": f"torchprof@{torchprof.__version__}",
        "name": f"{by} by phase, module and op",
        "activeProfileIndex": 0,
        "shared": {"frames": [{"name": frame} for frame in stacks.frames]},
        "profiles": [
            {
                "type": "sampled",
                "name": by,
                "unit": UNITS[by],
                "startValue": 0,
                "endValue": sum(weights),
                "samples": samples,
                "weights": weights,
            }
        ],
    }
    with open(path, "w", encoding="utf-8") as file:
        json.dump(document, file)


class _Stacks:
    """The tree of stacks: of every node its frame, the node above it (-1: none) and its value.

    Iterating gives the stacks that have a value, from the outermost frame to the innermost.
    """

    def __init__(self, trace: Trace, by: str) -> None:
        if by not in UNITS:
            raise ArgumentError(f"by must be one of {', '.join(map(repr, UNITS))}, not {by!r}")
        if trace.facts.get("aggregate") and not len(trace.ops):
            raise ArgumentError(
                f"trace must hold single ops, and {trace!r} holds sums, which have no stacks: record without aggregate=True"
            )
        if by == "device" and not len(trace.kernels):
            raise ArgumentError(f"by={by!r}: the trace has no kernels: no device was watched, or none did anything")
        self.frames: list[str] = []
        self._frame_of: dict[str, int] = {}
        self._above: list[int] = []
        self._frame: list[int] = []
        self._nodes: dict[tuple[int, int], int] = {}

        call_node = self._call_nodes(trace)
        op_nodes = self._op_nodes(trace, call_node)
        if by == "device":
            kernel_nodes = self._kernel_nodes(trace, call_node, op_nodes)
            self.values = np.zeros(len(self._frame), dtype=np.int64)
            np.add.at(self.values, kernel_nodes, kernel_times(trace.kernels))
            return
        op_values, call_values = VALUES[by](trace)
        recomputed = (trace.module_calls["flags"] & CALL_RECOMPUTED) != 0
        phase = np.where(recomputed, Phase.RECOMPUTATION, Phase.FORWARD).tolist()
        calls = np.flatnonzero(call_values)
        call_nodes = [call_node(call * PHASES + phase[call]) for call in calls.tolist()]
        self.values = np.zeros(len(self._frame), dtype=np.int64)
        np.add.at(self.values, op_nodes, op_values)
        np.add.at(self.values, np.array(call_nodes, dtype=np.int64), call_values[calls])

    def __iter__(self) -> Iterator[tuple[list[int], int]]:
        for node in np.flatnonzero(self.values).tolist():
            stack = []
            above = node
            while above >= 0:
                stack.append(self._frame[above])
                above = self._above[above]
            yield stack[::-1], int(self.values[node])

    def _frame_number(self, text: str) -> int:
        number = self._frame_of.setdefault(text, len(self.frames))
        if number == len(self.frames):
            self.frames.append(text)
        return number

    def _node(self, above: int, frame: int) -> int:
        node = self._nodes.setdefault((above, frame), len(self._frame))
        if node == len(self._frame):
            self._above.append(above)
            self._frame.append(frame)
        return node

    def _call_nodes(self, trace: Trace) -> Callable[[int], int]:
        """What finds the node of a module call in a phase, given as ``call * PHASES + phase``; a call of -1 is none."""
        parents = trace.module_calls["parent"].tolist()
        modules = trace.module_calls["module"].tolist()
        places: dict[int, ModuleNode] = {
            row: place for root in module_tree(trace) for place in root.walk() for row in place.modules
        }
        known: dict[int, int] = {}

        def node(key: int) -> int:
            found = known.get(key)
            if found is None:
                call, phase = divmod(key, PHASES)
                if call < 0:
                    found = self._node(-1, self._frame_number(Phase(phase).name.lower()))
                else:
                    parent = parents[call]
                    caller = places[modules[parent]].path if parent >= 0 else ""
                    frame = self._frame_number(_label(places[modules[call]], caller))
                    found = self._node(node(parent * PHASES + phase), frame)
                known[key] = found
            return found

        return node

    def _op_nodes(self, trace: Trace, call_node: Callable[[int], int]) -> Values:
        ops, names, phase = trace.ops, trace.op_names, phases(trace.ops)
        call, parent = ops["module_call"], ops["parent"]
        # An op is below the one it ran in if both are of the same module call and phase, otherwise right below its call.
        parent = np.where((parent >= 0) & (call[parent] == call) & (phase[parent] == phase), parent, -1)
        places = call.astype(np.int64) * PHASES + phase
        frames = {row: self._frame_number(trace.strings[row]) for row in np.unique(names).tolist()}
        found: list[int] = []
        for first in range(0, len(ops), CHUNK):
            part = slice(first, first + CHUNK)
            for above, place, name in zip(parent[part].tolist(), places[part].tolist(), names[part].tolist(), strict=True):
                found.append(self._node(found[above] if above >= 0 else call_node(place), frames[name]))
        return np.array(found, dtype=np.int64)

    def _kernel_nodes(self, trace: Trace, call_node: Callable[[int], int], op_nodes: Values) -> Values:
        """A kernel is below the op that asked for it; where there is none, below its module call or, without one, its phase."""
        kernels = trace.kernels
        phase = np.where(kernels["phase"] <= max(Phase), kernels["phase"], int(Phase.OTHER))
        op = np.append(op_nodes, -1)[np.where(kernels["op"] >= 0, kernels["op"], -1)]
        place = np.where(op >= 0, 0, kernels["module_call"].astype(np.int64) * PHASES + phase)
        groups = Groups.by([op, place, kernels["name"], kernels["kind"]])
        found = []
        for row in groups.first.tolist():
            name = trace.strings[int(kernels["name"][row])]
            frame = self._frame_number(short_name(name) if kernels["kind"][row] == Activity.KERNEL else name)
            found.append(self._node(int(op[row]) if op[row] >= 0 else call_node(int(place[row])), frame))
        return np.array(found, dtype=np.int64)[groups.of]


def _label(place: ModuleNode, caller: str) -> str:
    """``attn (GPT2Attention)``: where the module is, seen from the one that called it, and its class."""
    if place.info is None:  # its name is the class
        return place.name
    if not place.path:
        return place.type
    return f"{place.path.removeprefix(f'{caller}.') if caller else place.path} ({place.type})"


def _times(trace: Trace) -> tuple[Values, Values]:
    """Nanoseconds of ops and of module calls, each without the ops and calls right inside it.

    Of the call and the op that something ran in, the call is the inner one if it began in that very op.
    """
    ops, calls = trace.ops, trace.module_calls
    op_ends, call_ends = closed_ends(trace, ops), closed_ends(trace, calls)
    of_ops, of_calls = op_ends - ops["start"], call_ends - calls["start"]
    ran_in = _calls_around(trace, op_ends, call_ends)
    totals = of_ops.copy(), of_calls.copy()
    for durations, op, call in ((totals[0], ops["parent"], ran_in), (totals[1], calls["op"], calls["parent"])):
        in_call = (call >= 0) & (calls["op"][call] == op) if len(calls) else np.zeros(len(call), dtype=np.bool_)
        in_op = ~in_call & (op >= 0)
        np.subtract.at(of_calls, call[in_call], durations[in_call])
        np.subtract.at(of_ops, op[in_op], durations[in_op])
    return of_ops, of_calls


def _calls_around(trace: Trace, op_ends: Values, call_ends: Values) -> Values:
    """For every op, the module call it ran in. A joined op names another, so its own is found by time."""
    ops, calls = trace.ops, trace.module_calls
    found: Values = ops["module_call"].astype(np.int64)
    joined = np.flatnonzero((ops["flags"] & OP_ATTRIBUTED) != 0)
    for thread in np.unique(ops["thread"][joined]):
        rows = joined[ops["thread"][joined] == thread]
        here = np.flatnonzero(calls["thread"] == thread)
        here = np.append(here[np.argsort(calls["start"][here], kind="stable")], -1)
        call = here[np.searchsorted(calls["start"][here[:-1]], ops["start"][rows], side="right") - 1]
        while (over := (call >= 0) & (call_ends[call] < op_ends[rows]) if len(calls) else call >= 0).any():
            call = np.where(over, calls["parent"][call], call)
        found[rows] = call
    return found


def _flops(trace: Trace) -> tuple[Values, Values]:
    counted = counted_flops(trace, trace.ops["signature"], trace.ops["flags"] & OP_NESTED != 0)
    return counted, np.zeros(len(trace.module_calls), dtype=np.int64)


def _bytes(trace: Trace) -> tuple[Values, Values]:
    flags = trace.ops["flags"]
    moved = counted_bytes(trace, trace.ops["signature"], flags & OP_NESTED != 0, flags & OP_WRAPPER != 0)
    return moved, np.zeros(len(trace.module_calls), dtype=np.int64)


VALUES: Final[dict[str, Callable[[Trace], tuple[Values, Values]]]] = {"time": _times, "flops": _flops, "bytes": _bytes}
