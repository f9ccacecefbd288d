"""``[memory]`` events of files of torch.profiler: allocations, totals of allocators, and what tables say of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from kineto_files import allocation, event, module, op, read, step, user_range

import torchprof
from torchprof.trace.schema import Use

MIB = 2**20


def test_events_become_allocations_from_allocation_to_free(tmp_path: Path) -> None:
    trace = read(
        tmp_path,
        module("Net_0", 0, 100),
        op("aten::mm", 10, 20),
        allocation(15, 4096, 512, device=0),
        op("aten::relu", 40, 20),
        allocation(45, 8192, 1024, device=0),
        allocation(50, 4096, -512, device=0),
    )
    first, second = trace.allocations
    assert (first["start"], first["end"], first["address"], first["bytes"]) == (15_000, 50_000, 4096, 512)
    assert (first["op"], first["free_op"], first["module"]) == (0, 1, 0)
    assert (second["start"], second["end"], second["op"], second["free_op"]) == (45_000, -1, 1, -1)
    memory = torchprof.memory(trace)
    assert (memory.device, memory.peak.bytes, memory.peak.op, memory.peak.module) == ("cpu", 1536, "aten::relu", "Net_0")
    assert {row["name"]: row["allocated"] for row in torchprof.by_op(trace).rows} == {"aten::mm": 512, "aten::relu": 1024}


def test_a_block_from_before_is_known_by_its_free(tmp_path: Path) -> None:
    trace = read(tmp_path, op("aten::mm", 0, 20), allocation(5, 4096, -512, device=0))
    assert trace.allocations[["start", "end", "bytes", "op", "free_op"]].tolist() == [(-1, 5_000, 512, -1, 0)]


def test_an_address_that_is_allocated_again_was_free(tmp_path: Path) -> None:
    trace = read(tmp_path, op("aten::mm", 0, 20), allocation(5, 4096, 512, device=0), allocation(9, 4096, 256, device=0))
    assert trace.allocations[["start", "end", "bytes", "free_op"]].tolist() == [(5_000, 9_000, 512, -1), (9_000, -1, 256, -1)]


def test_one_address_on_two_devices_is_two_blocks(tmp_path: Path) -> None:
    trace = read(tmp_path, op("aten::mm", 0, 20), allocation(5, 4096, 512), allocation(9, 4096, 256, device=0))
    assert [(trace.device_types[row["device_type"]], int(row["bytes"])) for row in trace.allocations] == [
        ("cuda", 512),
        ("cpu", 256),
    ]


def test_totals_of_the_allocator_tell_what_was_there_before(tmp_path: Path) -> None:
    trace = read(
        tmp_path,
        op("aten::mm", 0, 50),
        allocation(5, 4096, 2 * MIB, total=12 * MIB, reserved=20 * MIB),
        allocation(10, 9000, 4 * MIB, total=16 * MIB, reserved=20 * MIB),
        allocation(20, 4096, -2 * MIB, total=14 * MIB, reserved=20 * MIB),
        allocation(30, 9999, 4 * MIB, total=18 * MIB, reserved=24 * MIB),
    )
    assert trace.allocator_totals[["time", "reserved", "unreported"]].tolist() == [
        (5_000, 20 * MIB, 10 * MIB),
        (30_000, 24 * MIB, 10 * MIB),
    ]
    memory = torchprof.memory(trace)
    assert (memory.peak.bytes, memory.untracked, memory.max_reserved) == (18 * MIB, 10 * MIB, 24 * MIB)
    assert memory.fragmentation == 6 * MIB


def test_steps_have_their_memory(tmp_path: Path) -> None:
    trace = read(
        tmp_path,
        *(step(0, 0, 100), op("aten::mm", 0, 50), allocation(5, 1, 512, device=0), allocation(60, 1, -512, device=0)),
        *(step(1, 100, 100), op("aten::mm", 100, 50), allocation(105, 2, 256, device=0)),
    )
    assert trace.steps[["allocated", "peak", "held"]].tolist() == [(512, 512, 0), (256, 256, 256)]
    rows = torchprof.by_step(trace).rows
    assert [(row["allocated"], row["peak"], row["held"]) for row in rows] == [(512, 512, 0), (256, 256, 256)]


def test_what_outlives_the_outermost_call_or_op_is_held_after_it(tmp_path: Path) -> None:
    trace = read(
        tmp_path,
        *(module("Net_0", 0, 50), module("Linear_0", 5, 20), op("aten::mm", 10, 10)),
        *(allocation(12, 1, 64, device=0), allocation(13, 2, 64, device=0)),
        allocation(40, 1, -64, device=0),  # in Net, after Linear
        user_range("Optimizer.step#SGD.step", 60, 30),
        op("aten::add", 65, 5),
        *(allocation(66, 3, 64, device=0), allocation(80, 3, -64, device=0)),  # after the op, in the step of the optimizer
    )
    held = (trace.allocations["uses"] & Use.HELD_AFTER_CALL != 0).tolist()
    assert dict(zip(trace.allocations["address"].tolist(), held, strict=True)) == {1: False, 2: True, 3: False}


def test_what_used_a_block_is_unknown_and_said_so(tmp_path: Path) -> None:
    trace = read(tmp_path, step(0, 0, 100), op("aten::mm", 0, 50, dims=[[2, 2]], types=["float"]), allocation(5, 1, 512))
    text = str(torchprof.memory(trace))
    assert "Kept for backward: unknown, because addresses of tensors were not recorded" in text
    assert "The file has no addresses of tensors: little of the memory can be told apart" in text
    assert "saved" not in torchprof.by_module(trace).columns


def test_events_without_addresses_are_no_allocations(tmp_path: Path) -> None:
    old = {"ph": "i", "s": "t", "name": "[memory]", "pid": 1, "tid": 1, "ts": 5}
    trace = read(tmp_path, op("aten::mm", 0, 50), {**old, "args": {"Device Type": 0, "Device Id": -1, "Bytes": 4}})
    assert not len(trace.allocations)
    with pytest.raises(torchprof.ArgumentError, match="memory events have no addresses, as in files of 2021"):
        torchprof.memory(trace)


def test_a_file_without_memory_says_so_and_not_0(tmp_path: Path) -> None:
    trace = read(tmp_path, step(0, 0, 100), op("aten::mm", 0, 50))
    with pytest.raises(torchprof.ArgumentError, match="profile_memory=False"):
        torchprof.memory(trace)
    assert [row["allocated"] for row in torchprof.by_op(trace).rows] == [None]
    assert [(row["allocated"], row["peak"], row["held"]) for row in torchprof.by_step(trace).rows] == [(None, None, None)]


def test_memory_events_on_a_thread_of_their_own_belong_to_no_op(tmp_path: Path) -> None:
    elsewhere = {**allocation(5, 4096, 512, device=0), "tid": 555}
    trace = read(tmp_path, op("aten::mm", 0, 20), elsewhere, event("Trace", "PyTorch Profiler (0)", 0, 100))
    assert trace.allocations["op"].tolist() == [-1]
    assert trace.threads["native_id"][trace.allocations["thread"]].tolist() == [555]


@pytest.mark.parametrize("number", [2**31, 2**61, -5, 300])
def test_numbers_of_devices_that_cannot_be_do_no_harm(tmp_path: Path, number: int) -> None:
    odd = allocation(5, 4096, 512)
    odd["args"] |= {"Device Type": number, "Device Id": number}
    trace = read(tmp_path, op("aten::mm", 0, 20), odd, allocation(6, 8192, 256, device=0))
    assert trace.allocations["bytes"].tolist() == [512, 256]
    assert str(torchprof.memory(trace))


@pytest.mark.parametrize(("total", "reserved"), [(0, 1024), (511, 1024), (512, 100)])
def test_totals_that_cannot_be_are_left_out_and_said(tmp_path: Path, total: int, reserved: int) -> None:
    """After 512 bytes were allocated, no less are, and no less are reserved."""
    events = [allocation(5, 4096, 512, total=total, reserved=reserved), allocation(9, 4096, -512, total=0, reserved=1024)]
    trace = read(tmp_path, op("aten::mm", 0, 20), *events)
    found = torchprof.memory(trace)
    assert (found.peak.bytes, found.reserved, len(trace.allocator_totals)) == (512, None, 0)
    assert "1 total of an allocator cannot be" in str(found)


def test_a_total_of_0_after_all_was_freed_is_one(tmp_path: Path) -> None:
    events = [allocation(5, 4096, 512, total=512, reserved=1024), allocation(9, 4096, -512, total=0, reserved=1024)]
    trace = read(tmp_path, op("aten::mm", 0, 20), *events)
    assert trace.allocator_totals["allocated"].tolist() == [512]
    assert torchprof.memory(trace).max_reserved == 1024
    assert not any("total" in note for note in trace.facts["notes"])
