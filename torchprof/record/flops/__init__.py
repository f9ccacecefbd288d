"""The FLOPs of ops: which have some, which formula they have, and what it says of those that were recorded.

Formulas are looked for here in turn: the user's own, registered with ``torch.utils.flop_counter.register_flop_formula`` before
the recording; those of `torchprof.record.flops.formulas`; those of ``torch.utils.flop_counter``. A multiply-add is two FLOPs.
"""

from __future__ import annotations

from torchprof.record.flops.evaluate import Flops, evaluate
from torchprof.record.flops.op_classes import OpClasses, op_classes

__all__ = ["Flops", "OpClasses", "evaluate", "op_classes"]
