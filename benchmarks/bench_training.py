"""A training step while it is profiled, and what its trace costs to analyze."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from conftest import Peer, SideBySide, nothing
from peers import empty_callback, torch_profiler
from peers.training import Training

import torchprof
from torchprof.trace.trace import Trace


def test_a_training_step(side_by_side: SideBySide) -> None:
    training = Training(side_by_side.size(24, 2))
    steps = side_by_side.size(3, 1)

    def recorded_by(observer: Callable[[], AbstractContextManager[Any]]) -> Peer:
        """Milliseconds per step, recording alone: what comes after it is below."""

        def peer() -> float:
            with observer() as running:
                begin = time.perf_counter()
                for _ in range(steps):
                    training.step()
                    if running is not None:
                        running.step()
                return (time.perf_counter() - begin) * 1e3 / steps

        return peer

    @contextmanager
    def by_torch_profiler(**options: bool) -> Iterator[Any]:
        with torch_profiler(record_shapes=True, profile_memory=True, with_modules=True, **options) as profiler:
            yield profiler

    contest = side_by_side(
        "one training step of GPT-2 with 24 layers of width 64, AdamW",
        {
            "bare": recorded_by(nothing),
            "empty callback": recorded_by(lambda: empty_callback(tensors=False)),
            "empty callback, tensors handed over": recorded_by(lambda: empty_callback(tensors=True)),
            "torchprof, everything but stacks": recorded_by(lambda: torchprof.profile(training.model, stacks=False)),
            "torchprof, everything": recorded_by(lambda: torchprof.profile(training.model)),
            "torchprof, everything but stacks, aggregated": recorded_by(
                lambda: torchprof.profile(training.model, stacks=False, aggregate=True)
            ),
            "torchprof, everything, aggregated": recorded_by(lambda: torchprof.profile(training.model, aggregate=True)),
            "torch.profiler, shapes + memory + modules": recorded_by(by_torch_profiler),
            "torch.profiler, with stacks": recorded_by(lambda: by_torch_profiler(with_stack=True)),
        },
        unit="ms",
        rounds=11,
    )
    assert len(contest.medians) == 9


def test_stop_and_all_analyses(side_by_side: SideBySide) -> None:
    training = Training(side_by_side.size(24, 2))
    steps = side_by_side.size(60, 2)
    ops = 0

    def analyze(trace: Trace) -> None:
        assert len(torchprof.by_module(trace))
        assert len(torchprof.by_op(trace))
        assert len(torchprof.by_op(trace, shapes=True))
        assert len(torchprof.by_step(trace))
        assert str(torchprof.memory(trace))

    def ours() -> float:
        nonlocal ops
        profiler = torchprof.profile(training.model)
        with profiler:
            for _ in range(steps):
                training.step()
                profiler.step()
            begin = time.perf_counter()
        analyze(profiler.trace)
        taken = time.perf_counter() - begin
        assert not profiler.trace.losses
        ops = len(profiler.trace.ops)
        return taken

    contest = side_by_side("stop and every table of a long training", {"torchprof, everything": ours}, unit="s", rounds=3)
    contest.notes["torchprof, everything"] = f"{ops:,} ops"
