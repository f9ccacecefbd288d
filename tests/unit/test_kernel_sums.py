"""Sums of kernels by op and by kernel, from single kernels and from an aggregated trace."""

from __future__ import annotations

from typing import Any

import numpy as np
from aggregating import aggregate, counted_kernels, duration
from handwritten import GPU_STRINGS, gpu_trace, trace
from hypothesis import given
from hypothesis import strategies as st

import torchprof
from torchprof.analysis.gpu.backend import gpu_backend, has_kernels
from torchprof.analysis.gpu.kernels import kernel_times
from torchprof.analysis.groups import Groups
from torchprof.analysis.time.totals import step_totals
from torchprof.trace.schema import Rows
from torchprof.trace.trace import Trace


def summed(table: Rows, keys: list[str], values: list[str]) -> dict[tuple[int, ...], list[int]]:
    """Rows by their keys; of several steps, added up."""
    found: dict[tuple[int, ...], list[int]] = {}
    for row in table:
        sums = found.setdefault(tuple(int(row[key]) for key in keys), [0] * len(values))
        for at, value in enumerate(values):
            sums[at] += int(row[value])
    return found


OP_KEYS = ["signature", "module", "phase", "nested", "wrapper"]
OP_VALUES = ["count", "time", "self_time", "device_time", "device_self", "kernels"]
KERNEL_KEYS = "name op module phase kind direction device_type device_index in_graph".split()
KERNEL_VALUES = ["count", "time", "bytes"]


def assert_aggregating_changes_no_sums(recorded: Trace) -> None:
    rows, sums = step_totals(recorded), step_totals(aggregate(recorded))
    assert summed(rows.ops, OP_KEYS, OP_VALUES) == summed(sums.ops, OP_KEYS, OP_VALUES)
    assert summed(rows.kernels, KERNEL_KEYS, KERNEL_VALUES) == summed(sums.kernels, KERNEL_KEYS, KERNEL_VALUES)
    for extreme, reduce in (("min", min), ("max", max)):
        found: dict[Any, int] = {}
        for row in rows.kernels:
            key = tuple(int(row[key]) for key in KERNEL_KEYS)
            found[key] = reduce(found.get(key, int(row[extreme])), int(row[extreme]))
        assert found == {tuple(int(row[key]) for key in KERNEL_KEYS): int(row[extreme]) for row in sums.kernels}


def device_columns(recorded: Trace, name: str) -> tuple[int, int, int]:
    """Device time with and without that of ops inside, and kernels, of the ops with this name."""
    ops = step_totals(recorded).ops
    (row,) = [at for at, text in enumerate(recorded.strings) if text == name]
    (op,) = ops[recorded.signatures["name"][ops["signature"]] == row]
    return int(op["device_time"]), int(op["device_self"]), int(op["kernels"])


def test_an_op_has_the_kernels_that_it_and_the_ops_inside_it_launched() -> None:
    assert device_columns(gpu_trace(), "aten::addmm") == (100_000 + 120_000, 100_000 + 120_000, 2)
    assert device_columns(gpu_trace(), "aten::linear") == (100_000 + 120_000, 0, 0)
    assert device_columns(gpu_trace(), "Optimizer.step#SGD") == (2 * 40_000, 0, 0)


def test_single_kernels_and_an_aggregated_trace_give_the_same_sums() -> None:
    assert_aggregating_changes_no_sums(gpu_trace())


def test_warm_up_is_in_no_sum() -> None:
    kernels = step_totals(gpu_trace()).kernels
    assert kernels["count"].sum() == 2 * 12
    assert set(kernels["step"].tolist()) == {0, 1}


def test_a_kernel_belongs_to_the_module_of_its_call() -> None:
    kernels = step_totals(gpu_trace()).kernels
    modules = {GPU_STRINGS[row["name"]]: int(row["module"]) for row in kernels}
    assert modules["ampere_sgemm_128x64_tn"] == modules["ampere_sgemm_128x64_nt"] == 1
    assert (modules["add_kernel"], modules["reduce_kernel"]) == (2, -1)


STEPS = [{"start": 0, "end": 100}, {"start": 100, "end": 200, "number": 1}]


def step_of_kernel(**kernel: int) -> list[int]:
    recorded = trace(
        strings=["a"], ops=[{"name": 0, "start": 90}], runtime_calls=[{"start": 80}], kernels=[kernel], steps=STEPS
    )
    return [int(row["step"]) for row in step_totals(recorded).kernels]


