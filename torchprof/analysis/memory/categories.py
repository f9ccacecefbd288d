"""What memory is used for: one category for every allocation.

An allocation has the same category for the whole of its life. It follows from the phases in which it was allocated and
freed, and from how it was used in between (``trace.allocations["uses"]``). The first that applies:

    parameters, buffers   held by the model when the recording started or ended; parameters of other models too: made outside of
                          forward, backward and the optimizer, and used by forward as well as by an optimizer
    sharded parameters    the same, of which every rank holds a part: of FSDP, of tensor parallel (DTensor)
    unsharded parameters  gathered by FSDP from all ranks, for as long as a layer needs them
    gradients             accumulated by autograd and held since, or stored in ``.grad``; or made by backward and read by an
                          optimizer. With FSDP those of unsharded parameters, until they are reduced
    sharded gradients     the same of sharded parameters
    optimizer state       allocated by an optimizer's step and held after it; or allocated before the recording, and read by an
                          optimizer and never by forward or backward
    inputs                read by modules, by forward ops such as the loss, or by backward ops, and allocated by none of these:
                          batches, also of a ``DataLoader``, targets, the gradient that a backward pass starts from
    activations           allocated by forward and kept for backward: read by backward, freed in backward, or held after forward
                          without being returned where autograd built a graph. None under ``torch.no_grad``
    outputs               allocated by forward and held after it by the program: what the model returned or keeps, the loss
    communication buffers made for a collective, such as an all-gather, or given to one, and none of the above: the buckets of
                          DistributedDataParallel
    temporaries           all else that forward, backward or the optimizer allocated; and what was allocated outside of them and
                          freed before the op that allocated it had ended
    other                 none of these: what the program holds for reasons of its own
    untracked             what the allocator of a device reports as allocated beyond all recorded blocks: blocks from before the
                          recording that it never saw in use, and blocks of threads that it does not record. A block from before
                          the recording is known by the size of its tensor; what its block has beyond that is untracked too

Blocks are counted as they are allocated: a storage that several tensors share (views) is one block. A block from before the
recording is known if a recorded op used it or the model holds it. It counts from the start of the recording until it is
freed. What nobody reports (an array of NumPy, a mapped file) counts from its first use. With *untracked*, the bytes held on a
device are at every moment what its allocator reports.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.analysis.memory.graphs import built_graph
from torchprof.analysis.memory.parallel import as_sharded_parameters, parallel_memory
from torchprof.trace.schema import CALL_LOADED_DATA, Phase, Rows, Use, phases
from torchprof.trace.trace import Trace

__all__ = ["CATEGORIES", "UNTRACKED", "categories", "phase_at"]

CATEGORIES: Final = (
    "parameters",
    "buffers",
    "sharded parameters",
    "unsharded parameters",
    "gradients",
    "sharded gradients",
    "optimizer state",
    "inputs",
    "activations",
    "outputs",
    "communication buffers",
    "temporaries",
    "other",
    "untracked",
)
UNTRACKED: Final = CATEGORIES[-1]


def categories(trace: Trace, allocations: Rows) -> npt.NDArray[np.int64]:
    """The category of every row of ``allocations``, as an index of ``CATEGORIES``."""
    uses = allocations["uses"]
    allocated_in = phase_at(trace, allocations["op"], allocations["module_call"])
    freed_in = phase_at(trace, allocations["free_op"], np.full(len(allocations), -1))
    before = allocations["start"] < 0
    by_forward = ~before & ((allocated_in == Phase.FORWARD) | (allocated_in == Phase.RECOMPUTATION))
    by_backward_or_optimizer = ~before & np.isin(allocated_in, [Phase.BACKWARD, Phase.OPTIMIZER])
    by_others = ~before & np.isin(allocated_in, [Phase.OTHER, Phase.DATA])
    held_after = uses & Use.HELD_AFTER_CALL != 0
    freed_in_backward = np.isin(freed_in, [Phase.BACKWARD, Phase.RECOMPUTATION])
    for_backward = (uses & Use.READ_BY_BACKWARD != 0) | (freed_in_backward & (allocated_in == Phase.FORWARD))
    returned = (uses & Use.MODULE_OUTPUT != 0) | (allocations["module_call"] < 0)
    unclear = np.flatnonzero(by_forward & held_after & ~for_backward & ~returned)
    in_graph = np.zeros(len(allocations), dtype=np.bool_)
    in_graph[unclear] = built_graph(trace, allocations[unclear])
    read = uses & (Use.MODULE_INPUT | Use.READ_BY_FORWARD | Use.READ_BY_BACKWARD) != 0
    parallel = parallel_memory(trace, allocations)
    sharded = as_sharded_parameters(allocations) & (not parallel.uses_fsdp)
    in_optimizer = uses & Use.READ_BY_OPTIMIZER != 0
    gradients = (uses & Use.GRADIENT != 0) | (in_optimizer & ((~before & (allocated_in == Phase.BACKWARD)) | parallel.buckets))
    rules = [
        ("sharded parameters", (uses & Use.PARAMETER != 0) & (uses & Use.SHARDED != 0)),
        ("parameters", uses & Use.PARAMETER != 0),
        ("buffers", uses & Use.BUFFER != 0),
        ("unsharded parameters", parallel.unsharded_parameters),
        ("sharded gradients", parallel.sharded_gradients | (gradients & sharded)),
        ("gradients", gradients),
        ("communication buffers", parallel.sent),
        ("optimizer state", ~before & held_after & (allocated_in == Phase.OPTIMIZER)),
        ("communication buffers", parallel.buckets | (parallel.given & ~by_forward & (uses & Use.MODULE_INPUT == 0))),
        ("parameters", (before | by_others) & in_optimizer & (uses & Use.READ_BY_FORWARD != 0)),
        ("gradients", before & in_optimizer & (uses & Use.READ_BY_BACKWARD != 0)),  # where no model is known
        ("optimizer state", before & in_optimizer),
        ("inputs", (before | by_others) & read),
        ("activations", by_forward & held_after & (for_backward | in_graph)),
        ("activations", by_forward & for_backward & (allocated_in == Phase.FORWARD)),
        ("outputs", by_forward & held_after),
        ("communication buffers", parallel.given),
        ("temporaries", by_forward | by_backward_or_optimizer),
        ("temporaries", by_others & ~held_after),
    ]
    names = [CATEGORIES.index(name) for name, _ in rules]
    return np.select([rule for _, rule in rules], names, default=CATEGORIES.index("other"))


def phase_at(trace: Trace, op: Rows, module_call: Rows) -> npt.NDArray[np.int64]:
    """The phase of the op or, without one, forward inside a module call, and other outside of all calls.

    A module that transforms data is no part of forward.
    """
    calls = trace.module_calls
    loads = (module_call >= 0) & (module_call < len(calls))
    loads[loads] = calls["flags"][module_call[loads]] & CALL_LOADED_DATA != 0
    without_op = np.where(loads, int(Phase.DATA), np.where(module_call >= 0, int(Phase.FORWARD), int(Phase.OTHER)))
    of_ops = np.concatenate([phases(trace.ops), [0]]).astype(np.int64)
    return np.where(op >= 0, of_ops[op], without_op)
