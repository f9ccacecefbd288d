"""Finds which dimensions are the batch: those that follow it when the model runs with another one.

With a batch of 2 a tensor is ``[5, 2, 2]``, and with 4 ``[5, 4, 2]``: the second dimension is the batch, and the third is not.
That the first dimension is the batch would be a guess, and wrong in sequences whose first dimension is the time.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from torchprof.trace.shapes import Shape
from torchprof.trace.trace import Trace

__all__ = ["BATCH", "OTHER_BATCH", "find_batch_dimensions"]

BATCH: Final = 2
"""What runs where -1 is shown."""

OTHER_BATCH: Final = 4
"""What runs to compare with: an even number, because models split a batch in halves."""


def find_batch_dimensions(trace: Trace, record: Callable[[int], Trace]) -> None:
    """Write into the facts of a trace which dimensions of which operands are the batch.

    The facts are ``batch_dimensions``, pairs of a row of ``trace.operands`` and a dimension, and ``batch_found``:
    ``"compared"``; or ``"first"`` where every first dimension of 2 is taken to be the batch, because the model raises an
    exception or makes other calls with another one, or is compiled: it would be compiled again for it.

    Args:
        trace: recorded with a batch of 2.
        record: runs the same model with another batch, and gives its trace.
    """
    found = None
    try:
        assert trace.model is not None
        compiled = any(info.opaque == "compiled" for info in trace.model.modules)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the first run has said it all
            found = _compared(trace, record(OTHER_BATCH)) if not compiled else None
    except Exception:  # which is no concern of a user, whose batch did run
        pass
    how = "compared"
    if found is None:
        found, how = [[row, 0] for row, shape in _shapes(trace).items() if shape[:1] == (BATCH,)], "first"
    trace.facts.update(batch_dimensions=found, batch_found=how)


def _compared(trace: Trace, other: Trace) -> list[list[int]] | None:
    """The dimensions that follow the batch; None where the runs do not have the same calls with the same numbers of tensors."""
    if not np.array_equal(_calls(trace), _calls(other)):
        return None
    return [
        [row, dimension]
        for (row, shape), that in zip(_shapes(trace).items(), _shapes(other).values(), strict=True)
        if len(shape) == len(that)
        for dimension, sizes in enumerate(zip(shape, that, strict=True))
        if sizes == (BATCH, OTHER_BATCH)
    ]


def _calls(trace: Trace) -> np.ndarray[Any, Any]:
    """What the calls of modules have in common in two runs: the caller, and how many tensors they took and returned."""
    return np.stack([trace.module_calls[name] for name in ("parent", "n_inputs", "n_outputs")])


def _shapes(trace: Trace) -> dict[int, Shape]:
    """The shapes of what modules took and returned, call by call, by row of ``trace.operands``."""
    calls = trace.module_calls
    rows = [
        row
        for first, count in (("inputs", "n_inputs"), ("outputs", "n_outputs"))
        for start, number in zip(calls[first].tolist(), calls[count].tolist(), strict=True)
        for row in range(start, start + number)
    ]
    shape_rows = trace.tensors["shape"][trace.operands[rows]].tolist() if rows else []
    return {row: trace.shape(shape) for row, shape in zip(rows, shape_rows, strict=True)}
