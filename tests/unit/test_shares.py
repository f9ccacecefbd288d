"""Every table that shows shares says of what, whoever made it."""

from __future__ import annotations

import inspect
import itertools
import typing
from collections.abc import Callable, Iterator
from functools import cached_property

import pytest
from handwritten import gpu_trace, loop_trace, trace, two_layer_trace
from many_ranks import meeting_trace, rank_trace, two_stages
from oracle_allocator import Oracle
from stacked import HERE, in_one_line

import torchprof
from torchprof import Ceilings, Estimate, Table, Trace
from torchprof.allocator.settings import AllocatorSettings
from torchprof.rendering.printed import Printed
from torchprof.reporting.module_tree import module_table
from torchprof.tables.columns import COLUMNS, SHARE
from torchprof.tables.summary import Summary
from torchprof.tables.table import About

SHARES = [name for name, column in COLUMNS.items() if column.quantity is SHARE]
H100 = Ceilings("NVIDIA H100", "float32", 0, flops=50e12, bytes=3e12)


def estimate_of(trace: Trace) -> Estimate:
    return Estimate(trace, "cpu", torchprof.memory(trace), None, (), None, 0, ())


def out_of_memory(_: Trace) -> Printed:
    oracle = Oracle(AllocatorSettings.parse(""), 2**27, itertools.count(2**41, 2**41))
    assert oracle.allocate(0, 2**26, 0)
    oracle.history.append({"action": "oom", "device_free": 2**26, "size": 2**27, "stream": 0, "frames": []})
    return torchprof.explain_oom(oracle.snapshot(oracle.history))


PRINT: dict[str, Callable[[Trace], Table | Printed]] = {
    "annotate": lambda trace: torchprof.annotate(in_one_line(trace), HERE),
    "bubbles": lambda _: torchprof.bubbles(torchprof.Ranks.of(two_stages())),
    "by_collective": lambda _: torchprof.by_collective(rank_trace(0)),
    "by_function": lambda trace: torchprof.by_function(in_one_line(trace)),
    "by_kernel": torchprof.by_kernel,
    "by_line": lambda trace: torchprof.by_line(in_one_line(trace)),
    "by_module": torchprof.by_module,
    "by_op": lambda trace: torchprof.by_op(trace, ceilings=H100),
    "by_rank": lambda _: torchprof.by_rank(torchprof.Ranks.of([rank_trace(rank) for rank in range(2)])),
    "by_step": torchprof.by_step,
    "checkpointing": torchprof.checkpointing,
    "clocks": lambda _: torchprof.clocks(torchprof.Ranks.of([meeting_trace(rank, [[10, 20]]) for rank in range(2)])),
    "compare": lambda trace: torchprof.compare({"a": estimate_of(trace)}),
    "diff": lambda trace: torchprof.diff(trace, trace),
    "estimate": estimate_of,
    "explain_oom": out_of_memory,
    "gpu": torchprof.gpu,
    "imbalance": lambda _: torchprof.imbalance(torchprof.Ranks.of([rank_trace(rank) for rank in range(2)])),
    "memory": torchprof.memory,
    "overlap": lambda _: torchprof.overlap(torchprof.Ranks.of([rank_trace(rank) for rank in range(2)])),
    "stragglers": lambda _: torchprof.stragglers(torchprof.Ranks.of([meeting_trace(rank, [[10, 20]]) for rank in range(2)])),
    "summary": Summary,
}
"""What public functions return, by their names, made of a trace."""
OF_PAGES: dict[str, Callable[[Trace], Table | Printed]] = {"report": lambda trace: module_table(trace, None, H100)}
"""Tables that only pages show."""
WITHOUT_TABLES = ["benchmark", "findings", "plan"]


