"""What torchprof costs where it records nothing: between windows, after a recording, and in an empty one."""

from __future__ import annotations

import time

from conftest import SideBySide
from peers.training import Training

import torchprof


def test_steps_that_are_not_recorded(side_by_side: SideBySide) -> None:
    training = Training(side_by_side.size(24, 2))
    steps = side_by_side.size(5, 1)

    def taken() -> float:
        """Milliseconds per step."""
        begin = time.perf_counter()
        for _ in range(steps):
            training.step()
        return (time.perf_counter() - begin) * 1e3 / steps

    def between_windows() -> float:
        windows = torchprof.schedule(wait=steps, active=1, repeat=2)
        begin = took = 0.0
        with torchprof.profile(training.model, schedule=windows) as prof:
            for number in range(2 * steps + 2):
                if number == steps + 1:  # a window has been recorded
                    begin = time.perf_counter()
                if number == 2 * steps + 1:
                    took = time.perf_counter() - begin
                training.step()
                prof.step()
        assert len(prof.traces) == 2
        return took * 1e3 / steps

    def after_a_recording() -> float:
        with torchprof.profile(training.model):
            training.step()
        return taken()

    contest = side_by_side(
        "one training step of GPT-2 with 24 layers of width 64, AdamW, that is not recorded",
        {"bare": taken, "between windows of a schedule": between_windows, "after a recording": after_a_recording},
        unit="ms",
        rounds=21,
    )
    assert len(contest.medians) == 3


def test_an_empty_recording(side_by_side: SideBySide) -> None:
    training = Training(side_by_side.size(24, 2))
    training.step()  # makes the state of the optimizer; gradients are zeroed

    def in_a_row(count: int) -> float:
        begin = time.perf_counter()
        for _ in range(count):
            with torchprof.profile(training.model):
                pass
        return (time.perf_counter() - begin) * 1e3 / count

    modules = len(list(training.model.modules()))
    contest = side_by_side(
        f"start and stop, a model of {modules} modules",
        {"each of ten in a row": lambda: in_a_row(10), "one, after the garbage was collected": lambda: in_a_row(1)},
        unit="ms",
        rounds=41,
    )
    assert len(contest.medians) == 2
