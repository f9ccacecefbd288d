"""The FLOPs of every signature, found when a recording ends: also by formulas that are registered with PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torchprof.flops import evaluate as by_formulas
from torchprof.flops.evaluate import Flops
from torchprof.flops.formulas import Operand
from torchprof.flops.registered import by_registered
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
    """What a formula says that was registered with PyTorch."""
    # The recording may end where a mode of the user's is active, which must not see the tensors that are made here.
    with torch_private.without_modes():
        return by_registered(formula, inputs, outputs, texts)
