"""FLOPs of each action of a pipeline's schedule that a rank has run: by the ranges around what it does with a microbatch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Final

import numpy as np

from torchprof.analysis.spans import closed_ends
from torchprof.analysis.steps import active_steps, step_of
from torchprof.estimation.bounds.step_flops import counted_rows
from torchprof.trace.trace import Trace

__all__ = ["RANGE", "stage_flops"]

RANGE: Final = "PP:"
"""What the names of these ranges begin with, as those of PyTorch's own do; the action follows."""
ACTION: Final = re.compile(r"PP:(\d+[FBIW]\d+)")


def stage_flops(trace: Trace) -> tuple[Mapping[str, Mapping[str, int]], int]:
    """Of each action of the last step, by its name, the fewest FLOPs by dtype; and how often each was run.

    Where an action was run several times, its FLOPs are those of one of them on average, rounded down.
    """
    active = active_steps(trace)
    last = max(len(active) - 1, 0)
    ops = trace.ops
    found = {row: match[1] for row, text in enumerate(trace.strings) if (match := ACTION.fullmatch(text))}
    ranges = np.flatnonzero(np.isin(trace.op_names, list(found)) & (step_of(ops["start"], trace, active) == last))
    ends = closed_ends(trace, ops)[ranges]
    outermost = np.flatnonzero(~np.isin(ops["parent"][ranges], ranges)).tolist()  # PyTorch has some of these ranges itself
    counted = counted_rows(trace)
    starts = ops["start"][counted.rows]
    sums: dict[str, Counter[str]] = {}
    times: Counter[str] = Counter()
    for at in outermost:
        row = int(ranges[at])
        name = found[int(trace.op_names[row])]
        inside = (starts >= ops["start"][row]) & (starts <= ends[at])
        times[name] += 1
        of_action = sums.setdefault(name, Counter())
        for dtype in np.unique(counted.dtypes[inside & (counted.least > 0)]).tolist():
            of_action[dtype] += int(counted.least[inside & (counted.dtypes == dtype)].sum())
    passes = min(times.values(), default=0)
    return {name: {dtype: count // times[name] for dtype, count in of.items()} for name, of in sums.items()}, passes
