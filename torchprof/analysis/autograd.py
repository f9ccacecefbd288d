"""The forward op that every autograd node differentiates."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from torchprof.trace.schema import OP_ATTRIBUTED
from torchprof.trace.trace import Trace

__all__ = ["forward_and_backward_ops", "last_with_number"]

Ints = npt.NDArray[np.int64]


def forward_and_backward_ops(trace: Trace) -> tuple[Ints, Ints]:
    """Pairs of ops: an op that created an autograd node, and the op that ran this node in backward."""
    ops = trace.ops
    nodes = np.flatnonzero((ops["forward_thread"] != 0) & (ops["sequence_nr"] >= 0) & ((ops["flags"] & OP_ATTRIBUTED) != 0))
    found = last_with_number(trace, nodes)
    return found[found >= 0], nodes[found >= 0]


def last_with_number(trace: Trace, nodes: Ints) -> Ints:
    """For each of these rows of ``ops``, which ran autograd nodes, the op that created the node; -1: none did.

    It is the last op with the sequence number of the node on the thread that ran the forward pass.
    """
    ops, number = trace.ops, trace.ops["sequence_nr"]
    others = np.flatnonzero((ops["forward_thread"] == 0) & (number >= 0))
    torch_ids = trace.threads["torch_id"]
    found = np.full(len(nodes), -1, dtype=np.int64)
    for torch_id in np.unique(torch_ids):
        on_thread = others[torch_ids[ops["thread"][others]] == torch_id]
        if not len(on_thread):
            continue
        on_thread = on_thread[np.argsort(number[on_thread], kind="stable")]
        wanted = np.flatnonzero(ops["forward_thread"][nodes] == torch_id)
        last = on_thread[np.searchsorted(number[on_thread], number[nodes[wanted]], side="right") - 1]
        found[wanted] = np.where(number[last] == number[nodes[wanted]], last, -1)
    return found
