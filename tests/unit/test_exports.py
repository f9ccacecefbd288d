"""Timelines and flame graphs, of traces written by hand."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from handwritten import module, trace
from hypothesis import given
from hypothesis import strategies as st

from torchprof.analysis.model.flops import signature_bytes, signature_flops
from torchprof.errors import ArgumentError
from torchprof.exporters import chrome_memory, stacks, trace_events
from torchprof.exporters.chrome import export_chrome
from torchprof.exporters.flame_graphs import export_folded, export_speedscope
from torchprof.trace.model import Model
from torchprof.trace.schema import CALL_RECOMPUTED, OP_ATTRIBUTED, OP_NESTED, OP_WRAPPER, SCOPE_BACKWARD, SCOPE_USER, Phase
from torchprof.trace.trace import Trace

Event = dict[str, Any]

ENGINE = "autograd::engine::evaluate_function: AddmmBackward0"
AWKWARD = 'a "quoted" back\\slash;\n\x01 ünïcödé 🔥'
FORWARD, RECOMPUTATION, BACKWARD, OPTIMIZER, DATA = (phase << 4 for phase in list(Phase)[1:])

KEYS: dict[str, set[str]] = {
    "M": {"ph", "pid", "name", "args"},
    "X": {"ph", "pid", "tid", "ts", "dur", "name", "cat"},
    "i": {"ph", "pid", "tid", "ts", "name", "cat", "s"},
    "C": {"ph", "pid", "ts", "name", "args"},
    "s": {"ph", "pid", "tid", "ts", "name", "cat", "id"},
    "f": {"ph", "pid", "tid", "ts", "name", "cat", "id", "bp"},
}


def training_step(**more: Any) -> Trace:
    """``Net(fc=Linear(3, 4))``: forward on one thread, backward on another, and an op whose end was not recorded."""
    back = {"thread": 1, "flags": BACKWARD | OP_ATTRIBUTED, "module_call": 1}
    model = Model((module("", "Net", -1, 100), module("fc", "Linear", 0, 101)))
    return trace(
        **{
            "model": model,
            "strings": ["Net", "Linear", "aten::linear", "aten::addmm", AWKWARD, ENGINE, "AddmmBackward0", "aten::mm"],
            "shapes": [(4,), (2, 3), (3, 4), (2, 4)],
            "tensors": [{"shape": shape, "dtype": 6, "storage": shape + 1} for shape in range(4)],
            "operands": [0, 1, 2, 3],
            "signatures": [
                {"name": 2, "inputs": 0, "n_inputs": 3, "outputs": 3, "n_outputs": 1},
                {"name": 3, "inputs": 0, "n_inputs": 3, "outputs": 3, "n_outputs": 1, "flops": 48},
                {"name": 4},
                {"name": 5},
                {"name": 6},
                {"name": 7, "inputs": 1, "n_inputs": 2, "outputs": 3, "n_outputs": 1, "flops": 48},
            ],
            "modules": [{"address": 100, "type": 0}, {"address": 101, "type": 1}],
            "module_calls": [{"start": 1000, "end": 9000}, {"start": 2000, "end": 8000, "module": 1, "parent": 0}],
            "ops": [
                {"start": 3000, "end": 7000, "module_call": 1, "sequence_nr": 5, "flags": FORWARD | OP_WRAPPER},
                {
                    "start": 3500,
                    "end": 6501,
                    "signature": 1,
                    "parent": 0,
                    "module_call": 1,
                    "sequence_nr": 5,
                    "flags": FORWARD,
                },
                {"start": 9500, "end": 9900, "signature": 2, "scope": SCOPE_USER},
                {"start": 12_000, "end": 18_000, "signature": 3, **back},
                {
                    "start": 12_500,
                    "end": 17_500,
                    "signature": 4,
                    "parent": 3,
                    "scope": SCOPE_BACKWARD,
                    "sequence_nr": 5,
                    "forward_thread": 7,
                    **back,
                },
                {"start": 13_000, "end": 17_000, "signature": 5, "parent": 4, **back},
                {"start": 19_000, "end": -1, "signature": 5, "thread": 1, "flags": BACKWARD},
            ],
            "allocations": [
                {"start": -1, "bytes": 100},
                {"start": 3600, "end": 17_000, "bytes": 50},
                {"start": 4000, "bytes": 7, "device_type": 1},
            ],
            "marks": [{"time": 9000, "name": 4}],
            "steps": [{"start": 500, "end": 18_500, "number": 3, "warmup": 1}, {"start": 18_500, "end": -1, "number": 4}],
            "threads": [{"torch_id": 7, "native_id": 70}, {"torch_id": 8, "native_id": 80}],
            "facts": {"duration_ns": 20_000, "torch": "2.0", "losses": {"ops": 2, "operands": 0}},
            **more,
        }
    )


def exported(recorded: Trace, folder: Path, name: str = "trace.json") -> Event:
    export_chrome(recorded, folder / name)
    data = (folder / name).read_bytes()
    document: Event = json.loads(gzip.decompress(data) if name.endswith(".gz") else data)
    return document


def events(recorded: Trace, folder: Path, **wanted: Any) -> list[Event]:
    found = exported(recorded, folder)["traceEvents"]
    return [event for event in found if all(event.get(key) == value for key, value in wanted.items())]


def folded(recorded: Trace, folder: Path, by: str = "time") -> dict[str, int]:
    export_folded(recorded, folder / "stacks.folded", by)
    lines = (folder / "stacks.folded").read_text(encoding="utf-8").splitlines()
    pairs = [line.rpartition(" ") for line in lines]
    assert len({stack for stack, _, _ in pairs}) == len(pairs), "equal stacks are one line"
    return {stack: int(value) for stack, _, value in pairs}


def test_every_event_has_the_keys_of_its_kind(tmp_path: Path) -> None:
    document = exported(training_step(), tmp_path)
    assert set(document) == {"displayTimeUnit", "otherData", "traceEvents"}
    assert document["displayTimeUnit"] in ("ms", "ns")
    assert {event["ph"] for event in document["traceEvents"]} == set(KEYS)
    for event in document["traceEvents"]:
        assert set(event) - {"args", "tid"} == KEYS[event["ph"]] - {"args", "tid"}, event
        assert KEYS[event["ph"]] <= set(event), event
        assert all(isinstance(event.get(key, 0), int) for key in ("pid", "tid", "id"))
        assert all(isinstance(event.get(key, 0), float) and event.get(key, 0) >= 0 for key in ("ts", "dur") if key in event)


def test_facts_of_the_recording_are_in_other_data(tmp_path: Path) -> None:
    facts = exported(training_step(), tmp_path)["otherData"]
    assert facts.pop("torchprof")
    assert facts == {"torch": "2.0", "losses": {"ops": 2}, "origin_unix_ns": 0}


def test_ops_are_complete_events_in_microseconds(tmp_path: Path) -> None:
    shapes = [[4], [2, 3], [3, 4]]
    forward, backward = {"phase": "forward", "module": "fc"}, {"phase": "backward", "module": "fc"}
    main, engine = {"ph": "X", "pid": 1, "tid": 3}, {"ph": "X", "pid": 1, "tid": 4}
    found = [event for kind in ("op", "user", "backward") for event in events(training_step(), tmp_path, ph="X", cat=kind)]
    assert sorted(found, key=lambda event: event["ts"]) == [
        {
            **main,
            "cat": "op",
            "ts": 3.0,
            "dur": 4.0,
            "name": "aten::linear",
            "args": {"shapes": shapes, **forward, "sequence_nr": 5},
        },
        {
            **main,
            "cat": "op",
            "ts": 3.5,
            "dur": 3.001,
            "name": "aten::addmm",
            "args": {"shapes": shapes, **forward, "sequence_nr": 5},
        },
        {**main, "cat": "user", "ts": 9.5, "dur": 0.4, "name": AWKWARD, "args": {"shapes": [], "phase": "other"}},
        {**engine, "cat": "op", "ts": 12.0, "dur": 6.0, "name": ENGINE, "args": {"shapes": [], **backward}},
        {
            **engine,
            "cat": "backward",
            "ts": 12.5,
            "dur": 5.0,
            "name": "AddmmBackward0",
            "args": {"shapes": [], **backward, "sequence_nr": 5},
        },
        {**engine, "cat": "op", "ts": 13.0, "dur": 4.0, "name": "aten::mm", "args": {"shapes": shapes[1:], **backward}},
        {
            **engine,
            "cat": "op",
            "ts": 19.0,
            "dur": 1.0,
            "name": "aten::mm",
            "args": {"shapes": shapes[1:], "phase": "backward"},
        },
    ]


def test_module_calls_lie_around_their_ops_and_come_before_them(tmp_path: Path) -> None:
    found = events(training_step(), tmp_path, ph="X", tid=3)
    assert [(event["name"], event["ts"], event["dur"]) for event in found if event["cat"] == "module"] == [
        ("Net", 1.0, 8.0),
        ("fc (Linear)", 2.0, 6.0),
    ]
    assert [event["cat"] for event in found] == ["module", "module", "op", "op", "user"]


def test_an_op_without_an_end_is_drawn_to_the_end_of_its_parent(tmp_path: Path) -> None:
    ops = [
        {"name": 0, "start": 0, "end": 50},
        {"name": 0, "start": 10, "end": -1, "parent": 0},
        {"name": 0, "start": 20, "end": -1, "parent": 1},
        {"name": 0, "start": 60, "end": -1},
    ]
    recorded = trace(strings=["a"], ops=ops, facts={"duration_ns": 100})
    assert [event["dur"] for event in events(recorded, tmp_path, cat="op")] == [0.05, 0.04, 0.03, 0.04]


def test_steps_marks_and_threads_have_names(tmp_path: Path) -> None:
    recorded = training_step()
    steps = [(event["name"], event["ts"], event["dur"]) for event in events(recorded, tmp_path, cat="step")]
    assert steps == [("step 3 (warm-up)", 0.5, 18.0), ("step 4", 18.5, 1.5)]
    assert [(event["name"], event["ts"]) for event in events(recorded, tmp_path, ph="i")] == [(AWKWARD, 9.0)]
    names = {event["tid"]: event["args"]["name"] for event in events(recorded, tmp_path, name="thread_name")}
    assert names == {1: "steps", 2: "phases", 3: "main thread 70", 4: "thread 80"}
    assert [event["args"]["name"] for event in events(recorded, tmp_path, name="process_name")] == ["torchprof"]


def test_phases_are_runs_of_outermost_ops_also_inside_user_ranges(tmp_path: Path) -> None:
    ops = [
        {"name": 0, "start": 0, "end": 100, "scope": SCOPE_USER},
        {"name": 1, "start": 10, "end": 20, "parent": 0, "flags": FORWARD},
        {"name": 1, "start": 12, "end": 18, "parent": 1, "flags": FORWARD},
        {"name": 1, "start": 25, "end": 30, "parent": 0, "flags": FORWARD},
        {"name": 1, "start": 70, "end": 80, "parent": 0, "flags": OPTIMIZER},
        {"name": 1, "start": 28, "end": 29, "thread": 1, "flags": FORWARD},  # of another thread than the main one
        {"name": 1, "start": 40, "end": 75, "thread": 1, "flags": BACKWARD},  # of autograd, for which the main thread waits
    ]
    recorded = trace(strings=["train", "op"], ops=ops, facts={"duration_ns": 100})
    found = [(event["name"], event["ts"], event["dur"]) for event in events(recorded, tmp_path, cat="phase")]
    assert found == [("forward", 0.01, 0.02), ("backward", 0.04, 0.03), ("optimizer", 0.07, 0.01)]


def test_the_phases_in_a_closure_and_in_hooks_of_backward_have_slices(tmp_path: Path) -> None:
    in_range = {"name": 0, "scope": SCOPE_USER, "flags": OPTIMIZER}
    ops = [
        {**in_range, "start": 0, "end": 50},  # with a closure
        {"name": 1, "start": 5, "end": 10, "parent": 0, "flags": FORWARD},
        {"name": 1, "start": 12, "end": 15, "parent": 0, "flags": FORWARD},
        {"name": 1, "start": 16, "end": 30, "parent": 0, "flags": BACKWARD},
        {"name": 1, "start": 35, "end": 40, "parent": 0, "flags": OPTIMIZER},
        {"name": 1, "start": 60, "end": 90, "flags": BACKWARD},
        {**in_range, "start": 70, "end": 80, "parent": 5},  # in a hook
        {"name": 1, "start": 72, "end": 74, "parent": 6, "flags": OPTIMIZER},
        {"name": 2, "start": 92, "end": 99, "scope": SCOPE_USER, "flags": DATA},
    ]
    recorded = trace(strings=["Optimizer.step#SGD.step", "op", "enumerate(DataLoader)"], ops=ops, facts={"duration_ns": 100})
    found = [(event["name"], event["ts"] * 1000, event["dur"] * 1000) for event in events(recorded, tmp_path, cat="phase")]
    assert [(name, round(start), round(start + length)) for name, start, length in found] == [
        ("optimizer", 0, 5),
        ("forward", 5, 15),
        ("optimizer", 15, 16),
        ("backward", 16, 30),
        ("optimizer", 30, 50),
        ("backward", 60, 70),
        ("optimizer", 70, 80),
        ("backward", 80, 90),
        ("data", 92, 99),
    ]


def test_ranges_that_do_not_nest_are_on_a_track_of_their_own(tmp_path: Path) -> None:
    ops = [
        {"name": 0, "start": 0, "end": 20, "scope": SCOPE_USER},
        {"name": 1, "start": 10, "end": 30, "scope": SCOPE_USER},  # crosses the first
        {"name": 2, "start": 12, "end": 14, "parent": 1},
        {"name": 3, "start": 15, "end": 18, "parent": 1, "scope": SCOPE_USER},  # nests
        {"name": 4, "start": 40, "end": 60, "scope": SCOPE_USER},  # ends inside an op
        {"name": 2, "start": 50, "end": 70, "parent": -1},
    ]
    recorded = trace(
        strings=["a", "b", "op", "c", "d"], ops=ops, threads=[{"native_id": 7}], facts={"duration_ns": 100}, modules=[]
    )
    found = events(recorded, tmp_path, ph="X")
    track = {event["name"]: event["tid"] for event in found if event["cat"] == "user"}
    assert track["a"] == track["c"] == 3
    assert track["b"] == track["d"] != 3
    assert {event["tid"] for event in found if event["name"] == "op"} == {3}
    names = {event["tid"]: event["args"]["name"] for event in events(recorded, tmp_path, name="thread_name")}
    assert names[track["b"]] == "main thread 7, ranges (2)"
    for tid in {event["tid"] for event in found if event["cat"] in ("op", "user", "module")}:
        check_nesting([event for event in found if event["tid"] == tid])


def check_nesting(found: list[dict[str, Any]]) -> None:
    """No two slices of a track overlap half."""
    spans = [(round(event["ts"] * 1000), round((event["ts"] + event["dur"]) * 1000)) for event in found]
    for start, end in spans:
        for other, until in spans:
            assert not start < other < end < until


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 12), st.integers(0, 2)), max_size=8))
def test_slices_of_a_track_nest_whatever_ranges_do(drawn: list[tuple[int, int, int]]) -> None:
    ops = [
        {"name": 0, "start": start, "end": start + length, "scope": SCOPE_USER, "thread": thread}
        for start, length, thread in sorted(drawn, key=lambda each: (each[2], each[0], -each[1]))
    ]
    calls = [{"start": 5, "end": 15}]
    recorded = trace(
        strings=["range"], ops=ops, modules=[{"address": 1}], module_calls=calls, threads=[{}] * 3, facts={"duration_ns": 40}
    )
    with tempfile.TemporaryDirectory() as folder:
        found = events(recorded, Path(folder), ph="X")
    kinds = ("op", "user", "module")
    for tid in {event["tid"] for event in found if event["cat"] in kinds}:
        check_nesting([event for event in found if event["tid"] == tid and event["cat"] in kinds])


def test_the_memory_counter_of_a_device_type_starts_with_what_was_held_before(tmp_path: Path) -> None:
    found = [(event["name"], event["ts"], event["args"]) for event in events(training_step(), tmp_path, ph="C")]
    assert found == [
        ("bytes held (cpu)", 0.0, {"bytes": 100}),
        ("bytes held (cpu)", 3.6, {"bytes": 150}),
        ("bytes held (cpu)", 17.0, {"bytes": 100}),
        ("bytes held (cuda)", 0.0, {"bytes": 0}),
        ("bytes held (cuda)", 4.0, {"bytes": 7}),
    ]


def test_many_counter_events_are_thinned_but_keep_the_peak_and_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chrome_memory, "MAX_COUNTERS", 12)
    rows = [{"start": 10 * i, "end": 10 * i + 5, "bytes": 1000 if i == 33 else 1 + i % 7} for i in range(1, 100)]
    found = [(event["ts"], event["args"]["bytes"]) for event in events(trace(allocations=rows), tmp_path, ph="C")]
    assert len(found) <= 12
    assert found == sorted(found)
    assert (0.33, 1000) in found
    assert found[0] == (0.0, 0)
    assert found[-1] == (0.995, 0)


def test_an_arrow_leads_from_the_last_op_with_the_sequence_number_to_the_node(tmp_path: Path) -> None:
    common = {"pid": 1, "cat": "backward", "name": "backward", "id": 0}
    found = [event for event in events(training_step(), tmp_path) if event["ph"] in "sf"]
    assert found == [
        {"ph": "s", **common, "tid": 3, "ts": 3.5},
        {"ph": "f", "bp": "e", **common, "tid": 4, "ts": 12.5},
    ]


def test_no_arrow_leads_to_a_node_of_another_thread_or_number_or_one_not_attributed(tmp_path: Path) -> None:
    node = {
        "name": 0,
        "start": 9,
        "end": 10,
        "scope": SCOPE_BACKWARD,
        "flags": OP_ATTRIBUTED,
        "sequence_nr": 5,
        "forward_thread": 7,
    }
    ops = [
        {"name": 0, "start": 0, "end": 1, "sequence_nr": 5},
        {**node, "sequence_nr": 4},
        {**node, "sequence_nr": 6},
        {**node, "forward_thread": 8},
        {**node, "forward_thread": 9},
        {**node, "flags": 0},
        {"name": 0, "start": 8, "end": 9, "sequence_nr": 6, "thread": 1},
    ]
    threads = [{"torch_id": 7}, {"torch_id": 8}]
    assert not events(trace(strings=["a"], ops=ops, threads=threads), tmp_path, ph="s")


def test_a_path_that_ends_in_gz_is_compressed(tmp_path: Path) -> None:
    assert exported(training_step(), tmp_path, "trace.json.gz") == exported(training_step(), tmp_path)


def test_an_empty_trace_is_an_empty_timeline(tmp_path: Path) -> None:
    document = exported(trace(), tmp_path)
    assert {event["ph"] for event in document["traceEvents"]} == {"M"}
    assert folded(trace(), tmp_path) == {}


def test_a_trace_of_one_op_that_took_no_time_is_a_timeline(tmp_path: Path) -> None:
    made = trace(strings=["aten::mm"], ops=[{"name": 0, "start": 5, "end": 5, "flags": FORWARD}])
    assert [event["dur"] for event in events(made, tmp_path, name="aten::mm")] == [0]


def test_the_size_of_chunks_does_not_change_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = exported(training_step(), tmp_path), folded(training_step(), tmp_path)
    for part in (trace_events, stacks):
        monkeypatch.setattr(part, "CHUNK", 2)
    assert (exported(training_step(), tmp_path), folded(training_step(), tmp_path)) == whole


@pytest.mark.parametrize("export", [export_chrome, export_folded, export_speedscope])
def test_an_aggregated_trace_has_neither_timeline_nor_stacks(export: Callable[[Trace, Path], None], tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"holds sums.*record without aggregate=True"):
        export(trace(facts={"aggregate": True}), tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("export", [export_folded, export_speedscope])
def test_an_unknown_by_is_refused(export: Callable[[Trace, Path, str], None], tmp_path: Path) -> None:
    with pytest.raises(
        ArgumentError, match="by must be one of 'time', 'device', 'flops', 'bytes', 'allocated', 'peak', not 'memory'"
    ):
        export(training_step(), tmp_path / "out", "memory")


def test_a_stack_is_phase_then_modules_then_ops(tmp_path: Path) -> None:
    assert folded(training_step(), tmp_path) == {
        "forward;Net": 2000,
        "forward;Net;fc (Linear)": 2000,
        "forward;Net;fc (Linear);aten::linear": 999,
        "forward;Net;fc (Linear);aten::linear;aten::addmm": 3001,
        'other;a "quoted" back\\slash,\\n\\x01 ünïcödé 🔥': 400,
        f"backward;Net;fc (Linear);{ENGINE}": 1000,
        f"backward;Net;fc (Linear);{ENGINE};AddmmBackward0": 1000,
        f"backward;Net;fc (Linear);{ENGINE};AddmmBackward0;aten::mm": 4000,
        "backward;aten::mm": 1000,
    }


def test_flops_and_bytes_add_up_to_those_of_the_ops(tmp_path: Path) -> None:
    recorded = training_step()
    flops = folded(recorded, tmp_path, "flops")
    assert flops == {
        "forward;Net;fc (Linear);aten::linear;aten::addmm": 48,
        f"backward;Net;fc (Linear);{ENGINE};AddmmBackward0;aten::mm": 48,
        "backward;aten::mm": 48,
    }
    assert sum(flops.values()) == signature_flops(recorded)[recorded.ops["signature"]].sum()
    addmm, mm = 4 * (4 + 6 + 12 + 8), 4 * (6 + 12 + 8)
    moved = folded(recorded, tmp_path, "bytes")
    assert list(moved.values()) == [addmm, mm, mm]
    own = signature_bytes(recorded)[recorded.ops["signature"]].sum(axis=1)
    assert sum(moved.values()) == own[1:].sum(), "aten::linear leaves its work to aten::addmm"


@pytest.mark.parametrize("by", ["flops", "bytes"])
def test_work_inside_a_counted_op_is_not_counted_again(by: str, tmp_path: Path) -> None:
    ops = [
        {"start": 0, "end": 9, "signature": 5, "flags": OP_WRAPPER},
        {"start": 1, "end": 8, "signature": 5, "parent": 0, "flags": OP_NESTED},
    ]
    assert list(folded(training_step(ops=ops), tmp_path, by)) == ["other;aten::mm"]


def test_equal_stacks_of_different_calls_are_one(tmp_path: Path) -> None:
    calls = [{"start": 100 * i, "end": 100 * i + 50} for i in range(3)]
    ops = [{"name": 1, "start": 100 * i, "end": 100 * i + 20, "module_call": i, "flags": FORWARD} for i in range(3)]
    recorded = trace(strings=["Net", "a"], modules=[{"address": 1}], module_calls=calls, ops=ops)
    assert folded(recorded, tmp_path) == {"forward;<Net>": 90, "forward;<Net>;a": 60}


def test_modules_of_two_lists_have_different_frames(tmp_path: Path) -> None:
    infos = [("", "Net", -1), ("a", "ModuleList", 0), ("a.0", "Linear", 1), ("b", "ModuleList", 0), ("b.0", "Linear", 3)]
    model = Model(tuple(module(path, type, parent, 100 + i) for i, (path, type, parent) in enumerate(infos)))
    calls = [{"start": 0, "end": 100}, *({"start": i, "end": i + 5, "module": i // 10, "parent": 0} for i in (10, 20))]
    modules = [{"address": address} for address in (100, 102, 104)]
    recorded = trace(model=model, strings=["?"], modules=modules, module_calls=calls)
    assert folded(recorded, tmp_path) == {"forward;Net": 90, "forward;Net;a.0 (Linear)": 5, "forward;Net;b.0 (Linear)": 5}


def test_a_call_inside_a_range_is_not_counted_for_the_range(tmp_path: Path) -> None:
    ops = [
        {"name": 1, "start": 0, "end": 100, "scope": SCOPE_USER},
        {"name": 2, "start": 20, "end": 50, "parent": 0, "module_call": 0, "flags": FORWARD},
    ]
    recorded = trace(
        strings=["Net", "range", "a"], modules=[{"address": 1}], module_calls=[{"start": 10, "end": 90, "op": 0}], ops=ops
    )
    assert folded(recorded, tmp_path) == {"other;range": 20, "forward;<Net>": 50, "forward;<Net>;a": 30}


def test_a_backward_pass_inside_a_call_is_not_counted_for_that_call(tmp_path: Path) -> None:
    calls = [{"start": 0, "end": 10}, {"start": 20, "end": 100}, {"start": 25, "end": 35, "module": 1, "parent": 1}]
    ops = [{"name": 1, "start": 40, "end": 70, "module_call": 0, "flags": BACKWARD | OP_ATTRIBUTED}]
    modules = [{"address": 1}, {"address": 2}]
    recorded = trace(strings=["Net", "a"], modules=modules, module_calls=calls, ops=ops)
    assert folded(recorded, tmp_path) == {"forward;<Net>": 10 + 40, "forward;<Net>;<Net>": 10, "backward;<Net>;a": 30}


def test_a_recomputed_call_is_below_recomputation(tmp_path: Path) -> None:
    calls = [{"start": 0, "end": 10, "flags": CALL_RECOMPUTED}]
    ops = [{"name": 1, "start": 2, "end": 5, "module_call": 0, "flags": RECOMPUTATION}]
    recorded = trace(strings=["Net", "a"], modules=[{"address": 1}], module_calls=calls, ops=ops)
    assert folded(recorded, tmp_path) == {"recomputation;<Net>": 7, "recomputation;<Net>;a": 3}


@pytest.mark.parametrize(("by", "unit"), [("time", "nanoseconds"), ("flops", "none"), ("bytes", "bytes")])
def test_speedscope_files_hold_the_same_stacks(by: str, unit: str, tmp_path: Path) -> None:
    recorded = training_step()
    export_speedscope(recorded, tmp_path / "out.json", by)
    document = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert document["$schema"] == "https://www.speedscope.app/file-format-schema.json"
    frames = document["shared"]["frames"]
    assert all(set(frame) == {"name"} and isinstance(frame["name"], str) for frame in frames)
    assert len({frame["name"] for frame in frames}) == len(frames)
    (profile,) = document["profiles"]
    assert set(profile) == {"type", "name", "unit", "startValue", "endValue", "samples", "weights"}
    assert (profile["type"], profile["unit"], profile["startValue"]) == ("sampled", unit, 0)
    assert profile["endValue"] == sum(profile["weights"])
    assert len(profile["samples"]) == len(profile["weights"])
    assert all(0 <= frame < len(frames) for sample in profile["samples"] for frame in sample)

    def clean(sample: list[int]) -> str:
        return ";".join(
            frames[frame]["name"].replace(";", ",").replace("\n", "\\n").replace("\x01", "\\x01") for frame in sample
        )

    found = dict(zip(map(clean, profile["samples"]), profile["weights"], strict=True))
    assert found == folded(recorded, tmp_path, by)
