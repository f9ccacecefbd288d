"""Printed tables, held against golden text."""

from dataclasses import replace

import numpy as np
import pytest
from goldens import Golden
from handwritten import gpu_trace, two_layer_trace

from torchprof.analysis.model.rows import Row
from torchprof.analysis.model.summary import rows_and_totals
from torchprof.analysis.model.totals import Totals
from torchprof.rendering import torchsummary
from torchprof.rendering.units import format_bytes, format_ns
from torchprof.tables.summary import summary_table
from torchprof.trace.schema import LAYOUTS

ALL_COLUMNS = (
    "input output calls params trainable params_total param_bytes output_bytes forward self share backward backward_self"
).split()


def test_the_tree_table(golden: Golden) -> None:
    rows, totals = rows_and_totals(two_layer_trace())
    golden(str(summary_table(rows, totals)), "tree.txt")


def test_the_tree_table_with_every_column_and_parameter(golden: Golden) -> None:
    rows, totals = rows_and_totals(two_layer_trace())
    golden(str(summary_table(rows, totals, ALL_COLUMNS, list_parameters=True)), "tree_all_columns.txt")


def test_the_tree_table_of_a_model_on_a_gpu(golden: Golden) -> None:
    recorded = gpu_trace()
    strings = [*recorded.strings, "forward", "forward done"]
    marks = np.array([(0, len(strings) - 2), (2_310_000, len(strings) - 1)], dtype=[("time", "i8"), ("name", "u4")])
    recorded = replace(recorded, strings=strings, marks=marks.astype(LAYOUTS["marks"]))
    rows, totals = rows_and_totals(recorded)
    golden(str(summary_table(rows, totals)), "tree_gpu.txt")


def test_the_table_of_torchsummary(golden: Golden) -> None:
    recorded = two_layer_trace()
    recorded.facts.update(batch_size=-1, input_sizes=[[2, 3]])
    golden(torchsummary.render(recorded), "torchsummary.txt")


def test_branches_show_who_is_below_whom() -> None:
    depths = [0, 1, 2, 2, 1, 2, 3]
    rows = [Row(str(i), f"m{i}", "M", depth) for i, depth in enumerate(depths)]
    lines = str(summary_table(rows, Totals(), [])).splitlines()[3:10]
    assert [line.rstrip() for line in lines] == [
        "m0 (M)",
        "├─ m1 (M)",
        "│  ├─ m2 (M)",
        "│  └─ m3 (M)",
        "└─ m4 (M)",
        "   └─ m5 (M)",
        "      └─ m6 (M)",
    ]


def test_long_names_are_cut_in_the_middle_and_many_shapes_are_counted() -> None:
    row = Row("x", "x" * 200 + "end", "M", 0, calls=1, output_shapes=((1, 2, 3),) * 30)
    line = str(summary_table([row], Totals(), ["output"])).splitlines()[3]
    assert len(line) < 120
    assert "…" in line
    assert "end (M)" in line
    assert "+27" in line


def test_losses_are_printed() -> None:
    text = str(summary_table([Row("", "M", "M", 0)], Totals(losses={"module_calls": 12}), []))
    assert "INCOMPLETE: 12 module calls did not fit the budget" in text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (4_194_304_000, "4,000.0 MiB"), (2**40 * 20000, "20,000.0 TiB")],
)
def test_bytes_are_in_binary_units(count: int, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(("ns", "text"), [(0, "0.00 us"), (1234, "1.23 us"), (999_600, "1.00 ms"), (12_345_678_901, "12.3 s")])
def test_times_choose_their_unit(ns: int, text: str) -> None:
    assert format_ns(ns) == text
