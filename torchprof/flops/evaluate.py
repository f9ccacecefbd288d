"""The FLOPs of every signature of a trace."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from torchprof.errors import UnsupportedTorchError
from torchprof.flops.classes import AROUND_OPS, COMPILED_REGION, OpClasses
from torchprof.flops.formulas import FORMULAS, Formula, Operand
from torchprof.trace.schema import (
    NO_ARGUMENTS,
    NO_FLOPS,
    OP_NESTED,
    TENSOR_NOT_DENSE,
    TENSOR_SYMBOLIC,
    TENSOR_WRAPPER,
    UNKNOWN_FLOPS,
    Rows,
)
from torchprof.trace.type_names import Dtypes
from torchprof.wording import shown

__all__ = ["Flops", "Registered", "evaluate", "filled"]

Registered = Callable[[Any, list[Operand], list[Operand], tuple[str, ...]], int | None]
"""Calls a formula of a user's with inputs, outputs, and arguments and results as JSON where they were kept."""
MOST_FLOPS: Final = 2**53
"""Of one op: more takes a GPU many seconds, and a sum of thousands of these has room in 64 bits."""
AHEAD_OF_TIME: Final = "Torch-Compiled Region: AOTInductor"
"""What AOTInductor compiled is never run op by op. The name is that of ``csrc/record/ahead_of_time.h``."""
MOST_REMEMBERED: Final = 10_000
SHAPELESS: Final = TENSOR_NOT_DENSE | TENSOR_WRAPPER | TENSOR_SYMBOLIC
"""Flags of tensors whose shape does not say what is computed."""

_known: dict[tuple[Any, ...], int] = {}
"""What formulas of torchprof's own said, by op, arguments and operands."""


class Flops(NamedTuple):
    """What `evaluate` found.

    Attributes:
        of_signatures: FLOPs of one op of each signature; ``NO_FLOPS`` of an op that has none by convention, ``UNKNOWN_FLOPS``
            where no formula says how many; 0 where all its ops ran inside others that count, or raised.
        problems: sentences that say which formulas failed, and why.
    """

    of_signatures: npt.NDArray[np.int64]
    problems: list[str]


def evaluate(
    tables: Mapping[str, Rows],
    strings: Sequence[str],
    dtypes: Dtypes,
    classes: OpClasses,
    *,
    outputs: bool = True,
    hidden: bool = True,
    registered: Registered | None = None,
) -> Flops:
    """The FLOPs of every signature.

    Args:
        classes: of the ops by name.
        outputs: whether what ops returned was recorded. An op that raised returned nothing; without outputs, it has no inputs.
        hidden: whether kernels may have run in compiled code that are no ops.
        registered: calls the formulas in ``classes.users``.
    """
    signatures = tables["signatures"]
    found = Flops(np.full(len(signatures), NO_FLOPS, dtype=np.int64), [])
    if not len(signatures):
        return found
    worth = {row for row, name in enumerate(strings) if _may_have_flops(name, classes)}
    names = signatures["name"].tolist()
    candidates = [row for row, name in enumerate(names) if name in worth]
    if not candidates:
        return found
    counted = _counted_signatures(tables)
    reader = _Reader(tables, strings, dtypes, registered)
    failed: dict[str, str] = {}
    for row in candidates:
        name = strings[names[row]]
        of_one: int | None = 0
        if counted[row] and name.startswith(COMPILED_REGION):
            of_one = None if hidden or name == AHEAD_OF_TIME else NO_FLOPS
        elif counted[row]:
            signature = signatures[row].item()
            returned = signature[5] and (signature[6] or not outputs)
            formula = classes.users.get(name) or FORMULAS.get(name)
            try:
                of_one = None if formula is None else reader.flops(name, formula, signature) if returned else 0
            except UnsupportedTorchError as error:
                of_one = None
                found.problems.append(f"FLOPs of {name} are unknown: {error}")
            except Exception as error:
                of_one = None
                failed[name] = f"{type(error).__name__}: {error}"
            if of_one is not None and not 0 <= of_one <= MOST_FLOPS:
                failed[name] = f"{shown(of_one, 40)} FLOPs cannot be"
                of_one = None
        found.of_signatures[row] = UNKNOWN_FLOPS if of_one is None else of_one
    found.problems.extend(f"the FLOP formula of {name} failed ({why}): its FLOPs are unknown" for name, why in failed.items())
    return found


