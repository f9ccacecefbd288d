"""`torchprof.memory`: what a trace, a memory snapshot, or both of one run say of memory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, overload

from torchprof.errors import ModuleTypeError
from torchprof.importers.load import load_trace
from torchprof.paths import AnyPath
from torchprof.tables.checks import check_trace
from torchprof.tables.joined_memory import JoinedMemory, join_memory
from torchprof.tables.memory import Memory
from torchprof.tables.snapshot_memory import SnapshotMemory, snapshot_memory
from torchprof.trace.ranks import Ranks
from torchprof.trace.trace import Trace
from torchprof.wording import shown

__all__ = ["memory"]

Snapshot = AnyPath | Mapping[str, Any] | list[Any] | tuple[Any, ...]


@overload
def memory(trace: Trace, device: str | None = None) -> Memory: ...
@overload
def memory(trace: Snapshot, device: str | None = None) -> SnapshotMemory: ...
@overload
def memory(trace: Trace | AnyPath, device: str | None = None, *, snapshot: Snapshot) -> JoinedMemory: ...
def memory(trace: Any, device: str | None = None, *, snapshot: Any = None) -> Memory | SnapshotMemory:
    """Account for the memory of a trace: every byte has one category, and belongs to one module or to none.

    Args:
        trace: of `torchprof.profile`, recorded with memory, ops and shapes; with the model it knows parameters and paths. Or a
            CUDA memory snapshot: the path of what ``torch.cuda.memory._dump_snapshot`` wrote (also in gzip), or what
            ``torch.cuda.memory._snapshot()`` or ``torch.cuda.memory_snapshot()`` returned; then this returns a
            `SnapshotMemory`.
        device: such as ``"cpu"``, ``"cuda:1"`` or ``"meta"`` (what meta tensors stand for), or ``"cuda"`` where there is only
            one; by default the one that holds parameters, or else the one with the most allocated bytes.
        snapshot: a CUDA memory snapshot, as above, of the run that the trace is of, with its history. Allocations of the trace
            then have stacks, those of the snapshot ops, modules, phases and steps: this returns a `JoinedMemory`. The trace may
            be the path of its file.

    On a device with an allocator that keeps totals, as CUDA's, the peak is the allocator's own, to the byte: the most since the
    recording began, as ``torch.cuda.max_memory_allocated`` says where its peak was reset then.

    Raises:
        ArgumentError: nothing was recorded on that device, there are several of that kind, or the trace keeps sums only
            (``aggregate=True``), or it was recorded with ``memory=False``; or the snapshot cannot be read, or is of another
            run.
        TraceFileError: the file is no snapshot, is damaged, or asks to import something.
        ExtensionError: a snapshot has a history, which the compiled recorder replays, and that is missing.

    Example:
        >>> print(torchprof.memory(prof.trace))
        >>> torchprof.memory(prof.trace).by_category["activations"]
    """
    if snapshot is not None:
        return join_memory(load_trace(trace) if isinstance(trace, str | bytes | os.PathLike) else trace, device, snapshot)
    if isinstance(trace, str | bytes | os.PathLike | Mapping | list | tuple):
        return snapshot_memory(trace, device)
    if not isinstance(trace, Trace | Ranks) and not hasattr(type(trace), "trace"):  # which is hinted at below
        raise ModuleTypeError(
            f"trace={shown(trace)} is none: give a torchprof.Trace, such as prof.trace or what torchprof.load(path) returns, "
            "or what torch.cuda.memory._snapshot() returned, or the path of what torch.cuda.memory._dump_snapshot wrote"
        )
    check_trace(trace)
    return Memory.of(trace, device)
