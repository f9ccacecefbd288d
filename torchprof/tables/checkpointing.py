"""`torchprof.checkpointing`: what activation checkpointing of which modules would save at the peak, for which FLOPs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.analysis.memory.account import MemoryAccount
from torchprof.analysis.memory.checkpoints import drops
from torchprof.analysis.memory.recomputed import CheckpointedPeaks
from torchprof.analysis.model.flops import CallFlops, call_flops
from torchprof.analysis.model.kinds import kind_of
from torchprof.analysis.model.module_tree import paths
from torchprof.analysis.records import Record
from torchprof.arguments import check_flag
from torchprof.errors import ArgumentError
from torchprof.rendering.units import format_bytes
from torchprof.tables.checks import check_trace
from torchprof.tables.table import Table
from torchprof.trace.trace import Trace
from torchprof.wording import counted

__all__ = ["checkpointing"]

COLUMNS: Final = ("modules", "peak_saved", "peak", "flops", "saved_per_flop")
HEADERS: Final = {"peak": "Peak", "flops": "FLOPs, at most"}
ONE: Final[Callable[[str], str]] = lambda path: path  # noqa: E731


def checkpointing(trace: Trace, device: str | None = None, *, each: bool = False) -> Table:
    """What activation checkpointing of which modules would save at the peak of a training step, for which FLOPs.

    Each row is what would be if these modules alone were checkpointed: the peak that is left, and the FLOPs of their forward.
    At most so many are computed again. What they drop is freed where their forward ends, and there again from where their
    backward begins. Sorted by the bytes that are saved for each FLOP. The whole model is none of the rows, as what it drops, it
    holds again at once.

    Args:
        trace: of a training step: ``found.trace`` of an estimate, or one that was recorded with memory, without checkpoints.
        device: whose memory it is, as for `torchprof.memory`.
        each: every module by itself. Otherwise those of one kind together: ``layers.*.mlp`` are all of the layers.

    Raises:
        ArgumentError: nothing was recorded on that device, or it is not known what forward saved or modules returned.

    Example:
        >>> found = torchprof.estimate(model, sizes, optimizer=torch.optim.AdamW)
        >>> print(torchprof.checkpointing(found.trace))
    """
    check_trace(trace)
    check_flag("each", each)
    account = MemoryAccount.of(trace, device)
    if account.saved_unknown is not None:
        raise ArgumentError(f"the trace does not say what checkpoints would drop: {account.saved_unknown}")
    if trace.facts.get("outputs") is False or trace.losses.get("module_calls"):
        raise ArgumentError("the trace does not say what checkpoints would drop: not all that modules returned was recorded")
    what = drops(account)
    peaks, flops, peak = CheckpointedPeaks(account, what), call_flops(trace), account.peak.bytes
    of_calls = paths(trace)[1]
    named = ONE if each else kind_of
    dropping = np.zeros(len(of_calls), dtype=np.bool_)
    dropping[what.calls] = True
    dropping &= peaks.calls_of_step() & np.array([path != "" for path in of_calls], dtype=np.bool_)
    kinds: dict[str, list[int]] = {}
    for call in np.flatnonzero(dropping).tolist():
        kinds.setdefault(named(of_calls[call]), []).append(call)
    rows = []
    for kind, calls in kinds.items():
        chosen = np.zeros(len(of_calls), dtype=np.bool_)
        chosen[calls] = True
        left = peaks.peak(chosen)
        rows.append(_row(kind, len({of_calls[call] for call in calls}), peak - left, left, flops, np.flatnonzero(chosen)))
    rows = [row for row in rows if row["peak_saved"] > 0]
    rows.sort(key=lambda row: (-row["peak_saved"] / max(1, row["flops"]), row["name"]))
    below = (
        f"Saved: of the peak of {format_bytes(peak)}, if these modules alone were checkpointed; Peak: what is left",
        "FLOPs: of their forward, at most so many are computed again: PyTorch stops where backward has all it needs, often "
        "before the last product. Sorted by bytes saved for each",
        *((f"{counted(len(kinds) - len(rows), 'other')} would save nothing",) if len(kinds) > len(rows) else ()),
    )
    return Table("Module" if each else "Modules", rows, COLUMNS, below, headers=HEADERS)


def _row(name: str, count: int, saved: int, left: int, flops: CallFlops, calls: npt.NDArray[np.int64]) -> Record:
    unknown = {op for call in calls.tolist() for op in flops.forward_unknown.get(call, ())}
    return {
        "name": name,
        "modules": count,
        "peak_saved": saved,
        "peak": left,
        "flops": int(flops.forward[calls].sum()),
        "flops_unknown": sorted(unknown),
    }
