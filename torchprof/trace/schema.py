"""The tables of a trace: columns, numbers and flags.

Each table is the numpy view of one C struct of ``csrc/``. Times are nanoseconds since the start of the recording; a row
number of -1 means none; an end of -1 means that the end was not recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, IntFlag
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = [
    "LAYOUTS",
    "STACKS",
    "Activity",
    "Direction",
    "Phase",
    "Rows",
    "RuntimeCallKind",
    "Use",
    "phases",
    "phases_of_calls",
]

Rows = npt.NDArray[Any]


def _struct(size: int, *columns: tuple[str, Any, int]) -> np.dtype[Any]:
    names, formats, offsets = zip(*columns, strict=True)
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": size})


LAYOUTS: Final[Mapping[str, np.dtype[Any]]] = {
    # One row per call of the dispatcher, autograd node or user range, in order of thread and start.
    "ops": _struct(
        56,
        ("start", "i8", 0),
        ("end", "i8", 8),
        ("sequence_nr", "i8", 16),
        ("signature", "u4", 24),
        ("parent", "i4", 28),
        ("module_call", "i4", 32),
        ("inputs", "u4", 36),
        ("outputs", "u4", 40),
        ("forward_thread", "u4", 44),
        ("n_inputs", "u2", 48),
        ("n_outputs", "u2", 50),
        ("thread", "u2", 52),
        ("scope", "u1", 54),
        ("flags", "u1", 55),
    ),
    # Rows of ``tensors``: operands[op.inputs : op.inputs + op.n_inputs] are the inputs of an op; outputs likewise.
    "operands": np.dtype("i4"),
    "tensors": _struct(
        32,
        ("storage", "u8", 0),
        ("storage_bytes", "i8", 8),
        ("bytes", "i8", 16),
        ("shape", "u4", 24),
        ("dtype", "i1", 28),
        ("device_type", "i1", 29),
        ("device_index", "i1", 30),
        ("flags", "u1", 31),
    ),
    # What ops that do the same work have in common: the name, the arguments (as JSON, where they were kept; of a collective,
    # the name of its process group: {"group": "0"}), and the shape, dtype and device of every input and output.
    "signatures": _struct(
        24,
        ("name", "u4", 0),
        ("inputs", "u4", 4),
        ("outputs", "u4", 8),
        ("arguments", "u4", 12),
        ("results", "u4", 16),
        ("n_inputs", "u2", 20),
        ("n_outputs", "u2", 22),
    ),
    # A shape is dims[first : first + ndim]. A size of RAGGED or UNKNOWN is none.
    "shapes": _struct(8, ("first", "u4", 0), ("ndim", "u4", 4)),
    "dims": np.dtype("i8"),
    "module_calls": _struct(
        48,
        ("start", "i8", 0),
        ("end", "i8", 8),
        ("module", "u4", 16),
        ("parent", "i4", 20),
        ("op", "i4", 24),
        ("inputs", "u4", 28),
        ("outputs", "u4", 32),
        ("n_inputs", "u2", 36),
        ("n_outputs", "u2", 38),
        ("thread", "u2", 40),
        ("flags", "u1", 42),
    ),
    "modules": _struct(16, ("address", "u8", 0), ("type", "u4", 8)),
    # One row per block of memory, from allocation to free.
    "allocations": _struct(
        56,
        ("start", "i8", 0),
        ("end", "i8", 8),
        ("address", "u8", 16),
        ("bytes", "i8", 24),
        ("op", "i4", 32),
        ("free_op", "i4", 36),
        ("module_call", "i4", 40),
        ("module", "i4", 44),
        ("thread", "u2", 48),
        ("device_type", "i1", 50),
        ("device_index", "i1", 51),
        ("uses", "u2", 52),
    ),
    # The totals that the allocator of a device reports, wherever they do not follow from the rows of ``allocations``.
    "allocator_totals": _struct(
        40,
        ("time", "i8", 0),
        ("allocated", "i8", 8),
        ("reserved", "i8", 16),
        ("unreported", "i8", 24),
        ("device_type", "i1", 32),
        ("device_index", "i1", 33),
    ),
    # One row per kernel, copy or memset that a device ran, timed by the device.
    "kernels": _struct(
        80,
        ("start", "i8", 0),
        ("end", "i8", 8),
        ("bytes", "i8", 16),
        ("name", "u4", 24),
        ("runtime_call", "i4", 28),
        ("op", "i4", 32),
        ("module_call", "i4", 36),
        ("stream", "u4", 40),
        ("grid", ("u4", (3,)), 44),
        ("block", ("u2", (3,)), 56),
        ("registers", "u2", 62),
        ("shared_memory", "u4", 64),
        ("graph", "u4", 68),
        ("device_type", "i1", 72),
        ("device_index", "i1", 73),
        ("kind", "u1", 74),
        ("direction", "u1", 75),
        ("phase", "u1", 76),
    ),
    # One row per call of the device's runtime or driver on the host: launches, copies, synchronization, ...
    "runtime_calls": _struct(
        40,
        ("start", "i8", 0),
        ("end", "i8", 8),
        ("name", "u4", 16),
        ("op", "i4", 20),
        ("module_call", "i4", 24),
        ("correlation", "u4", 28),
        ("thread", "u2", 32),
        ("kind", "u1", 34),
        ("phase", "u1", 35),
    ),
    "marks": _struct(16, ("time", "i8", 0), ("name", "u4", 8)),
    # The columns from ``forward`` to ``data`` are the nanoseconds of the step in each phase; what is left of it is of no phase.
    "steps": _struct(
        104,
        ("start", "i8", 0),
        ("end", "i8", 8),
        ("allocated", "i8", 16),
        ("peak", "i8", 24),
        ("held", "i8", 32),
        ("busy", "i8", 40),
        ("forward", "i8", 48),
        ("recompute", "i8", 56),
        ("backward", "i8", 64),
        ("optimizer", "i8", 72),
        ("data", "i8", 80),
        ("number", "i4", 88),
        ("kernels", "u4", 92),
        ("warmup", "u1", 96),
    ),
    # Sums that take the place of rows per op, call and kernel in a trace recorded with ``aggregate=True``.
    "op_totals": _struct(
        112,
        ("count", "i8", 0),
        ("time", "i8", 8),
        ("self_time", "i8", 16),
        ("min", "i8", 24),
        ("max", "i8", 32),
        ("allocated", "i8", 40),
        ("device_time", "i8", 48),
        ("device_self", "i8", 56),
        ("kernels", "i8", 64),
        ("flops", "i8", 72),
        ("moved", "f8", 80),
        ("merged", "u4", 88),
        ("signature", "u4", 92),
        ("module", "i4", 96),
        ("phase", "u1", 100),
        ("nested", "u1", 101),
        ("wrapper", "u1", 102),
        ("unknown", "u1", 103),
        ("stack", "i4", 104),
    ),
    "call_totals": _struct(
        56,
        ("count", "i8", 0),
        ("time", "i8", 8),
        ("self_time", "i8", 16),
        ("min", "i8", 24),
        ("max", "i8", 32),
        ("module", "u4", 40),
        ("caller", "i4", 44),
        ("phase", "u1", 48),
        ("stack", "i4", 52),
    ),
    "kernel_totals": _struct(
        64,
        ("count", "i8", 0),
        ("time", "i8", 8),
        ("min", "i8", 16),
        ("max", "i8", 24),
        ("bytes", "i8", 32),
        ("name", "u4", 40),
        ("op", "u4", 44),
        ("module", "i4", 48),
        ("device_type", "i1", 52),
        ("device_index", "i1", 53),
        ("kind", "u1", 54),
        ("direction", "u1", 55),
        ("phase", "u1", 56),
        ("in_graph", "u1", 57),
    ),
    "threads": _struct(16, ("torch_id", "u8", 0), ("native_id", "u8", 8)),
    # A function of Python. ``name`` is a row of ``strings``, and so is ``file``; -1: not known, as of functions written in C.
    # ``first_line`` is where its definition begins; -1: not known.
    "functions": _struct(12, ("name", "u4", 0), ("file", "i4", 4), ("first_line", "i4", 8)),
    # The line of a function that was running, and the row of the stack that called it, which comes before: a row is a whole
    # stack. -1: the line is not known, as in files of ``torch.profiler``.
    "stacks": _struct(12, ("parent", "i4", 0), ("function", "u4", 4), ("line", "i4", 8)),
    # The stack in which every op and every module call began, and every block was allocated; -1: none is known. All three are
    # empty where there are no stacks.
    "op_stacks": np.dtype("i4"),
    "call_stacks": np.dtype("i4"),
    "allocation_stacks": np.dtype("i4"),
}

STACKS: Final[Mapping[str, np.dtype[Any]]] = {
    name: LAYOUTS[name] for name in ("functions", "stacks", "op_stacks", "call_stacks", "allocation_stacks")
}
"""The tables of Python stacks, which a trace may be made without."""


SCOPE_FUNCTION: Final = 0
"""In ``ops["scope"]``: a call of the dispatcher."""
SCOPE_BACKWARD: Final = 1
SCOPE_USER: Final = 7

OP_ATTRIBUTED: Final = 1
"""Op flag: ``module_call`` is not the call that the op ran in, but the call it is attributed to: that of the forward op it
differentiates, or of the module whose parameter it updates."""
OP_WRAPPER: Final = 4
"""Op flag: an op inside it moved bytes, so its own bytes are not counted again, unless its FLOPs are counted."""
OP_NESTED: Final = 8
"""Op flag: its FLOPs are not counted, because it ran inside an op whose FLOPs are counted, or because (``torch.func``) an op
inside it does the same work."""
PHASE_SHIFT: Final = 4
"""The bits of the flags of an op from here on are its `Phase`."""
TENSOR_NO_STORAGE: Final = 4
"""Tensor flag: it is opaque, or where its data are was not recorded: ``storage`` and ``storage_bytes`` are 0."""
TENSOR_NOT_DENSE: Final = 16
"""Tensor flag: it is sparse or nested, and not all elements that its shape says are stored. ``bytes`` is what it takes; -1:
unknown."""
TENSOR_WRAPPER: Final = 32
"""Tensor flag: it is of a subclass around other tensors and has no memory of its own. ``bytes`` is what these take; -1:
unknown. A jagged tensor is both, and its bytes are those of its elements."""
TENSOR_OBJECT: Final = 64
"""Tensor flag: it is no tensor but an object that a module returned, and ``storage`` is a row of ``strings``, the name of its
class. ``bytes`` is 0 where it holds no tensors, and -1 where it could not be looked into."""
TENSOR_IN_OBJECT: Final = 128
"""Tensor flag: a module was given it, or returned it, inside an object that is no container."""
RAGGED: Final = -2
"""In ``dims``: the tensors in a nested tensor have different sizes here."""
UNKNOWN: Final = -1
"""In ``dims``: the size is symbolic."""
TENSOR_SYMBOLIC: Final = 2
"""Tensor flag: some of its sizes are symbolic."""
NO_FLOPS: Final = -1
"""In ``signature_flops``: the op has none by convention, or leaves them to ops inside it."""
UNKNOWN_FLOPS: Final = -2
"""In ``signature_flops``: the op may have some, and there is no formula that says how many."""
CALL_RAISED: Final = 1
"""Module call flag: it raised an exception."""
CALL_RETURNED_SEQUENCE: Final = 4
"""Module call flag: it returned a tuple or a list."""
CALL_RECOMPUTED: Final = 8
"""Module call flag: it ran inside a backward pass, by activation checkpointing."""
CALL_COMPILED: Final = 16
"""Module call flag: compiled code began in it, and not in a call inside it. Calls of modules in that code are not seen."""
CALL_LOADED_DATA: Final = 32
"""Module call flag: it ran inside a ``DataLoader``, as transforms of the data do."""
NO_ARGUMENTS: Final = 2**32 - 1
"""In ``signatures``: the arguments were not kept."""
NO_NAME: Final = 2**32 - 1
"""In ``kernel_totals``: no op launched the kernel."""
NO_THREAD: Final = 2**16 - 1
"""In ``runtime_calls``: the call was made by a thread that recorded nothing else."""


class Activity(IntEnum):
    """What a row of ``kernels`` is."""

    KERNEL = 0
    COPY = 1
    MEMSET = 2
    INTERVAL = 3  # of a stream, between two events: all that ran there for one op or call, with the gaps in between


class Direction(IntEnum):
    """The source and destination of a copy."""

    OTHER = 0
    HOST_TO_DEVICE = 1
    DEVICE_TO_HOST = 2
    ON_DEVICE = 3
    BETWEEN_DEVICES = 4


class RuntimeCallKind(IntEnum):
    """What a row of ``runtime_calls`` did."""

    LAUNCH = 0
    COPY = 1
    MEMSET = 2
    GRAPH_LAUNCH = 3  # launched a CUDA graph
    SYNCHRONIZE = 4  # waited until the device was done
    MEMORY = 5  # allocated memory from the driver or freed it, which may synchronize too


class Use(IntFlag):
    """How an allocation was used while recording: the flags of ``trace.allocations["uses"]``."""

    PARAMETER = 1
    BUFFER = 2
    GRADIENT = 4
    MODULE_INPUT = 8
    MODULE_OUTPUT = 16
    READ_BY_FORWARD = 32
    READ_BY_BACKWARD = 64
    READ_BY_OPTIMIZER = 128
    HELD_AFTER_CALL = 256  # still allocated when the outermost module call or op that it was made in had ended
    SHARDED = 512  # a parameter, buffer or gradient of which every rank holds a part


class Phase(IntEnum):
    """What a training step was doing. ``phases(trace.ops)`` gives that of every op."""

    OTHER = 0
    FORWARD = 1
    RECOMPUTATION = 2
    BACKWARD = 3
    OPTIMIZER = 4
    DATA = 5  # the program waited for a DataLoader


def phases(ops: Rows) -> npt.NDArray[np.uint8]:
    """The `Phase` of every row of ``ops``."""
    found: npt.NDArray[np.uint8] = np.right_shift(ops["flags"], PHASE_SHIFT, dtype=np.uint8)
    return found


def phases_of_calls(calls: Rows) -> npt.NDArray[np.int64]:
    """The `Phase` of every row of ``module_calls``: forward, recomputation or data. Ops inside may have others."""
    flags = calls["flags"]
    found = np.where(flags & CALL_RECOMPUTED != 0, int(Phase.RECOMPUTATION), int(Phase.FORWARD))
    return np.where(flags & CALL_LOADED_DATA != 0, int(Phase.DATA), found)
