"""The trace: everything one recording knows, as numpy tables and a list of strings.

It is the only contract between recording and analysis. Nothing here needs the compiled recorder, a device or the
model, so a trace saved on one machine is analysed on another.

    with torchprof.profile(model) as prof:
        model(x)
    prof.trace.save("step.torchprof")
    trace = torchprof.load("step.torchprof")

Each table is the numpy view of one C struct of ``csrc/events.h``. Times are nanoseconds since the start of the
recording; a row number of -1 means none; an end of -1 means that the end was not seen.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import IntEnum, IntFlag
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from torchprof.errors import TraceFileError
from torchprof.modules import Model

__all__ = [
    "DTYPE_NAMES",
    "FORMAT",
    "ITEMSIZES",
    "LAYOUTS",
    "Direction",
    "Phase",
    "Request",
    "Trace",
    "Use",
    "Work",
    "load",
    "phases",
]

FORMAT: Final = 3
"""The version of the file format. Raised by every change that an older torchprof would misread."""

Table = npt.NDArray[Any]


def _struct(size: int, *columns: tuple[str, Any, int]) -> np.dtype[Any]:
    names, formats, offsets = zip(*columns, strict=True)
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": size})


LAYOUTS: Final[Mapping[str, np.dtype[Any]]] = {
    # One call of the dispatcher, one autograd node or one user range, in order of thread and start.
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
    # Rows of tensors: operands[op.inputs : op.inputs + op.n_inputs] are the op's inputs, and so on.
    "operands": np.dtype("i4"),
    "tensors": _struct(
        24,
        ("storage", "u8", 0),
        ("storage_bytes", "i8", 8),
        ("shape", "u4", 16),
        ("dtype", "i1", 20),
        ("device_type", "i1", 21),
        ("device_index", "i1", 22),
        ("flags", "u1", 23),
    ),
    # What ops that do the same work have in common: name, arguments (JSON, where they were kept) and the shape, dtype and
    # device of every tensor, found as an op's are.
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
    # A shape is dims[first : first + ndim].
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
    # One block of memory each, from being handed out to being given back.
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
    # What devices did: a kernel, copy or fill each, with the device's times; and the calls that asked for it or waited for it.
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
    "steps": _struct(
        64,
        ("start", "i8", 0),
        ("end", "i8", 8),
        ("allocated", "i8", 16),
        ("peak", "i8", 24),
        ("held", "i8", 32),
        ("busy", "i8", 40),
        ("number", "i4", 48),
        ("kernels", "u4", 52),
        ("warmup", "u1", 56),
    ),
    # In place of rows per op and call, where steps were folded into sums.
    "op_totals": _struct(
        88,
        ("count", "i8", 0),
        ("time", "i8", 8),
        ("self_time", "i8", 16),
        ("min", "i8", 24),
        ("max", "i8", 32),
        ("allocated", "i8", 40),
        ("device_time", "i8", 48),
        ("device_self", "i8", 56),
        ("kernels", "i8", 64),
        ("signature", "u4", 72),
        ("module", "i4", 76),
        ("phase", "u1", 80),
        ("nested", "u1", 81),
        ("wrapper", "u1", 82),
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
        ("recomputed", "u1", 48),
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
}

# The numbering of c10::ScalarType, c10::DeviceType and at::RecordScope, which PyTorch only ever appends to.
DTYPE_NAMES: Final = (
    "uint8 int8 int16 int32 int64 float16 float32 float64 complex32 complex64 complex128 bool qint8 quint8 qint32 "
    "bfloat16 quint4x2 quint2x4 bits1x8 bits2x4 bits4x2 bits8 bits16 float8_e5m2 float8_e4m3fn float8_e5m2fnuz "
    "float8_e4m3fnuz uint16 uint32 uint64 uint1 uint2 uint3 uint4 uint5 uint6 uint7 int1 int2 int3 int4 int5 int6 int7 "
    "float8_e8m0fnu float4_e2m1fn_x2"
).split()
ITEMSIZES: Final = np.array(
    [1, 1, 2, 4, 8, 2, 4, 8, 4, 8, 16, 1, 1, 1, 4, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1, 2, 4, 8] + [1] * 16,
    dtype=np.int64,
)
DEVICE_NAMES: Final = (
    "cpu cuda mkldnn opengl opencl ideep hip fpga maia xla vulkan metal xpu mps meta hpu ve lazy ipu mtia privateuseone"
).split()

SCOPE_BACKWARD: Final = 1
SCOPE_USER: Final = 7

OP_JOINED: Final = 1
"""Op flag: ``module_call`` is not the call the op ran in, but the one it worked for: that of the forward op it
differentiates, or of the module whose parameter it updates."""
OP_WRAPPER: Final = 4
"""Op flag: an op inside it moved bytes, so its own are not counted again, unless its FLOPs are."""
OP_NESTED: Final = 8
"""Op flag: its FLOPs are not counted: it ran inside an op whose are, or (``torch.func``) an op inside does its work."""
CALL_RAISED: Final = 1
"""Module call flag: it left through an exception."""
CALL_RETURNED_SEQUENCE: Final = 4
"""Module call flag: it returned a tuple or a list."""
CALL_RECOMPUTED: Final = 8
"""Module call flag: it ran inside a backward pass, by activation checkpointing."""
NO_ARGUMENTS: Final = 2**32 - 1
"""In ``signatures``: arguments were not kept."""
NO_NAME: Final = 2**32 - 1
"""In ``kernel_totals``: no op was open."""
NO_THREAD: Final = 2**16 - 1
"""In ``runtime_calls``: a thread of which nothing else was recorded."""


class Work(IntEnum):
    """What a row of ``kernels`` is."""

    KERNEL = 0
    COPY = 1
    SET = 2
    INTERVAL = 3  # of a stream, between two events: all that ran there for one op or call, and the gaps in between


class Direction(IntEnum):
    """From where to where a copy went."""

    OTHER = 0
    HOST_TO_DEVICE = 1
    DEVICE_TO_HOST = 2
    ON_DEVICE = 3
    BETWEEN_DEVICES = 4


class Request(IntEnum):
    """What a row of ``runtime_calls`` asked the device for."""

    LAUNCH = 0
    COPY = 1
    SET = 2
    GRAPH = 3  # the launch of a CUDA graph
    WAIT = 4  # until the device is done
    MEMORY = 5  # from the driver or given back to it, which may wait too


class Use(IntFlag):
    """How an allocation was seen to be used: the flags of ``trace.allocations["uses"]``."""

    PARAMETER = 1
    BUFFER = 2
    GRADIENT = 4
    MODULE_INPUT = 8
    MODULE_OUTPUT = 16
    READ_BY_FORWARD = 32
    READ_BY_BACKWARD = 64
    READ_BY_OPTIMIZER = 128
    OUTLIVED = 256  # still held when the outermost call or op that it was made in had ended


class Phase(IntEnum):
    """What a training step was doing. ``phases(trace.ops)`` gives that of every op."""

    OTHER = 0
    FORWARD = 1
    RECOMPUTATION = 2
    BACKWARD = 3
    OPTIMIZER = 4


def phases(ops: Table) -> npt.NDArray[np.uint8]:
    """The `Phase` of every row of ``ops``."""
    found: npt.NDArray[np.uint8] = np.right_shift(ops["flags"], 4, dtype=np.uint8)
    return found


@dataclass(frozen=True, eq=False)
class Trace:
    """What one recording saw.

    Attributes:
        ops, operands, tensors, signatures, shapes, dims, module_calls, modules, allocations, kernels, runtime_calls, marks,
            steps, op_totals, call_totals, kernel_totals, threads: the tables, as described by ``LAYOUTS``.
        strings: the names that the tables refer to by row.
        facts: what is known of the recording as a whole: ``duration_ns``, ``origin_unix_ns``, ``losses`` (rows that
            did not fit the budget, by table), ``unobserved_classes``, ``torch`` (version), the options it ran with, and
            ``gpu``: how devices were watched (``"cupti"``, ``"events"`` or ``"off"``) with ``gpu_note``, what that means.
        model: the module tree that was recorded, or None.
    """

    ops: Table
    operands: Table
    tensors: Table
    signatures: Table
    shapes: Table
    dims: Table
    module_calls: Table
    modules: Table
    allocations: Table
    kernels: Table
    runtime_calls: Table
    marks: Table
    steps: Table
    op_totals: Table
    call_totals: Table
    kernel_totals: Table
    threads: Table
    strings: list[str]
    facts: dict[str, Any] = field(default_factory=dict)
    model: Model | None = None

    def __post_init__(self) -> None:
        for name, layout in LAYOUTS.items():
            table: Table = getattr(self, name)
            if table.dtype != layout:
                raise TraceFileError(f"table {name!r} has the columns {table.dtype}, not {layout}")
            table.flags.writeable = False

    def __repr__(self) -> str:
        return (
            f"<Trace: {len(self.ops):,} ops, {len(self.module_calls):,} module calls, {len(self.allocations):,} "
            f"allocations, {self.facts.get('duration_ns', 0) / 1e6:,.1f} ms, {self.nbytes / 2**20:,.1f} MiB>"
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the tables."""
        return sum(getattr(self, name).nbytes for name in LAYOUTS)

    @property
    def losses(self) -> dict[str, int]:
        """Rows that were seen but did not fit the budget, by table; empty when nothing was lost."""
        losses: dict[str, int] = self.facts.get("losses", {})
        return {table: count for table, count in losses.items() if count and table != "unmatched_ends"}

    def shape(self, row: int) -> tuple[int, ...]:
        """The sizes in one row of ``shapes``."""
        first, ndim = self.shapes[row].item()
        return tuple(self.dims[first : first + ndim].tolist())

    @property
    def op_names(self) -> Table:
        """Of every op, the row of ``strings`` with its name."""
        names: Table = self.signatures["name"][self.ops["signature"]]
        return names

    def mark(self, name: str) -> int | None:
        """The time of the latest mark with this name, in nanoseconds."""
        times = [int(time) for time, string in self.marks.tolist() if self.strings[string] == name]
        return times[-1] if times else None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the trace to a file: a zip archive of numpy arrays and one JSON document, with no pickle in it.

        Example:
            >>> prof.trace.save("step.torchprof")
        """
        document = {
            "torchprof": FORMAT,
            "strings": self.strings,
            "facts": self.facts,
            "model": self.model.to_json() if self.model is not None else None,
        }
        arrays = {item.name: getattr(self, item.name) for item in fields(self) if item.name in LAYOUTS}
        encoded = np.frombuffer(json.dumps(document).encode(), dtype=np.uint8)
        with open(path, "wb") as file:
            np.savez(file, allow_pickle=False, document=encoded, **arrays)


def load(path: str | os.PathLike[str]) -> Trace:
    """Read a trace that ``Trace.save`` wrote. Needs neither the compiled recorder nor the model.

    Raises:
        TraceFileError: the file is no trace, is damaged or cut short, or was written by a newer torchprof.
        OSError: the file cannot be opened.
    """
    shown = os.fspath(path)
    with open(path, "rb"):  # what is wrong with the path itself is an OSError
        pass
    try:
        return _read(shown)
    except TraceFileError:
        raise
    except (zipfile.BadZipFile, EOFError) as error:
        raise TraceFileError(f"{shown}: damaged or cut short ({error})") from error
    except Exception as error:  # the readers of zip, numpy and JSON raise all kinds on what is no file of theirs
        raise TraceFileError(f"{shown}: not a torchprof trace, or a damaged one ({error})") from error


def _read(shown: str) -> Trace:
    with np.load(shown, allow_pickle=False) as archive:
        if not isinstance(archive, np.lib.npyio.NpzFile) or "document" not in archive:
            raise TraceFileError(f"{shown}: not a torchprof trace")
        document = json.loads(archive["document"].tobytes())
        version = document.get("torchprof") if isinstance(document, dict) else None
        if not isinstance(version, int):
            raise TraceFileError(f"{shown}: not a torchprof trace")
        if version > FORMAT:
            raise TraceFileError(
                f"{shown}: written by a newer torchprof (format {version}; this one reads up to {FORMAT}): "
                "update torchprof to read it"
            )
        if version < FORMAT:
            raise TraceFileError(f"{shown}: written by an older torchprof (format {version}; this one reads {FORMAT})")
        tables = {name: archive[name].astype(layout, copy=False) for name, layout in LAYOUTS.items()}
    strings, facts, model = document["strings"], document["facts"], document["model"]
    if not (isinstance(facts, dict) and isinstance(strings, list) and all(isinstance(text, str) for text in strings)):
        raise TraceFileError(f"{shown}: damaged: its document has other contents than a trace's")
    named = (("signatures", "name"), ("modules", "type"), ("marks", "name"), ("kernels", "name"), ("runtime_calls", "name"))
    names = np.concatenate([tables[table][column] for table, column in named])
    if names.max(initial=0) >= max(1, len(strings)):
        raise TraceFileError(f"{shown}: damaged: rows name strings that are not there")
    return Trace(**tables, strings=strings, facts=facts, model=Model.from_json(model) if model is not None else None)
