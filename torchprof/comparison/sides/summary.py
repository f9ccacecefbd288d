"""A summary as a side of a comparison."""

from __future__ import annotations

from torchprof.analysis.records import Record
from torchprof.comparison.side import Row, Side
from torchprof.comparison.sides.conditions import conditions_of
from torchprof.comparison.sides.trace import add_own
from torchprof.tables.footer import incomplete
from torchprof.tables.summary import Summary, summary_table

__all__ = ["summary_side"]

KEPT = (
    *("name", "path", "type", "depth", "params", "param_bytes", "output_bytes", "calls", "flops", "flops_unknown"),
    *("flops_backward", "flops_backward_unknown", "forward", "recompute", "backward", "self"),
    *("device_forward", "device_recompute", "device_backward"),
)


def summary_side(summary: Summary) -> Side:
    """A summary, by module: every module, also where it is printed folded or to a depth."""
    rows, found = Summary(summary.trace).rows, summary.totals
    records = [{name: record[name] for name in KEPT if name in record} for record in summary_table(rows, found).rows]
    add_own(records)
    totals: Record = {
        "name": "model",
        "params": None if found.params_unknown else found.params,
        "param_bytes": None if found.params_unknown else found.param_bytes,
        "forward": found.forward or None,
        "backward": found.backward or None,
        "flops": found.flops,
        "flops_unknown": sorted(found.flops_unknown),
        "flops_backward": found.flops_backward,
        "flops_backward_unknown": sorted(found.flops_backward_unknown),
        "peak": found.peak if found.forward else None,
        "saved": found.saved if found.forward else None,
        "allocated": found.allocated if found.forward else None,
    }
    return Side(
        "summary",
        "module",
        [Row.of(record) for record in records],
        Row(totals, {}),
        ("flops", "params"),
        conditions_of(summary.trace, None),
        definitions=dict.fromkeys(("peak", "saved", "allocated"), found.memory),
        of="one pass",
        no_noise="it is of one pass",
        losses=found.losses,
        remarks=tuple(incomplete(found.losses)),
    )
