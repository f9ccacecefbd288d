"""The sums of a trace by what does not depend on the recording: of an aggregated one, and of the same steps recorded whole."""

from __future__ import annotations

from typing import Any

import torchprof
from torchprof.analysis.model.module_tree import paths_of_modules
from torchprof.analysis.time.totals import op_bytes, step_totals
from torchprof.trace.schema import Phase
from torchprof.trace.trace import Trace

Key = tuple[Any, ...]


def sums_of_ops(trace: Trace) -> dict[Key, list[int]]:
    """Count, FLOPs, bytes and bytes allocated of every group of ops, named by what does not depend on the recording."""
    totals = step_totals(trace)
    paths = [*paths_of_modules(trace), ""]
    sums: dict[Key, list[int]] = {}
    for row, flops, moved in zip(totals.ops, totals.op_flops, op_bytes(trace, totals), strict=True):
        signature = trace.signatures[row["signature"]]
        first = int(signature["inputs"])
        operands = trace.tensors[trace.operands[first : first + int(signature["n_inputs"])]]
        key = (
            trace.strings[signature["name"]],
            tuple((trace.dtypes[int(each["dtype"])].name, trace.shape(int(each["shape"]))) for each in operands),
            paths[row["module"]],
            Phase(int(row["phase"])),
            bool(row["nested"]),
            bool(row["wrapper"]),
        )
        values = sums.setdefault(key, [0, 0, 0, 0])
        for at, value in enumerate((row["count"], flops, moved, row["allocated"])):
            values[at] += int(value)
    return sums


def sums_of_calls(trace: Trace) -> dict[tuple[str, bool], int]:
    totals = step_totals(trace)
    paths = paths_of_modules(trace)
    sums: dict[tuple[str, bool], int] = {}
    for row in totals.calls:
        key = paths[row["module"]], int(row["phase"]) == Phase.RECOMPUTATION
        sums[key] = sums.get(key, 0) + int(row["count"])
    return sums


EXACT = "name path type depth calls flops_forward flops_backward flops macs bytes allocated params".split()
PARTS = ("forward", "recompute", "backward", "optimizer")


def rows_of_modules(trace: Trace) -> list[list[Any]]:
    """Of each row of ``by_module`` what is counted, and whether it has time in each part of a step."""
    return [[row[name] for name in EXACT] + [row[part] > 0 for part in PARTS] for row in torchprof.by_module(trace).rows]
