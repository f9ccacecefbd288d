"""`torchprof.by_op`: what every op cost."""

from __future__ import annotations

from collections.abc import Iterator

from torchprof.analysis.gpu.backend import has_kernels
from torchprof.analysis.records import Record
from torchprof.analysis.time.op_records import op_records
from torchprof.arguments import check_flag
from torchprof.errors import ArgumentError
from torchprof.tables.checks import check_ceilings, check_path, check_trace, phase_named
from torchprof.tables.footer import coverage, footer, unknown_flops
from torchprof.tables.table import About, Table
from torchprof.trace.ceilings import Ceilings
from torchprof.trace.schema import Phase
from torchprof.trace.trace import Trace

__all__ = ["by_op"]


def by_op(
    trace: Trace,
    *,
    shapes: bool = False,
    phase: str | Phase | None = None,
    module: str | None = None,
    ceilings: Ceilings | None = None,
) -> Table:
    """What every op cost per step, most self time first: time, FLOPs, bytes and the rates it reached.

    Where a device worked, it is device time that comes first, and that rates and the roofline are against.

    Args:
        trace: of `torchprof.profile`.
        shapes: tell ops with different inputs apart.
        phase: only ``"forward"``, ``"recomputation"``, ``"backward"``, ``"optimizer"``, ``"data"`` or ``"other"``.
        module: only ops attributed to the module with this path, or to one below it; ``""`` is any module.
        ceilings: of `torchprof.ceilings`: adds how near each op comes to what the machine can do.

    Raises:
        ArgumentError: the phase or the module is unknown, or the ceilings are a CPU's where a device did the work.

    Example:
        >>> print(torchprof.by_op(prof.trace, shapes=True, phase="backward").head(20))
    """
    check_trace(trace)
    check_path(module)
    check_flag("shapes", shapes)
    records = op_records(trace, shapes=shapes, phase=phase_named(phase), module=module)
    if module and not records and not op_records(trace, module=module):
        raise ArgumentError(f"module={module!r} has no ops: give the path of a module that was called; see by_module")
    columns = ["calls", "self", "share", "time", "mean", "flops", "bytes", "intensity", "flop_rate", "byte_rate", "allocated"]
    on_device = has_kernels(trace)
    if on_device:
        columns = ["calls", "self", "share", "device_self", "device_share", "kernels", *columns[5:-1]]
    if shapes:
        columns = ["shapes", "dtypes", *columns]
    if ceilings is not None:
        check_ceilings(ceilings, of_device=on_device)
        for record in records:
            record["roofline"] = ceilings.reached(record["flop_rate"], record["byte_rate"], record["intensity"])
        columns.append("roofline")
    below: tuple[str | About, ...] = (
        ("Rates are against device time; ops that launched nothing on a device have none",) if on_device else ()
    )
    unknown = {name for record in records for name in record["flops_unknown"]}
    below = (*below, _why_empty(trace, phase)) if not records else (*_shares(trace, records), *below)
    if ceilings is not None:
        below = (*below, About(("roofline",), f"Of roof: of what {ceilings.device} can do at that FLOP/B, in {ceilings.dtype}"))
    table = Table("Op", records, tuple(columns), (*footer(trace), *below, *unknown_flops(unknown, trace)))
    if not records:
        return table
    return table.sort("self").sort("device_self") if on_device else table.sort("self")


def _shares(trace: Trace, records: list[Record]) -> Iterator[About]:
    """What the shares are of, and what of a step the rows cover."""
    yield coverage(trace, "share", "the self time of these ops", sum(record["self"] for record in records))
    if has_kernels(trace):
        time = sum(record["device_self"] for record in records)
        yield coverage(trace, "device_share", "the device time of these ops", time)


def _why_empty(trace: Trace, phase: str | Phase | None) -> str:
    """What must be said of a table without rows."""
    if trace.facts.get("ops") is False:
        return f"Ops were not recorded: record with {'ProfilerActivity.CPU' if 'source' in trace.facts else 'ops=True'}"
    found = phase_named(phase)
    return "No ops were recorded" if found is None else f"No ops ran in the phase {found.name.lower()!r}"
