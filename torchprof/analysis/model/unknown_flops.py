"""Why the FLOPs of ops are unknown, and what can be done about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from torchprof.analysis.model.flops import COMPILED, NOT_DENSE
from torchprof.flops.formulas import FORMULAS
from torchprof.trace.schema import NO_ARGUMENTS
from torchprof.trace.trace import Trace

__all__ = ["ways_out"]

REGISTER: Final = "Formulas are registered with torch.utils.flop_counter.register_flop_formula"
RECORD_SHAPES: Final = "The file has no shapes of tensors: record with torch.profiler.profile(record_shapes=True) to have them"
RECORD_ANEW: Final = (
    "The file has no values of arguments, such as strides: PyTorch writes them since 2023, with record_shapes=True"
)
NOT_SEEN: Final = "Compiled code is not seen op by op: without torch.compile it is counted"


def ways_out(names: Sequence[str], trace: Trace | None) -> list[str]:
    """What can be done about these, whose FLOPs are unknown: ops, or compiled code. One sentence each.

    An op with a formula lacks its shapes or its arguments, which only files of other tools do not have.
    """
    found = []
    of_file = trace is not None and "source" in trace.facts
    with_formula = {name for name in names if name in FORMULAS}
    if of_file and trace is not None:
        if not trace.facts.get("shapes"):
            found.append(RECORD_SHAPES)
        elif with_formula and _lacks_arguments(trace, with_formula):
            found.append(RECORD_ANEW)
    if COMPILED in names:
        found.append(NOT_SEEN)
    if any(name not in FORMULAS and name != COMPILED and not name.endswith(NOT_DENSE) for name in names):
        found.append(REGISTER)
    return found


def _lacks_arguments(trace: Trace, names: set[str]) -> bool:
    """Whether an op of these is in the trace without the arguments that its formula needs."""
    needing = [name for name in names if FORMULAS[name].tensors is None]
    rows = trace.signatures[trace.signatures["arguments"] == NO_ARGUMENTS]
    without = {trace.strings[name] for name in rows["name"].tolist()}
    return not without.isdisjoint(needing)
