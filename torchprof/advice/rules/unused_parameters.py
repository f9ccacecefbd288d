"""Parameters that are to be trained, and never get a gradient."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from torchprof.advice.finding import Finding
from torchprof.advice.memory_accounts import memory_accounts, peak_worth
from torchprof.advice.registry import NotTold, rule
from torchprof.analysis.compiled_code import ran_compiled_code
from torchprof.analysis.memory.steps import not_recorded
from torchprof.rendering.units import format_bytes
from torchprof.trace.model import ModuleInfo
from torchprof.trace.schema import Phase, Use, phases
from torchprof.trace.trace import Trace
from torchprof.wording import counted

__all__ = ["unused_parameters"]

COMMUNICATES: Final = ("c10d::", "nccl", "gloo:")
"""How names begin of ops that several ranks run together."""


@rule("parameters that never get a gradient")
def unused_parameters(trace: Trace) -> Iterator[Finding]:
    """Modules with trainable parameters of which no gradient was allocated in a recording with backward passes.

    Gradients from before the recording count where anything used them in it.
    """
    if trace.model is None:
        raise NotTold("no model was recorded")
    if trace.facts.get("parameters") is False:
        raise NotTold("the parameters of the model are not known")
    account = memory_accounts(trace)[0]
    if missing := not_recorded(trace) or [table for table in trace.losses if table in ("allocations", "ops")]:
        raise NotTold(f"not all {missing[0]} were recorded")
    if not (phases(trace.ops) == Phase.BACKWARD).any():
        raise NotTold("no backward pass was recorded")
    allocations = trace.allocations
    of_gradients = allocations["uses"] & Use.GRADIENT != 0
    if not of_gradients.any() or ran_compiled_code(trace):
        raise NotTold("it is not known which gradients there were")
    rows = np.unique(allocations["module"][of_gradients])
    trained = set(trace.modules["address"][rows[rows >= 0]].tolist())
    by_another = {each.owner for info in trace.model.modules if info.address in trained for each in info.parameters}
    unread = set(trace.facts.get("unread_modules") or ())
    calls = np.unique(np.concatenate([trace.module_calls["module"], trace.call_totals["module"]]))
    called = set(trace.modules["address"][calls].tolist())
    found = [
        each
        for row, each in enumerate(trace.model.modules)
        if _bytes(each)
        and each.address not in trained
        and each.path not in by_another  # as one that both have
        # What is not called and read is used by another, as by nn.MultiheadAttention: its gradients may be part of others.
        and (row in unread or each.address in called)
    ]
    if not found:
        return
    infos = {id(info): row for row, info in enumerate(trace.model.modules)}
    size = sum(_bytes(each) for each in found)
    never_read = sum(infos[id(each)] in unread for each in found)
    ranks = any(name.startswith(COMMUNICATES) for name in trace.strings)
    yield Finding(
        "unused_parameters",
        f"{counted(len(found), 'module has', 'modules have')} parameters that are to be trained and got no gradient, "
        f"{format_bytes(size)}" + (f"; no op reads those of {counted(never_read, 'module')}" if never_read else ""),
        "Remove what is not used, freeze what is not to be trained (requires_grad_(False)), and look for a detach, an argmax "
        "or a no_grad between the others and the loss."
        + (" DistributedDataParallel needs find_unused_parameters=True else, which costs time." if ranks else ""),
        "https://docs.pytorch.org/docs/stable/generated/torch.nn.parallel.DistributedDataParallel.html",
        peak_worth(account, size, "the bytes of these parameters, which can go where they are not used at all"),
        module=found[0].path if len(found) == 1 else "",
        details=tuple(
            f"{each.path or each.type}: {format_bytes(_bytes(each))}"
            + (", which no op reads" if infos[id(each)] in unread else "")
            for each in sorted(found, key=lambda each: -_bytes(each))
        ),
    )


def _bytes(info: ModuleInfo) -> int:
    """Of the trainable parameters of a module itself; 0 for what belongs to another module."""
    return sum(parameter.bytes for parameter in info.parameters if parameter.trainable and parameter.owner is None)
