"""What a formula is, and the table of them, which the other files of this folder fill."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

__all__ = ["FORMULAS", "Formula", "Operand", "Shape", "Sizes", "formula"]

Sizes = Sequence[int]
Compute = Callable[..., int | None]
C = TypeVar("C", bound=Compute)


class Operand(tuple[int, ...]):
    """The shape of a tensor, which also knows its dtype, such as ``"float32"``; empty where that is unknown."""

    dtype: str

    def __new__(cls, shape: Sizes, dtype: str = "") -> Operand:
        made = super().__new__(cls, shape)
        made.dtype = dtype
        return made


Shape = Operand


@dataclass(frozen=True, slots=True)
class Formula:
    """How the FLOPs of an op are computed.

    Attributes:
        compute: called with the arguments of the op in their order; with ``out``, what it returned, where ``needs_output``.
        tensors: with a number, the formula takes only so many tensors, the first of the inputs, and no other argument: then the
            arguments of the op need not be kept. Further tensors are where the result goes, as in code of ``torch.compile``.
        needs_output: whether the shape of the output is needed.
        only_outermost: whether the formula stands for the whole op, so that ops inside it are not counted again. Otherwise it
            is used where nothing that counts was seen inside.
    """

    compute: Compute
    tensors: int | None = None
    needs_output: bool = False
    only_outermost: bool = True


FORMULAS: Final[dict[str, Formula]] = {}
"""The formulas by name of the op."""


def formula(*names: str, **options: Any) -> Callable[[C], C]:
    """The function below is the formula of these ops."""

    def register(compute: C) -> C:
        for name in names:
            assert name not in FORMULAS, name
            FORMULAS[name] = Formula(compute, **options)
        return compute

    return register