def test_a_kernel_belongs_to_the_step_that_launched_it() -> None:
    assert step_of_kernel(start=150, end=160, runtime_call=0) == [0]
    assert step_of_kernel(start=150, end=160, op=0) == [0], "with events, runtime calls are not recorded"
    assert step_of_kernel(start=150, end=160) == [1]
    assert step_of_kernel(start=-70, end=-60) == [], "before the recording there was no step"


def test_a_kernel_without_valid_times_is_counted_and_takes_no_time() -> None:
    kernels = [{"start": 50, "end": 40}, {"start": 50, "end": -1}, {"start": -30, "end": 10}, {"start": -30, "end": -20}]
    recorded = trace(strings=["k"], kernels=kernels)
    assert kernel_times(recorded.kernels).tolist() == [0, 0, 40, 10]
    (row,) = step_totals(recorded).kernels
    assert (row["count"], row["time"], row["min"], row["max"]) == (4, 50, 0, 40)


def test_the_gpu_backend_is_a_fact_of_the_trace() -> None:
    assert gpu_backend(trace()) == "off"
    assert gpu_backend(trace(facts={"gpu": "events"})) == "events"
    assert gpu_backend(trace(strings=["k"], kernels=[{}])) == "cupti", "kernels without the fact come from CUPTI"
    assert not has_kernels(trace(facts={"gpu": "cupti"}))


def small_loop(kernels: list[dict[str, int]]) -> Trace:
    """A warm-up step and an active one, with these kernels."""
    return trace(
        strings=["a", "b"],
        modules=[{"address": 1}, {"address": 2}],
        module_calls=[{"start": 0, "end": 50}, {"start": 10, "end": 40, "module": 1, "parent": 0}],
        ops=[
            {"name": 0, "start": 10, "end": 90},
            {"name": 1, "start": 20, "end": 80, "parent": 0, "module_call": 1},
            {"name": 0, "start": 30, "end": 70, "parent": 1},
            {"name": 1, "start": 110, "end": 190, "flags": 3 << 4},
        ],
        runtime_calls=[{"start": 30, "end": 31}, {"start": 120, "end": 130}],
        kernels=kernels,
        steps=[{"start": 0, "end": 100, "warmup": 1}, {"start": 100, "end": 200, "number": 1}],
    )


rows_of_kernels = st.lists(
    st.fixed_dictionaries(
        {
            "start": st.integers(-50, 250),
            "end": st.integers(-60, 300),
            "name": st.integers(0, 1),
            "op": st.integers(-1, 3),
            "runtime_call": st.integers(-1, 1),
            "module_call": st.integers(-1, 1),
            "device_index": st.integers(0, 1),
            "graph": st.integers(0, 1),
            "bytes": st.integers(0, 9),
            "phase": st.integers(0, 4),
        }
    ),
    max_size=12,
)


@given(rows_of_kernels)
def test_single_kernels_and_an_aggregated_trace_agree_on_any_kernels(kernels: list[dict[str, int]]) -> None:
    recorded = small_loop(kernels)
    assert_aggregating_changes_no_sums(recorded)
    assert step_totals(recorded).kernels["time"].sum() == sum(duration(row) for row in counted_kernels(recorded))


@given(rows_of_kernels)
def test_device_time_is_the_same_in_every_table(kernels: list[dict[str, int]]) -> None:
    recorded = small_loop([{"start": 0, "end": 5, "runtime_call": 1}, *kernels])
    by_kernel, by_module = torchprof.by_kernel(recorded), torchprof.by_module(recorded)
    device_time = sum(duration(row) for row in counted_kernels(recorded))
    assert sum(row["device"] for row in by_kernel.rows) == device_time
    assert sum(row["device_self"] for row in by_module.rows) == device_time
    assert sum(row["device"] for row in by_module.rows if row["depth"] == 0) == device_time
    assert sum(row["kernels"] for row in by_module.rows if row["depth"] == 0) == len(counted_kernels(recorded))
    assert sum(row["count"] for row in by_kernel.rows) == len(counted_kernels(recorded))
    for table in (by_kernel, by_module, torchprof.by_op(recorded), torchprof.by_step(recorded)):
        assert str(table)


@given(st.lists(st.tuples(*[st.integers(-(2**40), 2**40)] * 3), max_size=20))
def test_rows_form_a_group_if_they_are_equal_in_every_column(rows: list[tuple[int, int, int]]) -> None:
    groups = Groups.by([np.array([row[at] for row in rows], dtype=np.int64) for at in range(3)])
    assert [rows[first] for first in groups.first] == sorted(set(rows))
    assert [rows[groups.first[group]] for group in groups.of] == rows
    assert groups.count.sum() == len(rows)
