"""FLOP formulas that were registered with ``torch.utils.flop_counter.register_flop_formula``.

Where that has not been imported, nobody can have registered one: so PyTorch is asked for, and never imported here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any, Final

from torchprof.flops.evaluate import filled
from torchprof.flops.formulas import FORMULAS, Operand

__all__ = ["by_registered", "users_formulas"]

COUNTER: Final = "torch.utils.flop_counter"


def users_formulas() -> dict[str, Any]:
    """The formulas that are registered now and not PyTorch's own, by name of the op; of its own, those that are not here.

    Higher-order operators are not ops of the dispatcher: what they run is.
    """
    torch, counter = sys.modules.get("torch"), sys.modules.get(COUNTER)
    if torch is None or counter is None:
        return {}
    found = {}
    for packet, formula in counter.flop_registry.items():
        if isinstance(packet, torch._ops.OpOverloadPacket):
            name = str(packet).replace(".", "::", 1)
            if name not in FORMULAS or getattr(formula, "__module__", "") != COUNTER:
                found[name] = formula
    return found


def by_registered(formula: Any, inputs: Sequence[Operand], outputs: Sequence[Operand], texts: Sequence[str]) -> int:
    """What such a formula says: it takes tensors.

    Args:
        outputs: none where it is not known what the op returned; the formula is then given no ``out_shape``.
        texts: the arguments and, where they were kept, the results as JSON, with ``{}`` for every tensor.
    """
    given, returned = [_meta(tensor) for tensor in inputs], [_meta(tensor) for tensor in outputs]
    if texts:
        given = filled(json.loads(texts[0]), given)
    if len(texts) > 1:
        returned = filled(json.loads(texts[1]), returned)
    known = len(outputs) > 0 or len(texts) > 1
    out = None if not known else returned[0] if len(returned) == 1 else tuple(returned)
    return int(formula(*given, out_val=out))


def _meta(operand: Operand) -> Any:
    """A tensor in place of one that was recorded: formulas ask tensors for their shape, some for their dtype."""
    torch = sys.modules["torch"]
    return torch.empty(operand, dtype=getattr(torch, operand.dtype, torch.float32), device="meta")
