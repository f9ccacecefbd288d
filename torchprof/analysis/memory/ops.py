"""The op that a person knows behind an allocation: the outermost one, ``aten::randn`` and not the ``aten::empty`` inside it."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.analysis.lookups import names_of_ops
from torchprof.trace.schema import SCOPE_BACKWARD, SCOPE_USER, Rows
from torchprof.trace.trace import Trace

__all__ = ["outermost_op_names", "outermost_ops"]

ENGINE: Final = "autograd::engine::"
"""How the names of the ops begin that autograd opens around its nodes."""


def outermost_ops(trace: Trace, ops: Rows) -> npt.NDArray[np.int64]:
    """For each of these rows of ``trace.ops`` the outermost op around it; -1 for none.

    In backward it is the outermost op inside the autograd node. User ranges, such as the step of an optimizer, are passed over.
    Where only a node or user ranges are around, it is the innermost of these.
    """
    of_engine = np.array([name.startswith(ENGINE) for name in trace.strings], dtype=np.bool_)
    of_engine = of_engine[trace.signatures["name"]]
    signature, scope, parent = (trace.ops[name] for name in ("signature", "scope", "parent"))
    found = ops.astype(np.int64)
    at = found.copy()
    left = np.flatnonzero(at >= 0)
    while len(left):
        op = at[left]
        ends = of_engine[signature[op]] | (scope[op] == SCOPE_BACKWARD)
        left, op = left[~ends], op[~ends]
        takes = scope[op] != SCOPE_USER  # ranges are passed over
        found[left[takes]] = op[takes]
        at[left] = parent[op]
        left = left[at[left] >= 0]
    return found


def outermost_op_names(trace: Trace, ops: Rows) -> list[str]:
    """The names of `outermost_ops`; empty where there is none."""
    names = [name.removeprefix(f"{ENGINE}evaluate_function: ") for name in trace.strings]
    of_ops = names_of_ops(trace, outermost_ops(trace, ops))
    return [names[name] if name >= 0 else "" for name in of_ops.tolist()]
