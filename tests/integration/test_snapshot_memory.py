"""The account of a CUDA memory snapshot, on histories written by hand: 20 MiB of one segment, and what a program did there."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from snapshot_programs import Program, Training, script

import torchprof
from torchprof.allocator.account import BEFORE, NO_STACK, Held
from torchprof.allocator.segment_use import SegmentUse
from torchprof.cli.main import main
from torchprof.errors import ArgumentError
from torchprof.reporting.memory_chart import snapshot_chart

MIB = 2**20
BEGIN = 2**41

FORWARD = (
    {"filename": "/lib/torch/nn/functional.py", "line": 9, "name": "linear"},
    {"filename": "/a/model.py", "line": 7, "name": "forward"},
)
STEP = ({"filename": "/a/train.py", "line": 3, "name": "step"},)


def entry(action: str, at: float, size: float, *frames: Any, **more: Any) -> dict[str, Any]:
    return {"action": action, "addr": BEGIN + round(at * MIB), "size": round(size * MIB), "frames": [*frames], **more}


def freed(at: float, size: float, *frames: Any) -> list[dict[str, Any]]:
    """Frees have the stack that freed, or none is recorded."""
    found = [entry("free_requested", at, size, *frames), entry("free_completed", at, size, *frames)]
    return found if frames else [{name: value for name, value in each.items() if name != "frames"} for each in found]


def snapshot() -> dict[str, Any]:
    """5 MiB are held all the time, 3 from before the history are freed; 4 and 6 are allocated, of which 4 remain."""
    history = [
        entry("alloc", 8, 4, *FORWARD, *STEP),
        entry("alloc", 12, 6, *STEP),
        *freed(12, 6),
        *freed(5, 3),
    ]
    for number, each in enumerate(history):
        each["time_us"] = 1_000_000 + number
    blocks = [
        {"size": 5 * MIB, "state": "active_allocated", "frames": [*STEP]},
        {"size": 3 * MIB, "state": "inactive"},
        {"size": 4 * MIB, "state": "active_allocated", "frames": [*FORWARD, *STEP]},
        {"size": 8 * MIB, "state": "inactive"},
    ]
    segments = [
        {"device": 0, "address": BEGIN, "total_size": 20 * MIB, "segment_type": "large", "blocks": blocks},
        {
            **{"device": 0, "address": BEGIN + 100 * MIB, "total_size": 2 * MIB, "segment_type": "small"},
            "blocks": [{"size": 2 * MIB, "state": "inactive"}],
        },
    ]
    return {"segments": segments, "device_traces": [history]}


STEP_STACK = ("/a/train.py:3 step",)
FORWARD_STACK = ("/lib/torch/nn/functional.py:9 linear", "/a/model.py:7 forward", "/a/train.py:3 step")


def test_the_peak_and_who_allocated_what_was_there_then() -> None:
    memory = torchprof.memory(snapshot())
    assert (memory.device, memory.peak, memory.reserved_at_peak, memory.max_reserved) == (
        "cuda:0",
        18 * MIB,
        22 * MIB,
        22 * MIB,
    )
    assert memory.at_peak == [
        Held(STEP_STACK, 6 * MIB, 1, "temporaries"),
        Held(STEP_STACK, 5 * MIB, 1),
        Held(FORWARD_STACK, 4 * MIB, 1),
        Held(BEFORE, 3 * MIB, 1),
    ]


def test_what_was_allocated_and_reserved_over_time() -> None:
    timeline = torchprof.memory(snapshot()).timeline()
    assert timeline["entry"].tolist() == [0, 1, 2, 3, 4, 5]
    assert timeline["time"].tolist() == [0, 1000, 2000, 3000, 4000, 5000]
    assert (timeline["allocated"] // MIB).tolist() == [12, 18, 12, 12, 9, 9]
    assert (timeline["reserved"] // MIB).tolist() == [22] * 6


def test_the_moments_of_the_most_are_told_apart_by_category_and_line() -> None:
    memory = torchprof.memory(snapshot())
    found = memory.moments()
    assert found.times.tolist() == [0, 0, 1, 2, 4]  # the first is before the first entry
    assert (found.held.sum(axis=1) // MIB).tolist() == [8, 12, 18, 12, 9]
    at_peak = found.alive[int(found.held.sum(axis=1).argmax())]
    assert at_peak[0] == (STEP_STACK[0], "temporaries", 6 * MIB)
    assert sum(each.bytes for each in at_peak) == memory.peak


def test_a_page_of_it_draws_what_was_allocated_and_reserved(tmp_path: Path) -> None:
    memory = torchprof.memory(snapshot())
    drawn = snapshot_chart(memory)
    assert drawn is not None
    of = {each["name"]: each for each in drawn[0]["data"]}
    assert max(of["held"]["y"]) == of["peak"]["y"][0] == memory.peak
    assert set(of["reserved"]["y"]) == {22 * MIB}
    assert of["peak"]["x"] == [0.001]  # milliseconds
    torchprof.report(memory, tmp_path / "page.html")
    assert "The peak is <b>18.0 MiB</b>" in (tmp_path / "page.html").read_text()


def test_what_is_still_held_at_the_end_by_stack() -> None:
    memory = torchprof.memory(snapshot())
    assert (memory.allocated, memory.reserved) == (9 * MIB, 22 * MIB)
    assert memory.at_end == [Held(STEP_STACK, 5 * MIB, 1), Held(FORWARD_STACK, 4 * MIB, 1)]


def test_fragmentation_is_what_is_free_in_segments_in_use() -> None:
    memory = torchprof.memory(snapshot())
    assert memory.fragmentation == 11 * MIB
    assert memory.segments == [
        SegmentUse(BEGIN, 20 * MIB, 9 * MIB, 11 * MIB, 8 * MIB, 2, 0, False, False),
        SegmentUse(BEGIN + 100 * MIB, 2 * MIB, 0, 2 * MIB, 2 * MIB, 1, 0, True, False),
    ]


def test_a_row_is_named_by_the_innermost_line_that_is_not_pytorchs_own() -> None:
    rows = torchprof.memory(snapshot()).peak_table.to_dict()
    names = ["train.py:3 step", "train.py:3 step", "model.py:7 forward", "(before the history)"]
    assert [(row["name"], row["at_peak"] // MIB) for row in rows] == list(zip(names, (6, 5, 4, 3), strict=True))
    assert rows[2]["stack"] == list(FORWARD_STACK)


def test_it_prints_as_tables() -> None:
    text = str(torchprof.memory(snapshot()))
    assert "Peak on cuda:0: 18.0 MiB allocated, 22.0 MiB reserved then" in text
    assert "At the end on cuda:0: 22.0 MiB reserved, 9,216.0 KiB allocated; of the other 13.0 MiB, 11.0 MiB in segments" in text
    assert "from train.py:3 step" in text


def test_without_history_the_end_is_all_that_is_known() -> None:
    memory = torchprof.memory(snapshot()["segments"])
    assert (memory.replay, memory.peak, memory.max_reserved, len(memory.timeline())) == (None, 9 * MIB, 22 * MIB, 0)
    assert memory.at_peak == memory.at_end
    assert "No history was recorded" in str(memory)


def test_without_frames_rows_say_so() -> None:
    segments = snapshot()["segments"]
    for block in segments[0]["blocks"]:
        block.pop("frames", None)
    assert torchprof.memory(segments).at_end == [Held(NO_STACK, 9 * MIB, 2)]


def test_a_file_is_accounted_for_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "memory.pickle"
    path.write_bytes(pickle.dumps(snapshot()))
    assert torchprof.memory(path).peak == torchprof.memory(str(path)).peak == 18 * MIB


def test_the_device_with_the_most_reserved_is_meant_and_others_are_named() -> None:
    segments = [*snapshot()["segments"], {**snapshot()["segments"][1], "device": 3}]
    assert torchprof.memory(segments).device == "cuda:0"
    assert torchprof.memory(segments, "cuda:3").reserved == 2 * MIB
    with pytest.raises(ArgumentError, match="the snapshot has cuda:0, cuda:3"):
        torchprof.memory(segments, "cuda:1")
    with pytest.raises(ArgumentError, match="nothing was allocated"):
        torchprof.memory([])
    with pytest.raises(ArgumentError, match="number 0 of the segments of device 0 cannot be read"):
        torchprof.memory([3])


def without(*actions: str) -> dict[str, Any]:
    """As ``_record_memory_history(skip_actions=...)``: three blocks of 4 MiB at one address, and one of 2."""
    program = Program()
    for _ in range(3):
        program.free(program.allocate("", 4 * MIB, script(3)), frames=script(4))
    program.allocate("", 2 * MIB, script(5))
    found = program.snapshot()
    found["device_traces"][0] = [entry for entry in found["device_traces"][0] if entry["action"] not in actions]
    return found


def test_a_history_in_which_frees_are_told_by_one_of_their_two_entries_is_exact() -> None:
    memory = torchprof.memory(without("free_requested"))
    assert (memory.peak, memory.missing) == (4 * MIB, 0)
    assert "INEXACT" not in str(memory)


def test_entries_that_are_missing_are_counted_and_said() -> None:
    memory = torchprof.memory(without("free_requested", "free_completed"))
    assert (memory.missing, memory.peak) == (3, 4 * MIB)  # a block is gone when its address is allocated again
    assert "INEXACT: 3 entries that allocate or free are missing from the history" in str(memory)
    assert torchprof.memory(without("alloc")).missing == 3


def test_a_segment_of_no_device_is_an_error() -> None:
    for device in ("cuda:0", -1, None, 2**70, [0]):
        with pytest.raises(ArgumentError, match="number 0 of the segments cannot be read: device"):
            torchprof.memory([{**snapshot()["segments"][0], "device": device}])


@pytest.mark.parametrize("value", [None, "x", [], {}, float("inf"), float("nan"), 2**70, b"x"])
@pytest.mark.parametrize("key", ["action", "addr", "size", "stream", "frames", "time_us", "user_metadata", "pool_id"])
def test_an_entry_with_any_value_is_read_or_named(key: str, value: Any) -> None:
    """It may be left out, be an error of torchprof, or say nothing; never anything else."""
    found = snapshot()
    found["device_traces"][0][1][key] = value
    found["external_annotations"] = [{"name": "Optimizer.step#SGD", "stage": "START", "device": 0, "time_us": 1}]
    try:
        assert "Peak on cuda:0" in str(torchprof.memory(found))
    except ArgumentError as error:
        assert str(error).startswith("snapshot: ")  # noqa: PT017


def test_frames_of_any_kind_are_no_error() -> None:
    frames: list[Any]
    for frames in ([3], [{}], [{"filename": None, "line": [], "name": {}}], ["text"]):
        found = snapshot()
        found["device_traces"][0][1]["frames"] = frames
        assert torchprof.memory(found).peak == 18 * MIB


def trained() -> dict[str, Any]:
    """A history of three steps."""
    program = Training()
    for _ in range(3):
        program.step()
    return program.snapshot()


def test_a_block_that_awaits_its_free_is_so_in_every_figure() -> None:
    """It is not allocated, as ``torch.cuda.memory_allocated`` counts, and it cannot be had again."""
    blocks = [(512, "active_allocated"), (1024, "active_awaiting_free"), (2**21 - 1536, "inactive")]
    segment = {"device": 0, "address": 2**30, "total_size": 2**21, "segment_type": "small", "stream": 0}
    waiting = {**segment, "address": 2**31, "blocks": [{"size": 2**21, "state": "active_pending_free"}]}
    used = {**segment, "blocks": [{"size": size, "state": state} for size, state in blocks]}
    found = torchprof.memory({"segments": [used, waiting]})
    assert (found.reserved, found.allocated, found.awaiting_free) == (2**22, 512, 2**21 + 1024)
    assert [(use.allocated, use.awaiting_free, use.free) for use in found.segments] == [
        (512, 1024, 2**21 - 1536),
        (0, 2**21, 0),
    ]
    assert found.fragmentation == 2**21 - 1536
    assert sum(row["held"] for row in found.end_table.to_dict()) == 512
    assert "512 B allocated; 2,049.0 KiB freed and still used by other streams; of the other 2,046.5 KiB" in str(found)
    assert [row["awaiting_free"] for row in found.segment_table.to_dict()] == [1024, 2**21]


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("state", "active_frobnicated", "state 'active_frobnicated' is unknown: active_allocated, active_awaiting_free"),
        ("state", None, "state None is unknown"),
        ("size", 0, "a block of 0 bytes is none"),
        ("size", 512, "it has 2,097,152 bytes, and its blocks have 512"),
    ],
)
def test_a_block_that_is_none_is_an_error(key: str, value: Any, says: str) -> None:
    block = {"size": 2**21, "state": "inactive", key: value}
    segment = {"device": 0, "address": 2**30, "total_size": 2**21, "segment_type": "small", "stream": 0, "blocks": [block]}
    with pytest.raises(ArgumentError, match=f"number 0 of the segments of device 0 cannot be read: {says}"):
        torchprof.memory({"segments": [segment]})
    with pytest.raises(ArgumentError, match="segment_type 'medium' is unknown: small, large are known"):
        torchprof.memory(
            {"segments": [{**segment, "segment_type": "medium", "blocks": [{"size": 2**21, "state": "inactive"}]}]}
        )


def test_an_entry_of_an_action_that_is_not_known_is_said() -> None:
    snapshot = trained()
    snapshot["device_traces"][0].append({"action": "segment_split", "addr": 1, "size": 1, "stream": 0})
    assert "INEXACT: 1 entry says 'segment_split', which is not known here" in str(torchprof.memory(snapshot))


def test_a_history_in_which_nothing_is_allocated_is_a_history() -> None:
    program = Training()
    snapshot = program.snapshot()
    snapshot["device_traces"] = [[{"action": "snapshot", "addr": 0, "size": 0, "stream": 0}]]
    found = torchprof.memory(snapshot)
    assert found.leaks_unknown == "nothing was allocated in the history"
    assert "no history was recorded" not in str(found)
    assert found.peak == found.allocated


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_history_of_few_entries_is_said_to_be_that(count: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    snapshot = trained()
    marker = {"action": "snapshot", "addr": 0, "size": 0, "stream": 0, "time_us": 1}
    snapshot["segments"] = []
    some = [{"action": each, "addr": 2**30, "size": 512, "stream": 0, "time_us": 2} for each in ("alloc", "free_requested")]
    snapshot["device_traces"] = [[marker, *some[:count]]]
    path = tmp_path / "few.pickle"
    path.write_bytes(pickle.dumps(snapshot))
    found = torchprof.memory(path)
    assert found.changes == count
    text = str(found)
    assert ("The history has no allocation and no free, and tells no more than the end" in text) == (count == 0)
    assert ("the peak is that of these, and may be far from that of the program" in text) == (count > 0)
    assert text.startswith("Peak on cuda:0") == (count > 0)
    assert main(["info", str(path)]) == 0
    assert ("nothing was allocated or freed in it" in capsys.readouterr().out) == (count == 0)


def test_what_the_segments_do_not_have_is_not_held_at_the_end() -> None:
    """The entry that freed it is missing, and so the segment was released."""
    snapshot = {"segments": [], "device_traces": [[{"action": "alloc", "addr": 2**30, "size": 5, "stream": 0}]]}
    found = torchprof.memory(snapshot)
    assert (found.allocated, found.at_end, found.missing) == (0, [], 1)
    assert found.reserved_at_peak <= found.max_reserved
    assert "INEXACT: 1 entry that allocates or frees is missing from the history" in str(found)


def test_what_is_reserved_is_as_recorded_also_where_the_replay_is_not() -> None:
    """A block lies where the simulated allocator would not put it."""
    snapshot = trained()
    for entry in snapshot["device_traces"][0]:
        if entry["action"] == "segment_alloc":
            entry["size"] //= 2
    found = torchprof.memory(snapshot)
    assert found.reserved_at_peak <= found.max_reserved
    assert (found.timeline()["reserved"] <= found.max_reserved).all()


@pytest.mark.parametrize("nothing", [None, 5, 1.5, {5}])
def test_what_is_neither_a_trace_nor_a_snapshot_is_named(nothing: Any) -> None:
    with pytest.raises(torchprof.ModuleTypeError, match=r"^trace=.* is none: give a torchprof\.Trace.*_snapshot\(\) returned"):
        torchprof.memory(nothing)
