"""Tables of a trace: rows, order, columns, files, and the printed text."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from handwritten import loop_trace, trace, two_layer_trace
from test_report import check

import torchprof
from torchprof import ArgumentError, Ceilings


def test_the_table_by_module() -> None:
    check(str(torchprof.by_module(two_layer_trace())), "by_module.txt")


def test_the_table_by_op() -> None:
    check(str(torchprof.by_op(loop_trace())), "by_op.txt")


def test_the_table_by_op_and_shapes_with_a_roofline() -> None:
    machine = Ceilings("made up", "float32", 1, flops=100e9, bytes=10e9)
    check(str(torchprof.by_op(loop_trace(), shapes=True, ceilings=machine)), "by_op_and_shapes.txt")


def test_the_table_by_step() -> None:
    check(str(torchprof.by_step(loop_trace())), "by_step.txt")


def test_the_memory_account() -> None:
    check(str(torchprof.memory(loop_trace())), "memory.txt")


def test_rows_are_sorted_by_any_figure_and_by_name() -> None:
    table = torchprof.by_op(loop_trace())
    assert [row["name"] for row in table.sort("time").rows] == ["aten::linear", "aten::mm"]
    assert [row["name"] for row in table.sort("time", descending=False).rows] == ["aten::mm", "aten::linear"]
    assert [row["name"] for row in table.sort("name").rows] == ["aten::mm", "aten::linear"]
    assert [row["name"] for row in table.sort("flop_rate").rows] == ["aten::mm", "aten::linear"], "without one comes last"


def test_a_sorted_tree_is_a_list_of_paths() -> None:
    rows = torchprof.by_module(two_layer_trace()).sort("self").rows
    assert [row["name"] for row in rows] == ["fc", "act", "Net", "unused"]
    assert {row["depth"] for row in rows} == {0}


def test_columns_are_chosen_added_and_left_out_by_name() -> None:
    table = torchprof.by_op(loop_trace())
    assert table.select("calls").columns == ("calls",)
    assert table.select("calls").with_columns("macs", "calls").columns == ("calls", "macs")
    assert "share" not in table.without_columns("share").columns
    assert "MACs" in str(table.with_columns("macs"))


@pytest.mark.parametrize("name", ["nothing", "warmup"])
def test_an_unknown_column_is_named_with_those_there_are(name: str) -> None:
    table = torchprof.by_op(loop_trace())
    for change in (table.select, table.sort, table.without_columns):
        with pytest.raises(ArgumentError, match=f"'{name}' is unknown: this table has calls"):
            change(name)


def test_the_head_says_what_it_left_out() -> None:
    table = torchprof.by_op(loop_trace())
    assert str(table.head(1)).splitlines()[5] == "1 more rows"
    assert table.head(2) is table


def test_the_same_rows_are_written_as_csv_and_json(tmp_path: Path) -> None:
    table = torchprof.by_op(loop_trace(), shapes=True)
    text = table.to_csv(tmp_path / "ops.csv")
    assert (tmp_path / "ops.csv").read_text() == text
    assert [float(row["self"]) for row in csv.DictReader(io.StringIO(text))] == [row["self"] for row in table.rows]
    assert json.loads(table.to_json(tmp_path / "ops.json")) == table.to_dict()
    assert json.loads((tmp_path / "ops.json").read_text())[0]["shapes"] == [[2, 3], [3, 4]]


def test_the_same_rows_are_a_data_frame() -> None:
    frame = torchprof.by_op(loop_trace()).to_pandas()
    assert frame.set_index("name")["self"].to_dict() == {"aten::mm": 18.0, "aten::linear": 2.0}


def test_ops_are_chosen_by_phase_and_module() -> None:
    assert len(torchprof.by_op(loop_trace(), phase="forward")) == 2
    assert len(torchprof.by_op(loop_trace(), phase="backward")) == 0
    assert len(torchprof.by_op(loop_trace(), module="")) == 2
    with pytest.raises(ArgumentError, match=r"phase='sideways'.*'forward'"):
        torchprof.by_op(loop_trace(), phase="sideways")
    with pytest.raises(ArgumentError, match=r"module='decoder'.*path"):
        torchprof.by_op(loop_trace(), module="decoder")


def test_a_limit_on_depth_hides_rows_and_keeps_sums() -> None:
    table = torchprof.by_module(two_layer_trace(), depth=0)
    assert [row["time"] for row in table.rows] == [100_000]
    with pytest.raises(ArgumentError, match="depth must be an int of at least 0, not -1"):
        torchprof.by_module(two_layer_trace(), depth=-1)


def test_a_trace_without_steps_has_no_table_by_step() -> None:
    with pytest.raises(ArgumentError, match=r"prof\.step\(\)"):
        torchprof.by_step(two_layer_trace())


def test_what_belongs_to_no_module_is_a_row_of_its_own() -> None:
    recorded = trace(
        strings=["aten::loss", "aten::node"],
        ops=[
            {"name": 0, "start": 0, "end": 10, "flags": 1 << 4},
            {"name": 1, "start": 20, "end": 27, "flags": 3 << 4},
        ],
    )
    (row,) = torchprof.by_module(recorded).rows
    assert (row["name"], row["forward"], row["backward"], row["time"]) == ("outside modules", 10, 7, 17)


def test_losses_are_said_below_every_table() -> None:
    recorded = loop_trace()
    recorded.facts["losses"] = {"ops": 3}
    assert "INCOMPLETE: 3 ops did not fit the budget" in str(torchprof.by_op(recorded))


def test_an_empty_trace_has_empty_tables() -> None:
    assert str(torchprof.by_op(trace())).splitlines()[1].startswith("Op")
    assert len(torchprof.by_module(trace())) == 0


@pytest.mark.parametrize("count", [-1, "3", 1.5])
def test_a_head_of_no_size_is_refused(count: Any) -> None:
    with pytest.raises(ArgumentError, match="int of at least 0"):
        torchprof.by_op(loop_trace()).head(count)
