"""Ops, ranges, module calls and steps of files of torch.profiler: what they ran in, and for which module and phase."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kineto_files import AUTOGRAD, MAIN, event, kernel, launch, module, names, op, read, step, user_range
from phase_oracle import COLUMNS, fill_phases

import torchprof
from torchprof.analysis.autograd import forward_and_backward_ops
from torchprof.trace.schema import CALL_COMPILED, CALL_RECOMPUTED, OP_ATTRIBUTED, SCOPE_BACKWARD, SCOPE_USER, Phase, phases


def of_modules(trace: torchprof.Trace) -> list[str]:
    """The class of the module that every op is attributed to."""
    found = []
    for call in trace.ops["module_call"].tolist():
        row = int(trace.module_calls["module"][call])
        found.append(trace.strings[int(trace.modules["type"][row])] if call >= 0 else "")
    return found


def by_name(trace: torchprof.Trace, values: Any) -> dict[str, Any]:
    return dict(zip(names(trace), values, strict=True))


def test_an_op_is_inside_the_innermost_op_that_is_open_on_its_thread(tmp_path: Path) -> None:
    trace = read(
        tmp_path,
        op("aten::addmm", 12, 5),  # files are in no order
        op("aten::linear", 10, 20),
        op("aten::t", 11, 1),
        op("aten::relu", 30, 2),
        op("aten::other", 12, 2, tid=AUTOGRAD),
    )
    parents = [names(trace)[parent] if parent >= 0 else "" for parent in trace.ops["parent"].tolist()]
    assert by_name(trace, parents) == {
        "aten::linear": "",
        "aten::t": "aten::linear",
        "aten::addmm": "aten::linear",
        "aten::relu": "",
        "aten::other": "",
    }
    assert names(trace)[:2] == ["aten::linear", "aten::t"]
    assert trace.ops["start"].tolist()[:3] == [0, 1_000, 2_000]


def test_of_spans_that_begin_together_the_longest_is_outside(tmp_path: Path) -> None:
    trace = read(tmp_path, op("inner::op", 5, 1), op("outer::op", 5, 3), module("Net_0", 5, 4))
    assert names(trace) == ["outer::op", "inner::op"]
    assert trace.ops["parent"].tolist() == [-1, 0]
    assert trace.ops["module_call"].tolist() == [0, 0]


def test_a_range_may_outlive_the_op_that_it_began_in(tmp_path: Path) -> None:
    trace = read(tmp_path, op("aten::a", 0, 10), user_range("range", 5, 15), op("aten::b", 12, 2), module("Net_0", 0, 8))
    assert by_name(trace, trace.ops["parent"].tolist()) == {"aten::a": -1, "range": 0, "aten::b": 1}
    assert by_name(trace, trace.ops["module_call"].tolist()) == {"aten::a": -1, "range": 0, "aten::b": -1}
    assert trace.ops["scope"].tolist() == [0, SCOPE_USER, 0]


def test_steps_are_steps_and_no_ops(tmp_path: Path) -> None:
    trace = read(tmp_path, step(7, 0, 100), op("aten::add", 10, 5), step(8, 100, 50), op("aten::add", 110, 5))
    assert names(trace) == ["aten::add", "aten::add"]
    assert trace.steps[["number", "start", "end"]].tolist() == [(7, 0, 100_000), (8, 100_000, 150_000)]
    assert [row["ops"] for row in torchprof.by_step(trace).rows] == [1, 1]


def test_a_last_step_in_which_nothing_ran_is_none(tmp_path: Path) -> None:
    trace = read(tmp_path, step(0, 0, 100), op("aten::add", 10, 5), step(1, 100, 3))
    assert trace.steps["number"].tolist() == [0]
    assert any("last step is left out" in note for note in trace.facts["notes"])


def test_a_last_step_with_a_kernel_is_one(tmp_path: Path) -> None:
    events = (step(0, 0, 100), op("aten::add", 10, 5), step(1, 100, 30), launch(110, 5, 1), kernel("k", 120, 5, 1))
    trace = read(tmp_path, *events)
    assert trace.steps["number"].tolist() == [0, 1]
    assert trace.steps["kernels"].tolist() == [0, 1]


def training_step() -> list[dict[str, Any]]:
    """``Net(Linear_0, ReLU_0)`` forward, backward on a thread of its own, and an optimizer."""
    return [
        step(3, 0, 400),
        user_range("enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__", 1, 9),
        op("aten::stack", 2, 3),
        module("Net_0", 10, 90),
        module("Linear_0", 20, 40),
        op("aten::linear", 22, 30, seq=5, fwd=0),
        op("aten::addmm", 24, 20, seq=5, fwd=0),
        module("ReLU_0", 70, 20),
        op("aten::relu", 72, 10, seq=6, fwd=0),
        op("aten::mse_loss", 110, 20, seq=7, fwd=0),
        op("autograd::engine::evaluate_function: MseLossBackward0", 150, 20, tid=AUTOGRAD, seq=7, fwd=1),
        op("MseLossBackward0", 152, 10, tid=AUTOGRAD, seq=7, fwd=1),
        op("autograd::engine::evaluate_function: ReluBackward0", 180, 20, tid=AUTOGRAD, seq=6, fwd=1),
        op("ReluBackward0", 182, 10, tid=AUTOGRAD, seq=6, fwd=1),
        op("aten::threshold_backward", 184, 5, tid=AUTOGRAD),
        op("autograd::engine::evaluate_function: AddmmBackward0", 210, 30, tid=AUTOGRAD, seq=5, fwd=1),
        op("AddmmBackward0", 212, 20, tid=AUTOGRAD, seq=5, fwd=1),
        op("aten::mm", 214, 10, tid=AUTOGRAD),
        op("autograd::engine::evaluate_function: torch::autograd::AccumulateGrad", 250, 20, tid=AUTOGRAD),
        op("torch::autograd::AccumulateGrad", 252, 10, tid=AUTOGRAD),
        user_range("Optimizer.step#SGD.step", 300, 50),
        op("aten::_foreach_add_", 310, 20),
    ]


def test_phases_are_those_that_the_recorder_finds(tmp_path: Path) -> None:
    trace = read(tmp_path, *training_step())
    found = {name: Phase(phase) for name, phase in by_name(trace, phases(trace.ops)).items()}
    assert found["aten::stack"] == Phase.DATA
    assert found["aten::linear"] == found["aten::addmm"] == found["aten::relu"] == Phase.FORWARD
    assert found["aten::mse_loss"] == Phase.FORWARD  # outside of modules, but it is differentiated
    assert found["MseLossBackward0"] == found["aten::threshold_backward"] == found["aten::mm"] == Phase.BACKWARD
    assert found["torch::autograd::AccumulateGrad"] == Phase.BACKWARD
    assert found["aten::_foreach_add_"] == Phase.OPTIMIZER


def test_backward_belongs_to_the_module_whose_op_it_differentiates(tmp_path: Path) -> None:
    trace = read(tmp_path, *training_step())
    found = by_name(trace, of_modules(trace))
    assert found["aten::addmm"] == "Linear"
    assert found["ReluBackward0"] == found["aten::threshold_backward"] == "ReLU"
    assert found["autograd::engine::evaluate_function: AddmmBackward0"] == found["aten::mm"] == "Linear"
    assert found["torch::autograd::AccumulateGrad"] == "Linear"  # it ran after the node that made the gradient
    assert found["MseLossBackward0"] == found["aten::_foreach_add_"] == ""
    pairs = [
        (names(trace)[forward], names(trace)[node]) for forward, node in zip(*forward_and_backward_ops(trace), strict=True)
    ]
    assert sorted(pairs) == [
        ("aten::addmm", "AddmmBackward0"),
        ("aten::mse_loss", "MseLossBackward0"),
        ("aten::relu", "ReluBackward0"),
    ]


def test_the_number_of_a_forward_thread_is_found_by_its_sequence_numbers(tmp_path: Path) -> None:
    second = 102
    trace = read(
        tmp_path,
        op("aten::mul", 0, 5, seq=1, fwd=0),
        op("aten::exp", 10, 5, seq=9, fwd=0, tid=second),
        op("ExpBackward0", 30, 5, seq=9, fwd=3, tid=AUTOGRAD),
        op("MulBackward0", 40, 5, seq=1, fwd=2, tid=AUTOGRAD),
    )
    found = dict(zip(trace.threads["native_id"].tolist(), trace.threads["torch_id"].tolist(), strict=True))
    assert (found[MAIN], found[second]) == (2, 3)
    assert found[AUTOGRAD] > 2**31  # unknown: no number that a node could have
    assert trace.ops["scope"].tolist().count(SCOPE_BACKWARD) == 2


def test_the_time_of_a_step_divides_into_phases(tmp_path: Path) -> None:
    (row,) = torchprof.by_step(read(tmp_path, *training_step())).rows
    us = {name: row[name] / 1000 for name in ("time", "data", "forward", "backward", "optimizer", "other")}
    # Modules 10-100 and the loss 110-130; the thread of autograd while the main thread is between ops.
    assert us == {"time": 400, "data": 9, "forward": 90 + 20, "backward": 20 + 20 + 30 + 20, "optimizer": 50, "other": 141}


def test_what_is_recomputed_in_backward_is_recomputation(tmp_path: Path) -> None:
    trace = read(
        tmp_path,
        module("Block_0", 0, 20),
        op("aten::mm", 5, 10),
        op("autograd::engine::evaluate_function: CheckpointBackward", 30, 40, seq=1, fwd=1),
        op("CheckpointBackward", 31, 38, seq=1, fwd=1),
        module("Block_0", 35, 20),
        op("aten::bmm", 40, 10),
    )
    assert Phase(by_name(trace, phases(trace.ops))["aten::bmm"]) == Phase.RECOMPUTATION
    assert (trace.module_calls["flags"] & CALL_RECOMPUTED != 0).tolist() == [False, True]
    assert trace.ops["flags"][names(trace).index("aten::bmm")] & OP_ATTRIBUTED == 0


def test_modules_are_a_tree_by_their_first_calls(tmp_path: Path) -> None:
    trace = read(
        tmp_path,
        module("Net_0", 0, 100),
        module("Linear_0", 10, 20),
        module("Sequential_0", 40, 50),
        module("Linear_1", 50, 20),
        module("Linear_0", 75, 10),  # shared: it stays where it was called first
        event("python_function", "train.py(3): main", 0, 200),
    )
    assert trace.model is not None
    assert [(m.path, m.type, m.parent) for m in trace.model.modules] == [
        ("Net_0", "Net", -1),
        ("Net_0.Linear_0", "Linear", 0),
        ("Net_0.Sequential_0", "Sequential", 0),
        ("Net_0.Sequential_0.Linear_1", "Linear", 2),
    ]
    rows = {row["path"]: row for row in torchprof.by_module(trace).rows}
    assert rows["Net_0.Linear_0"]["calls"] == 2
    assert rows["Net_0.Sequential_0.Linear_1"]["forward"] == 20_000
    assert rows["Net_0"]["params"] is None  # the file does not say: not 0


def test_modules_that_call_each_other_are_all_in_the_tree(tmp_path: Path) -> None:
    trace = read(tmp_path, module("A_0", 0, 50), module("B_0", 10, 30), module("A_0", 15, 10), module("C_0", 100, 5))
    assert trace.model is not None
    assert [m.path for m in trace.model.modules] == ["A_0", "A_0.B_0", "C_0"]


def test_ranges_of_files_with_one_category_are_told_by_their_names(tmp_path: Path) -> None:
    events = (
        op("Optimizer.step#SGD.step", 0, 50, category="Operator"),
        op("aten::add_", 10, 5, category="Operator", tid=str(MAIN)),  # in files of 2021, threads are in quotes
        op("ReluBackward0", 60, 5, category="Operator", seq=3, fwd=1),
        op("ProfilerStep#16", 0, 100, category="Operator"),
    )
    trace = read(tmp_path, *events)
    assert by_name(trace, trace.ops["scope"].tolist()) == {
        "Optimizer.step#SGD.step": SCOPE_USER,
        "aten::add_": 0,
        "ReluBackward0": SCOPE_BACKWARD,
    }
    assert by_name(trace, trace.ops["parent"].tolist())["aten::add_"] == 0
    assert Phase(by_name(trace, phases(trace.ops))["aten::add_"]) == Phase.OPTIMIZER
    assert trace.steps["number"].tolist() == [16]


def test_an_op_may_be_differentiated_twice(tmp_path: Path) -> None:
    trace = read(
        tmp_path,
        module("Net_0", 0, 20),
        op("aten::exp", 5, 10, seq=1, fwd=0),
        op("ExpBackward0", 30, 20, seq=1, fwd=1),
        op("aten::mul", 35, 10, seq=2, fwd=0),
        op("MulBackward0", 60, 20, seq=2, fwd=1),
        op("aten::mul", 65, 10),
    )
    assert of_modules(trace) == ["Net"] * 5


@pytest.mark.parametrize("kind", [op, user_range])
def test_a_file_of_one_event_is_a_trace(tmp_path: Path, kind: Any) -> None:
    trace = read(tmp_path, kind("aten::add", 1_712_867_402_348_256, 3))
    assert trace.facts["duration_ns"] == 3_000
    assert trace.facts["origin_unix_ns"] == 1_712_867_402_348_256_000


def test_compiled_code_is_said_to_hide_calls(tmp_path: Path) -> None:
    region = "Torch-Compiled Region: 0/0"
    trace = read(tmp_path, module("Net_0", 0, 50), op(region, 10, 20), op("aten::mm", 12, 5), op(region, 60, 5))
    assert "Compiled code ran: calls of modules inside it are not seen" in str(torchprof.by_module(trace))
    assert (trace.module_calls["flags"][0] & CALL_COMPILED, trace.facts["compiled_outside_calls"]) == (CALL_COMPILED, 1)


NAMES = ("aten::mm", "ReluBackward0", "range", "enumerate(DataLoader)#next", "Net_0")
SPANS = st.lists(
    st.tuples(st.sampled_from(NAMES), st.integers(0, 60), st.integers(1, 40), st.sampled_from([MAIN, AUTOGRAD])),
    min_size=1,
    max_size=14,
    unique_by=lambda span: span[1],
)


def events_of(spans: list[tuple[str, int, int, int]]) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for name, ts, dur, tid in spans:
        if name == "Net_0":
            made.append(module(name, ts, dur, tid=tid))
        elif name.endswith("Backward0"):
            made.append(op(name, ts, dur, tid=tid, seq=1, fwd=1))
        elif "::" in name:
            made.append(op(name, ts, dur, tid=tid, seq=1, fwd=0))
        else:
            made.append(user_range(name, ts, dur, tid=tid))
    return [step(0, 0, 50), *made, step(1, 50, 60), op("aten::last", 105, 3, seq=9, fwd=0), module("Net_0", 104, 5)]


@settings(max_examples=200)
@given(SPANS)
def test_any_spans_nest_and_divide_steps_as_found_plainly(tmp_path_factory: pytest.TempPathFactory, spans: Any) -> None:
    trace = read(tmp_path_factory.mktemp("any"), *events_of(spans))
    ops, calls = trace.ops, trace.module_calls
    for row, each in enumerate(ops):
        parent = int(each["parent"])
        if parent >= 0:
            around = ops[parent]
            assert (parent < row, around["thread"]) == (True, each["thread"])
            assert around["start"] <= each["start"] < around["end"]
        later = parent + 1 if parent >= 0 else int(np.flatnonzero(ops["thread"] == each["thread"])[0])
        # Of what began before it on its thread and after its parent, nothing is open.
        assert not (ops["end"][later:row] > each["start"]).any()
    steps = trace.steps.copy()
    fill_phases(steps, ops, calls, trace.facts["duration_ns"])
    for column in COLUMNS.values():
        assert steps[column].tolist() == trace.steps[column].tolist()
