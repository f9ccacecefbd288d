"""`prof.end_step()`: what follows a step and is of none, such as an evaluation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import torchprof


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))


def train(model: nn.Module) -> None:
    model(torch.randn(2, 4)).sum().backward()


@pytest.mark.parametrize("aggregate", [False, True])
def test_what_follows_a_step_is_of_no_step(aggregate: bool) -> None:
    model = network()
    with torchprof.profile(model, aggregate=aggregate) as prof:
        for number in range(4):
            train(model)
            if number % 2:
                prof.end_step()
                for _ in range(10):
                    model(torch.randn(2, 4))
            prof.step()
    trace = prof.trace
    assert trace.steps["number"].tolist() == [0, 1, 2, 3]
    rows = {row["path"]: row for row in torchprof.by_module(trace).rows if row.get("path")}
    assert rows["0"]["calls"] == 1
    assert all((trace.steps["start"][1:] >= trace.steps["end"][:-1]).tolist())


def test_a_step_that_was_ended_is_not_ended_again() -> None:
    model = network()
    with torchprof.profile(model) as prof:
        train(model)
        prof.end_step()
        prof.end_step()
        prof.step()
        train(model)
        prof.step()
    assert prof.trace.steps["number"].tolist() == [0, 1]


def test_the_recording_ends_with_the_last_step_of_a_cycle() -> None:
    model = network()
    ready: list[bool] = []

    def is_ready(prof: torchprof.profile) -> None:
        ready.append(prof.is_recording)

    schedule = torchprof.schedule(wait=1, active=1, repeat=2)
    with torchprof.profile(model, schedule=schedule, on_trace_ready=is_ready) as prof:
        for number in range(5):
            train(model)
            prof.end_step()
            assert len(ready) == (number + 1) // 2 if number < 4 else True
            assert not (number % 2 and prof.is_recording), "an evaluation is not recorded after the last step"
            train(model)
            prof.step()
    assert ready == [False, False]
    assert [trace.steps["number"].tolist() for trace in prof.traces] == [[1], [3]]
    assert [len(trace.module_calls) for trace in prof.traces] == [4, 4]


def test_it_needs_a_running_recording() -> None:
    prof = torchprof.profile(network())
    with pytest.raises(torchprof.RecordingError, match="end_step\\(\\) was called outside the recording"):
        prof.end_step()


def test_whether_it_records_is_told() -> None:
    schedule = torchprof.schedule(wait=1, active=1)
    told = []
    with torchprof.profile(network(), schedule=schedule) as prof:
        for _ in range(3):
            told.append(prof.is_recording)
            prof.step()
    assert told == [False, True, False]
    assert not prof.is_recording
