"""What launched a kernel: the module and the op that it is attributed to."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.analysis.lookups import modules_of_calls, names_of_ops
from torchprof.trace.trace import Trace

__all__ = ["IN_GRAPH", "NO_OP", "kernel_launchers", "op_label"]

Ints = npt.NDArray[np.int64]

NO_OP: Final = "(no op)"
"""Shown for a kernel that was launched outside of all ops, or whose launch was not recorded."""
IN_GRAPH: Final = "(CUDA graph)"
"""Shown for a kernel of a CUDA graph: no op launched it by itself."""

_GRAPH_ROW = -2


def kernel_launchers(trace: Trace) -> tuple[Ints, Ints]:
    """For every kernel, the row of its module (-1: none) and the number of its op, which `op_label` takes."""
    kernels = trace.kernels
    in_graph = (kernels["op"] < 0) & (kernels["graph"] != 0)
    op = np.where(in_graph, _GRAPH_ROW, names_of_ops(trace, kernels["op"]))
    return modules_of_calls(trace, kernels["module_call"]), op


def op_label(trace: Trace, name: int) -> str:
    """The name of an op to show.

    Args:
        name: its row of ``trace.strings``; -1 for no op, -2 for a CUDA graph.
    """
    if name >= 0:
        return trace.strings[name]
    return IN_GRAPH if name == _GRAPH_ROW else NO_OP
