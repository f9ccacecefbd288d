"""The trace: all that one recording knows, as numpy tables and a list of strings.

It is the only contract between recording and analysis. Nothing here needs PyTorch, a device or the model, so a trace that was
saved on one machine can be analyzed on another.

    with torchprof.profile(model) as prof:
        model(x)
    prof.trace.save("step.torchprof")
    trace = torchprof.load("step.torchprof")
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from torchprof.errors import ArgumentError, TraceFileError
from torchprof.paths import AnyPath
from torchprof.trace import file
from torchprof.trace.model import Model
from torchprof.trace.rank import place_of
from torchprof.trace.schema import LAYOUTS, STACKS, Rows
from torchprof.trace.shapes import Shape, shape_of
from torchprof.trace.source import with_source
from torchprof.trace.type_names import DeviceTypes, Dtypes
from torchprof.wording import counted, shown

__all__ = ["Trace"]


_found_right: dict[str, np.dtype[Any]] = {}
"""The layout that a table had last: comparing two takes longer than all else that makes a trace."""


@dataclass(frozen=True, eq=False)
class Trace:
    """What one recording knows.

    Attributes:
        ops, operands, tensors, signatures, shapes, dims, module_calls, modules, allocations, allocator_totals, kernels,
            runtime_calls, marks, steps, op_totals, call_totals, kernel_totals, threads: the tables, described by ``LAYOUTS``.
        strings: names, which the tables refer to by row.
        facts: about the recording as a whole: ``duration_ns``, ``origin_unix_ns``, ``losses`` (rows that did not fit the
            budget, by table), ``unobserved_classes`` (of modules whose calls may have been missed), ``unread_modules`` (rows of
            ``model.modules`` with parameters of which no op read any; None: not known), ``compiled``
            (whether ``torch.compile`` compiled anything meanwhile), ``compiled_outside_calls`` (how often
            compiled code began outside of all module calls), the version of ``torch``, the options of `torchprof.profile`,
            ``stacks`` (how stacks of Python were read: ``"frames"``, from the interpreter's frames; ``"api"``, by asking
            Python, of ops outside of others and of module calls only; ``"torch.profiler"``, from its file; False: they were
            not),
            ``gpu`` (how GPUs were recorded: ``"cupti"``, ``"events"``, ``"torch.profiler"`` or ``"off"``), ``gpu_note`` (what
            that means); where some FLOPs could not be counted ``flops_note``, where some memory could not be seen
            ``memory_note``; where an exception ended the recording ``ended_by``, its class; and in an aggregated trace
            ``shapes_kept``, how many shapes of an op in a module have sums of their own; with `with_source`, ``source_files``,
            texts by file. Of a rank of a distributed program: ``rank``, ``world_size``, ``local_rank``, ``host``, ``run`` (what
            its launcher calls the run), ``process_groups`` that it is in, ``meshes`` of its parameters, ``groups_of_wrappers``
            in which FSDP and DDP send, and ``pipelines`` that it has stages of. Of an estimate: ``streams``, which one was the
            current one from which time on, and ``float32_products``, what they are computed in. Of a file of another tool:
            ``source``, which; ``notes``, sentences that say what is not in the trace; False under ``outputs``, ``addresses``
            and ``parameters``, which it does not know; why it has no allocations under ``memory_missing``; ``devices``, their
            names; ``distributed`` and ``collectives``, what it says of ranks and of every collective, with
            ``table`` and ``row``.
        model: the modules of the model, or None.
        dtypes, device_types: what the numbers in the tables mean.
        signature_flops: FLOPs of one op of each signature, int64; -1 where the op has no formula. Left out, none has one.
        functions, stacks, op_stacks, call_stacks, allocation_stacks: functions of Python and their lines as a call tree, and
            where in it every op and module call began and every block was allocated, described by ``LAYOUTS``; empty where
            they are not known.
    """

    ops: Rows
    operands: Rows
    tensors: Rows
    signatures: Rows
    shapes: Rows
    dims: Rows
    module_calls: Rows
    modules: Rows
    allocations: Rows
    allocator_totals: Rows
    kernels: Rows
    runtime_calls: Rows
    marks: Rows
    steps: Rows
    op_totals: Rows
    call_totals: Rows
    kernel_totals: Rows
    threads: Rows
    strings: list[str]
    facts: dict[str, Any] = field(default_factory=dict)
    model: Model | None = None
    dtypes: Dtypes = field(default_factory=Dtypes)
    device_types: DeviceTypes = field(default_factory=DeviceTypes)
    signature_flops: Rows = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    functions: Rows = field(default_factory=lambda: np.zeros(0, dtype=STACKS["functions"]))
    stacks: Rows = field(default_factory=lambda: np.zeros(0, dtype=STACKS["stacks"]))
    op_stacks: Rows = field(default_factory=lambda: np.zeros(0, dtype=STACKS["op_stacks"]))
    call_stacks: Rows = field(default_factory=lambda: np.zeros(0, dtype=STACKS["call_stacks"]))
    allocation_stacks: Rows = field(default_factory=lambda: np.zeros(0, dtype=STACKS["allocation_stacks"]))

    def __post_init__(self) -> None:
        for name, layout in LAYOUTS.items():
            table: Rows = getattr(self, name)
            if table.dtype is not _found_right.get(name):
                if table.dtype != layout:
                    raise TraceFileError(f"table {name!r} has the columns {table.dtype}, not {layout}")
                _found_right[name] = table.dtype
            table.flags.writeable = False
        if not len(self.signature_flops):
            object.__setattr__(self, "signature_flops", np.full(len(self.signatures), -1, dtype=np.int64))
        if len(self.signature_flops) != len(self.signatures):
            raise TraceFileError(f"there are FLOPs for {len(self.signature_flops)} of {len(self.signatures)} signatures")
        self.signature_flops.flags.writeable = False
        for stacks, name in (("op_stacks", "ops"), ("call_stacks", "module_calls"), ("allocation_stacks", "allocations")):
            known, rows = len(getattr(self, stacks)), len(getattr(self, name))
            if len(self.stacks) and known != rows:
                raise TraceFileError(f"there are stacks for {known} of {rows} rows of {name}")

    @classmethod
    def empty(cls, model: Model | None = None) -> Trace:
        """A trace in which nothing ran."""
        tables: dict[str, Any] = {name: np.zeros(0, dtype=layout) for name, layout in LAYOUTS.items()}
        return cls(**tables, strings=[], model=model)

    def __repr__(self) -> str:
        tables = ((self.ops, "op"), (self.module_calls, "module call"), (self.allocations, "allocation"))
        counts = ", ".join(counted(len(rows), name) for rows, name in tables)
        return f"<Trace: {counts}, {self.facts.get('duration_ns', 0) / 1e6:,.1f} ms, {self.nbytes / 2**20:,.1f} MiB>"

    @property
    def nbytes(self) -> int:
        """Bytes of the tables."""
        return sum(getattr(self, name).nbytes for name in LAYOUTS)

    @property
    def losses(self) -> dict[str, int]:
        """Rows that did not fit the budget, by table; empty if all did."""
        losses: dict[str, int] = self.facts.get("losses", {})
        return {table: count for table, count in losses.items() if count and table != "unmatched_ends"}

    def shape(self, row: int) -> Shape:
        """The sizes in one row of ``shapes``: ``"j"`` where a size is ragged, None where it is unknown.

        Raises:
            ArgumentError: there is no such row.
        """
        try:
            first, ndim = self.shapes[row].item()
        except (IndexError, TypeError, ValueError):
            raise ArgumentError(f"row={shown(row)} must be a row of shapes, of which there are {len(self.shapes)}") from None
        return shape_of(self.dims[first : first + ndim].tolist())

    @property
    def op_names(self) -> Rows:
        """The name of every op, as a row of ``strings``."""
        names: Rows = self.signatures["name"][self.ops["signature"]]
        return names

    def mark(self, name: str) -> int | None:
        """The time of the latest mark with this name, in nanoseconds; None if there is none."""
        times = [int(time) for time, string in self.marks.tolist() if self.strings[string] == name]
        return times[-1] if times else None

    def with_source(self) -> Trace:
        """The same trace with the text of the user's own files, among ``facts``: all that are there and did not change.

        `torchprof.by_line` and `torchprof.annotate` then show it where the trace is opened without these files.

        Example:
            >>> prof.trace.with_source().save("step.torchprof")
        """
        return replace(self, facts=with_source(self))

    def save(self, path: AnyPath) -> None:
        """Write the trace to a file, which `torchprof.load` reads: see `torchprof.trace.file`.

        In a folder, and where the path ends with a slash, every rank of a distributed program has a file of its own, such as
        ``rank-0003-of-0008.torchprof``. The folder is made where there is none.

        Raises:
            OSError: the file or the folder cannot be written.
            ArgumentError: ``facts`` has something that JSON cannot hold, or the path is not a path.

        Example:
            >>> prof.trace.save("step.torchprof")
            >>> prof.trace.save("run/")
        """
        file.write(place_of(path, self.facts), {item.name: getattr(self, item.name) for item in fields(self)})
