"""Tables of a trace: rows, order, columns, files, and the printed text."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from goldens import Golden
from handwritten import loop_trace, module, trace, two_layer_trace

import torchprof
from torchprof import ArgumentError, Ceilings, Phase, Table
from torchprof.trace.model import Model
from torchprof.trace.schema import SCOPE_USER


def test_the_table_by_module(golden: Golden) -> None:
    golden(str(torchprof.by_module(two_layer_trace())), "by_module.txt")


def test_the_table_by_op(golden: Golden) -> None:
    golden(str(torchprof.by_op(loop_trace())), "by_op.txt")


def test_the_table_by_op_and_shapes_with_a_roofline(golden: Golden) -> None:
    machine = Ceilings("made up", "float32", 1, flops=100e9, bytes=10e9)
    golden(str(torchprof.by_op(loop_trace(), shapes=True, ceilings=machine)), "by_op_and_shapes.txt")


def test_the_table_by_step(golden: Golden) -> None:
    golden(str(torchprof.by_step(loop_trace())), "by_step.txt")


def test_the_memory_account(golden: Golden) -> None:
    golden(str(torchprof.memory(loop_trace())), "memory.txt")


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


def test_an_unknown_column_is_told_which_was_meant() -> None:
    with pytest.raises(ArgumentError, match=r"'Cals' is unknown \(did you mean 'calls'\?\): this table has calls"):
        torchprof.by_op(loop_trace()).select("Cals")


def test_the_head_says_what_it_left_out() -> None:
    table = torchprof.by_op(loop_trace())
    assert str(table.head(1)).splitlines()[5] == "1 more row"
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


@pytest.mark.parametrize("phase", ["recompute", "recomputation", Phase.RECOMPUTATION])
def test_a_phase_is_chosen_by_its_name_that_of_its_column_or_itself(phase: Any) -> None:
    recorded = trace(strings=["aten::a"], ops=[{"name": 0, "end": 3, "flags": 2 << 4}, {"name": 0, "end": 5, "flags": 1 << 4}])
    assert [row["time"] for row in torchprof.by_op(recorded, phase=phase).rows] == [3]


def test_a_table_by_op_without_rows_says_why() -> None:
    assert "No ops ran in the phase 'backward'" in str(torchprof.by_op(loop_trace(), phase="backward"))
    assert "No ops were recorded" in str(torchprof.by_op(trace()))
    assert "record with ops=True" in str(torchprof.by_op(trace(facts={"ops": False})))


def test_counts_are_whole_numbers_unless_they_are_means() -> None:
    row = torchprof.by_module(loop_trace()).rows[0]
    assert all(type(row[name]) is int for name in ("calls", "flops", "bytes", "allocated"))
    assert (row["calls"], row["flops"]) == (1, 48)
    op = torchprof.by_op(loop_trace()).rows[0]
    assert (type(op["calls"]), op["calls"]) == (int, 1)
    steps = [{"start": 0, "end": 10}, {"start": 10, "end": 20}]
    once = trace(strings=["Net"], modules=[{"address": 1}], module_calls=[{"start": 1, "end": 5}], steps=steps)
    assert torchprof.by_module(once).rows[0]["calls"] == 0.5


def test_rows_begin_with_their_name_in_every_table() -> None:
    for table in (torchprof.by_module(loop_trace()), torchprof.by_op(loop_trace()), torchprof.by_step(loop_trace())):
        assert next(iter(table.rows[0])) == "name"
        assert table.to_csv().startswith("name,")


def test_what_is_printed_alone_is_written_in_its_order() -> None:
    table = torchprof.by_module(loop_trace()).select("time", "calls")
    assert table.to_csv(printed_only=True).splitlines()[:2] == ["name,path,time,calls", "Net,,40.0,1"]
    assert json.loads(table.to_json(printed_only=True))[0] == {"name": "Net", "path": "", "time": 40.0, "calls": 1}


def test_modules_that_forward_makes_anew_are_one_row() -> None:
    calls = [{"start": 0, "end": 40}, {"start": 5, "end": 10, "module": 1, "parent": 0}]
    calls += [{"start": 100, "end": 140}, {"start": 105, "end": 125, "module": 2, "parent": 2}]
    recorded = trace(
        model=Model((module("", "Net", -1, 100),)),
        strings=["Net", "ReLU"],
        modules=[{"address": 100}, {"address": 7, "type": 1}, {"address": 8, "type": 1}],
        module_calls=calls,
        steps=[{"start": 0, "end": 50}, {"start": 100, "end": 150, "number": 1}],
    )
    root, made, other = torchprof.by_module(recorded).rows
    assert (made["path"], made["calls"], made["time"]) == ("<ReLU>", 1, 12.5)
    assert root["time"] == root["self"] + made["time"] == 40
    assert (other["name"], other["time"]) == ("other", 10)


def test_the_rows_of_a_table_by_module_are_the_step_and_shares_are_of_it() -> None:
    ops = [
        {"name": 1, "start": 0, "end": 50, "scope": SCOPE_USER, "flags": Phase.DATA << 4},
        {"name": 2, "start": 60, "end": 70, "flags": Phase.OTHER << 4},
        {"name": 3, "start": 80, "end": 90, "module_call": 0, "flags": Phase.FORWARD << 4},
    ]
    recorded = trace(
        strings=["Net", "enumerate(DataLoader)#Iter.__next__", "aten::div", "aten::mm"],
        modules=[{"address": 1}],
        module_calls=[{"start": 75, "end": 95}],
        ops=ops,
        steps=[{"start": 0, "end": 100}],
    )
    table = torchprof.by_module(recorded)
    assert [(row["name"], row["time"], row["share"]) for row in table.rows] == [
        ("<Net>", 20, 0.2),
        ("data", 50, 0.5),
        ("other", 30, 0.3),
    ]
    assert "of which the rows are 100.0%" in str(table)
    (step,) = torchprof.by_step(recorded).rows
    assert (step["forward"], step["data"], step["other"], step["time"]) == (20, 50, 30, 100)
    assert "Share: of the self time of these ops, 70.0% of the step" in str(torchprof.by_op(recorded))


def test_threads_that_work_at_the_same_time_are_said() -> None:
    recorded = trace(
        strings=["Net"],
        modules=[{"address": 1}],
        module_calls=[{"start": 0, "end": 100}, {"start": 0, "end": 50, "thread": 1}],
        steps=[{"start": 0, "end": 100}],
    )
    table = torchprof.by_module(recorded)
    assert [(row["name"], row["time"]) for row in table.rows if row["depth"] == 0] == [("<Net>", 150)]
    assert "of which the rows are 150.0%: threads worked at the same time" in str(table)


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


@pytest.mark.parametrize("count", [-1, "3", 1.5, True, None])
def test_a_head_of_no_size_is_refused(count: Any) -> None:
    with pytest.raises(ArgumentError, match=rf"head\(count\) must be an int of at least 0, not {count!r}"):
        torchprof.by_op(loop_trace()).head(count)


@pytest.mark.parametrize(
    ("name", "names"),
    [("x", ["'x' is unknown", "calls"]), (3, ["3", "name"]), (["calls"], ["['calls']", "one by one"]), (None, ["None"])],
)
def test_what_names_no_column_is_refused_with_the_way_out(name: Any, names: list[str]) -> None:
    table = torchprof.by_op(loop_trace())
    for change in (table.sort, table.select, table.with_columns, table.without_columns):
        with pytest.raises(ArgumentError) as caught:
            change(name)
        assert all(part in str(caught.value) for part in names)


def test_a_file_that_cannot_be_written_is_an_error_of_the_system(tmp_path: Path) -> None:
    table = torchprof.by_op(loop_trace())
    for write in (table.to_csv, table.to_json):
        with pytest.raises(OSError, match=str(tmp_path)):
            write(tmp_path)


@pytest.mark.parametrize("phase", ["sideways", 3, ["forward"], ""])
def test_a_phase_that_is_none_is_refused(phase: Any) -> None:
    with pytest.raises(ArgumentError, match=r"phase=.* is unknown: use one of .*'forward'"):
        torchprof.by_op(loop_trace(), phase=phase)


@pytest.mark.parametrize("module", [3, ["fc"], torchprof])
def test_a_path_is_a_str(module: Any) -> None:
    with pytest.raises(ArgumentError, match=r"module=.* is no path"):
        torchprof.by_op(loop_trace(), module=module)


@pytest.mark.parametrize("depth", [-1, 1.5, "2", True])
def test_a_depth_is_an_int(depth: Any) -> None:
    with pytest.raises(ArgumentError, match=f"depth must be an int of at least 0, not {depth!r}"):
        torchprof.by_module(two_layer_trace(), depth=depth)


def test_the_function_is_no_ceilings() -> None:
    with pytest.raises(ArgumentError, match=r"ceilings=.*must be what torchprof\.ceilings\(\) returns"):
        torchprof.by_op(loop_trace(), ceilings=torchprof.ceilings)  # type: ignore[arg-type]


def test_a_recording_in_place_of_its_trace_is_named() -> None:
    functions = [torchprof.by_module, torchprof.by_op, torchprof.by_step, torchprof.by_kernel, torchprof.gpu]
    for function in [*functions, torchprof.memory]:  # which takes the path of a snapshot too
        with pytest.raises(torchprof.ModuleTypeError, match=r"must be a torchprof\.Trace, not profile: .*prof\.trace"):
            function(torchprof.profile())
    for function in functions:
        with pytest.raises(torchprof.ModuleTypeError, match=r"trace='steps.torchprof' is a path, .*torchprof\.load"):
            function("steps.torchprof")


def test_a_table_of_columns_that_do_not_exist_cannot_be_made() -> None:
    with pytest.raises(ArgumentError, match=r"columns=\('calls', 'x'\) contains 'x', which is unknown"):
        Table("Op", [], ("calls", "x"))


def test_a_terminal_gets_the_same_text_in_color(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm-256color")
    for table in (torchprof.by_module(two_layer_trace()), torchprof.by_step(loop_trace()), torchprof.memory(loop_trace())):
        monkeypatch.setattr(sys, "stdout", out := Terminal())
        table.print()
        assert re.sub(r"\x1b\[[\d;]*m", "", out.getvalue()) == f"{table}\n"
        assert "\x1b[" in out.getvalue()


def test_lines_below_a_row_and_notes_and_dim_rows_are_what_any_table_can_have() -> None:
    rows = [{"name": "a", "calls": 2, "note": "seldom"}, {"name": "b", "calls": 0}]
    table = Table(
        "Op",
        rows,
        ("calls",),
        blank=frozenset({"calls"}),
        is_dim=lambda row: row["calls"] == 0,
        details=lambda row: [("more", "frozen")] * row["calls"],
    )
    assert [line.kind for line in table.lines()] == ["rule", "header", "rule", "row", "dim", "dim", "dim", "rule"]
    assert str(table).splitlines()[1:-1] == [
        "Op         Calls",
        "========================",
        "a              2  seldom",
        "   . more         frozen",
        "   . more         frozen",
        "b",
    ]
