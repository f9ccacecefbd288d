"""Signatures: ops that do the same work, with the tensors that they are given and, where that can be told, return."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from torchprof.flops.formulas import FORMULAS
from torchprof.flops.outputs import output_shapes
from torchprof.flops.registered import users_formulas
from torchprof.importers.kineto.arguments import UNKNOWN_TYPE, Arguments, DtypeNumbers, Sizes, read_arguments
from torchprof.importers.kineto.columns import Ints, Numbered
from torchprof.importers.kineto.read_events import OpArguments
from torchprof.trace.schema import LAYOUTS, NO_ARGUMENTS, TENSOR_NO_STORAGE, TENSOR_SYMBOLIC, UNKNOWN, Rows

__all__ = ["Signatures", "fill_ops"]

MOST_OPERANDS: Final = 2**16 - 1
OTHER_DTYPES: Final = frozenset(
    f"aten::{name}"
    for name in (
        "_int_mm",
        "_scaled_mm",
        "_scaled_mm_v2",
        "_scaled_grouped_mm",
        "_scaled_grouped_mm_v2",
        "_fft_r2c",
        "_fft_c2r",
    )
)
"""Ops that return another dtype than they are given, which arguments say, or nothing."""
Kind = tuple[Sizes, int, int, int]
"""Shape, dtype, device type and device index of a tensor."""


@dataclass
class Signatures:
    """The tables of signatures and of tensors, as they grow.

    Attributes:
        strings: names, to which arguments are added.
        given: whether the file says anything of the arguments of some op.
        has_values: whether it has values of those of some op that are no tensors.
    """

    strings: Numbered[str]
    given: bool = False
    has_values: bool = False
    dtypes: DtypeNumbers = field(default_factory=DtypeNumbers)
    _rows: Numbered[tuple[int, tuple[Kind, ...], tuple[Kind, ...], int]] = field(default_factory=Numbered)
    _read: dict[int, Arguments] = field(default_factory=dict)
    _users: dict[str, Any] = field(default_factory=users_formulas)

    def add(self, name: str, number: int, arguments: OpArguments, device: tuple[int, int]) -> int:
        """The row of the signature of ops with this name and these arguments.

        Args:
            number: of the arguments: these are read once.
            device: type and index of the device that they worked on.
        """
        found = self._read.get(number)
        if found is None:
            found = self._read[number] = read_arguments(*arguments, self.dtypes)
            self.given |= found.given
            self.has_values |= found.has_values
        text = NO_ARGUMENTS
        formula = FORMULAS.get(name)
        by_arguments = name in self._users or (formula is not None and formula.tensors is None)
        if by_arguments and found.text is not None:
            text = self.strings.row(found.text)
        inputs = tuple((*tensor, *device) for tensor in found.tensors[:MOST_OPERANDS])
        return self._rows.row((self.strings.row(name), inputs, self._outputs(name, inputs, found), text))

    def _outputs(self, name: str, inputs: tuple[Kind, ...], arguments: Arguments) -> tuple[Kind, ...]:
        """What an op in place returns, and one that multiplies. The file does not say what ops return."""
        if not inputs:
            return ()
        if name.endswith("_") and not name.endswith("__"):
            return inputs[:1]
        shapes = output_shapes(name, [kind[0] for kind in inputs], arguments.text)
        dtype = self.dtypes.number(UNKNOWN_TYPE) if name in OTHER_DTYPES else inputs[0][1]
        return tuple((shape, dtype, *inputs[0][2:]) for shape in shapes)

    def tables(self) -> dict[str, Rows]:
        """The tables ``signatures``, ``operands``, ``tensors``, ``shapes`` and ``dims``."""
        kinds: Numbered[Kind] = Numbered()
        operands: list[int] = []
        rows = np.zeros(len(self._rows.rows), dtype=LAYOUTS["signatures"])
        for row, (name, inputs, outputs, text) in enumerate(self._rows.list()):
            first = len(operands)
            operands += [kinds.row(kind) for kind in (*inputs, *outputs)]
            rows[row] = (name, first, first + len(inputs), text, NO_ARGUMENTS, len(inputs), len(outputs))
        shapes: Numbered[Sizes] = Numbered()
        tensors = np.zeros(len(kinds.rows), dtype=LAYOUTS["tensors"])
        for row, (sizes, dtype, device_type, index) in enumerate(kinds.list()):
            flags = TENSOR_NO_STORAGE | (TENSOR_SYMBOLIC if UNKNOWN in sizes else 0)
            tensors[row] = (0, 0, 0, shapes.row(sizes), dtype, device_type, index, flags)
        table = np.zeros(len(shapes.rows), dtype=LAYOUTS["shapes"])
        table["ndim"] = [len(sizes) for sizes in shapes.list()]
        table["first"] = np.cumsum(table["ndim"]) - table["ndim"]
        dims = np.array([size for sizes in shapes.list() for size in sizes], dtype=np.int64)
        found = {"signatures": rows, "tensors": tensors, "shapes": table, "dims": dims}
        return {**found, "operands": np.array(operands, dtype=np.int32)}


def fill_ops(ops: Rows, signature: Ints, signatures: Rows) -> None:
    """Give every op its signature, and the operands of that."""
    ops["signature"] = signature
    for name in ("inputs", "outputs", "n_inputs", "n_outputs"):
        ops[name] = signatures[name][signature]
