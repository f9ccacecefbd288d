"""The marker ``limit``: what may be written, which of several counts, and what is said of one that cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from goldens import Golden
from pytest_runs import failures, loaded, run

from torchprof.errors import ArgumentError
from torchprof.integrations.pytest_plugin.limits import Limit, limits_of

pytest_plugins = ("pytester",)

Limits = Callable[..., dict[str, float]]


@pytest.fixture
def item_of(pytester: pytest.Pytester) -> Callable[[str], list[pytest.Item]]:
    def made(source: str) -> list[pytest.Item]:
        pytester.makepyfile(test_it=f"import pytest\n{source}")
        items, _ = pytester.inline_genitems(*loaded(), "-p", "no:cacheprovider")
        return items

    return made


def amounts(item: pytest.Item) -> dict[str, float]:
    return {limit.figure: limit.most for limit in limits_of(item)}


@pytest.mark.parametrize(
    ("figure", "value", "amount"),
    [
        ("peak", "2 GiB", 2 * 2**30),
        ("peak", "2gib", 2 * 2**30),
        ("peak", "1.5 MB", 1_500_000),
        ("peak", "1,024 B", 1024),
        ("saved", 10_000, 10_000),
        ("saved", 0, 0),
        ("flops", "1.5 G", 1.5e9),
        ("flops", "2 TFLOPs", 2e12),
        ("flops", "3 gflop".replace("g", "G"), 3e9),
        ("flops", 2e9, 2e9),
        ("params", "110 M", 110e6),
        ("ops", 1_000, 1000),
        ("kernels", 12.0, 12),
        ("syncs", 0, 0),
        ("graph_breaks", 0, 0),
        ("time_ratio", 1.1, 1.1),
    ],
)
def test_a_limit_may_be_written_in_many_ways(item_of: Any, figure: str, value: Any, amount: float) -> None:
    (item,) = item_of(f"@pytest.mark.limit({figure}={value!r})\ndef test_this(): pass")
    assert limits_of(item) == [Limit(figure, amount, value)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("5", r"limit\(5\) says of what: give names, such as limit\(peak=\"2 GiB\"\).*-p no:torchprof"),
        ("", "limits nothing: give one of peak, saved, flops"),
        ("module='fc'", "limits nothing"),
        ("peek='2 GiB'", "there is no figure 'peek'; is it 'peak'?"),
        ("watts=2", "there is no figure 'watts'; use one of peak, saved, flops, ops, kernels, syncs, params"),
        ("peak='2 gallons'", r"limit\(peak='2 gallons'\) cannot be read: 'gallons' is no unit of it: use one of B, KB"),
        ("peak='2000'", "it has no unit: use one of B, KB"),
        ("peak='much'", 'cannot be read: write it like "2 GiB"'),
        ("flops='1 g'", "'g' is no unit of it: use one of k, M, G, T, P"),
        ("ops='12'", "cannot be read: give a number"),
        ("ops=True", "cannot be read: give a number"),
        ("ops=1.5", "ops is a whole number"),
        ("ops=-1", "give a finite number of at least 0"),
        ("peak=float('nan')", "give a finite number of at least 0"),
        ("peak=[1]", 'cannot be read: give a number, or a text such as "2 GiB"'),
        ("time_ratio=0", "give a finite number"),
        ("ops=1, module=3", r"limit\(module=3\) is no path"),
        ("graph_breaks=0, module='fc'", "graph_breaks is of the whole test: give it in a marker of its own, without module"),
        ("time_ratio=1, module='fc'", "time_ratio is of the whole test"),
    ],
)
def test_a_limit_that_cannot_be_read_is_told_what_is_wrong(item_of: Any, arguments: str, said: str) -> None:
    (item,) = item_of(f"@pytest.mark.limit({arguments})\ndef test_this(): pass")
    with pytest.raises(ArgumentError, match=said):
        limits_of(item)


def test_one_function_gives_a_figure_of_a_module_once(item_of: Any) -> None:
    (item,) = item_of("@pytest.mark.limit(ops=1)\n@pytest.mark.limit(ops=2)\ndef test_this(): pass")
    with pytest.raises(ArgumentError, match="twice: leave one"):
        limits_of(item)


def test_the_nearest_marker_counts_figure_by_figure(item_of: Any) -> None:
    of_class, of_function, of_set, taken_away = item_of(
        """
pytestmark = pytest.mark.limit(ops=1, peak=1)
@pytest.mark.limit(ops=2)
class TestClass:
    def test_class(self): pass
    @pytest.mark.limit(ops=3)
    def test_function(self): pass
    @pytest.mark.limit(ops=3)
    @pytest.mark.parametrize("n", [pytest.param(1, marks=pytest.mark.limit(ops=4))])
    def test_set(self, n): pass
    @pytest.mark.limit(ops=None)
    def test_taken_away(self): pass
"""
    )
    assert amounts(of_class) == {"peak": 1, "ops": 2}
    assert amounts(of_function) == {"peak": 1, "ops": 3}
    assert amounts(of_set) == {"peak": 1, "ops": 4}
    assert amounts(taken_away) == {"peak": 1}


def test_figures_of_modules_are_figures_of_their_own(item_of: Any) -> None:
    (item,) = item_of(
        '@pytest.mark.limit(ops=9)\n@pytest.mark.limit(module="b", ops=1)\n@pytest.mark.limit(module="a", flops=2, ops=3)\n'
        "def test_this(): pass"
    )
    found = [(limit.module, limit.figure, limit.most) for limit in limits_of(item)]
    assert found == [(None, "ops", 9), ("a", "flops", 2), ("a", "ops", 3), ("b", "ops", 1)]


def test_what_is_wrong_with_a_marker_is_an_error_before_the_test_runs(pytester: pytest.Pytester, golden: Golden) -> None:
    result = run(
        pytester,
        """
import pytest
@pytest.mark.limit(peek="2 GiB")
def test_a_name(): raise SystemExit
@pytest.mark.limit(time_ratio=2)
def test_without_the_fixture(): raise SystemExit
@pytest.mark.skip
@pytest.mark.limit(peak="2")
def test_that_is_skipped(): raise SystemExit
""",
    )
    result.assert_outcomes(errors=3)
    golden(failures(result), "limit_errors.txt")


def test_the_marker_is_registered(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_inprocess(*loaded(), "--markers")
    result.stdout.fnmatch_lines(["@pytest.mark.limit(peak=None, saved=None, *module=None): the most that the call of a test*"])
