"""Distances between all pairs of vectors: a difference, a power and a sum for each pair and element, 3 FLOPs.

Where PyTorch makes them of a matrix product (``cdist`` of many vectors), that is counted instead. ``FlopCounterMode`` counts
neither the former nor, in ``cdist``, the latter.
"""

from __future__ import annotations

from math import prod
from typing import Any

from torchprof.flops.formulas.formula import Shape, formula

__all__: list[str] = []


@formula("aten::_cdist_forward", tensors=2, only_outermost=False)
def cdist(a: Shape, b: Shape) -> int:
    """Of ``[..., p, m]`` and ``[..., r, m]``."""
    return 3 * prod(map(max, a[:-2], b[:-2])) * a[-2] * b[-2] * a[-1]


@formula("aten::_cdist_backward", only_outermost=False)
def cdist_backward(grad: Shape, a: Shape, b: Shape, *_: Any) -> int:
    """The gradient of ``a``: as many, a difference, its factor and a sum."""
    return 3 * prod(grad) * a[-1]


@formula("aten::_pdist_forward", tensors=1)
def pdist(x: Shape) -> int:
    """Of ``[n, m]``, each pair once."""
    return 3 * (x[0] * (x[0] - 1) // 2) * x[1]


@formula("aten::_pdist_backward", tensors=2)
def pdist_backward(grad: Shape, x: Shape) -> int:
    """As many for both vectors of a pair."""
    return 3 * x[0] * (x[0] - 1) * x[1]
