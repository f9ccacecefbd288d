"""The FLOPs of ops, by the formulas of ``torch.utils.flop_counter``: found once for each signature, when a recording ends.

Formulas added with ``register_flop_formula`` are included; register them before recording. A multiply-add is two FLOPs. An op
inside another one that has a formula is not counted again, as ``FlopCounterMode`` does not see it either.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.flop_counter import flop_registry

from torchprof.errors import UnsupportedTorchError
from torchprof.record import torch_private
from torchprof.trace.schema import NO_ARGUMENTS, OP_NESTED, Rows
from torchprof.trace.type_names import Dtypes

__all__ = ["Flops", "counted_ops", "evaluate", "ops_with_arguments"]

TENSORS_SUFFICE = {"aten::mm": 2, "aten::addmm": 3, "aten::bmm": 2, "aten::baddbmm": 3}
"""Ops whose formula needs only this many tensors, the first of their inputs: their arguments need not be kept. Further tensors
are where the result goes, as in the code that ``torch.compile`` writes."""


class Flops(NamedTuple):
    """What `evaluate` found.

    Attributes:
        of_signatures: FLOPs of one op of each signature: -1 where there is no formula, 0 where all its ops ran inside others
            that count.
        problems: sentences that say what could not be counted, and why.
    """

    of_signatures: npt.NDArray[np.int64]
    problems: list[str]


def _formulas() -> dict[str, Any]:
    """The formulas that are registered now, by name of the op. Higher-order operators are not ops of the dispatcher."""
    names = {str(packet).replace(".", "::", 1): formula for packet, formula in flop_registry.items()}
    return {name: formula for name, formula in names.items() if "::" in name}


def counted_ops() -> set[str]:
    """Names of the ops that have a formula."""
    return set(_formulas())


def ops_with_arguments() -> set[str]:
    """Names of the ops whose arguments a recording must keep for their formula."""
    return counted_ops() - TENSORS_SUFFICE.keys()


def evaluate(tables: Mapping[str, Rows], strings: Sequence[str], dtypes: Dtypes) -> Flops:
    """The FLOPs of every signature. Where a formula fails, its ops count nothing."""
    formulas = _formulas()
    signatures = tables["signatures"]
    found = Flops(np.full(len(signatures), -1, dtype=np.int64), [])
    with_formula = [row for row, name in enumerate(signatures["name"].tolist()) if strings[name] in formulas]
    if not with_formula:
        return found
    counted = set(_counted_signatures(tables).tolist())
    failed: dict[str, str] = {}
    try:
        # The recording may end where a mode of the user's is active, which must not see the tensors that are made here.
        with torch_private.without_modes():
            found.of_signatures[with_formula] = 0
            for row in with_formula:
                signature = signatures[row]
                if row in counted and signature["n_inputs"] and signature["n_outputs"]:  # an op that raised returned nothing
                    name = strings[signature["name"]]
                    try:
                        found.of_signatures[row] = _evaluate(tables, strings, dtypes, signature, formulas[name])
                    except Exception as error:
                        failed[name] = f"{type(error).__name__}: {error}"
    except UnsupportedTorchError as error:
        found.problems.append(f"FLOPs are unknown: {error}")
    found.problems.extend(f"the FLOP formula of {name} failed ({why}): these are counted as 0" for name, why in failed.items())
    return found


def _counted_signatures(tables: Mapping[str, Rows]) -> npt.NDArray[np.uint32]:
    """Signatures of ops that did not only run inside others that are counted."""
    ops, totals = tables["ops"], tables["op_totals"]
    of_ops: npt.NDArray[np.uint32] = ops["signature"][ops["flags"] & OP_NESTED == 0]
    of_totals: npt.NDArray[np.uint32] = totals["signature"][totals["nested"] == 0]
    return np.concatenate([of_ops, of_totals])


def _evaluate(tables: Mapping[str, Rows], strings: Sequence[str], dtypes: Dtypes, signature: Any, formula: Any) -> int:
    tensors = TENSORS_SUFFICE.get(strings[signature["name"]])
    inputs = _meta_tensors(tables, dtypes, int(signature["inputs"]), int(signature["n_inputs"]))[:tensors]
    outputs = _meta_tensors(tables, dtypes, int(signature["outputs"]), int(signature["n_outputs"]))
    if signature["arguments"] != NO_ARGUMENTS:
        inputs = _filled(json.loads(strings[signature["arguments"]]), inputs)
        outputs = _filled(json.loads(strings[signature["results"]]), outputs)
    result = outputs[0] if len(outputs) == 1 else tuple(outputs)
    return int(formula(*inputs, out_val=result))


def _meta_tensors(tables: Mapping[str, Rows], dtypes: Dtypes, first: int, count: int) -> list[Any]:
    """Tensors in place of those that were recorded: formulas ask tensors for their shape, some for their dtype."""
    made = []
    for row in tables["operands"][first : first + count].tolist():
        tensor = tables["tensors"][row]
        start, ndim = tables["shapes"][tensor["shape"]].item()
        dtype = getattr(torch, dtypes[int(tensor["dtype"])].name, torch.float32)
        made.append(torch.empty(tables["dims"][start : start + ndim].tolist(), dtype=dtype, device="meta"))
    return made


def _filled(arguments: Any, tensors: Sequence[Any]) -> list[Any]:
    """Arguments with a tensor in place of every ``{}``."""
    remaining = iter(tensors)

    def fill(value: Any) -> Any:
        if isinstance(value, dict):
            return next(remaining)
        return [fill(item) for item in value] if isinstance(value, list) else value

    filled: list[Any] = fill(arguments)
    return filled
