"""What the spread over steps allows to say: checked on step times that are made, of which it is known what is true."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from torchprof.comparison.noise import Sample, difference_interval, mostly, ratio_interval
from torchprof.comparison.student import student_quantile

Times = npt.NDArray[np.float64]
TRIES = 400


def tail(t: float, freedom: float) -> float:
    """The probability beyond t on both sides, by numeric integration of the density over the angle of t."""
    points, weights = np.polynomial.legendre.leggauss(400)

    def area(first: float, last: float) -> float:
        angles = (last - first) / 2 * points + (first + last) / 2
        return float((weights * np.cos(angles) ** (freedom - 1)).sum() * (last - first) / 2)

    return area(np.arctan(t / np.sqrt(freedom)), np.pi / 2) / area(0, np.pi / 2)


@pytest.mark.parametrize("freedom", [1, 1.3, 1.7, 2, 2.5, 3, 4.2, 7, 19, 120])
@pytest.mark.parametrize("outside", [0.2, 0.05, 0.001, 1e-5])
def test_the_quantiles_of_students_t(outside: float, freedom: float) -> None:
    found = student_quantile(outside, freedom)
    assert tail(found, freedom) <= 1.002 * outside, "never too small"
    assert tail(found, freedom) == pytest.approx(outside, rel=0.06 if 1 < freedom < 2 else 0.002)


def test_the_interval_of_two_samples_that_were_computed_by_hand() -> None:
    a, b = Sample.of(np.array([9, 10, 11])), Sample.of(np.array([18, 20, 22]))
    assert a is not None
    assert b is not None
    assert (a.mean, a.error, a.freedom) == (10, pytest.approx((1 / 3) ** 0.5), 2)
    # Welch: variances of the means 1/3 and 4/3, (5/3)^2 / ((1/3)^2/2 + (4/3)^2/2) = 2.941 degrees, t = 3.220
    assert difference_interval(a, b) == pytest.approx((10 - 3.220 * (5 / 3) ** 0.5, 10 + 3.220 * (5 / 3) ** 0.5), rel=1e-3)


def test_what_does_not_vary_has_an_interval_without_width() -> None:
    a, b = Sample.of(np.array([5] * 4)), Sample.of(np.array([6] * 20))
    assert a is not None
    assert b is not None
    assert difference_interval(a, b) == (1, 1)
    assert ratio_interval(a, b) == pytest.approx((1.2, 1.2))


def test_a_time_falls_by_no_more_than_all_of_it() -> None:
    a, b = Sample.of(np.array([100, 101, 99] * 3)), Sample.of(np.array([10, 300, 10, 10]))
    assert a is not None
    assert b is not None
    assert difference_interval(a, b).low < -a.mean
    ratio = ratio_interval(a, b)
    assert ratio is not None
    assert ratio.low == 0


@pytest.mark.parametrize("count", [0, 1, 2])
def test_the_spread_of_few_steps_says_nothing(count: int) -> None:
    assert Sample.of(np.ones(count)) is None


def independent(random: np.random.Generator, steps: int) -> Times:
    return random.normal(100, 2, steps)


def skewed(random: np.random.Generator, steps: int) -> Times:
    return 100 * np.exp(random.normal(0, 0.3, steps))


def with_peaks(random: np.random.Generator, steps: int) -> Times:
    return independent(random, steps) + 60 * (random.random(steps) < 0.1)


def correlated(random: np.random.Generator, steps: int) -> Times:
    """Each step is half like the one before it."""
    noise, found = random.normal(0, 3**0.5, steps + 50), np.zeros(steps + 50)
    for at in range(1, len(found)):
        found[at] = 0.5 * found[at - 1] + noise[at]
    return 100 + found[50:]


@pytest.mark.parametrize("steps", [3, 5, 10, 30, 100])
@pytest.mark.parametrize("make", [independent, skewed, with_peaks])
def test_where_nothing_differs_that_is_said_but_for_one_time_in_twenty(
    make: Callable[[np.random.Generator, int], Times], steps: int
) -> None:
    assert share_of_differences(make, steps, 1.0) <= 0.065


@pytest.mark.parametrize("steps", [10, 20, 50, 200])
def test_also_where_steps_are_like_those_before_them(steps: int) -> None:
    assert share_of_differences(correlated, steps, 1.0) <= 0.085


@pytest.mark.parametrize("steps", [5, 10, 30])
def test_a_tenth_more_is_found_where_steps_differ_by_two_percent(steps: int) -> None:
    assert share_of_differences(independent, steps, 1.1) >= 0.99


@pytest.mark.parametrize(("scale", "expected"), [(1.2, 1), (0.8, -1)])
def test_most_steps_tell_what_a_few_long_ones_hide(scale: float, expected: int) -> None:
    random = np.random.default_rng(0)
    a, b = (Sample.of(times * with_peaks(random, 30) + 300 * (np.arange(30) % 9 == 0)) for times in (1.0, scale))
    assert a is not None
    assert b is not None
    low, high = difference_interval(a, b)
    assert low < 0 < high
    assert mostly(a.values, b.values) == expected
    assert mostly(b.values, a.values) == -expected


def test_ranks_of_very_few_steps_say_nothing() -> None:
    a, b = np.arange(4.0), 100 + np.arange(4.0)
    assert mostly(a, b) == 0


def share_of_differences(make: Callable[[np.random.Generator, int], Times], steps: int, times: float) -> float:
    """In what part of all tries the interval does not have 0 in it, or most steps are said to be longer or shorter."""
    random = np.random.default_rng(steps)
    found = 0
    for _ in range(TRIES):
        a, b = Sample.of(make(random, steps)), Sample.of(times * make(random, steps))
        assert a is not None
        assert b is not None
        low, high = difference_interval(a, b)
        ratio = ratio_interval(a, b)
        assert ratio is None or (ratio.low <= 1 <= ratio.high) == (low <= 0 <= high), "both say the same"
        found += not low <= 0 <= high or mostly(a.values, b.values) != 0
    return found / TRIES
