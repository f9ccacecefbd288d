"""The arguments of an op, from ``Input Dims``, ``Input type`` and ``Concrete Inputs``: its tensors, and all as JSON.

"Input Dims": [[4, 3, 224, 224], [768, 3, 16, 16], [768], []]            tensors: their sizes; [] of other arguments
"Input type": ["c10::BFloat16", "c10::BFloat16", "float", "ScalarList"]  "" of None; TensorList of several
"Concrete Inputs": ["", "", "", "[16, 16]"]                              values, in files since 2023
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Final

from torchprof.importers.kineto.event import MalformedError, parse
from torchprof.importers.kineto.numbers import integer
from torchprof.trace.schema import UNKNOWN
from torchprof.trace.type_names import Dtype, Dtypes

__all__ = ["UNKNOWN_TYPE", "Arguments", "DtypeNumbers", "read_arguments"]

Sizes = tuple[int, ...]
_OF_2021: Final = "Int SymInt SymFloat SymBool Double ComplexDouble Bool String Stream Generator Enum"
"""Files of 2021 and 2022 have the kind of every value. A GenericList is not among these: it may be one of tensors."""
NOT_TENSORS: Final = frozenset(["", "Scalar", "ScalarList", "Device", "None", *_OF_2021.split()])
MOST_ELEMENTS: Final = 2**53
"""Of a tensor: its bytes have room in 64 bits, also those of many. A size beyond is none."""
UNKNOWN_TYPE: Final = "?"
"""The dtype of a tensor whose type the file does not say."""

# The names of C++ that the file has, and the numbers that PyTorch gives to these dtypes.
KNOWN: Final[dict[str, tuple[int, Dtype]]] = {
    "unsigned char": (0, Dtype("uint8", 1)),
    "signed char": (1, Dtype("int8", 1)),
    "short": (2, Dtype("int16", 2)),
    "short int": (2, Dtype("int16", 2)),
    "int": (3, Dtype("int32", 4)),
    "long": (4, Dtype("int64", 8)),
    "long int": (4, Dtype("int64", 8)),
    "long long": (4, Dtype("int64", 8)),
    "c10::Half": (5, Dtype("float16", 2)),
    "float": (6, Dtype("float32", 4)),
    "double": (7, Dtype("float64", 8)),
    "c10::complex<c10::Half>": (8, Dtype("complex32", 4)),
    "c10::complex<float>": (9, Dtype("complex64", 8)),
    "c10::complex<double>": (10, Dtype("complex128", 16)),
    "bool": (11, Dtype("bool", 1)),
    "c10::BFloat16": (15, Dtype("bfloat16", 2)),
    "c10::Float8_e5m2": (23, Dtype("float8_e5m2", 1)),
    "c10::Float8_e4m3fn": (24, Dtype("float8_e4m3fn", 1)),
    "c10::Float8_e5m2fnuz": (25, Dtype("float8_e5m2fnuz", 1)),
    "c10::Float8_e4m3fnuz": (26, Dtype("float8_e4m3fnuz", 1)),
}
FIRST_OWN_NUMBER: Final = 64
LAST_NUMBER: Final = 127


class DtypeNumbers:
    """The numbers of the dtypes that a file names. One that is not known here keeps its name."""

    def __init__(self) -> None:
        self.dtypes = Dtypes(dict(KNOWN.values()))
        self._numbers = {name: number for name, (number, _) in KNOWN.items()}

    def number(self, name: str) -> int:
        """Of the dtype with this name. Of more names than there are numbers, the last ones share one."""
        found = self._numbers.get(name)
        if found is None:
            found = self._numbers[name] = min(LAST_NUMBER, FIRST_OWN_NUMBER + len(self._numbers) - len(KNOWN))
            self.dtypes[found] = Dtype(name.removeprefix("c10::") if found < LAST_NUMBER else UNKNOWN_TYPE, None)
        return found


@dataclass(frozen=True, slots=True)
class Arguments:
    """The arguments of an op.

    Attributes:
        tensors: shape and dtype of every tensor, also of those in lists.
        text: all arguments as JSON, with ``{}`` for every tensor; None where the file has no values.
        given: whether the file says anything of them.
        has_values: whether it has values of those that are no tensors.
    """

    tensors: tuple[tuple[Sizes, int], ...]
    text: str | None
    given: bool
    has_values: bool = False


def read_arguments(dims: bytes, types: bytes, values: bytes, numbers: DtypeNumbers) -> Arguments:
    """The arguments of an op from the JSON of the file."""
    all_dims, all_types, all_values = (_list(text) for text in (dims, types, values))
    if all_dims is None:
        return Arguments((), None, False)
    kinds = [str(kind) for kind in all_types or []]
    known = all_types is not None and len(kinds) == len(all_dims)
    has_values = known and all_values is not None and len(all_values) == len(all_dims)
    tensors: list[tuple[Sizes, int]] = []
    written: list[Any] = []
    only_tensors = known
    for at, sizes in enumerate(all_dims):
        kind = kinds[at] if known else UNKNOWN_TYPE
        if kind in NOT_TENSORS or (not known and not sizes):
            only_tensors = False
            written.append(_value(str(all_values[at])) if has_values and all_values is not None else None)
        elif _is_list(sizes):
            each = [(_sizes(one), numbers.number(kind)) for one in sizes]
            tensors += each
            written.append([{}] * len(each))
        elif "List" in kind:  # of tensors whose sizes the file does not say, or of other values
            only_tensors = False
            tensors.append(((UNKNOWN,), numbers.number(kind)))
            written.append([{}])
        else:
            tensors.append((_sizes(sizes), numbers.number(kind)))
            written.append({})
    return Arguments(tuple(tensors), json.dumps(written) if has_values or only_tensors else None, True, has_values)


def _list(text: bytes) -> list[Any] | None:
    if not text:
        return None
    try:
        found = parse(text)
    except MalformedError:
        return None
    return found if isinstance(found, list) else None


def _is_list(sizes: Any) -> bool:
    return isinstance(sizes, list) and len(sizes) > 0 and all(isinstance(each, list) for each in sizes)


def _sizes(sizes: Any) -> Sizes:
    if not isinstance(sizes, list):
        return (UNKNOWN,)
    found = tuple(max(UNKNOWN, integer(size, UNKNOWN)) for size in sizes)
    return found if math.prod(max(size, 1) for size in found) <= MOST_ELEMENTS else (UNKNOWN,) * len(found)


def _value(text: str) -> Any:
    """A value as the file writes it: ``1e-05``, ``True``, ``[16, 16]``; None of nothing, and text of all else."""
    if not text:
        return None
    try:
        return json.loads(text.replace("True", "true").replace("False", "false"))
    except ValueError:
        try:
            return float(text)  # 1. is no JSON
        except ValueError:
            return text
