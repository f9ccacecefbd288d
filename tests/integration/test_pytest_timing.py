"""The fixture ``torchprof``: one block of a test timed against another, in turns."""

from __future__ import annotations

import re

import pytest
from pytest_runs import failures, run, summary, text

from torchprof.errors import RecordingError
from torchprof.integrations.pytest_plugin import timing as timing_module
from torchprof.integrations.pytest_plugin.timing import Timing

pytest_plugins = ("pytester",)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A clock that stands still: its time is the last of this list."""
    now = [0]
    monkeypatch.setattr(timing_module.time, "perf_counter_ns", lambda: now[-1])
    return now


def passes(timing: Timing, clock: list[int], *pairs: tuple[int, int]) -> None:
    for reference, measured in pairs:
        with timing.reference():
            clock.append(clock[-1] + reference)
        with timing.measured():
            clock.append(clock[-1] + measured)


def test_the_ratio_is_of_medians_and_the_first_pass_warms_up(clock: list[int]) -> None:
    timing = Timing()
    passes(timing, clock, (1000, 9), (10, 20), (10, 30), (40, 20), (10, 20))
    assert timing.times == {"reference": [10, 10, 40, 10], "measured": [20, 30, 20, 20]}
    assert timing.time_ratio == 2.0


def test_too_few_passes_have_no_ratio(clock: list[int]) -> None:
    timing = Timing()
    passes(timing, clock, (1, 1), (1, 1), (1, 1))
    with pytest.raises(RecordingError, match=r"there is no time_ratio: it takes 4 passes .* and there were 3"):
        timing.time_ratio  # noqa: B018


def test_both_blocks_take_turns(clock: list[int]) -> None:
    timing = Timing()
    with timing.measured():
        pass
    with (
        pytest.raises(RecordingError, match=r"measured\(\) was entered twice without torchprof.reference\(\)"),
        timing.measured(),
    ):
        pass
    inside = pytest.raises(RecordingError, match=r"measured\(\) was entered inside torchprof.reference\(\)")
    with timing.reference(), inside, timing.measured():
        pass


def test_a_block_that_raises_is_not_timed(clock: list[int]) -> None:
    timing = Timing()
    passes(timing, clock, (1, 1))
    with pytest.raises(ZeroDivisionError), timing.reference():
        raise ZeroDivisionError
    assert timing.times["reference"] == []
    with timing.measured():
        pass
    assert timing.times["measured"] == [0]


RATIO = """
import pytest, time, torch

def loop(torchprof, reference, measured):
    for _ in range(6):
        with torchprof.reference(): time.sleep(reference)
        with torchprof.measured():
            time.sleep(measured)
            torch.ones(4)

@pytest.mark.limit(time_ratio=1.5, ops=4)
def test_kept(torchprof): loop(torchprof, 0.02, 0.0001)
@pytest.mark.limit(time_ratio=1.5, ops=2)
def test_slower(torchprof): loop(torchprof, 0.0001, 0.02)
@pytest.mark.limit(time_ratio=1.5)
def test_one_pass(torchprof):
    with torchprof.reference(): pass
    with torchprof.measured(): pass
def test_by_hand(torchprof):
    loop(torchprof, 0.02, 0.0001)
    assert torchprof.time_ratio < 1
"""


def test_limits_of_ratios_are_held_beside_those_of_what_is_recorded(pytester: pytest.Pytester) -> None:
    result = run(pytester, RATIO, "--torchprof")
    result.assert_outcomes(passed=2, failed=2)
    said = failures(result)
    assert re.search(
        r"^time ratio: \d+\.\d\d, and the limit is 1.5\nreference  median .*, 5 times\nmeasured   median ", said, re.M
    )
    assert "ops: 3, and the limit is 2" in said, "the first pass is recorded, and no other"
    assert "time ratio: it cannot be told that the limit of 1.5 is kept: it takes 4 passes" in said
    assert "timed (3 tests): recorded up to where times were taken" in summary(result), text(result)
