"""Dtypes and device types by number: those that a trace has no name for are named by their number, and nothing fails."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from handwritten import loop_trace, two_layer_trace

import torchprof
from torchprof.analysis.model.summary import rows_and_totals
from torchprof.trace.trace import Trace
from torchprof.trace.type_names import DeviceTypes, Dtype, Dtypes


def with_a_new_dtype(trace: Trace, number: int, dtypes: Dtypes) -> Trace:
    """The trace with another dtype of its tensors."""
    tensors = trace.tensors.copy()
    tensors["dtype"] = number
    return replace(trace, tensors=tensors, dtypes=dtypes)


def test_what_has_no_name_is_named_by_its_number() -> None:
    assert Dtypes()[61] == Dtype("dtype 61", None)
    assert DeviceTypes()[30] == "device type 30"
    assert DeviceTypes({1: "cuda"}).number("cuda") == 1
    assert DeviceTypes({1: "cuda"}).number("xpu") is None


def test_item_sizes_that_are_unknown_are_no_numbers() -> None:
    sizes = Dtypes({6: Dtype("float32", 4), 45: Dtype("made up", None)}).itemsizes(np.array([6, 45, 61, -1], dtype=np.int8))
    assert sizes[0] == 4
    assert np.isnan(sizes[1:]).all()


def test_a_dtype_of_a_newer_pytorch_has_the_name_and_size_that_it_gave(tmp_path: Path) -> None:
    newer = with_a_new_dtype(loop_trace(), 47, Dtypes({47: Dtype("bcomplex32", 4)}))
    newer.save(tmp_path / "newer")
    (product,) = [row for row in torchprof.by_op(torchprof.load(tmp_path / "newer"), shapes=True).rows if row["flops"]]
    assert product["dtypes"] == ["bcomplex32", "bcomplex32"]
    assert product["bytes"] == 4 * (6 + 12 + 8)


def test_bytes_of_an_unknown_dtype_are_unknown_and_not_0(tmp_path: Path) -> None:
    unknown = with_a_new_dtype(loop_trace(), 61, Dtypes())
    table = torchprof.by_op(unknown, shapes=True)
    (product,) = [row for row in table.rows if row["flops"]]
    assert product["dtypes"] == ["dtype 61", "dtype 61"]
    assert product["bytes"] is product["intensity"] is product["byte_rate"] is None
    assert "dtype 61" in str(table)
    (net,) = [row for row in torchprof.by_module(unknown).rows if row["type"]]
    assert net["bytes"] is None
    assert net["flops"] == product["flops"]
    with pytest.warns(RuntimeWarning, match="bytes of 3 ops are unknown"):
        torchprof.export_folded(unknown, tmp_path / "folded", by="bytes")


def test_the_size_of_an_output_of_an_unknown_dtype_is_unknown() -> None:
    known, _ = rows_and_totals(two_layer_trace())
    unknown, _ = rows_and_totals(with_a_new_dtype(two_layer_trace(), 61, Dtypes()))
    assert [row.output_bytes for row in unknown if row.calls] == [None] * len([row for row in known if row.calls])
    assert [row.output_shapes for row in unknown] == [row.output_shapes for row in known]
