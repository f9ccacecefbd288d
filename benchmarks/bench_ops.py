"""What it costs to record one op: a small addition in a C++ loop, so that Python's own time hides nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from conftest import Peer, SideBySide, nothing
from peers import EmptyMode, empty_callback, observers, torch_profiler
from torch.utils.flop_counter import FlopCounterMode

import torchprof


def test_recording_an_op(side_by_side: SideBySide) -> None:
    count = side_by_side.size(5_000, 10)
    a, b = torch.ones(4, 4), torch.ones(4, 4)

    def recorded_by(observer: Callable[[], AbstractContextManager[Any]]) -> Peer:
        def peer() -> float:
            with torch.no_grad(), observer():
                nanoseconds: float = observers().add(a, b, count)
                return nanoseconds

        return peer

    contest = side_by_side(
        "one op (at::add of 4x4, no grad), on top of running it",
        {
            "bare": recorded_by(nothing),
            "empty callback": recorded_by(lambda: empty_callback(tensors=False)),
            "empty callback, tensors handed over": recorded_by(lambda: empty_callback(tensors=True)),
            "torchprof, everything but memory": recorded_by(lambda: torchprof.profile(memory=False)),
            "torchprof, everything": recorded_by(torchprof.profile),
            "torch.profiler": recorded_by(torch_profiler),
            "torch.profiler, shapes + memory": recorded_by(lambda: torch_profiler(record_shapes=True, profile_memory=True)),
            "TorchDispatchMode, empty": recorded_by(EmptyMode),
            "FlopCounterMode": recorded_by(lambda: FlopCounterMode(display=False)),
        },
        unit="ns",
        rounds=30,
        minus="bare",
        against="empty callback",
    )
    assert len(contest.medians) == 8
