"""`torchprof.overlap`: how much of communication is hidden behind computation."""

from __future__ import annotations

from typing import Final

from torchprof.analysis.distributed.overlap_records import overlap_records
from torchprof.analysis.gpu.backend import has_kernels
from torchprof.tables.across_ranks import check_ranks, check_single_ops, of_ranks
from torchprof.tables.table import About, Table
from torchprof.trace.ranks import Ranks

__all__ = ["overlap"]

OF_DEVICES: Final = "Overlap: of the time of collectives, that in which a kernel computed on the same device"
OF_CPU: Final = "Overlap: of the time of collectives on threads of gloo, that in which any op of the rank computed"
SHARED: Final = "On the CPU, collectives and ops share its cores: what runs at once may slow each other down"


def overlap(ranks: Ranks) -> Table:
    """How much of communication is hidden behind computation, in every rank.

    The definition is that of Holistic Trace Analysis: *Overlap* is the share of the time of communication kernels in which a
    compute kernel runs on the same device. Copies and fills are neither. What is not hidden is *Exposed*; a collective runs
    until the last
    rank has come, so some of it may be waiting for that one: see `stragglers`. On the CPU, the threads of gloo communicate, and
    innermost ops of any thread compute; both share the cores.

    Args:
        ranks: of ``torchprof.load("run/")``, not aggregated.

    Returns:
        A row for each rank; of a rank with collectives on several devices, one for each device.

    Raises:
        ModuleTypeError: these are no ranks.
        ArgumentError: the trace of a rank has no single ops.

    Example:
        >>> print(torchprof.overlap(torchprof.load("run/")))
    """
    check_ranks(ranks)
    check_single_ops(ranks)
    rows = overlap_records(ranks)
    what = OF_DEVICES if any(map(has_kernels, ranks)) else OF_CPU
    below: list[str | About] = [*of_ranks(ranks), About(("overlap",), what)]
    if not all(map(has_kernels, ranks)):
        below.append(SHARED)
    if any(row["communication"] is None for row in rows):
        below.append("?: the backend of a collective tells not when it runs, or rows did not fit the budget")
    return Table("Rank", rows, ("communication", "hidden", "exposed", "overlap"), tuple(below), unknown="?")
