"""Fourier transforms, by the customary count, which is that of the radix-2 algorithm whatever algorithm runs.

    a transform of n complex numbers     5 n log2 n
    of real numbers, or to real numbers  half as many

n is the product of the sizes that are transformed. Source: M. Frigo and S. G. Johnson, "The Design and Implementation of
FFTW3", Proceedings of the IEEE 93 (2005), which measures speed by it. ``FlopCounterMode`` does not count them.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log2, prod
from typing import Any

from torchprof.flops.formulas.formula import Shape, formula

__all__: list[str] = []


def _transforms(elements: int, sizes: Sequence[int], per_element: float) -> int:
    return round(per_element * elements * log2(prod(sizes))) if elements else 0


@formula("aten::_fft_c2c")
def fft_c2c(x: Shape, dims: Sequence[int], *_: Any) -> int:
    """Complex to complex."""
    return _transforms(prod(x), [x[dim] for dim in dims], 5)


@formula("aten::_fft_r2c")
def fft_r2c(x: Shape, dims: Sequence[int], *_: Any) -> int:
    """Real to complex."""
    return _transforms(prod(x), [x[dim] for dim in dims], 2.5)


@formula("aten::_fft_c2r")
def fft_c2r(x: Shape, dims: Sequence[int], _: Any, last: int) -> int:
    """Complex to real: the last of the dimensions has ``last`` elements afterwards."""
    made = list(x)
    made[dims[-1]] = last
    return _transforms(prod(made), [made[dim] for dim in dims], 2.5)