def test_every_public_function_that_prints_a_table_is_here() -> None:
    printing = []
    for name in torchprof.__all__:
        function = getattr(torchprof, name)
        if inspect.isfunction(function):
            made = typing.get_type_hints(function).get("return")
            if any(inspect.isclass(kind) and issubclass(kind, Printed) for kind in (made, *typing.get_args(made))):
                printing.append(name)
    assert sorted(printing) == sorted([*PRINT, *WITHOUT_TABLES])


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Table]:
    """Every table that is made meanwhile, public or not."""
    tables: list[Table] = []
    check = Table.__post_init__

    def remember(table: Table) -> None:
        check(table)
        tables.append(table)

    monkeypatch.setattr(Table, "__post_init__", remember)
    return tables


def use(printed: Printed) -> None:
    """Print it, and make every table it has."""
    str(printed)
    for name, attribute in inspect.getmembers_static(type(printed)):
        function = attribute.func if isinstance(attribute, cached_property) else getattr(attribute, "fget", None)
        if function is not None and typing.get_type_hints(function).get("return") is Table:
            getattr(printed, name)


def unsaid(table: Table) -> Iterator[str]:
    """The columns of shares that the table has figures for and no line about."""
    for name in SHARES:
        if any(row.get(name) is not None for row in table.rows):
            lines = [each.line for each in table.footer if isinstance(each, About) and name in each.columns]
            if not any(f"{COLUMNS[name].header}: of " in line for line in lines):
                yield name


@pytest.mark.parametrize("recorded", [gpu_trace, loop_trace, two_layer_trace])
@pytest.mark.parametrize("name", [*PRINT, *OF_PAGES])
def test_every_column_of_shares_has_a_line_that_says_of_what(
    name: str, recorded: Callable[[], Trace], made: list[Table]
) -> None:
    try:
        use({**PRINT, **OF_PAGES}[name](recorded()))
    except torchprof.ArgumentError:  # not every trace has everything; the GPU's has
        assert recorded is not gpu_trace
        return
    assert made
    assert [(table.title, list(unsaid(table))) for table in made if list(unsaid(table))] == []


def test_all_kinds_of_shares_are_seen(made: list[Table]) -> None:
    for make in (*PRINT.values(), *OF_PAGES.values()):
        use(make(gpu_trace()))
    assert {name for name in SHARES for table in made for row in table.rows if row.get(name) is not None} == set(SHARES)


def test_shares_of_devices_are_of_their_spans_and_the_steps_these_are_of() -> None:
    account = str(torchprof.gpu(gpu_trace()))
    assert "Share: of the span of its device, at most 89.3% of the 2 steps" in account
    assert "Share: of all idle time of 2 devices, on average 50.3% of the 2 steps" in account


def test_shares_of_one_device_are_of_its_span() -> None:
    kernels = [{"start": 10, "end": 30}, {"start": 50, "end": 60}]
    one = trace(strings=["k"], kernels=kernels, steps=[{"start": 0, "end": 100}])
    account = str(torchprof.gpu(one))
    assert "Share: of the span of the device, 50.0% of the step" in account  # 10 to 60 of 100
    assert "Share: of all idle time, 20.0% of the step" in account  # 30 to 50 of 100
    whole = trace(strings=["k"], kernels=kernels)
    assert "Share: of the span of the device\n" in str(torchprof.gpu(whole)), "how long the recording took is not known"


def test_shares_of_memory_are_of_the_peak() -> None:
    assert "Share: of the peak, 32 B" in str(torchprof.memory(loop_trace()))
    assert "Share: of what is needed, 32 B" in str(estimate_of(loop_trace()))


def test_shares_of_ops_on_a_device_say_of_which_device_time() -> None:
    table = torchprof.by_op(gpu_trace(), ceilings=H100)
    assert "Dev share: of the device time of these ops, 36.2% of a step" in str(table)
    assert "Of roof: of what NVIDIA H100 can do at that FLOP/B, in float32" in str(table)
    assert "Of roof" not in str(table.without_columns("roofline"))


def test_a_summary_without_shares_says_nothing_of_them() -> None:
    summary = Summary(two_layer_trace())
    assert "Forward: 100 us (host time of one pass; Share: of forward)" in str(summary)
    assert "Forward: 100 us (host time of one pass)" in str(summary.without_columns("share"))
    assert "Params %: of all params" in str(summary.with_columns("params_share"))
