"""Streams in the simulated caching allocator: blocks of one are not taken for another."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from torchprof import ArgumentError
from torchprof.allocator.replay import replay
from torchprof.trace.schema import LAYOUTS

MIB = 2**20


def allocations(*rows: tuple[int, int, int]) -> Any:
    """Rows of start, end and bytes."""
    made = np.zeros(len(rows), dtype=LAYOUTS["allocations"])
    for row, (start, end, size) in enumerate(rows):
        made[row]["start"], made[row]["end"], made[row]["bytes"] = start, end, size
    return made


ONE_AFTER_THE_OTHER = allocations((0, 1, 20 * MIB), (2, 3, 20 * MIB))


def test_a_block_is_taken_again_on_its_stream() -> None:
    assert replay(ONE_AFTER_THE_OTHER).max_reserved == 20 * MIB
    assert replay(ONE_AFTER_THE_OTHER, streams=[3, 3]).max_reserved == 20 * MIB


def test_a_block_of_another_stream_is_not_taken() -> None:
    played = replay(ONE_AFTER_THE_OTHER, streams=[0, 1])
    assert (played.max_reserved, played.max_allocated, played.segments) == (40 * MIB, 20 * MIB, 2)


def test_where_memory_is_short_cached_blocks_of_other_streams_are_given_back() -> None:
    played = replay(ONE_AFTER_THE_OTHER, capacity=30 * MIB, streams=[0, 1])
    assert played.out_of_memory is None
    assert played.device_frees == 1


@pytest.mark.parametrize("streams", [[0], [0, 1, 2], [0, -1], [0.5, 1.0], [[0, 1]], ["a", "b"]])
def test_streams_that_are_not_one_number_for_each_row_are_refused(streams: Any) -> None:
    with pytest.raises(ArgumentError, match="streams must be a number from 0 on for each of 2 allocations, not "):
        replay(ONE_AFTER_THE_OTHER, streams=streams)
