"""Steps: the ranges ``ProfilerStep#7``, with what devices did for them."""

from __future__ import annotations

import numpy as np

from torchprof.trace.schema import LAYOUTS, Phase, Rows, phases
from torchprof.trace.streams import launched_before

__all__ = ["steps_of"]


def steps_of(
    read: list[tuple[int, int, int, int]], origin: int, kernels: Rows, runtime_calls: Rows, ops: Rows
) -> tuple[Rows, int]:
    """The table of steps, without how they divide into phases; and how many are left out.

    After the last call of ``step()``, torch.profiler begins another step, which ends with the recording. If no op of a model,
    of backward or of an optimizer ran in it, and no kernel, then it is none.

    Args:
        read: number, start, end and thread of each.
        origin: what is to be subtracted from these times.
    """
    steps = np.zeros(len(read), dtype=LAYOUTS["steps"])
    for step, (number, start, end, _) in zip(steps, sorted(read, key=lambda step: step[1]), strict=True):
        step["number"], step["start"], step["end"] = number & 0x7FFFFFFF, start - origin, end - origin
    call = kernels["runtime_call"]
    launched = np.where(call >= 0, np.append(runtime_calls["start"], -1)[call], kernels["start"])
    launched = np.where(launched_before(kernels), -1, launched)
    for step in steps:
        mine = (launched >= step["start"]) & (launched < step["end"]) & (launched >= 0)
        begins, ends = kernels["start"][mine], np.maximum.accumulate(kernels["end"][mine])
        step["kernels"] = len(begins)
        step["busy"] = np.maximum(0, ends - np.maximum(begins, np.append(begins[:1], ends[:-1]))).sum()
    works = ops["start"][~np.isin(phases(ops), [Phase.OTHER, Phase.DATA])]
    works = works if len(works) else ops["start"]
    idle = len(steps) > 1 and not steps["kernels"][-1] and not (works >= steps["start"][-1]).any()
    return (steps[:-1].copy(), 1) if idle else (steps, 0)
