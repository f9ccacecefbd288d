"""Which ops are counted inside others, and the FLOPs of every signature."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from torchprof.flops.classes import COMPILED_REGION, OpClasses, classes_by_name
from torchprof.flops.evaluate import evaluate
from torchprof.flops.formulas import FORMULAS, Operand
from torchprof.flops.registered import by_registered, users_formulas
from torchprof.flops.views import moves_nothing
from torchprof.importers.kineto.columns import Ints
from torchprof.importers.kineto.freed import give_back
from torchprof.importers.kineto.nesting import Nesting, parts
from torchprof.trace.schema import OP_NESTED, OP_WRAPPER, SCOPE_FUNCTION, TENSOR_SYMBOLIC, UNKNOWN_FLOPS, Rows
from torchprof.trace.type_names import Dtypes

__all__ = ["flops_of", "mark_nested"]

FREE, UNKNOWN, COUNTED, COMPILED = range(4)
MOST_BYTES: Final = 2**60


def mark_nested(ops: Rows, nesting: Nesting, tables: Mapping[str, Rows], names: list[str], dtypes: Dtypes) -> None:
    """Set ``OP_NESTED`` and ``OP_WRAPPER``, as the recorder does: an op that has a formula counts for all inside it.

    An op is a wrapper if one inside it may have moved as many bytes: at least half, which excludes smaller ops on the way, such
    as converting a number. Where it is not known what an op returns, the largest tensor that it is given stands for it.
    """
    parent = nesting.op_parent
    name_of_op = tables["signatures"]["name"][ops["signature"]]
    is_function = ops["scope"] == SCOPE_FUNCTION
    classes = classes_by_name(names, users_formulas())
    of_dispatcher = np.array([_class_of(name, classes, True) for name in names] or [FREE], dtype=np.int8)
    of_others = np.array([_class_of(name, classes, False) for name in names] or [FREE], dtype=np.int8)
    kind = np.where(is_function, of_dispatcher[name_of_op], of_others[name_of_op])
    by_formula = (kind == COUNTED) & ~_has_unknown_sizes(tables)[ops["signature"]]
    hides = np.zeros(len(ops) + 1, dtype=np.bool_)
    nested = np.zeros(len(ops), dtype=np.bool_)
    for rows in nesting.levels:
        nested[rows] = hides[parent[rows]]
        hides[rows] = nested[rows] | by_formula[rows]
    counts = ~nested & (kind != FREE)
    give_back()
    by_inner = counts & ((kind == UNKNOWN) | ((kind == COUNTED) & ~by_formula))
    above = parent[counts & (kind != COMPILED)]
    while len(above := np.unique(above[above >= 0])):
        nested[above[by_inner[above]]] = True
        above = parent[above]
    moves = is_function & np.array(["::" in name and not moves_nothing(name) for name in names] or [False])[name_of_op]
    wrapper = np.zeros(len(ops), dtype=np.bool_)
    sizes, signature = _sizes(tables, dtypes), ops["signature"]
    for _ in range(2):
        for part in parts(len(ops)):  # `to` moves what is moved inside it
            inner = part.start + np.flatnonzero((moves[part] | wrapper[part]) & (parent[part] >= 0))
            around = parent[inner]
            wrapper[around[2 * sizes[signature[inner]] >= sizes[signature[around]]]] = True
    for mask, flag in ((nested, OP_NESTED), (wrapper, OP_WRAPPER)):
        ops["flags"] |= np.where(mask, np.uint8(flag), np.uint8(0))


def flops_of(tables: Mapping[str, Rows], names: list[str], dtypes: Dtypes) -> tuple[Ints, list[str]]:
    """FLOPs of one op of each signature, and which formulas failed."""
    users = users_formulas()
    classes = classes_by_name(names, users)
    found, problems = evaluate(tables, names, dtypes, classes, outputs=False, registered=_registered)
    signatures = tables["signatures"]
    has_formula = np.array([name in FORMULAS or name in users for name in names] or [False])[signatures["name"]]
    found[has_formula & (signatures["n_inputs"] == 0)] = UNKNOWN_FLOPS  # its shapes are not in the file
    return found, problems


def _registered(formula: Any, inputs: list[Operand], outputs: list[Operand], texts: tuple[str, ...]) -> int | None:
    """What a formula of the user's says; None where the file has no values of arguments, one of which it may need."""
    return by_registered(formula, inputs, outputs, texts) if texts else None


def _class_of(name: str, classes: OpClasses, of_dispatcher: bool) -> int:
    if name in classes.counted:
        return COUNTED
    if name.startswith(COMPILED_REGION):
        return COMPILED
    if name in classes.free:
        return FREE
    return UNKNOWN if of_dispatcher and "::" in name else FREE


def _sizes(tables: Mapping[str, Rows], dtypes: Dtypes) -> Ints:
    """Bytes that ops write: of what they return or, where that is not known, of the largest tensor that they are given."""
    first, count = tables["shapes"]["first"].tolist(), tables["shapes"]["ndim"].tolist()
    dims = np.maximum(tables["dims"], 1).tolist()
    elements = [min(math.prod(dims[at : at + n]), MOST_BYTES) for at, n in zip(first, count, strict=True)]
    tensors = tables["tensors"]
    of_tensors = [
        elements[shape] * (dtypes[dtype].itemsize or 1)
        for shape, dtype in zip(tensors["shape"].tolist(), tensors["dtype"].tolist(), strict=True)
    ]
    written = [of_tensors[row] for row in tables["operands"].tolist()]
    found = []
    for inputs, outputs, n_inputs, n_outputs in tables["signatures"][["inputs", "outputs", "n_inputs", "n_outputs"]].tolist():
        returned = sum(written[outputs : outputs + n_outputs])
        found.append(min(returned or max(written[inputs : inputs + n_inputs], default=0), MOST_BYTES))
    return np.array(found, dtype=np.int64)


def _has_unknown_sizes(tables: Mapping[str, Rows]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Of every signature, whether a size of an input is not known."""
    signatures, operands = tables["signatures"], tables["operands"]
    unknown = np.append(0, np.cumsum(tables["tensors"]["flags"][operands] & TENSOR_SYMBOLIC != 0))
    first = signatures["inputs"].astype(np.int64)
    found: np.ndarray[tuple[int], np.dtype[np.bool_]] = unknown[first + signatures["n_inputs"]] > unknown[first]
    return found
