"""Where the modules that were called are registered in the model."""

from __future__ import annotations

from torchprof.analysis.remembered import remembered
from torchprof.trace.trace import Trace

__all__ = ["registered"]


@remembered
def registered(trace: Trace) -> list[int]:
    """For every row of ``trace.modules`` its row in ``trace.model``, the first where it has several; -1: it has none.

    A module that is freed may leave its address to one of another class. The class of one module may change as well, but then
    one name ends with the other: ``LazyLinear`` becomes ``Linear``, and ``Linear`` ``FSDPLinear`` or ``ParametrizedLinear``.
    Modules of TorchScript are described by the class that they were made of.
    """
    infos = trace.model.modules if trace.model is not None else ()
    rows: dict[int, int] = {}
    for row, info in enumerate(infos):
        if info.same_as < 0:
            rows.setdefault(info.address, row)
    found = []
    for address, name in trace.modules[["address", "type"]].tolist():
        row = rows.get(address, -1)
        called = trace.strings[name]
        is_it = row >= 0 and (infos[row].opaque == "TorchScript" or _are_one(called, infos[row].type))
        found.append(row if is_it else -1)
    return found


def _are_one(one: str, other: str) -> bool:
    return one.endswith(other) or other.endswith(one)