def _may_have_flops(name: str, classes: OpClasses) -> bool:
    if name in classes.counted or name.startswith(COMPILED_REGION):
        return True
    return "::" in name and name not in classes.free and not name.startswith(AROUND_OPS)


def _counted_signatures(tables: Mapping[str, Rows]) -> list[bool]:
    """For every signature, whether some of its ops did not run inside others that are counted."""
    ops, totals = tables["ops"], tables["op_totals"]
    found = np.zeros(len(tables["signatures"]), dtype=np.bool_)
    found[ops["signature"][(ops["flags"] & OP_NESTED == 0) & (ops["scope"] == 0)]] = True
    found[totals["signature"][totals["nested"] == 0]] = True
    counted: list[bool] = found.tolist()
    return counted


class _Reader:
    """Gives formulas the arguments of signatures."""

    def __init__(
        self, tables: Mapping[str, Rows], strings: Sequence[str], dtypes: Dtypes, registered: Registered | None
    ) -> None:
        self._registered = registered
        self._strings = strings
        self._dtypes = dtypes
        self._operands = tables["operands"]
        tensors = tables["tensors"]
        self._shape, self._dtype, self._flags = tensors["shape"], tensors["dtype"], tensors["flags"]
        self._shapes, self._dims = tables["shapes"], tables["dims"]

    def flops(self, name: str, formula: Any, signature: tuple[int, ...]) -> int | None:
        """What the formula says, None where it cannot."""
        _, first_input, first_output, arguments, results, n_inputs, n_outputs = signature
        inputs, outputs = self._read(first_input, n_inputs), self._read(first_output, n_outputs)
        if inputs is None or outputs is None:
            return None
        texts = tuple(self._strings[text] for text in (arguments, results) if text != NO_ARGUMENTS)
        if not isinstance(formula, Formula):
            return self._registered(formula, inputs, outputs, texts) if self._registered is not None else None
        # A shape does not compare its dtype, so that is in the key beside it.
        key = (
            (name, texts, *((tensor, tensor.dtype) for tensor in inputs), *outputs)
            if formula.needs_output
            else (name, texts, *((tensor, tensor.dtype) for tensor in inputs))
        )
        if key not in _known:
            if len(_known) >= MOST_REMEMBERED:
                _known.clear()
            _known[key] = found = _own(formula, inputs, outputs, texts)  # type: ignore[assignment]
            return found
        return _known[key]

    def _read(self, first: int, count: int) -> list[Operand] | None:
        """The operands; None where the shape of one does not say what is computed."""
        made = []
        for row in self._operands[first : first + count].tolist():
            if self._flags[row] & SHAPELESS:
                return None
            start, ndim = self._shapes[self._shape[row]].item()
            made.append(Operand(self._dims[start : start + ndim].tolist(), self._dtypes[int(self._dtype[row])].name))
        return made


def _own(formula: Formula, inputs: list[Operand], outputs: list[Operand], texts: tuple[str, ...]) -> int | None:
    """What a formula of torchprof's says; None where it needs what was not kept."""
    if (formula.needs_output and not outputs) or (formula.tensors is None and not texts):
        return None
    if formula.tensors is not None:
        arguments: list[Any] = list(inputs[: formula.tensors])
    else:
        arguments = filled(json.loads(texts[0]), inputs)
    return formula.compute(*arguments, outputs[0]) if formula.needs_output else formula.compute(*arguments)


def filled(arguments: Any, tensors: Sequence[Any]) -> list[Any]:
    """Arguments with a tensor in place of every ``{}``."""
    remaining = iter(tensors)

    def fill(value: Any) -> Any:
        if isinstance(value, dict):
            return next(remaining)
        return [fill(item) for item in value] if isinstance(value, list) else value

    made: list[Any] = fill(arguments)
    return made
