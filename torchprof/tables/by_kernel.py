"""`torchprof.by_kernel`: what every kernel, copy and fill of devices took."""

from __future__ import annotations

from torchprof.analysis.gpu.backend import gpu_backend, why_no_kernels
from torchprof.analysis.gpu.kernel_records import kernel_records
from torchprof.analysis.gpu.kernels import unseen_launches
from torchprof.errors import ArgumentError
from torchprof.tables.checks import check_path, check_trace, phase_named
from torchprof.tables.footer import coverage, footer, launched_before_lines
from torchprof.tables.table import About, Table, worth_showing
from torchprof.trace.schema import Phase
from torchprof.trace.trace import Trace
from torchprof.wording import counted

__all__ = ["by_kernel"]


def by_kernel(trace: Trace, *, phase: str | Phase | None = None, module: str | None = None) -> Table:
    """What every kernel, copy and fill took per step, most device time first, and which ops launched it.

    C++ names are shown in short; the whole one is ``full_name`` in the rows.

    Args:
        trace: of `torchprof.profile`, recorded where a device was in use.
        phase: only ``"forward"``, ``"recomputation"``, ``"backward"``, ``"optimizer"``, ``"data"`` or ``"other"``.
        module: only what was launched for the module with this path, or for one below it; ``""`` is any module.

    Raises:
        ArgumentError: the phase or the module is unknown, or no device was recorded.

    Example:
        >>> print(torchprof.by_kernel(prof.trace, phase="backward").head(20))
    """
    check_trace(trace)
    check_path(module)
    records = kernel_records(trace, phase=phase_named(phase), module=module)
    if gpu_backend(trace) == "off":
        raise ArgumentError(why_no_kernels(trace))
    if module and not records and not kernel_records(trace, module=module):
        raise ArgumentError(f"module={module!r} has no kernels: give the path of a module that has device time in by_module")
    columns = ["count", "device", "device_share", "mean", "min", "max", "bytes", "byte_rate", "launched_by"]
    shown = worth_showing(records, columns, optional=("bytes", "byte_rate"))
    time = sum(record["device"] for record in records)
    below: tuple[str | About, ...] = (
        *footer(trace, "device time"),
        coverage(trace, "device_share", "the device time of these kernels", time),
    )
    if unseen := unseen_launches(trace):
        which = counted(unseen, "launch was not seen: what it", "launches were not seen: what they")
        below = (*below, f"{which} ran belongs to no op and no module")
    below = (*below, *launched_before_lines(trace))
    return Table("Kernel", records, shown, below).sort("device")
