"""Numbers that no device has: the simulated allocator refuses them, and never counts past what it can."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchprof.allocator.replay import NO_BLOCKS, simulate
from torchprof.allocator.settings import LARGEST, AllocatorSettings
from torchprof.errors import ArgumentError

TIB = 2**40
NUMBERS = st.sampled_from([-(2**63), -6, -5, -4, -3, -2, -1, 0, 1, 512, 2**20, 2**40, 2**50, 2**62, 2**63 - 1])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"large_segment_size": 2**63 - 1}, "large_segment_size=9223372036854775807 cannot be: it must be more than 10 MiB"),
        ({"large_segment_size": LARGEST + 1, "max_non_split_rounding": LARGEST + 1}, "large_segment_size=.* at most 1 PiB"),
        ({"max_non_split_rounding": 2**63 - 1}, "max_non_split_rounding=9223372036854775807 cannot be: .* at most 1 PiB"),
        ({"roundup_power2_divisions": (2**63,) * 16}, "roundup_power2_divisions=.* cannot be"),
    ],
)
def test_settings_of_no_device_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        AllocatorSettings(**change)


@pytest.mark.parametrize("expandable", [False, True])
def test_segments_of_a_pebibyte_are_refused_when_there_are_no_more_addresses(expandable: bool) -> None:
    plan = AllocatorSettings(expandable_segments=expandable)
    events = np.array([(number, 2**50, number if expandable else 0) for number in range(5000)], dtype=np.int64)
    with pytest.raises(ArgumentError, match=r"event 409[0-9]: all segments together have more addresses than there are"):
        simulate(events, plan, None, NO_BLOCKS)


def test_two_streams_of_the_largest_device_have_room() -> None:
    events = np.array([(0, TIB, 0), (1, TIB, 1), (0, 0, 0), (1, 0, 0)], dtype=np.int64)
    done = simulate(events, AllocatorSettings(expandable_segments=True), LARGEST, NO_BLOCKS)
    assert (done["allocated_peak"], done["allocated"]) == (2 * TIB, 0)
    with pytest.raises(ArgumentError, match="at most 1125899906842624 bytes"):
        simulate(events, AllocatorSettings(), 2**62, NO_BLOCKS)


@pytest.mark.parametrize(
    "row",
    [
        (2**62 + 1, 2**62 + 1, 512, 0, 0, 0),
        (4096, 4096, 2**63 - 1, 0, 0, 0),
        (-4096, -4096, 512, 0, 0, 0),
        (4096, 2048, 512, 0, 0, 0),
        (4096, 4096, 0, 0, 0, 0),
    ],
)
def test_blocks_of_no_device_are_refused(row: tuple[int, ...]) -> None:
    with pytest.raises(ArgumentError, match="leave gaps, overlap or share an id"):
        simulate(np.zeros((0, 3), dtype=np.int64), AllocatorSettings(), None, np.array([row], dtype=np.int64))


@settings(max_examples=300)
@given(
    st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), max_size=12),
    st.lists(st.tuples(*[NUMBERS] * 6), max_size=3),
    st.booleans(),
    st.sampled_from([None, 1, 2**40, LARGEST]),
)
def test_whatever_is_replayed_it_is_refused_or_adds_up(
    events: list[tuple[int, ...]], blocks: list[tuple[int, ...]], expandable: bool, capacity: int | None
) -> None:
    rows = np.array(events, dtype=np.int64).reshape(-1, 3)
    before = np.array(blocks, dtype=np.int64).reshape(-1, 6)
    try:
        done = simulate(rows, AllocatorSettings(expandable_segments=expandable), capacity, before)
    except ArgumentError:
        return
    assert 0 <= done["allocated"] <= done["allocated_peak"] <= done["reserved_peak"]
    assert done["reserved"] <= 2**62
