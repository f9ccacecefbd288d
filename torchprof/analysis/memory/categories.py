"""What memory is used for: one category for every allocation.

An allocation has the same category for the whole of its life. It follows from the phases in which it was allocated and
freed, and from how it was used in between (``trace.allocations["uses"]``). The first that applies:

    parameters, buffers   held by the model when the recording started or ended
    gradients             accumulated by autograd and held since, or stored in ``.grad``
    optimizer state       allocated by an optimizer's step and held after it; or allocated before the recording, and read by an
                          optimizer
    inputs                read by modules, by forward ops such as the loss, or by backward ops, and allocated by none of these:
                          batches, the gradient that a backward pass starts from
    activations           allocated by forward and kept for backward: read by backward, freed in backward, or held after forward
                          without being returned where autograd built a graph. None under ``torch.no_grad``
    outputs               allocated by forward and held after it by the program: what the model returned or keeps, the loss
    temporaries           all else that forward, backward or the optimizer allocated; and what was allocated outside of them and
                          freed before the op that allocated it had ended
    other                 none of these: what the program holds for reasons of its own
    untracked             what the allocator of a device reports as allocated beyond all recorded blocks: blocks from before the
                          recording that it never saw in use, and blocks of threads that it does not record. A block from before
                          the recording is known by the size of its tensor; what its block has beyond that is untracked too

Blocks are counted as PyTorch reports them: a storage that several tensors share (views) is one block. A block from before the
recording is known if a recorded op used it or the model holds it. It counts from the start of the recording, and to its end
unless its free was recorded. With *untracked*, the bytes held on a device are at every moment what its allocator reports.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.analysis.memory.graphs import built_graph
from torchprof.trace.schema import Phase, Rows, Use, phases
from torchprof.trace.trace import Trace

__all__ = ["CATEGORIES", "MEANT_TO_STAY", "UNTRACKED", "categories", "phase_at"]

CATEGORIES: Final = (
    "parameters",
    "buffers",
    "gradients",
    "optimizer state",
    "inputs",
    "activations",
    "outputs",
    "temporaries",
    "other",
    "untracked",
)
UNTRACKED: Final = CATEGORIES[-1]
MEANT_TO_STAY: Final = CATEGORIES[:4]
"""Categories that a training loop holds from step to step: no leaks."""


def categories(trace: Trace, allocations: Rows) -> npt.NDArray[np.int64]:
    """The category of every row of ``allocations``, as an index of ``CATEGORIES``."""
    uses = allocations["uses"]
    allocated_in = phase_at(trace, allocations["op"], allocations["module_call"])
    freed_in = phase_at(trace, allocations["free_op"], np.full(len(allocations), -1))
    before = allocations["start"] < 0
    by_forward = ~before & ((allocated_in == Phase.FORWARD) | (allocated_in == Phase.RECOMPUTATION))
    by_backward_or_optimizer = ~before & np.isin(allocated_in, [Phase.BACKWARD, Phase.OPTIMIZER])
    by_others = ~before & (allocated_in == Phase.OTHER)
    held_after = uses & Use.HELD_AFTER_CALL != 0
    freed_in_backward = np.isin(freed_in, [Phase.BACKWARD, Phase.RECOMPUTATION])
    for_backward = (uses & Use.READ_BY_BACKWARD != 0) | (freed_in_backward & (allocated_in == Phase.FORWARD))
    returned = (uses & Use.MODULE_OUTPUT != 0) | (allocations["module_call"] < 0)
    unclear = np.flatnonzero(by_forward & held_after & ~for_backward & ~returned)
    in_graph = np.zeros(len(allocations), dtype=np.bool_)
    in_graph[unclear] = built_graph(trace, allocations[unclear])
    read = uses & (Use.MODULE_INPUT | Use.READ_BY_FORWARD | Use.READ_BY_BACKWARD) != 0
    rules = [
        ("parameters", uses & Use.PARAMETER != 0),
        ("buffers", uses & Use.BUFFER != 0),
        ("gradients", uses & Use.GRADIENT != 0),
        ("optimizer state", ~before & held_after & (allocated_in == Phase.OPTIMIZER)),
        ("optimizer state", before & (uses & Use.READ_BY_OPTIMIZER != 0)),
        ("inputs", (before | by_others) & read),
        ("activations", by_forward & held_after & (for_backward | in_graph)),
        ("activations", by_forward & for_backward & (allocated_in == Phase.FORWARD)),
        ("outputs", by_forward & held_after),
        ("temporaries", by_forward | by_backward_or_optimizer),
        ("temporaries", by_others & ~held_after),
    ]
    names = [CATEGORIES.index(name) for name, _ in rules]
    return np.select([rule for _, rule in rules], names, default=CATEGORIES.index("other"))


def phase_at(trace: Trace, op: Rows, module_call: Rows) -> npt.NDArray[np.int64]:
    """The phase of the op or, without one, forward inside a module call, and other outside of all calls."""
    without_op = np.where(module_call >= 0, int(Phase.FORWARD), int(Phase.OTHER))
    of_ops = np.concatenate([phases(trace.ops), [0]]).astype(np.int64)
    return np.where(op >= 0, of_ops[op], without_op)
