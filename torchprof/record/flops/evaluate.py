"""The FLOPs of every signature, found when a recording ends: also by formulas that are registered with PyTorch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from torchprof.flops import evaluate as by_formulas
from torchprof.flops.evaluate import Flops, filled
from torchprof.flops.formulas import Operand
from torchprof.record import torch_private
from torchprof.record.flops.op_classes import op_classes_of
from torchprof.trace.schema import Rows
from torchprof.trace.type_names import Dtypes

__all__ = ["evaluate"]


def evaluate(
    tables: Mapping[str, Rows], strings: Sequence[str], dtypes: Dtypes, *, outputs: bool = True, hidden: bool = True
) -> Flops:
    """The FLOPs of every signature: see `torchprof.flops.evaluate`."""
    classes = op_classes_of(strings)
    return by_formulas.evaluate(tables, strings, dtypes, classes, outputs=outputs, hidden=hidden, registered=_registered)


def _registered(formula: Any, inputs: list[Operand], outputs: list[Operand], texts: tuple[str, ...]) -> int:
    """What a formula says that was registered with PyTorch: these take tensors."""
    # The recording may end where a mode of the user's is active, which must not see the tensors that are made here.
    with torch_private.without_modes():
        given, returned = [_meta(tensor) for tensor in inputs], [_meta(tensor) for tensor in outputs]
        if texts:
            given, returned = filled(json.loads(texts[0]), given), filled(json.loads(texts[1]), returned)
        return int(formula(*given, out_val=returned[0] if len(returned) == 1 else tuple(returned)))


def _meta(operand: Operand) -> Any:
    """A tensor in place of one that was recorded: formulas ask tensors for their shape, some for their dtype."""
    return torch.empty(operand, dtype=getattr(torch, operand.dtype, torch.float32), device="meta")
