"""What is known of one test when it has run: plain data, which workers of xdist send to their controller."""

from __future__ import annotations

from typing import Any, Final

from torchprof.analysis.time.op_records import op_records
from torchprof.errors import ArgumentError
from torchprof.integrations.pytest_plugin.figures import Figures
from torchprof.integrations.pytest_plugin.tolerance import COMPARED

__all__ = ["Result", "properties_of", "result_of"]

Result = dict[str, Any]
"""Figures by name (None: not known); ``device`` of the peak; ``time`` of the call in nanoseconds; ``flops_unknown``, the ops
whose FLOPs are missing; ``by_op``, of every op its count and FLOPs; ``why``, by figure, why it is not known; ``note``, a word
on the whole, and ``because`` what it means; ``file``, its trace."""
JUNIT: Final = (*COMPARED, "time")


def result_of(figures: Figures) -> Result:
    """The figures of a trace."""
    result: Result = {"torch": str(figures.trace.facts.get("torch", "")), "device": "", "why": {}, "flops_unknown": []}
    for name in COMPARED:
        try:
            found = figures.of(name)
        except ArgumentError as error:
            result[name], result["why"][name] = None, str(error)
            continue
        result[name] = found.value
        if found.unknown:
            result["why"][name] = found.unknown
        if name == "peak":
            result["device"] = found.device
    result["by_op"] = {}
    for record in op_records(figures.trace):
        result["flops_unknown"] += record["flops_unknown"]
        result["by_op"][record["name"]] = [int(record["calls"]), record["flops"]]
    return result


def properties_of(result: Result) -> list[tuple[str, object]]:
    """The figures that are known, for files of JUnit."""
    return [(f"torchprof_{name}", result[name]) for name in JUNIT if result.get(name) is not None]
