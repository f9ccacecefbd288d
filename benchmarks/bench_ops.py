"""What it costs to record one op: a small addition in a C++ loop, so that Python's own time hides nothing; and in Python."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from conftest import Peer, SideBySide, nothing
from peers import EmptyMode, empty_callback, observers, torch_profiler
from torch.utils.flop_counter import FlopCounterMode

import torchprof


def recorded(run: Callable[[], float]) -> dict[str, Peer]:
    """What records ops that a function of C++ runs, which returns nanoseconds per op."""

    def by(observer: Callable[[], AbstractContextManager[Any]]) -> Peer:
        def peer() -> float:
            with torch.no_grad(), observer():
                return run()

        return peer

    return {
        "bare": by(nothing),
        "empty callback": by(lambda: empty_callback(tensors=False)),
        "empty callback, tensors handed over": by(lambda: empty_callback(tensors=True)),
        "torchprof, ops only": by(lambda: torchprof.profile(shapes=False, memory=False, stacks=False)),
        "torchprof, everything but memory and stacks": by(lambda: torchprof.profile(memory=False, stacks=False)),
        "torchprof, everything but stacks": by(lambda: torchprof.profile(stacks=False)),
        "torchprof, everything": by(torchprof.profile),
        "torch.profiler": by(torch_profiler),
        "torch.profiler, shapes + memory": by(lambda: torch_profiler(record_shapes=True, profile_memory=True)),
        "TorchDispatchMode, empty": by(EmptyMode),
        "FlopCounterMode": by(lambda: FlopCounterMode(display=False)),
    }


def test_recording_an_op(side_by_side: SideBySide) -> None:
    count = side_by_side.size(5_000, 10)
    a, b = torch.ones(4, 4), torch.ones(4, 4)
    contest = side_by_side(
        "one op (at::add of 4x4, no grad), on top of running it",
        recorded(lambda: float(observers().add(a, b, count))),
        unit="ns",
        rounds=30,
        minus="bare",
        against="empty callback",
    )
    assert len(contest.medians) == 10


def test_recording_many_ops_of_ever_new_tensors(side_by_side: SideBySide) -> None:
    count, kept = side_by_side.size(400_000, 10), 4096
    a = torch.ones(4, 4)
    peers = recorded(lambda: float(observers().add_to_sums(a, count, kept)))
    contest = side_by_side(
        "one of 400,000 ops on ever new tensors (at::add of 4x4, no grad), on top of running it",
        {name: peer for name, peer in peers.items() if name == "bare" or name.startswith(("empty callback", "torchprof"))},
        unit="ns",
        rounds=11,
        minus="bare",
        against="empty callback",
    )
    assert len(contest.medians) == 6


def test_stacks_of_small_ops(side_by_side: SideBySide) -> None:
    count = side_by_side.size(5_000, 10)
    a, b = torch.ones(4, 4), torch.ones(4, 4)
    depth = 0

    def at_depth(levels: int) -> float:
        if levels > 1:
            return at_depth(levels - 1)
        nonlocal depth
        depth = len(list(traceback.walk_stack(None)))
        begin = time.perf_counter_ns()
        for _ in range(count):
            torch.add(a, b)
        return (time.perf_counter_ns() - begin) / count

    def recorded_by(observer: Callable[[], AbstractContextManager[Any]]) -> Peer:
        def peer() -> float:
            with torch.no_grad(), observer():
                return at_depth(40)

        return peer

    contest = side_by_side(
        "one op (torch.add of 4x4, no grad) in a loop of Python, 40 functions below those of pytest",
        {
            "bare": recorded_by(nothing),
            "torchprof, everything but stacks": recorded_by(lambda: torchprof.profile(stacks=False)),
            "torchprof, everything": recorded_by(torchprof.profile),
            "torch.profiler, shapes + memory": recorded_by(lambda: torch_profiler(record_shapes=True, profile_memory=True)),
            "torch.profiler, with stacks": recorded_by(
                lambda: torch_profiler(record_shapes=True, profile_memory=True, with_stack=True)
            ),
        },
        unit="ns",
        rounds=30,
        against="torchprof, everything but stacks",
    )
    contest.notes["torchprof, everything"] = f"{depth} functions deep"
    assert len(contest.medians) == 5
