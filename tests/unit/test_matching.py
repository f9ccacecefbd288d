"""Allocations of a trace and blocks of a snapshot, matched by address, size and time. On clocks that are apart, and drift."""

from __future__ import annotations

import random

import numpy as np
import pytest

from torchprof.allocator.lifetimes import BLOCK, Blocks
from torchprof.allocator.matching import Matching, match
from torchprof.trace.schema import LAYOUTS, Rows

ORIGIN = 1_700_000_000 * 10**9
BEGIN = 5 * 10**9


def recorded(times: list[int], addresses: list[int], sizes: list[int]) -> tuple[Rows, Blocks]:
    """Allocations at these nanoseconds after the origin, and the same as the blocks of a history."""
    allocations = np.zeros(len(times), dtype=LAYOUTS["allocations"])
    blocks = np.zeros(len(times), dtype=BLOCK)
    for table in (allocations, blocks):
        table["address"], table["bytes"] = addresses, sizes
    allocations["start"], allocations["end"] = times, -1
    blocks["requested"], blocks["start"], blocks["end"] = sizes, np.arange(len(times)), -1
    return allocations, blocks


def matched(times: list[int], addresses: list[int], sizes: list[int], ahead: int = 0, drift: float = 0.0) -> Matching:
    """Where the snapshot's clock is so far ahead, and gains on the other one by this share."""
    allocations, blocks = recorded(times, addresses, sizes)
    shown = [ORIGIN + time + ahead + round(drift * time) for time in times]
    return match(allocations, ORIGIN, blocks, np.array(shown, dtype=np.int64) // 1000 * 1000)


@pytest.mark.parametrize("ahead", [0, 700_000, -20_000_000, 5 * 10**9])
def test_an_address_that_is_used_again_every_few_microseconds(ahead: int) -> None:
    chance = random.Random(1)
    times = np.cumsum([chance.randint(6_000, 60_000) for _ in range(3000)]).tolist()
    found = matched(times, [chance.choice([1, 2]) * 512 for _ in times], [512] * len(times), ahead)
    assert found.block.tolist() == list(range(len(times)))
    assert found.ahead is not None
    assert abs(found.ahead - ahead) < 2_000


@pytest.mark.parametrize("drift", [2e-4, -2e-4])
def test_clocks_that_drift_apart_are_followed(drift: float) -> None:
    """Over 0.6 s they drift by 120 us, where an address is used again every 100."""
    chance = random.Random(1)
    times = np.cumsum([chance.randint(80_000, 120_000) for _ in range(6000)]).tolist()
    found = matched(times, [512] * len(times), [512] * len(times), drift=drift)
    assert found.block.tolist() == list(range(len(times)))


def test_a_block_of_another_size_at_the_address_is_another_block() -> None:
    found = matched([1_000, 2_000_000, 4_000_000], [512, 512, 512], [512, 2048, 512])
    assert found.block.tolist() == [0, 1, 2]
    allocations, blocks = recorded([1_000, 2_000_000], [512, 512], [512, 2048])
    blocks["bytes"][1] = blocks["requested"][1] = 10 * 2**20
    assert match(allocations, ORIGIN, blocks, ORIGIN + allocations["start"]).block.tolist() == [0, -1]


def test_one_block_is_matched_once() -> None:
    allocations, blocks = recorded([1_000, 1_500], [512, 512], [512, 512])
    found = match(allocations, ORIGIN, blocks[:1], np.array([ORIGIN + 1_000]))
    assert found.block.tolist() == [0, -1]
    assert found.allocation_of(1).tolist() == [0]


def test_what_was_there_before_the_trace_is_the_block_at_its_address_then() -> None:
    allocations, blocks = recorded([0, 0, 4_000_000], [512, 512, 4096], [512, 512, 512])
    allocations["start"][:2], allocations["end"][1] = -1, 3_000_000
    allocations = allocations[1:]
    blocks["end"][0] = 1  # where the second block is allocated
    times = np.array([ORIGIN - 9_000_000, ORIGIN - 5_000_000, ORIGIN + 4_000_000])
    assert match(allocations, ORIGIN, blocks, times).block.tolist() == [1, 2]


def test_clocks_more_than_a_minute_apart_are_of_different_runs() -> None:
    found = matched([1_000, 50_000], [512, 1024], [512, 512], ahead=61 * 10**9)
    assert (found.ahead, found.block.tolist()) == (None, [-1, -1])
