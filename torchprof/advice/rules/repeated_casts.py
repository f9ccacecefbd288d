"""A tensor that does not change is converted again in every step, or one that does more than once in a step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.advice.conversions import from_and_to
from torchprof.advice.finding import Finding
from torchprof.advice.loop import Loop, loop_of
from torchprof.advice.ops_of import (
    check_ops,
    host_time,
    input_tensors,
    only_module,
    ops_named,
    output_tensors,
    saved_by,
)
from torchprof.advice.places import Places, per_step
from torchprof.advice.registry import NotTold, rule
from torchprof.advice.uses_of import check_addresses, storages_of, uses_of
from torchprof.analysis.groups import Groups
from torchprof.analysis.lines.where import lines_of_ops
from torchprof.analysis.model.registered import registered
from torchprof.trace.schema import Phase, Rows, Use, phases
from torchprof.trace.trace import Trace

__all__ = ["repeated_casts"]

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

CAST: Final = "aten::_to_copy"
PROGRAM: Final = (Phase.FORWARD, Phase.OTHER)
"""Phases in which it is the program that converts. Recomputation repeats it on purpose, to save memory."""


@rule("conversions of the same tensor that are repeated")
def repeated_casts(trace: Trace) -> Iterator[Finding]:
    """Conversions to another dtype or device of memory that is there from before the first step to after the last.

    A weight that is trained changes in every step, so that one conversion in each is needed: autocast keeps it for all uses.
    """
    check_ops(trace)
    check_addresses(trace)
    if trace.facts.get("memory") is False:
        raise NotTold("no memory was recorded, which tells tensors that stay from others with their addresses")
    loop = loop_of(trace)
    rows, spare, changes = _casts(trace, loop)
    if not len(rows):
        return
    times = spare * host_time(trace, rows)
    total = float(host_time(trace, rows).sum())
    worth = saved_by(trace, loop, rows, "conversions that were made before", float(times.sum()) / total if total else 0.0)
    if loop.is_small(worth.high):
        return
    whats = [f"{before} to {after if after != before else 'another layout'}" for before, after in from_and_to(trace, rows)]
    places = Places.of(whats, lines_of_ops(trace, rows), times)
    count = float(spare.sum())
    fixed = not changes.all()
    again = per_step(count, loop, "time")
    yield Finding(
        "repeated_casts",
        f"Tensors that {'stay the same' if fixed else 'change once in a step'} are converted again: {again}",
        (
            "Convert once, ahead of the loop, and keep the result: a buffer, a frozen layer or a model that is not trained "
            "can be converted with .to(dtype)."
            if fixed
            else "Convert once in a step and use the result several times, or leave it to one autocast around all uses, which "
            "keeps what it converted."
        ),
        "https://docs.pytorch.org/docs/stable/amp.html",
        worth,
        module=only_module(trace, rows),
        lines=places.lines,
        details=places.details(loop),
    )


def _casts(trace: Trace, loop: Loop) -> tuple[Ints, npt.NDArray[np.float64], Flags]:
    """Conversions of tensors that stay, of each which part of them was made before, and whether the tensor changes."""
    none = np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0, dtype=np.bool_)
    rows = ops_named(trace, CAST)
    rows = rows[np.isin(phases(trace.ops)[rows], PROGRAM)]
    read, made = input_tensors(trace, rows, 0), output_tensors(trace, rows)
    storage = storages_of(trace, read)
    stays, trained = _blocks_that_stay(trace, rows, storage)
    rows, read, made = rows[stays], read[stays], made[stays]
    storage, trained = storage[stays], trained[stays]
    if not len(rows):
        return none
    start, end = int(trace.ops["start"][rows].min()), int(trace.ops["end"][rows].max()) + 1
    uses = uses_of(trace, storage)
    written = uses.between(storage, np.full(len(rows), start), np.full(len(rows), end), writes=True) > 0
    changes = written | trained
    to = trace.tensors[made]
    groups = Groups.by(
        [
            np.unique(storage, return_inverse=True)[1],
            trace.tensors["shape"][read],
            *(to[column] for column in ("dtype", "device_type", "device_index")),
        ]
    )
    count = groups.count[groups.of]
    needed = np.where(changes, loop.steps, 0)
    spare = np.where(count > 1, np.maximum(0, count - needed) / count, 0.0)
    kept = spare > 0
    return rows[kept], spare[kept], changes[kept]


def _blocks_that_stay(trace: Trace, rows: Ints, storage: npt.NDArray[np.uint64]) -> tuple[Flags, Flags]:
    """Of each conversion, whether its input was there from before the first of them to after the last, and is trained."""
    none = np.zeros(len(rows), dtype=np.bool_)
    if not len(rows) or not len(trace.allocations):
        return none, none
    blocks = trace.allocations
    first, last = int(trace.ops["start"][rows].min()), int(trace.ops["start"][rows].max())
    blocks = blocks[(blocks["start"] <= first) & ((blocks["end"] < 0) | (blocks["end"] > last)) & (blocks["address"] != 0)]
    if len(trace.steps):
        blocks = blocks[blocks["start"] <= int(trace.steps["start"][trace.steps["warmup"] == 0].min())]
    trained = blocks[(blocks["uses"] & Use.PARAMETER != 0) & _is_trained(trace, blocks)]
    return np.isin(storage, blocks["address"]), np.isin(storage, trained["address"])


def _is_trained(trace: Trace, blocks: Rows) -> Flags:
    """Which blocks the optimizer reads or, where backward runs, are of modules that are not frozen."""
    by_optimizer: Flags = blocks["uses"] & Use.READ_BY_OPTIMIZER != 0
    if trace.model is None or not (phases(trace.ops) == Phase.BACKWARD).any():
        return by_optimizer
    frozen = [not any(each.trainable for each in info.parameters) for info in trace.model.modules]
    is_frozen = np.array([*(row >= 0 and frozen[row] for row in registered(trace)), False], dtype=np.bool_)
    by_optimizer |= ~is_frozen[blocks["module"]]
    return by_optimizer
