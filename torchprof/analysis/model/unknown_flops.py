"""Why the FLOPs of ops are unknown, and what can be done about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from torchprof.analysis.model.flops import COMPILED, NOT_DENSE
from torchprof.flops.classes import is_pytorchs
from torchprof.flops.formulas import FORMULAS
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

    Formulas need shapes, and many need values of arguments: where a file of another tool does not have them, none helps.
    """
    ops = [name for name in names if name != COMPILED]
    others = [name for name in ops if name not in FORMULAS and not name.endswith(NOT_DENSE)]
    found = []
    if ops and trace is not None and "source" in trace.facts:
        if not trace.facts.get("shapes"):
            found.append(RECORD_SHAPES)
        elif not trace.facts.get("values"):
            found.append(RECORD_ANEW)
            others = [name for name in others if not is_pytorchs(name)]
    if COMPILED in names:
        found.append(NOT_SEEN)
    if others:
        found.append(REGISTER)
    return found
