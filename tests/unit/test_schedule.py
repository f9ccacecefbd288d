"""Which steps a schedule records."""

from __future__ import annotations

from typing import Any

import pytest

from torchprof import ArgumentError
from torchprof.record.schedule import Schedule, State, schedule

LETTERS = {State.OFF: ".", State.WARMUP: "w", State.ACTIVE: "A"}


def drawn(plan: Schedule, steps: int) -> str:
    return "".join(LETTERS[plan.state(step)] for step in range(steps))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"active": 2}, "AA......"),
        ({"wait": 1, "warmup": 1, "active": 2}, ".wAA...."),
        ({"wait": 1, "active": 1, "repeat": 2}, ".A.A...."),
        ({"warmup": 1, "active": 1, "repeat": 0}, "wAwAwAwA"),
    ],
)
def test_steps_wait_then_warm_up_then_are_recorded_as_often_as_repeat_says(options: dict[str, int], expected: str) -> None:
    assert drawn(schedule(**options), 8) == expected


def test_without_a_schedule_every_step_is_recorded() -> None:
    assert drawn(Schedule.always(), 8) == "AAAAAAAA"


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"active": 0}, ["active", "0", "at least 1"]),
        ({"active": 1, "wait": -1}, ["wait", "-1", "at least 0"]),
        ({"active": 1, "warmup": 1.5}, ["warmup", "1.5", "int"]),
        ({"active": True}, ["active", "True"]),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_by_name_and_value(options: dict[str, Any], names: list[str]) -> None:
    with pytest.raises(ArgumentError) as caught:
        schedule(**options)
    assert all(name in str(caught.value) for name in names)
