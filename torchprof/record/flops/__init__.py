"""The FLOPs of the ops of a recording: which have some, which formula they have, and what it says of those that were recorded.

Formulas are looked for here in turn: the user's own, registered with ``torch.utils.flop_counter.register_flop_formula`` before
the recording; those of `torchprof.flops.formulas`; those of ``torch.utils.flop_counter``. A multiply-add is two FLOPs.
"""

from __future__ import annotations

from torchprof.flops.classes import OpClasses
from torchprof.flops.evaluate import Flops
from torchprof.record.flops.evaluate import evaluate
from torchprof.record.flops.op_classes import op_classes
from torchprof.record.flops.shape_runs import leave_out_shape_runs

__all__ = ["Flops", "OpClasses", "evaluate", "leave_out_shape_runs", "op_classes"]
