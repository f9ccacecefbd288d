"""Gradients are zeroed, and backward adds to the zeros: dropped, they are written once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.advice.finding import Finding
from torchprof.advice.loop import loop_of
from torchprof.advice.ops_of import (
    called_by_python,
    check_ops,
    device_time,
    host_time,
    input_tensors,
    inside,
    lines_by,
    ops_named,
    outermost_of,
    ranges_named,
    saved_by,
)
from torchprof.advice.places import per_step
from torchprof.advice.registry import rule
from torchprof.rendering.units import format_ns
from torchprof.trace.schema import SCOPE_BACKWARD, Phase, Use, phases
from torchprof.trace.trace import Trace

__all__ = ["zeroed_gradients"]

Ints = npt.NDArray[np.int64]

ZERO_GRAD: Final = "Optimizer.zero_grad#"
"""What PyTorch names ``zero_grad()`` of every optimizer, followed by its class."""
ZERO: Final = ("aten::zero_", "aten::_foreach_zero_")
ADD: Final = "aten::add_"
ACCUMULATE: Final = "torch::autograd::AccumulateGrad"
LEAST: Final = 0.01
"""Part of a step below which it is not worth a word. It is certain and costs nothing, so that less is enough than elsewhere."""


@rule("gradients that are zeroed instead of dropped")
def zeroed_gradients(trace: Trace) -> Iterator[Finding]:
    """Ops that zero gradients, and those of backward that add to what was zeroed."""
    check_ops(trace)
    loop = loop_of(trace)
    zeros = np.intersect1d(ops_named(trace, *ZERO), called_by_python(trace))  # backward makes zeros of its own
    zeros = zeros[phases(trace.ops)[zeros] != Phase.BACKWARD]
    zeros = zeros[inside(trace, zeros, ranges_named(trace, ZERO_GRAD)) | _of_gradients(trace, zeros)]
    if not len(zeros):
        return
    adds = ops_named(trace, ADD)
    accumulations = ops_named(trace, ACCUMULATE)
    adds = outermost_of(trace, adds[inside(trace, adds, accumulations[trace.ops["scope"][accumulations] == SCOPE_BACKWARD])])
    # Of the additions to a gradient between two calls of zero_grad, the first goes away.
    gradients = int(np.where(trace.ops["n_inputs"][zeros] > 0, trace.ops["n_inputs"][zeros], 1).sum())
    part = min(1.0, gradients / len(adds)) if len(adds) else 0.0
    zeroing, adding = saved_by(trace, loop, zeros, ""), saved_by(trace, loop, adds, "", part)
    device = (float(device_time(trace, zeros).sum()) + part * float(device_time(trace, adds).sum())) / loop.steps
    high = loop.most_saved(zeroing.high + adding.high, device)
    if high < LEAST * loop.time:
        return
    yield Finding(
        "zeroed_gradients",
        f"Gradients are zeroed instead of dropped, and backward adds to the zeros: {per_step(gradients, loop)}",
        "Drop them: optimizer.zero_grad() or module.zero_grad() without set_to_none=False, or param.grad = None. They take no "
        "memory then between the update and the next backward pass.",
        "https://docs.pytorch.org/docs/stable/generated/torch.optim.Optimizer.zero_grad.html",
        loop.worth(high, "the time of the ops that zero gradients and add to the zeros", low=zeroing.low + adding.low),
        lines=lines_by(trace, zeros, host_time(trace, zeros)),
        details=(
            f"zeroing: {format_ns(round(int(host_time(trace, zeros).sum()) / loop.steps))} of the host",
            f"adding to the zeros: {format_ns(round(part * int(host_time(trace, adds).sum()) / loop.steps))} of the host",
        ),
    )


def _of_gradients(trace: Trace, rows: Ints) -> npt.NDArray[np.bool_]:
    """Which of the ops write to memory that holds a gradient; none where addresses are not known."""
    blocks = trace.allocations[(trace.allocations["uses"] & Use.GRADIENT != 0) & (trace.allocations["address"] != 0)]
    found = np.zeros(len(rows), dtype=np.bool_)
    if not len(blocks) or not len(rows):
        return found
    first = input_tensors(trace, rows, 0)
    storage = np.where(first >= 0, trace.tensors["storage"][first], 0)
    starts = trace.ops["start"][rows]
    ends = np.where(blocks["end"] >= 0, blocks["end"], np.iinfo(np.int64).max)
    for at in np.flatnonzero(np.isin(storage, blocks["address"])).tolist():
        same = blocks["address"] == storage[at]
        found[at] = bool((same & (blocks["start"] <= starts[at]) & (ends > starts[at])).any())
    return found
