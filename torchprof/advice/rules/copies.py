"""A tensor is copied to another device, dtype or layout, and what was copied is only copied back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.advice.conversions import from_and_to
from torchprof.advice.finding import Finding
from torchprof.advice.loop import loop_of
from torchprof.advice.ops_of import (
    check_ops,
    device_time,
    host_time,
    input_tensors,
    lines_by,
    only_module,
    ops_named,
    output_tensors,
    saved_by,
)
from torchprof.advice.places import Places, per_step
from torchprof.advice.registry import rule
from torchprof.advice.uses_of import check_addresses, storages_of, uses_of
from torchprof.analysis.lines.where import lines_of_ops
from torchprof.trace.schema import Phase, phases
from torchprof.trace.trace import Trace

__all__ = ["copies"]

Ints = npt.NDArray[np.int64]

COPIES: Final = ("aten::_to_copy", "aten::clone")
"""What ``to()``, ``cpu()``, ``float()`` and ``contiguous()`` come down to."""
PROGRAM: Final = (Phase.FORWARD, Phase.RECOMPUTATION, Phase.OTHER)
"""Phases in which it is the program that copies, not autograd or the optimizer."""


@rule("copies to other devices, dtypes and layouts that undo each other")
def copies(trace: Trace) -> Iterator[Finding]:
    """Pairs of copies: nothing but the second reads what the first made, and it has the dtype and device from before."""
    check_ops(trace)
    check_addresses(trace)
    loop = loop_of(trace)
    there, back = _pairs(trace)
    if not len(back):
        return
    both = np.concatenate([there, back])
    worth = saved_by(trace, loop, both, "both copies")
    if loop.is_small(worth.high):
        return
    times = host_time(trace, there) + host_time(trace, back)
    cheaper = np.minimum(host_time(trace, there), host_time(trace, back))
    whats = [f"{a} to {b if a != b else 'another layout'} and back" for a, b in from_and_to(trace, there)]
    places = Places.of(whats, lines_of_ops(trace, back), times)
    # On the host, one of two copies at least is for nothing: one could make what both make.
    low = int(cheaper.sum()) / loop.steps if worth.low else 0
    yield Finding(
        "copies",
        f"Tensors are copied to another device, dtype or layout only to be copied back: {per_step(len(back), loop, 'time')}",
        "Use the tensor from before, or stay on the device and in the dtype and layout that what follows needs.",
        "https://docs.pytorch.org/tutorials/recipes/recipes/tuning_guide.html",
        loop.worth(worth.high, worth.basis, low=low),
        module=only_module(trace, back),
        lines=lines_by(trace, back, times + device_time(trace, back)),
        details=places.details(loop),
    )


def _pairs(trace: Trace) -> tuple[Ints, Ints]:
    """Copies, and the copies back of what they made."""
    rows = ops_named(trace, *COPIES)
    phase = phases(trace.ops)[rows]
    is_clone = trace.op_names[rows] == (trace.strings.index(COPIES[1]) if COPIES[1] in trace.strings else -1)
    own = np.isin(phase, PROGRAM) | (~is_clone & (phase == Phase.BACKWARD))
    rows = rows[own]
    rows = rows[np.argsort(trace.ops["start"][rows], kind="stable")]
    read, made = input_tensors(trace, rows, 0), output_tensors(trace, rows)
    source, target = storages_of(trace, read), storages_of(trace, made)
    at = _last_made(source, target)
    second = np.flatnonzero((at >= 0) & (target != source))
    first = at[second]
    tensors = trace.tensors
    same = (first >= 0) & (source[first] != target[first])
    for column in ("dtype", "device_type", "device_index"):
        same &= tensors[column][made[second]] == tensors[column][read[first]]
    same &= tensors["storage_bytes"][made[second]] <= tensors["storage_bytes"][read[first]]
    first, second = first[same], second[same]
    if not len(second):
        return first, second
    there, back = rows[first], rows[second]
    others = uses_of(trace, source[second]).between(source[second], trace.ops["end"][there], trace.ops["start"][back])
    alone = others == 0
    return there[alone], back[alone]


def _last_made(source: npt.NDArray[np.uint64], target: npt.NDArray[np.uint64]) -> Ints:
    """For each of these copies, in order of time, the last before it that made what it reads; -1: none."""
    addresses, code = np.unique(np.concatenate([source, target]), return_inverse=True)
    count = len(source)
    read, made = code[:count], code[count:]
    keys = made * count + np.arange(count)
    order = np.argsort(keys, kind="stable")
    at = np.searchsorted(keys[order], read * count + np.arange(count)) - 1
    found = np.append(order, -1)[at]
    is_it = (at >= 0) & (made[found] == read) & (np.append(addresses, 0)[read] != 0)
    return np.where(is_it, found, -1)
