"""Student's t distribution."""

from __future__ import annotations

import math
from statistics import NormalDist

__all__ = ["student_quantile"]


def student_quantile(outside: float, freedom: float) -> float:
    """The t that the distribution exceeds on both sides together with this probability.

    G. W. Hill, Algorithm 396: Student's t-quantiles, Communications of the ACM 13 (1970): off by less than 0.05% from two
    degrees of freedom on, and by less than 1e-5 from five on. Between one and two, at most 4% too large.

    Args:
        outside: such as 0.05, between 0 and 1.
        freedom: degrees of freedom, at least 1, which need not be whole.
    """
    if freedom < 2:  # between the two that are known in closed form
        one = 1 / math.tan(outside * math.pi / 2)
        two = math.sqrt(2 / (outside * (2 - outside)) - 2)
        share = 2 / freedom - 1  # its tail falls as t ** -freedom
        return float(one**share * two ** (1 - share))
    n = freedom
    a = 1 / (n - 0.5)
    b = 48 / a**2
    c = ((20700 * a / b - 98) * a - 16) * a + 96.36
    d = ((94.5 / (b + c) - 3) / b + 1) * math.sqrt(a * math.pi / 2) * n
    y = float((d * outside) ** (2 / n))
    if y > 0.05 + a:
        x = NormalDist().inv_cdf(outside / 2)
        y = x * x
        if n < 5:
            c += 0.3 * (n - 4.5) * (x + 0.6)
        c = (((0.05 * d * x - 5) * x - 7) * x - 2) * x + b + c
        y = (((((0.4 * y + 6.3) * y + 36) * y + 94.5) / c - y - 3) / b + 1) * x
        y = math.expm1(a * y * y)
    else:
        y = ((1 / (((n + 6) / (n * y) - 0.089 * d - 0.822) * (n + 2) * 3) + 0.5 / (n + 4)) * y - 1) * (n + 1) / (n + 2) + 1 / y
    return math.sqrt(n * y)
