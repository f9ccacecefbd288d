"""Factorizations and solutions of linear systems, by the operation counts of LAPACK, multiplications and additions together.

Source: LAPACK Working Note 41, "Installation Guide for LAPACK", appendix C, "Operation Counts for the BLAS and LAPACK". For
real matrices; of complex ones, each operation counts once. Iterative ones (``svd``, ``eigh``, ``eig``) and those whose course
depends on the values have no count: they are unknown. ``FlopCounterMode`` counts none of these.
"""

from __future__ import annotations

from math import prod
from typing import Any

from torchprof.flops.formulas.formula import Shape, Sizes, formula

__all__: list[str] = []


def _batched(matrix: Sizes, of_one: float) -> int:
    return round(prod(matrix[:-2]) * of_one)


def _potrf(n: int) -> float:
    """Cholesky factorization."""
    return n**3 / 3 + n**2 / 2 + n / 6


def _getrf(m: int, n: int) -> float:
    """LU factorization with pivoting of an ``m x n`` matrix."""
    least, most = min(m, n), max(m, n)
    return most * least**2 - least**3 / 3 - least**2 / 2 + 5 * least / 6


def _getrs(n: int, sides: int) -> float:
    """Solution with an LU factorization, of so many right-hand sides."""
    return sides * (2 * n**2 - n)


def _geqrf(m: int, n: int) -> float:
    """QR factorization of an ``m x n`` matrix."""
    if m >= n:
        return 2 * m * n**2 - 2 * n**3 / 3 + m * n + n**2 + 14 * n / 3
    return 2 * n * m**2 - 2 * m**3 / 3 + 3 * n * m - m**2 + 14 * m / 3


def _orgqr(m: int, n: int, k: int) -> float:
    """The first ``n`` columns of the Q of ``k`` reflectors of length ``m``."""
    return 4 * m * n * k - 2 * (m + n) * k**2 + 4 * k**3 / 3 + 3 * n * k - m * k - k**2 - 4 * k / 3


def _both(a: Sizes, b: Sizes) -> int:
    """How many matrices two batches make that are broadcast."""
    longer, shorter = sorted((list(a[:-2]), list(b[:-2])), key=len, reverse=True)
    shorter = [1] * (len(longer) - len(shorter)) + shorter
    return prod(max(pair) for pair in zip(longer, shorter, strict=True))


@formula("aten::linalg_cholesky_ex", "aten::cholesky", tensors=1)
def cholesky(a: Shape) -> int:
    """potrf."""
    return _batched(a, _potrf(a[-1]))


@formula("aten::cholesky_inverse", tensors=1)
def cholesky_inverse(a: Shape) -> int:
    """potri."""
    n = a[-1]
    return _batched(a, 2 * n**3 / 3 + n**2 / 2 + 5 * n / 6)


@formula("aten::cholesky_solve", "aten::_cholesky_solve_helper", tensors=2)
def cholesky_solve(b: Shape, a: Shape) -> int:
    """potrs."""
    return _batched(b, 2 * a[-1] ** 2 * b[-1])


@formula("aten::linalg_lu_factor_ex", "aten::linalg_lu", "aten::_linalg_det", "aten::_linalg_slogdet", tensors=1)
def lu_factor(a: Shape) -> int:
    """getrf. The determinant is the product of its diagonal."""
    return _batched(a, _getrf(a[-2], a[-1]))


@formula("aten::linalg_lu_solve")
def lu_solve(lu: Shape, pivots: Any, b: Shape, left: bool = True, *_: Any) -> int:
    """getrs."""
    return round(_both(lu, b) * _getrs(lu[-1], b[-1] if left else b[-2]))


@formula("aten::_linalg_solve_ex")
def solve(a: Shape, b: Shape, left: bool = True, *_: Any) -> int:
    """gesv: getrf and getrs."""
    sides: Sizes = [*b, 1] if len(b) == 1 or tuple(b) == tuple(a[:-1]) else b  # vectors are one side each
    return _batched(a, _getrf(a[-1], a[-1])) + round(_both(a, sides) * _getrs(a[-1], sides[-1] if left else sides[-2]))


@formula("aten::linalg_inv_ex", tensors=1)
def inverse(a: Shape) -> int:
    """getrf and getri."""
    n = a[-1]
    return _batched(a, _getrf(n, n) + 4 * n**3 / 3 - n**2 + 5 * n / 3)


@formula("aten::linalg_solve_triangular", tensors=2)
def solve_triangular(a: Shape, b: Shape) -> int:
    """trsm: a multiplication and an addition for each element of the triangle and each right-hand side."""
    return _both(a, b) * prod(b[-2:]) * a[-1]


@formula("aten::triangular_solve", tensors=2)
def triangular_solve(b: Shape, a: Shape) -> int:
    """trsm."""
    return _both(a, b) * prod(b[-2:]) * a[-1]


@formula("aten::geqrf", tensors=1)
def geqrf(a: Shape) -> int:
    """geqrf."""
    return _batched(a, _geqrf(a[-2], a[-1]))


@formula("aten::linalg_qr")
def qr(a: Shape, mode: str = "reduced", *_: Any) -> int:
    """geqrf and, unless only R is asked for, orgqr."""
    m, n = a[-2:]
    columns = {"reduced": min(m, n), "complete": m, "r": 0}[mode]
    return _batched(a, _geqrf(m, n) + (_orgqr(m, columns, min(m, n)) if columns else 0))


@formula("aten::linalg_householder_product", tensors=2)
def householder_product(a: Shape, tau: Shape) -> int:
    """orgqr."""
    return _batched(a, _orgqr(a[-2], a[-1], tau[-1]))


@formula("aten::ormqr")
def ormqr(reflectors: Shape, tau: Shape, other: Shape, left: bool = True, *_: Any) -> int:
    """ormqr: ``k`` reflectors, applied to an ``m x n`` matrix from the left or from the right."""
    m, n, k = *other[-2:], tau[-1]
    if left:
        return _batched(other, 4 * n * m * k - 2 * n * k**2 + 3 * n * k)
    return _batched(other, 4 * n * m * k - 2 * m * k**2 + 2 * m * k + n * k - k**2 / 2 + k / 2)
