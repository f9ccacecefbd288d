"""A trace and a memory snapshot of one run, read together: a program that writes both, and knows what each block is."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import kineto_files
import pytest
from handwritten import trace as handwritten
from profiled_programs import BASE, OPS, Profiled, run
from snapshot_programs import of_forward, script

import torchprof
from torchprof.errors import ArgumentError
from torchprof.tables.joined_memory import JoinedMemory

FROM_BEFORE = ("parameters", "optimizer state", "workspaces")
"""What is allocated before it is profiled."""


def joined(program: Profiled, folder: Path, first: int = 0) -> JoinedMemory:
    return torchprof.memory(program.trace(folder), snapshot=program.snapshot(first))


@pytest.mark.parametrize(("skew", "jitter"), [(0.0, 0.0), (0.0, 3.0), (800.0, 0.0), (-20_000.0, 3.0), (2_000_000.0, 1.0)])
def test_each_block_has_its_op_and_each_allocation_its_stack(tmp_path: Path, skew: float, jitter: float) -> None:
    program = run(Profiled(skew, jitter))
    found = joined(program, tmp_path)
    of_history = [place.op if place else None for place in found.snapshot.places]
    truth = [OPS[program.what[number]] if number in set(program.profiled) else None for number in program.what]
    during = [row for row, number in enumerate(program.what) if number in set(program.profiled)]
    assert [of_history[row] for row in during] == [truth[row] for row in during]
    began = found.allocations["start"] >= 0
    rows = began.nonzero()[0].tolist()
    lines = [found.snapshot.stack(int(stack)) for stack in found.snapshot.blocks["stack"][during].tolist()]
    assert [found.stacks[row] for row in rows] == lines
    assert set(found.unmatched.values()) - {0} == {found.unmatched["outside of the trace"]}


def test_blocks_from_before_the_trace_are_those_that_were_there_then(tmp_path: Path) -> None:
    program = run(Profiled())
    found = joined(program, tmp_path)
    from_before = (found.allocations["start"] < 0).nonzero()[0].tolist()
    # The trace knows of a block from before when it is freed: a batch and a loss.
    assert sorted(str(found.stacks[row]) for row in from_before) == sorted(
        str((f"/a/train.py:{line} train", "/a/train.py:99 <module>")) for line in (11, 13)
    )


def test_the_peak_by_line_has_what_only_the_snapshot_knows(tmp_path: Path) -> None:
    program = run(Profiled())
    found = joined(program, tmp_path)
    rows = found.line_table.to_dict()
    assert sum(row["at_peak"] for row in rows) == found.peak.bytes == found.snapshot.peak
    by_category: dict[str, int] = {}
    for row in rows:
        by_category[row["category"]] = by_category.get(row["category"], 0) + row["at_peak"]
    assert by_category == program.at_peak  # by stack and lifetime: the trace has no addresses of tensors
    ops = {row["op"] for row in rows}
    assert ops == {OPS[what] for what in program.at_peak if what not in FROM_BEFORE} | {""}
    text = str(found)
    profiled, known = len(program.profiled), len(program.profiled) + 2  # and a batch and a loss that it sees freed
    assert f"Of {profiled:,} allocations of the trace, {profiled:,} are in the snapshot" in text
    of_snapshot, others = len(program.what), len(program.what) - known
    assert f"Of {of_snapshot:,} allocations of the snapshot, {known:,} are in the trace; the others: {others:,} outside" in text


def test_a_history_that_begins_or_ends_inside_the_trace_says_what_is_missing(tmp_path: Path) -> None:
    program = Profiled()
    program.profiles = True
    for number in range(6):
        if number == 2:
            first = len(program.history)
            before = len(program.profiled)
            program.now += 20_000
        program.step()
    found = joined(program, tmp_path, first)
    assert found.unmatched["before the history"] == before
    assert f"the others: {before:,} before the history" in str(found)


def test_an_allocation_that_the_other_does_not_have_is_counted(tmp_path: Path) -> None:
    program = run(Profiled())
    memory_events = [row for row, event in enumerate(program.events) if event["name"] == "[memory]"]
    moved = program.events[memory_events[0]]
    moved["args"]["Addr"] += 2**30
    found = joined(program, tmp_path)
    assert (found.unmatched["not in the history"], found.unmatched["not in the trace"]) == (1, 1)
    text = str(found)
    assert "1 not in the history" in text
    assert "1 not in the trace" in text


def test_without_stacks_the_phases_of_the_trace_tell_categories(tmp_path: Path) -> None:
    program = run(Profiled())
    snapshot = program.snapshot()
    for entry in snapshot["device_traces"][0]:
        entry.pop("frames", None)
    for segment in snapshot["segments"]:
        for block in segment["blocks"]:
            block["frames"] = []
    alone = torchprof.memory(snapshot)
    with_trace = torchprof.memory(program.trace(tmp_path), snapshot=snapshot).snapshot
    assert with_trace.by_category["unknown"] < alone.by_category["unknown"]


def test_a_leak_of_the_trace_has_its_line(tmp_path: Path) -> None:
    program = Profiled()
    program.profiles = True
    for number in range(6):
        begin = program.now - BASE
        program.step()
        program.allocate("kept", 3 * 512, script(17))
        program.events.append(kineto_files.step(number, begin + 2, program.now - BASE - begin + 3))
    found = joined(program, tmp_path)
    assert [leak.op for leak in found.leaks] == ["aten::clone"]
    assert found.leak_table.rows[0]["stack"][0] == "/a/train.py:17 train"
    assert "in train.py:17 train" in str(found)
    steps = [place.step for place in found.snapshot.places if place is not None and place.op == "aten::clone"]
    assert steps == list(range(6))


def test_paths_of_both_files_are_taken(tmp_path: Path) -> None:
    program = run(Profiled(), during=1)
    program.trace(tmp_path)
    (tmp_path / "memory.pickle").write_bytes(pickle.dumps(program.snapshot()))
    found = torchprof.memory(tmp_path / "trace.json", snapshot=tmp_path / "memory.pickle")
    assert found.unmatched["not in the history"] == 0
    assert repr(found).startswith("<JoinedMemory: peak")


def test_of_different_runs_nothing_is_guessed(tmp_path: Path) -> None:
    program = run(Profiled(), during=1)
    other = program.snapshot()
    for entry in other["device_traces"][0]:
        entry["time_us"] += 3600 * 10**6
    with pytest.raises(ArgumentError, match="they are of different runs, or were not recorded at the same time"):
        torchprof.memory(program.trace(tmp_path), snapshot=other)
    for entry in other["device_traces"][0]:
        del entry["time_us"]
    with pytest.raises(ArgumentError, match="has no times"):
        torchprof.memory(program.trace(tmp_path), snapshot=other)
    with pytest.raises(ArgumentError, match="it has no history of cuda:0"):
        torchprof.memory(program.trace(tmp_path), snapshot=other["segments"])
    on_cpu = handwritten(allocations=[{"bytes": 8, "start": 1}])
    with pytest.raises(ArgumentError, match="device='cpu': snapshots are of CUDA's memory"):
        torchprof.memory(on_cpu, snapshot=other)


@pytest.mark.parametrize(("skew", "far"), [(-800.0, False), (0.0, False), (-3_000_000.0, True), (40_000_000.0, True)])
def test_how_far_the_clocks_are_apart_is_said(tmp_path: Path, skew: float, far: bool) -> None:
    found = joined(run(Profiled(skew)), tmp_path)
    assert abs(found.clock_difference + skew * 1000) < 1_000
    line = next(line for line in str(found).splitlines() if line.startswith("Clocks: that of the snapshot is "))
    assert ("ahead of" if found.clock_difference >= 0 else "behind") in line
    assert line.endswith("check that these are") == far


class Inference(Profiled):
    """A batch goes through the layers, and all that they returned is freed before the next: nothing runs backward."""

    def step(self) -> None:
        kept = self.forward()
        self.free(*kept, frames=of_forward(self.LAYERS - 1))


@pytest.mark.parametrize("frames_of_frees", [None, [], "as recorded"])
def test_what_inference_allocates_is_no_activation_in_either_account(tmp_path: Path, frames_of_frees: Any) -> None:
    """Backward of CUDA frees without frames, and so may anything else: without backward, that says nothing."""
    program = run(Inference())
    snapshot = program.snapshot()
    for entry in snapshot["device_traces"][0]:
        if entry["action"].startswith("free") and frames_of_frees != "as recorded":
            entry.pop("frames", None) if frames_of_frees is None else entry.update(frames=frames_of_frees)
    alone = torchprof.memory(snapshot)
    both = torchprof.memory(program.trace(tmp_path), snapshot=snapshot)
    layers = program.at_peak["activations"] + program.at_peak["temporaries"]
    for held in (alone.by_category, both.snapshot.by_category):
        assert (held["activations"], held["temporaries"]) == (0, layers)
    assert {row["category"] for row in both.line_table.to_dict() if row["op"] == "aten::linear"} == {"temporaries"}
