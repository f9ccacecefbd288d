"""What a rank sends in a step, by the module that it is for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from torchprof.analysis.distributed.collectives import Collective, collectives_of
from torchprof.analysis.memory.modules import module_label
from torchprof.analysis.steps import active_steps, step_of
from torchprof.estimation.sharding.communication import Sent
from torchprof.trace.trace import Trace

__all__ = ["sent_by_module"]


def sent_by_module(trace: Trace, sent: Sequence[Sent]) -> tuple[Sent, ...]:
    """The same by module, what is most first: they add up to it.

    What FSDP sends is for the module whose parameters it is for; buckets of DistributedDataParallel are for the model that it
    wraps; what a DTensor or the program itself sends is for the module that runs, in backward that of the forward.

    Args:
        trace: of the estimate.
        sent: what it sends in the last step.
    """
    active = active_steps(trace)
    found = collectives_of(trace).collectives
    steps = step_of(trace.ops["start"][[each.op for each in found]], trace, active) if found else np.zeros(0, dtype=np.int64)
    ranks = {each["name"]: tuple(each["ranks"]) for each in trace.facts.get("process_groups", ())}
    of_groups = {(each.collective, each.group): each for each in sent}
    of_ranks = {(each.collective, ranks.get(each.group)): each for each in sent}
    sums: dict[tuple[Sent, str], list[int]] = {}
    for each, step in zip(found, steps.tolist(), strict=True):
        name = each.group_name
        of_all = of_groups.get((each.kind, name or "")) or of_ranks.get((each.kind, ranks.get(name or "", ())))
        if step == len(active) - 1 and of_all is not None:
            of_module = sums.setdefault((of_all, _module(trace, each)), [0, 0])
            of_module[0] += 1
            of_module[1] += each.bytes or 0
    rows = [replace(of_all, calls=calls, bytes=size, module=module) for (of_all, module), (calls, size) in sums.items()]
    return tuple(sorted(rows, key=lambda row: -row.bytes))


def _module(trace: Trace, collective: Collective) -> str:
    """What it is for; empty where that is no module, as of clipping gradients."""
    # The root has an empty path, as what is of no module has.
    is_of_root = collective.by in ("FSDP", "DDP") or trace.ops["module_call"][collective.op] >= 0
    return module_label(trace, collective.module) if collective.module or is_of_root else ""
