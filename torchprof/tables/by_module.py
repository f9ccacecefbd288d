"""`torchprof.by_module`: what every module cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from torchprof.analysis.gpu.backend import has_kernels
from torchprof.analysis.memory.account import MemoryAccount
from torchprof.analysis.memory.devices import devices_by_memory
from torchprof.analysis.memory.modules import NO_MODULE
from torchprof.analysis.memory.steps import memory_is_known, not_recorded
from torchprof.analysis.model.module_tree import OUTSIDE
from torchprof.analysis.records import Record
from torchprof.analysis.time.module_records import DATA, OTHER, module_records
from torchprof.arguments import check_int
from torchprof.tables.across_ranks import module_ranks_table
from torchprof.tables.checks import check_trace
from torchprof.tables.footer import coverage, footer, ops_not_recorded, unknown_flops
from torchprof.tables.table import About, Table, worth_showing
from torchprof.trace.ranks import Ranks
from torchprof.trace.schema import CALL_COMPILED
from torchprof.trace.trace import Trace

__all__ = ["add_bytes", "by_module", "saved_by_module"]


def by_module(trace: Trace | Ranks, *, depth: int | None = None) -> Table:
    """What every module cost in forward, recomputation, backward and optimizer, per step, as a tree.

    Self times of everything below a module add up to its total. What belongs to no module has rows of its own: *outside
    modules* (the loss, optimizers that update all parameters at once), *data* (waiting for a ``DataLoader``), and *other*, what
    is left of the step. So all rows add up to the step, unless threads worked at the same time. Where a device worked, its time
    stands beside the host's; ``device_forward``, ``device_backward``, ... are columns to choose.

    Args:
        trace: of `torchprof.profile`, recorded with ``ops`` and ``modules``; with the model it knows paths. Of `Ranks`, every
            row has the mean over the ranks, the slowest, and the difference between slowest and fastest.
        depth: go no deeper; figures contain what is below.

    Raises:
        ArgumentError: the depth is no int, or negative.

    Example:
        >>> print(torchprof.by_module(prof.trace).sort("time").head(10))
    """
    if depth is not None:
        check_int("depth", depth, 0)
    if isinstance(trace, Ranks):
        return module_ranks_table(trace, depth)
    check_trace(trace)
    records = module_records(trace)
    columns = ["calls", "time", "share", "forward", "recompute", "backward", "optimizer", "flops", "spread"]
    if any(record["data"] and record["name"] != DATA for record in records):  # of modules that transform data
        columns.insert(-2, "data")
    if has_kernels(trace):
        columns[3:3] = ["device", "device_share"]
    if memory_is_known(trace) and trace.facts.get("memory") and not not_recorded(trace):
        add_bytes(records, "saved", saved_by_module(trace))
        columns.insert(-1, "saved")
    shown = worth_showing(records, columns, optional=("recompute", "optimizer", "flops", "spread", "saved"))
    if depth is not None:
        records = [record for record in records if record["depth"] <= depth]
    unknown = {name for record in records for name in record["flops_unknown"]} if "flops" in shown else ()
    below = (*footer(trace), *_shares(trace, records), *unknown_flops(unknown, trace), *_unseen(trace))
    return Table("Module", records, shown, below, is_tree=True)


def _shares(trace: Trace, records: list[Record]) -> Iterator[str | About]:
    """What the shares are of, and what of a step the rows cover."""
    roots = [record for record in records if not record["depth"]]
    if not roots:
        return
    yield coverage(trace, "share", "the time of all rows", sum(record["time"] for record in roots), of_step=True)
    if has_kernels(trace):
        yield coverage(trace, "device_share", "the device time of all rows", sum(record["device"] for record in roots))
    yield from ops_not_recorded(trace, "row other")
    if trace.facts.get("modules") is False:
        yield "Modules were not recorded: what they cost is in the row outside modules"


def _unseen(trace: Trace) -> list[str]:
    """What must be said where compiled code ran."""
    began = int((trace.module_calls["flags"] & CALL_COMPILED != 0).sum()) + int(trace.facts.get("compiled_outside_calls", 0))
    return ["Compiled code ran: calls of modules inside it are not seen"] if began else []


def saved_by_module(trace: Trace) -> Counter[str]:
    """Bytes of saved activations by path of the module, on all devices of a kind: a model may be on several."""
    devices = devices_by_memory(trace)
    saved: Counter[str] = Counter()
    for device in devices:
        if device.partition(":")[0] == devices[0].partition(":")[0]:
            saved.update(MemoryAccount.of(trace, device).saved_by_module)
    return saved


def add_bytes(records: list[Record], name: str, by_module: Mapping[str, int]) -> None:
    """Add bytes by path of the module to the records of modules, with everything below."""
    ancestors: list[Record] = []
    for record in records:
        record[name] = 0
        del ancestors[record["depth"] :]
        ancestors.append(record)
        is_of_step = not record["path"] and record["name"] in (DATA, OTHER)
        own = 0 if is_of_step else by_module.get(NO_MODULE if record["name"] == OUTSIDE else record["path"], 0)
        for above in ancestors:
            above[name] += own
