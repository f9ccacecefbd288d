"""The one set of columns: what is added there is in every form of every table."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from handwritten import gpu_trace, loop_trace, two_layer_trace
from html_tables import tables_of

import torchprof
from torchprof import Table
from torchprof.tables.columns import BYTES, COLUMNS, TIME, Column, columns_of
from torchprof.tables.summary import Summary

PER_CALL = Column(
    "forward_per_call",
    "Fwd/call",
    TIME,
    "host time of one call's forward",
    of=("forward", "calls"),
    value=lambda forward, calls: forward / calls if calls else None,
)


def summary_of(trace: torchprof.Trace, **options: Any) -> Summary:
    return Summary(trace, **options)


@pytest.mark.parametrize("made", [torchprof.by_module, summary_of])
def test_a_column_is_added_in_one_place_and_is_in_every_form(
    made: Callable[[torchprof.Trace], Table | Summary], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(COLUMNS, PER_CALL.name, PER_CALL)
    table = made(two_layer_trace())
    expected = {"Net": 100_000.0, "fc": 50_000.0, "act": 15_000.0, "unused": None}

    shown = table.with_columns("forward_per_call")
    lines = str(shown).splitlines()
    assert lines[1].split("  ")[-1] == "Fwd/call"
    at = lines[1].index("Fwd/call")
    cells = [line[at : at + len("Fwd/call")].strip() for line in lines[3:7]]
    assert cells == ["100 us", "50.0 us", "15.0 us", ""]
    assert tables_of(shown._repr_html_())[0].column("Fwd/call") == cells

    frame = table.to_pandas().set_index("name")["forward_per_call"]
    assert {name: None if value != value else value for name, value in frame.items()} == expected
    assert {row["name"]: row["forward_per_call"] for row in json.loads(table.to_json())} == expected
    written = csv.DictReader(io.StringIO(table.to_csv()))
    assert {row["name"]: float(row["forward_per_call"] or "nan") for row in written} == pytest.approx(
        {name: float("nan") if value is None else value for name, value in expected.items()}, nan_ok=True
    )
    assert [row["name"] for row in table.sort("forward_per_call").rows] == ["Net", "fc", "act", "unused"]


def test_a_figure_of_the_rows_needs_no_more_than_a_column(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COLUMNS, "buffer_bytes", Column("buffer_bytes", "Buffers", BYTES, "of its own buffers"))
    text = str(summary_of(two_layer_trace()).select("buffer_bytes"))
    assert text.splitlines()[1].split() == ["Layer", "(type)", "Buffers"]


def test_columns_are_found_by_their_own_name_and_say_what_they_mean() -> None:
    for name, column in COLUMNS.items():
        assert column.name == name
        assert column.meaning
        assert (column.value is None) == (not column.of), f"{name}: `of` is what `value` is given"


def test_a_column_is_offered_where_rows_have_what_it_needs() -> None:
    assert columns_of({"flops", "name"}) == ["flops", "macs"]
    assert columns_of({"forward_self"}) == ["forward_self"]


def test_macs_are_computed_wherever_there_are_flops() -> None:
    for table in (torchprof.by_module(loop_trace()), torchprof.by_op(loop_trace()), torchprof.by_step(loop_trace())):
        assert [row["macs"] for row in table.rows] == [row["flops"] / 2 for row in table.rows]


def test_what_is_not_known_is_not_computed() -> None:
    assert Table("Op", [{"name": "a", "flops": None}], ("macs",)).rows[0]["macs"] is None


@pytest.mark.parametrize("made", [gpu_trace, loop_trace])
def test_every_column_of_a_table_can_be_chosen(made: Callable[[], torchprof.Trace]) -> None:
    for table in (torchprof.by_module(made()), torchprof.by_op(made(), shapes=True), torchprof.by_step(made())):
        names = columns_of({name for row in table.rows for name in row})
        header = str(table.select(*names)).splitlines()[1]
        assert all(COLUMNS[name].header in header for name in names)


def test_a_table_may_call_a_column_otherwise() -> None:
    rows = [{"name": "a", "device_backward": 1000}]
    assert "Dev bwd" in str(Table("Op", rows, ("device_backward",)))
    assert "Bwd device" in str(Table("Op", rows, ("device_backward",), headers={"device_backward": "Bwd device"}))
