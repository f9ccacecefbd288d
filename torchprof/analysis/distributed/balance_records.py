"""How evenly work and memory are divided between ranks: the records of the table of imbalance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from torchprof.analysis.distributed.rank_records import rank_records
from torchprof.analysis.model.flops import counts_flops
from torchprof.analysis.records import Record
from torchprof.analysis.remembered import remembered
from torchprof.analysis.steps import active_steps
from torchprof.analysis.time.totals import step_totals
from torchprof.trace.ranks import Ranks
from torchprof.trace.schema import Phase, phases
from torchprof.trace.trace import Trace

__all__ = ["FIGURES", "balance_records", "by_dimension", "mesh_dimensions"]

FIGURES: Final = ("tokens", "flops", "compute", "peak")
"""What is compared; each has its ratio to the mean of all rows, such as ``flops_ratio``."""
EMBEDDING: Final = "aten::embedding"
INDICES: Final = 1


def balance_records(ranks: Ranks) -> list[Record]:
    """One record for every rank, in their order.

    Keys: ``name rank coordinate``; of a step ``tokens``, elements of the indices that its first embedding was given in forward,
    ``flops`` (``flops_unknown``: the ops of which nobody knows how many) and ``compute``, nanoseconds as `by_rank` has them;
    ``peak``, the most bytes held; and the ratio of each to the mean of all ranks. What is not known is None.
    """
    records = [
        {
            "name": str(record["rank"]),
            "rank": record["rank"],
            "coordinate": record["coordinate"],
            **_of_trace(trace),
            "compute": record["compute"],
            "peak": record["peak"],
        }
        for record, trace in zip(rank_records(ranks), ranks, strict=True)
    ]
    return _with_ratios(records)


def mesh_dimensions(ranks: Ranks) -> list[str]:
    """The names of the dimensions of the meshes that ranks are in."""
    meshes = (mesh for trace in ranks for mesh in trace.facts.get("meshes", ()))
    return list(dict.fromkeys(name for mesh in meshes for name in mesh["dimensions"]))


def by_dimension(ranks: Ranks, dimension: str) -> list[Record]:
    """One record for each place along a dimension of a mesh: means over the ranks there, in ``of_ranks``."""
    places: dict[int, list[Record]] = {}
    for record, trace in zip(balance_records(ranks), ranks, strict=True):
        place = _place(trace, dimension)
        if place is not None:
            places.setdefault(place, []).append(record)
    records = []
    for place, of in sorted(places.items()):
        record: Record = {"name": f"{dimension}={place}", "of_ranks": [each["rank"] for each in of]}
        record |= {name: _mean([each[name] for each in of]) for name in FIGURES}
        record["flops_unknown"] = sorted({op for each in of for op in each["flops_unknown"]})
        records.append(record)
    return _with_ratios(records)


@remembered
def _of_trace(trace: Trace) -> Record:
    totals = step_totals(trace)
    names = trace.signatures["name"][totals.ops["signature"][totals.op_unknown]].tolist()
    return {
        "tokens": _tokens(trace),
        "flops": float(totals.op_flops.sum()) / totals.steps if counts_flops(trace) else None,
        "flops_unknown": sorted({trace.strings[row] for row in names}) if counts_flops(trace) else [],
    }


def _tokens(trace: Trace) -> float | None:
    """Of a step, the elements of the indices of the module whose call runs the first embedding in forward; None: none was
    seen."""
    if EMBEDDING not in trace.strings or not len(trace.ops):
        return None
    ops = trace.ops
    rows = np.flatnonzero((trace.op_names == trace.strings.index(EMBEDDING)) & (phases(ops) == Phase.FORWARD))
    rows = rows[ops["n_inputs"][rows] > INDICES]
    active = active_steps(trace)
    if len(trace.steps):
        inside = (ops["start"][rows, None] >= active["start"]) & (ops["start"][rows, None] < active["end"])
        rows = rows[inside.any(axis=1)]
    if not len(rows):
        return None
    modules = np.append(trace.module_calls["module"].astype(np.int64), -1)[ops["module_call"][rows]]
    first = modules[ops["start"][rows].argmin()]
    count = 0
    for row in rows[modules == first].tolist():
        tensor = trace.tensors[trace.operands[int(ops["inputs"][row]) + INDICES]]
        sizes = trace.shape(int(tensor["shape"]))
        if not all(isinstance(size, int) for size in sizes):
            return None
        count += int(np.prod(np.array(sizes, dtype=np.int64)))
    return count / max(1, len(active))


def _place(trace: Trace, dimension: str) -> int | None:
    for mesh in trace.facts.get("meshes", ()):
        if dimension in mesh["dimensions"] and mesh["coordinate"] is not None:
            return int(mesh["coordinate"][mesh["dimensions"].index(dimension)])
    return None


def _with_ratios(records: list[Record]) -> list[Record]:
    for name in FIGURES:
        mean = _mean([record[name] for record in records])
        for record in records:
            record[f"{name}_ratio"] = record[name] / mean if mean else None
    return records


def _mean(values: Sequence[Any]) -> float | None:
    return sum(values) / len(values) if values and None not in values else None
