"""The sums of a trace in place of its single ops say the same by module, op and kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from handwritten import gpu_trace, loop_trace, two_layer_trace
from many_ranks import rank_trace

import torchprof
from torchprof.analysis.aggregated import aggregated
from torchprof.analysis.model.flat_tree import flat_tree
from torchprof.trace import file
from torchprof.trace.known import Known

TRACES: dict[str, Callable[[], torchprof.Trace]] = {
    "gpu": gpu_trace,
    "loop": loop_trace,
    "layers": two_layer_trace,
    "rank": lambda: rank_trace(0, 1),
}
TABLES = (torchprof.by_module, torchprof.by_op, torchprof.by_kernel)
NEEDS_SINGLE = {"spread", "saved"}
"""How far steps differ, and what was kept for backward."""


@pytest.mark.parametrize("name", TRACES)
@pytest.mark.parametrize("table", TABLES)
def test_tables_of_sums_are_those_of_single_ops(name: str, table: Callable[[torchprof.Trace], torchprof.Table]) -> None:
    trace = TRACES[name]()
    for single, of_sums in zip(rows(table, trace), rows(table, aggregated(trace)), strict=True):
        for figure in single.keys() - NEEDS_SINGLE:
            assert of_sums[figure] == pytest.approx(single[figure]), figure


def rows(table: Callable[[torchprof.Trace], torchprof.Table], trace: torchprof.Trace) -> list[dict[str, Any]]:
    """What a table says; where it cannot, why."""
    try:
        return table(trace).to_dict()
    except torchprof.ArgumentError as error:
        return [{"error": str(error)}]


@pytest.mark.parametrize("name", TRACES)
def test_sums_are_a_right_trace_without_what_grows(name: str) -> None:
    trace = TRACES[name]()
    sums = aggregated(trace)
    assert sums.facts["aggregate"] is True
    assert "aggregate" not in trace.facts or not trace.facts["aggregate"]
    for table in ("ops", "module_calls", "allocations", "kernels", "runtime_calls", "stacks", "op_stacks"):
        assert not len(getattr(sums, table)), table
    parts = {field: getattr(sums, field) for field in sums.__dataclass_fields__}
    read = torchprof.Trace(**file.from_bytes(file.to_bytes(parts), Known()))  # damage would be found
    assert read.op_totals.tolist() == sums.op_totals.tolist()
    for row, signature in enumerate(sums.signatures):
        before = trace.signatures[row]
        for first, count in (("inputs", "n_inputs"), ("outputs", "n_outputs")):
            now, then = (_shapes(each, one[first], one[count]) for each, one in ((sums, signature), (trace, before)))
            assert now == then


def _shapes(trace: torchprof.Trace, first: int, count: int) -> list[object]:
    rows = trace.operands[int(first) : int(first) + int(count)]
    return [(trace.shape(int(trace.tensors["shape"][row])), int(trace.tensors["bytes"][row])) for row in rows]


def test_sums_of_sums_are_themselves() -> None:
    sums = aggregated(loop_trace())
    assert aggregated(sums) is sums
    assert aggregated(torchprof.Trace.empty()).facts["aggregate"] is True


def test_a_rank_of_sums_has_the_times_of_the_rank() -> None:
    ranks = torchprof.Ranks.of([rank_trace(rank, 2) for rank in range(2)])
    sums = torchprof.Ranks.of([aggregated(trace) for trace in ranks])
    for single, of_sums in zip(torchprof.by_rank(ranks).to_dict(), torchprof.by_rank(sums).to_dict(), strict=True):
        for figure in ("time", "forward", "backward", "other", "steps"):
            assert of_sums[figure] == single[figure]
        assert of_sums["compute"] is None, "sums do not tell it, and it is not 0"
    with pytest.raises(torchprof.ArgumentError, match="holds sums, and no single collectives"):
        torchprof.by_collective(sums)


def test_traces_of_equal_models_have_one_tree() -> None:
    first, second, other = rank_trace(0), rank_trace(1), rank_trace(2, modules=("other",))
    assert flat_tree(first) is flat_tree(second)
    assert flat_tree(other) is not flat_tree(first)
    assert flat_tree(first).paths == ("", "fc")
    assert flat_tree(first).parents == (-1, 0)


def test_a_module_that_took_the_address_of_another_has_its_own_place_in_the_tree() -> None:
    trace = rank_trace(0)
    strings = [*trace.strings, "Dropout"]
    rows = trace.modules.copy()
    rows["type"][1] = len(strings) - 1
    taken = replace(trace, strings=strings, modules=rows)
    assert flat_tree(taken).names == ("Net", "fc", "<Dropout>")
    assert [row["name"] for row in torchprof.by_module(torchprof.Ranks.of([taken])).to_dict()][:3] == ["Net", "fc", "<Dropout>"]
