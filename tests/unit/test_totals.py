"""Sums by signature, module, phase and step, on traces written by hand."""

from __future__ import annotations

import dataclasses
import weakref

import numpy as np
import pytest
from handwritten import loop_trace, trace

import torchprof
from torchprof.analysis.model.flops import signature_bytes
from torchprof.analysis.steps import step_of
from torchprof.analysis.time.self_times import nested_self_times, self_times_in_steps
from torchprof.analysis.time.totals import op_bytes, step_totals
from torchprof.trace.schema import CALL_RECOMPUTED, OP_NESTED, SCOPE_USER, Phase


def test_warm_up_is_left_out_and_self_times_are_by_step() -> None:
    totals = step_totals(loop_trace())
    columns = ["signature", "count", "time", "self_time", "min", "max", "allocated"]
    assert totals.ops[columns].tolist() == [(0, 2, 10 + 30, 2 + 2, 10, 30, 0), (1, 2, 8 + 28, 8 + 28, 8, 28, 32 + 32)]
    assert (totals.steps, totals.by_step) == (2, True)
    own = totals.self_times
    assert list(zip(own.op, own.step, own.time, strict=True)) == [(0, 0, 2), (0, 1, 2), (1, 0, 8), (1, 1, 28)]


def test_sums_are_computed_once_for_a_trace_and_let_go_of_with_it() -> None:
    recorded = loop_trace()
    totals = step_totals(recorded)
    assert step_totals(recorded) is totals
    ends_later = dataclasses.replace(recorded, steps=recorded.steps[:2])
    assert step_totals(ends_later).steps == 1
    kept = weakref.ref(totals)
    del totals, recorded
    assert kept() is None, "without the garbage collector: nothing refers back to the trace"


def test_self_times_add_up_to_the_time_of_the_outermost_ops() -> None:
    totals = step_totals(loop_trace())
    assert totals.ops["self_time"].sum() == totals.ops["time"][totals.ops["signature"] == 0].sum()


def test_flops_are_those_of_the_formula_and_bytes_are_counted_where_the_work_is_done() -> None:
    trace = loop_trace()
    totals = step_totals(trace)
    assert totals.op_flops.tolist() == [0, 2 * (2 * 2 * 3 * 4)]
    assert op_bytes(trace, totals).tolist() == [0, 2 * 4 * (6 + 12 + 8)]


def test_an_op_inside_a_counted_op_is_not_counted_again() -> None:
    nested = loop_trace()
    nested.ops.flags.writeable = True
    nested.ops["flags"][1::2] |= OP_NESTED
    assert step_totals(nested).op_flops.sum() == 0


def test_views_and_empty_tensors_move_no_bytes() -> None:
    recorded = trace(
        strings=["aten::t", "aten::add_", "aten::empty", "aten::relu"],
        shapes=[(5,)],
        tensors=[{"dtype": 6, "storage": 1}, {"dtype": 6, "storage": 2}],
        operands=[0, 0, 0, 1],
        signatures=[
            {"name": 0, "inputs": 0, "n_inputs": 1, "outputs": 1, "n_outputs": 1},
            {"name": 1, "inputs": 0, "n_inputs": 1, "outputs": 1, "n_outputs": 1},
            {"name": 2, "inputs": 0, "n_inputs": 0, "outputs": 3, "n_outputs": 1},
            {"name": 3, "inputs": 2, "n_inputs": 1, "outputs": 3, "n_outputs": 1},
        ],
    )
    assert signature_bytes(recorded).tolist() == [[0, 0], [20, 20], [0, 0], [20, 20]]


def test_recomputed_calls_have_sums_of_their_own() -> None:
    calls = [{"start": 0, "end": 9}, {"start": 20, "end": 24, "flags": CALL_RECOMPUTED}]
    totals = step_totals(trace(strings=["M"], modules=[{"address": 1}], module_calls=calls))
    assert [(row["phase"], row["count"], row["time"]) for row in totals.calls] == [
        (Phase.FORWARD, 1, 9),
        (Phase.RECOMPUTATION, 1, 4),
    ]


def test_sums_of_an_aggregated_trace_are_used_unchanged() -> None:
    recorded = trace(
        strings=["aten::mm"],
        signatures=[{}],
        op_totals=[{"count": 6, "time": 60, "self_time": 50, "min": 5, "max": 20, "phase": 1, "module": -1}],
        steps=[{"start": 0, "end": 1, "warmup": 1}, {"start": 1, "end": 2}, {"start": 2, "end": 3}],
        facts={"aggregate": True},
    )
    totals = step_totals(recorded)
    assert (totals.steps, totals.by_step) == (2, False)
    sums = totals.sums_of_self_times(np.array([0]), 1)
    assert totals.mean(sums).tolist() == [25]
    assert np.isnan(totals.spread(sums)).all()


def test_the_spread_is_the_standard_deviation_over_steps() -> None:
    totals = step_totals(loop_trace())
    sums = totals.sums_of_self_times(totals.ops["signature"], 2)
    assert sums.tolist() == [[2, 2], [8, 28]]
    assert totals.spread(sums).tolist() == [0, pytest.approx(np.std([8, 28], ddof=1))]
    assert totals.sums_of_self_times(np.array([-1, 0]), 1).tolist() == [[8, 28]], "what has no group is left out"


def test_times_between_steps_belong_to_no_step() -> None:
    recorded = loop_trace()
    active = recorded.steps[1:]
    assert step_of(np.array([95, 100, 189, 190, 250, 300]), recorded, active).tolist() == [-1, 0, 0, -1, 1, -1]
    assert step_of(np.array([5]), trace(), trace().steps).tolist() == [0]


def test_what_is_open_when_a_step_ends_is_of_it_until_then() -> None:
    """A range around the whole loop, and a module call that ends late: with an op in each step."""
    recorded = trace(
        strings=["loop", "aten::mm", "Net"],
        ops=[
            {"name": 0, "start": 5, "end": 250, "scope": SCOPE_USER},
            {"name": 1, "start": 10, "end": 20, "parent": 0},
            {"name": 1, "start": 110, "end": 130, "parent": 0},
            {"name": 1, "start": 210, "end": 220, "parent": 0, "module_call": 0},
        ],
        modules=[{"type": 2}],
        module_calls=[{"module": 0, "start": 150, "end": 240, "op": 0}],
        steps=[{"start": 0, "end": 100, "number": 0}, {"start": 105, "end": 200, "number": 1}],
    )
    op_self, call_self = self_times_in_steps(recorded)
    assert op_self.tolist() == [100 - 5 - 10, 10, 20, 10]
    assert call_self.tolist() == [200 - 150]
    assert sum(row["self"] for row in torchprof.by_op(recorded).rows) == (85 + 10 + 20) / 2
    whole, _ = nested_self_times(recorded)
    assert whole[0] == 245 - 10 - 20 - 90, "of the recording, it is all"
