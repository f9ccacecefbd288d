"""What a job that is watched pays between windows: per step, beside the bare loop."""

from __future__ import annotations

import time

from conftest import SideBySide
from peers.training import Training

import torchprof


def test_steps_between_windows(side_by_side: SideBySide) -> None:
    training = Training(side_by_side.size(24, 2))
    steps = side_by_side.size(20, 2)

    def taken(after_a_step: object = None) -> float:
        """Milliseconds per step."""
        begin = time.perf_counter()
        for _ in range(steps):
            training.step()
            if after_a_step is not None:
                after_a_step()  # type: ignore[operator]
        return (time.perf_counter() - begin) * 1e3 / steps

    def between_windows(*, is_told: bool) -> float:
        """After a window, and before the next."""
        steps_by = "step" if is_told else "optimizer"
        with torchprof.watch(training.model, every=1000, active=1, warmup=0, first=0, steps_by=steps_by) as watching:
            training.step()
            if is_told:
                watching.step()
            took = taken(watching.step if is_told else None)
        assert len(watching.windows) == 1
        return took

    contest = side_by_side(
        "one training step of GPT-2 with 24 layers of width 64, AdamW, of a job that is watched, between windows",
        {
            "bare": taken,
            "steps found by the optimizer": lambda: between_windows(is_told=False),
            "steps told by step()": lambda: between_windows(is_told=True),
        },
        unit="ms",
        rounds=21,
    )
    assert len(contest.medians) == 3


def test_a_window(side_by_side: SideBySide) -> None:
    training = Training(side_by_side.size(24, 2))

    def with_windows(every: int | None) -> float:
        """Milliseconds for as many steps as there are between the beginnings of two windows."""
        steps = side_by_side.size(100, 5)
        begin = time.perf_counter()
        if every is None:
            for _ in range(steps):
                training.step()
        else:
            with torchprof.watch(training.model, every=every, active=3, first=0) as watching:
                for _ in range(steps):
                    training.step()
            assert len(watching.windows) == 1
        return (time.perf_counter() - begin) * 1e3

    contest = side_by_side(
        "100 training steps of GPT-2 with 24 layers of width 64, AdamW",
        {"bare": lambda: with_windows(None), "one window of 3 steps and a warm-up": lambda: with_windows(1000)},
        unit="ms",
        rounds=7,
    )
    assert len(contest.medians) == 2
