"""What a row refers to: the module of a module call, the name of an op."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from torchprof.trace.schema import Rows
from torchprof.trace.trace import Trace

__all__ = ["modules_of_calls", "names_of_ops"]

Ints = npt.NDArray[np.int64]


def modules_of_calls(trace: Trace, call: Rows) -> Ints:
    """The row of ``trace.modules`` for each of these rows of ``module_calls``; -1 for none."""
    modules: Ints = np.append(trace.module_calls["module"].astype(np.int64), -1)
    return modules[np.maximum(call, -1)]


def names_of_ops(trace: Trace, op: Rows) -> Ints:
    """The row of ``trace.strings`` with the name, for each of these rows of ``ops``; -1 for none."""
    if not len(trace.ops):
        return np.full(len(op), -1)
    return np.where(op >= 0, trace.signatures["name"][trace.ops["signature"][op]].astype(np.int64), -1)
