"""The simulated caching allocator: its rules one by one with numbers computed by hand, and against an oracle."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from handwritten import trace
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_allocator import Oracle

from torchprof import _C
from torchprof.allocator.history import EMPTY_CACHE, FREE_REQUESTED
from torchprof.allocator.replay import NO_BLOCKS, replay
from torchprof.allocator.settings import AllocatorSettings
from torchprof.allocator.snapshot import replay_snapshot
from torchprof.errors import ArgumentError

MIB = 2**20
Event = tuple[int, int, int]


def simulate(*events: Event, text: str = "", capacity: int = 0, blocks: Any = NO_BLOCKS) -> dict[str, Any]:
    """Ids from 0 on; (id, bytes, stream) allocates, (id, 0, 0) frees."""
    rows = np.array(events, dtype=np.int64).reshape(-1, 3)
    return _C.simulate_caching_allocator(rows, asdict(AllocatorSettings.parse(text)), capacity, blocks, True)


def alloc(number: int, size: int, stream: int = 0) -> Event:
    return number, size, stream


def free(number: int) -> Event:
    return number, 0, 0


def reserved(*sizes: int, text: str = "") -> int:
    count: int = simulate(*(alloc(number, size) for number, size in enumerate(sizes)), text=text)["reserved"]
    return count


# Sizes of blocks and segments.


def test_one_byte_takes_512_and_reserves_2_mib() -> None:
    results = simulate(alloc(0, 1))
    assert (results["allocated"], results["requested"], results["reserved"]) == (512, 1, 2 * MIB)
    assert (results["inactive_split"], results["inactive_split_blocks"]) == (2 * MIB - 512, 1)


def test_513_bytes_take_1024() -> None:
    assert simulate(alloc(0, 513))["allocated"] == 1024


def test_small_blocks_share_a_segment_until_it_is_full() -> None:
    assert reserved(MIB, MIB) == 2 * MIB
    assert reserved(MIB, MIB, 1) == 4 * MIB


def test_one_byte_above_1_mib_reserves_20_mib() -> None:
    assert reserved(MIB) == 2 * MIB
    assert reserved(MIB + 1) == 20 * MIB


def test_blocks_below_10_mib_share_a_segment_of_20() -> None:
    assert reserved(9 * MIB, 9 * MIB) == 20 * MIB
    assert reserved(9 * MIB, 9 * MIB, 3 * MIB) == 40 * MIB


def test_from_10_mib_on_a_segment_is_as_large_as_its_block_rounded_up_to_2_mib() -> None:
    assert reserved(10 * MIB) == 10 * MIB
    assert reserved(10 * MIB + 1) == 12 * MIB
    assert reserved(33 * MIB) == 34 * MIB


def test_the_size_of_shared_segments_can_be_set() -> None:
    assert reserved(3 * MIB, text="large_segment_size_mb:32") == 32 * MIB


def test_sizes_are_rounded_to_divisions_of_powers_of_2() -> None:
    # Between 8 and 16 MiB with 4 divisions: 8, 10, 12, 14.
    assert simulate(alloc(0, 9 * MIB), text="roundup_power2_divisions:4")["allocated"] == 10 * MIB
    assert simulate(alloc(0, 12 * MIB + 1), text="roundup_power2_divisions:4")["allocated"] == 14 * MIB


# Splitting and merging.


def test_a_rest_of_at_most_1_mib_stays_with_the_block_in_the_large_pool() -> None:
    # 19 MiB and a bit of what 20 are cached for: less than 1 MiB is left, so the block keeps all.
    assert simulate(alloc(0, 20 * MIB), free(0), alloc(1, 19 * MIB + 1))["allocated"] == 20 * MIB
    assert simulate(alloc(0, 20 * MIB), free(0), alloc(1, 19 * MIB))["allocated"] == 20 * MIB
    assert simulate(alloc(0, 20 * MIB), free(0), alloc(1, 19 * MIB - 512))["allocated"] == 19 * MIB - 512


def test_a_rest_of_512_is_split_off_in_the_small_pool() -> None:
    results = simulate(alloc(0, MIB), alloc(1, MIB - 512))
    assert (results["allocated"], results["inactive_split"]) == (2 * MIB - 512, 512)


def test_what_was_freed_merges_with_its_neighbors() -> None:
    events = [alloc(0, 4 * MIB), alloc(1, 4 * MIB), alloc(2, 4 * MIB), free(0), free(2)]
    apart = simulate(*events)
    assert (apart["inactive_split"], apart["inactive_split_blocks"]) == (16 * MIB, 2)  # 4 before, 4 + 8 after
    whole = simulate(*events, free(1))
    assert (whole["inactive_split"], whole["inactive_split_blocks"], len(whole["blocks"])) == (0, 0, 1)


def test_free_memory_in_pieces_does_not_serve_a_large_request() -> None:
    # 4 x 5 MiB fill 20; freed are the first and the third: 10 MiB free, but 6 MiB need another segment.
    events = [*(alloc(number, 5 * MIB) for number in range(4)), free(0), free(2)]
    assert simulate(*events, alloc(4, 5 * MIB))["reserved"] == 20 * MIB
    assert simulate(*events, alloc(4, 6 * MIB))["reserved"] == 40 * MIB


def test_the_smallest_block_that_fits_is_taken_and_of_these_the_lowest() -> None:
    sizes = [30, 12, 20, 12]
    events = [*(alloc(number, size * MIB) for number, size in enumerate(sizes)), *map(free, range(4)), alloc(4, 11 * MIB)]
    addresses = simulate(*events)["addresses"]
    assert addresses[-1] == addresses[1]


def test_streams_do_not_share_blocks() -> None:
    assert simulate(alloc(0, 20 * MIB, 1), free(0), alloc(1, 20 * MIB, 1))["reserved"] == 20 * MIB
    assert simulate(alloc(0, 20 * MIB, 1), free(0), alloc(1, 20 * MIB, 2))["reserved"] == 40 * MIB


def test_what_another_stream_still_uses_counts_as_free_but_is_not_reused() -> None:
    waiting = [alloc(0, 20 * MIB), (0, 0, FREE_REQUESTED)]
    results = simulate(*waiting, alloc(1, 20 * MIB))
    assert (results["allocated"], results["active_blocks"], results["reserved"]) == (20 * MIB, 2, 40 * MIB)
    assert simulate(*waiting, free(0), alloc(1, 20 * MIB))["reserved"] == 20 * MIB


# max_split_size.


def test_blocks_from_max_split_size_on_serve_only_what_is_large_itself() -> None:
    events = [alloc(0, 100 * MIB), free(0), alloc(1, 20 * MIB)]
    assert simulate(*events)["reserved"] == 100 * MIB
    assert simulate(*events, text="max_split_size_mb:64")["reserved"] == 120 * MIB


def test_an_oversize_block_is_reused_unsplit_for_what_is_smaller_by_less_than_20_mib() -> None:
    cached = [alloc(0, 100 * MIB), free(0)]
    near = simulate(*cached, alloc(1, 80 * MIB + 512), text="max_split_size_mb:64")
    assert (near["reserved"], near["allocated"]) == (100 * MIB, 100 * MIB)
    far = simulate(*cached, alloc(1, 80 * MIB), text="max_split_size_mb:64")
    assert (far["reserved"], far["allocated"]) == (180 * MIB, 80 * MIB)
    further = simulate(*cached, alloc(1, 80 * MIB), text="max_split_size_mb:64,max_non_split_rounding_mb:40")
    assert further["reserved"] == 100 * MIB


def test_with_max_split_size_only_as_many_cached_blocks_are_freed_as_are_needed() -> None:
    cached = [alloc(0, 100 * MIB), alloc(1, 200 * MIB), alloc(2, 10 * MIB), free(0), free(1), free(2)]
    results = simulate(*cached, alloc(3, 150 * MIB), text="max_split_size_mb:64", capacity=320 * MIB)
    # 150 does not fit beside 310. The 200 MiB are released: too large to be used, but enough to make room.
    assert (results["reserved"], results["retries"], results["device_frees"]) == (260 * MIB, 0, 1)


# A device that ends somewhere.


def test_cached_segments_are_freed_when_the_device_is_full() -> None:
    events = [alloc(0, 30 * MIB), alloc(1, 40 * MIB), free(0), free(1), alloc(2, 50 * MIB)]
    results = simulate(*events, capacity=100 * MIB)
    assert (results["index"], results["retries"], results["device_frees"]) == (-1, 1, 2)
    assert (results["reserved"], results["reserved_peak"]) == (50 * MIB, 70 * MIB)


def test_segments_in_use_are_not_freed_and_memory_runs_out() -> None:
    events = [alloc(0, 3 * MIB), alloc(1, 3 * MIB), free(0), alloc(2, 90 * MIB), free(1)]
    results = simulate(*events, capacity=100 * MIB)
    assert (results["index"], results["reserved"], len(results["reserved_after"])) == (3, 20 * MIB, 3)
    assert simulate(*events, capacity=110 * MIB)["index"] == -1


def test_before_segments_are_freed_other_streams_are_waited_for() -> None:
    results = simulate(alloc(0, 60 * MIB), (0, 0, FREE_REQUESTED), alloc(1, 50 * MIB), free(0), capacity=100 * MIB)
    assert (results["index"], results["reserved"], results["active_blocks"]) == (-1, 50 * MIB, 1)


def test_empty_cache_frees_whole_segments() -> None:
    results = simulate(alloc(0, 30 * MIB), alloc(1, 3 * MIB), alloc(2, 3 * MIB), free(0), free(1), (0, 0, EMPTY_CACHE))
    assert results["reserved"] == 20 * MIB


def test_a_share_of_the_device_is_a_limit_of_its_own() -> None:
    text = "per_process_memory_fraction:0.5"
    assert simulate(alloc(0, 50 * MIB), text=text, capacity=100 * MIB)["index"] == -1
    assert simulate(alloc(0, 50 * MIB + 1), text=text, capacity=100 * MIB)["index"] == 0


def test_above_the_garbage_collection_threshold_the_longest_cached_are_freed() -> None:
    text = "per_process_memory_fraction:0.5,garbage_collection_threshold:0.6"  # above 60 of 100 MiB
    cached = [alloc(0, 30 * MIB), free(0), alloc(1, 40 * MIB), free(1)]
    results = simulate(*cached, alloc(2, 50 * MIB), text=text, capacity=200 * MIB)
    # 70 are reserved, 10 too many. Searches of the large pool since they were freed: 30 MiB two, 40 MiB one; the mean is 1.5.
    assert (results["device_frees"], results["reserved"], results["retries"]) == (1, 90 * MIB, 0)
    assert simulate(*cached, alloc(2, 50 * MIB), capacity=200 * MIB)["reserved"] == 120 * MIB


# Expandable segments.

GROWS = "expandable_segments:True"


def test_an_expandable_segment_grows_in_place() -> None:
    results = simulate(alloc(0, 18 * MIB), alloc(1, 30 * MIB), text=GROWS)
    assert results["addresses"][1] - results["addresses"][0] == 18 * MIB
    assert (results["reserved"], results["segments"], results["inactive_split"]) == (60 * MIB, 0, 0)  # three pages of 20


def test_small_pages_are_of_2_mib() -> None:
    assert reserved(MIB, MIB, 1, text=GROWS) == 4 * MIB


def test_a_free_end_is_extended_where_a_plain_segment_would_be_left_behind() -> None:
    events = [alloc(0, 40 * MIB), free(0), alloc(1, 60 * MIB), free(1), alloc(2, 80 * MIB)]
    assert simulate(*events, text=GROWS)["reserved"] == 80 * MIB
    assert simulate(*events)["reserved"] == 180 * MIB


def test_expandable_blocks_are_split_down_to_512() -> None:
    assert simulate(alloc(0, 20 * MIB), free(0), alloc(1, 19 * MIB + 1), text=GROWS)["allocated"] == 19 * MIB + 512


def test_whole_free_pages_are_unmapped_and_reused_elsewhere() -> None:
    # 0 to 40 and 60 to 100 are held, one page between is free and goes to the other stream.
    events = [alloc(0, 40 * MIB), alloc(1, 20 * MIB), alloc(2, 40 * MIB), free(1), alloc(3, 20 * MIB, 7)]
    results = simulate(*events, text=GROWS, capacity=100 * MIB)
    assert (results["index"], results["reserved"], results["retries"]) == (-1, 100 * MIB, 1)
    # What was unmapped is mapped again before the segment grows at its end.
    again = simulate(*events, free(3), alloc(4, 20 * MIB), text=GROWS, capacity=100 * MIB)
    assert again["addresses"][-1] == again["addresses"][1]


# States.


def test_a_state_can_be_taken_up_again() -> None:
    first = simulate(alloc(0, 3 * MIB), alloc(1, 5 * MIB), alloc(2, 1), free(0))
    rest = [alloc(3, 2 * MIB), free(1), free(2), alloc(4, 12 * MIB)]
    whole = simulate(alloc(0, 3 * MIB), alloc(1, 5 * MIB), alloc(2, 1), free(0), *rest)
    resumed = simulate(*rest, blocks=first["blocks"])
    assert np.array_equal(resumed["blocks"], whole["blocks"])
    assert [resumed[name] for name in ("allocated", "reserved", "inactive_split", "segments")] == [
        whole[name] for name in ("allocated", "reserved", "inactive_split", "segments")
    ]


@pytest.mark.parametrize(
    ("events", "says"),
    [
        ([free(3)], "event 0: id 3 is not allocated"),
        ([alloc(0, 1), alloc(0, 1)], "event 1: id 0 is allocated already"),
        ([alloc(0, 2**60)], "cannot allocate"),
        ([alloc(-1, 1)], "id -1 is negative"),
    ],
)
def test_events_that_cannot_be_are_named(events: list[Event], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        simulate(*events)


@pytest.mark.parametrize(
    "blocks",
    [
        [(MIB, MIB, MIB, -1, 0, 1), (MIB, 3 * MIB, MIB, 0, 0, 1)],  # a gap
        [(MIB, MIB, 2 * MIB, 0, 0, 1), (2 * MIB, 2 * MIB, MIB, 1, 0, 1)],  # an overlap
        [(MIB, MIB, MIB, 0, 0, 1), (MIB, 2 * MIB, MIB, 0, 0, 1)],  # one id twice
    ],
)
def test_states_that_cannot_be_are_refused(blocks: list[tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="leave gaps, overlap or share an id"):
        simulate(blocks=np.array(blocks, dtype=np.int64))


def test_rows_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[n, 3\]"):
        _C.simulate_caching_allocator(np.zeros((2, 2), dtype=np.int64), asdict(AllocatorSettings()), 0, NO_BLOCKS, False)


# Replays of traces.


def test_a_trace_is_replayed_in_order_of_time() -> None:
    rows = [
        {"start": -1, "end": 50, "bytes": 30 * MIB},  # from before the recording
        {"start": 10, "end": 20, "bytes": 40 * MIB},
        {"start": 20, "bytes": 35 * MIB},  # begins when the one above ends, and takes its place
        {"start": 60, "end": 60, "bytes": 3 * MIB},
        {"start": 70, "bytes": 0},
    ]
    found = replay(trace(allocations=rows).allocations)
    assert found.rows.tolist() == [0, 1, 1, 2, 0, 3, 3]
    assert (found.max_allocated, found.max_reserved) == (70 * MIB, 70 * MIB)
    assert found.allocated_after.tolist() == [size * MIB for size in (30, 70, 30, 65, 35, 38, 35)]
    assert found.out_of_memory is None


def test_the_row_that_did_not_fit_is_named() -> None:
    rows = [{"start": time, "bytes": 30 * MIB} for time in (10, 20, 30)]
    found = replay(trace(allocations=rows).allocations, capacity=70 * MIB)
    assert (found.out_of_memory, found.max_reserved, found.rows.tolist()) == (2, 60 * MIB, [0, 1])


def test_nothing_reserves_nothing() -> None:
    assert replay(trace().allocations).max_reserved == 0


def test_rows_of_several_devices_are_refused() -> None:
    rows = [{"bytes": 1, "device_index": index} for index in (0, 1)]
    with pytest.raises(ArgumentError, match="several devices"):
        replay(trace(allocations=rows).allocations)


def test_a_capacity_of_nothing_is_refused() -> None:
    with pytest.raises(ArgumentError, match="capacity=0"):
        replay(trace().allocations, capacity=0)


def test_a_snapshot_without_history_is_refused() -> None:
    with pytest.raises(ArgumentError, match="_record_memory_history"):
        replay_snapshot({"segments": [], "device_traces": [[]]})


# Against the oracle.

SIZES = st.one_of(
    st.integers(1, 2048),
    st.integers(1, 2 * MIB),
    st.integers(MIB + 1, 12 * MIB),
    st.integers(10 * MIB, 70 * MIB),
    st.sampled_from([MIB, MIB + 1, 10 * MIB, 10 * MIB + 1, 20 * MIB, 32 * MIB]),
)
TEXTS = st.sampled_from(
    [
        "",
        GROWS,
        "max_split_size_mb:32",
        "roundup_power2_divisions:4",
        "large_segment_size_mb:32",
        "roundup_power2_divisions:[1:2,8:4,>:1]",
        f"{GROWS},max_split_size_mb:48",
        "max_split_size_mb:20,max_non_split_rounding_mb:40",
        f"{GROWS},large_segment_size_mb:12",
        "per_process_memory_fraction:0.7",
    ]
)
CAPACITIES = st.sampled_from([None, 64 * MIB, 131 * MIB, 300 * MIB])


@st.composite
def sequences(draw: st.DrawFn) -> list[Event]:
    """Allocations on three streams and frees of any of them, some delayed by another stream."""
    events: list[Event] = []
    live: list[int] = []
    waiting: set[int] = set()
    for number in range(draw(st.integers(1, 50))):
        what = draw(st.sampled_from(["alloc", "alloc", "alloc", "free", "free", "wait", "empty"]))
        if what == "alloc" or not live:
            events.append((number, draw(SIZES), draw(st.sampled_from([0, 0, 1, 2]))))
            live.append(number)
        elif what == "free":
            events.append(free(live.pop(draw(st.integers(0, len(live) - 1)))))
        elif what == "wait":
            chosen = draw(st.sampled_from(live))
            if chosen not in waiting:
                waiting.add(chosen)
                events.append((chosen, 0, FREE_REQUESTED))
        else:
            events.append((0, 0, EMPTY_CACHE))
    return events


def ascending() -> Iterator[int]:
    return itertools.count(2**41, 2**41)


def shuffled(seed: int) -> Iterator[int]:
    slots = list(range(1, 200))
    random.Random(seed).shuffle(slots)
    return (slot * 2**41 for slot in slots)


def run(oracle: Oracle, events: list[Event]) -> tuple[list[int], list[int], int]:
    """What is allocated and reserved after each event, and the event that ran out of memory."""
    allocated, held = [], []
    for row, (number, size, stream) in enumerate(events):
        if size > 0:
            if not oracle.allocate(number, size, stream):
                return allocated, held, row
        elif stream == EMPTY_CACHE:
            oracle.release_all()
        elif stream == FREE_REQUESTED:
            if number not in oracle.completed:
                oracle.request_free(number)
        else:
            oracle.free(number)
        allocated.append(oracle.allocated)
        held.append(oracle.reserved)
    return allocated, held, -1


@settings(max_examples=300)
@given(sequences(), TEXTS, CAPACITIES)
def test_it_does_what_the_oracle_does(events: list[Event], text: str, capacity: int | None) -> None:
    oracle = Oracle(AllocatorSettings.parse(text), capacity, ascending())
    allocated, held, index = run(oracle, events)
    results = simulate(*events, text=text, capacity=capacity or 0)
    assert results["index"] == index
    assert results["allocated_after"].tolist() == allocated
    assert results["reserved_after"].tolist() == held
    assert (results["allocated"], results["allocated_peak"]) == (oracle.allocated, oracle.max_allocated)
    assert (results["reserved"], results["reserved_peak"]) == (oracle.reserved, oracle.max_reserved)
    assert (results["retries"], results["active_blocks"]) == (oracle.retries, len(oracle.held))
    assert results["inactive_split"] == oracle.inactive_split


@settings(max_examples=200)
@given(sequences(), TEXTS, CAPACITIES)
def test_blocks_never_overlap_and_are_one_per_segment_when_all_is_freed(
    events: list[Event], text: str, capacity: int | None
) -> None:
    results = simulate(*events, text=text, capacity=capacity or 0)
    assert results["reserved"] >= results["allocated"] >= 0
    blocks = results["blocks"]
    order = blocks[np.argsort(blocks[:, 1])]
    assert (order[1:, 1] >= order[:-1, 1] + order[:-1, 2]).all()
    assert blocks[:, 2].sum() == results["reserved"]
    held = [int(number) for number in blocks[:, 3] if number >= 0]
    end = simulate(*map(free, held), text=text, capacity=capacity or 0, blocks=blocks)
    assert (end["allocated"], end["requested"], end["active_blocks"], end["inactive_split"]) == (0, 0, 0, 0)
    touching = [
        one for one, two in itertools.pairwise(end["blocks"].tolist()) if one[0] == two[0] and one[1] + one[2] == two[1]
    ]
    assert touching == []
    if not text.startswith(GROWS):
        assert len(end["blocks"]) == len(np.unique(end["blocks"][:, 0])) == end["segments"]


@settings(max_examples=200)
@given(sequences(), TEXTS.filter(lambda text: "large_segment" not in text), CAPACITIES, st.integers(0, 1000))
def test_a_recorded_history_is_followed_block_by_block(events: list[Event], text: str, capacity: int | None, seed: int) -> None:
    """Segments lie in any order, and the device ran out of memory at times: the replay knows both from the history alone."""
    oracle = Oracle(AllocatorSettings.parse(text), capacity, shuffled(seed))
    _, _, index = run(oracle, events)
    if index >= 0 or not oracle.history:
        return
    found = replay_snapshot(oracle.snapshot(oracle.history))
    assert (found.complete, found.misplaced) == (True, 0)
    assert found.max_reserved == found.recorded_max_reserved == oracle.max_reserved
    assert (found.reserved, found.allocated, found.max_allocated) == (oracle.reserved, oracle.allocated, oracle.max_allocated)


def test_blocks_that_become_free_while_memory_is_released_are_not_used() -> None:
    """At the limit, events are waited for and pages released; then new ones are mapped, also where a part is free by now."""
    oracle = Oracle(AllocatorSettings.parse(GROWS), 64 * MIB, shuffled(0))
    events = [alloc(0, 33128961), (0, 0, FREE_REQUESTED), alloc(1, MIB + 1), alloc(2, MIB + 1, 1), alloc(3, 7764481), free(0)]
    assert run(oracle, events)[2] == -1
    found = replay_snapshot(oracle.snapshot(oracle.history))
    assert (found.complete, found.misplaced) == (True, 0)


@settings(max_examples=200)
@given(sequences(), TEXTS.filter(lambda text: "large_segment" not in text), st.integers(0, 1000), st.data())
def test_a_history_that_begins_later_is_followed_from_what_was_there(
    events: list[Event], text: str, seed: int, data: st.DataObject
) -> None:
    """Entries are dropped one by one where a history has as many as it may: it begins anywhere, also inside one call."""
    oracle = Oracle(AllocatorSettings.parse(text), None, shuffled(seed))
    run(oracle, events)
    if not oracle.history:
        return
    first = data.draw(st.integers(0, len(oracle.history) - 1))
    found = replay_snapshot(oracle.snapshot(oracle.history[first:]))
    assert (found.misplaced, found.reserved, found.allocated) == (0, oracle.reserved, oracle.allocated)
    assert found.max_reserved == found.recorded_max_reserved


def test_a_block_that_cannot_grow_as_far_as_a_free_one_is_preferred_to_it() -> None:
    """The range of addresses ends with the device, of which a snapshot says nothing: here the replay must find that out."""
    oracle = Oracle(AllocatorSettings.parse(GROWS), 137363456, shuffled(0))
    events = [alloc(0, 10 * MIB), alloc(1, 60 * MIB), free(0), alloc(2, 20 * MIB), free(1), alloc(3, MIB + 1)]
    assert run(oracle, events)[2] == -1
    # 70 MiB are free before the last but one block. Behind it are 10, which can grow by 60 up to the end of 160.
    assert oracle.held[3].begin - oracle.segments[0].begin == 90 * MIB
    found = replay_snapshot(oracle.snapshot(oracle.history))
    assert (found.complete, found.misplaced, found.capacity) == (True, 0, None)


@pytest.mark.parametrize("first", [0, 1])
def test_a_range_of_addresses_that_was_reserved_in_vain_is_known_when_it_is_used(first: int) -> None:
    """Block 2 finds no room while block 1 waits for a stream, so a range is reserved: lower, and for lack of memory in vain.
    When block 1 is waited for, there is room behind block 0, but the lower range comes first."""
    oracle = Oracle(AllocatorSettings.parse(GROWS), 131 * MIB, (slot * 2**41 for slot in (2, 1)))
    events = [alloc(0, 32 * MIB), alloc(1, 70 * MIB), (1, 0, FREE_REQUESTED), alloc(2, 69 * MIB), (2, 0, FREE_REQUESTED)]
    assert run(oracle, events)[2] == -1
    assert oracle.held[2].begin == 2**41
    found = replay_snapshot(oracle.snapshot(oracle.history[first:]))
    assert (found.misplaced, found.reserved, found.max_reserved) == (0, 120 * MIB, 120 * MIB)


def test_a_block_from_before_the_history_does_not_reach_over_pages_that_were_unmapped_behind_it() -> None:
    """Of 100 MiB, 18 and 10 are held; what lies between is unmapped up to 80, where the next allocation begins."""
    oracle = Oracle(AllocatorSettings.parse(GROWS), None, ascending())
    run(oracle, [alloc(0, 18 * MIB), alloc(1, 67 * MIB), alloc(2, 10 * MIB), free(1)])
    first = len(oracle.history)
    run(oracle, [(0, 0, EMPTY_CACHE), alloc(3, 3 * MIB), alloc(4, 41 * MIB), free(0)])
    assert oracle.held[3].begin - oracle.segments[0].begin == 80 * MIB
    found = replay_snapshot(oracle.snapshot(oracle.history[first:]))
    assert (found.misplaced, found.allocated_after[0]) == (0, 28 * MIB)


@pytest.mark.parametrize("waits", [False, True])
def test_a_history_that_begins_after_pages_were_mapped_for_its_first_allocation_uses_them(waits: bool) -> None:
    """Behind them is a smaller free block that fits better, and was not looked at again."""
    events = [
        {"action": "alloc", "addr": 2**41, "size": 20 * MIB, "stream": 0},
        *({"action": "free_completed", "addr": 2**42, "size": MIB, "stream": 7} for _ in range(waits)),
    ]
    sizes = [(20 * MIB, "active_allocated"), (20 * MIB, "inactive"), (10 * MIB, "active_allocated"), (30 * MIB, "inactive")]
    blocks = [{"size": size, "state": state} for size, state in sizes]
    large = {"address": 2**41, "total_size": 80 * MIB, "segment_type": "large", "is_expandable": True, "blocks": blocks}
    other = {"address": 2**42, "total_size": 2 * MIB, "segment_type": "small", "is_expandable": True, "stream": 7}
    other["blocks"] = [{"size": 2 * MIB, "state": "inactive"}]
    settings_ = {"expandable_segments": True}
    found = replay_snapshot({"segments": [large, other], "device_traces": [events], "allocator_settings": settings_})
    assert (found.misplaced, found.allocated) == (0, 30 * MIB)


def test_pages_mapped_for_an_allocation_that_then_finds_no_more_stay_mapped() -> None:
    """Of 60 MiB, 20 more can be had after the first hole; then memory ran out, and the page is reserved all the same."""
    history = [
        {"action": "segment_map", "addr": 2**41, "size": 20 * MIB, "stream": 0},
        {"action": "alloc", "addr": 2**41, "size": 20 * MIB, "stream": 0},
        {"action": "segment_map", "addr": 2**41 + 20 * MIB, "size": 20 * MIB, "stream": 0},
        {"action": "oom", "device_free": 0, "size": 60 * MIB, "stream": 0},
    ]
    blocks = [{"size": 20 * MIB, "state": "active_allocated"}, {"size": 20 * MIB, "state": "inactive"}]
    segment = {"address": 2**41, "total_size": 40 * MIB, "segment_type": "large", "is_expandable": True, "blocks": blocks}
    found = replay_snapshot(
        {"segments": [segment], "device_traces": [history], "allocator_settings": {"expandable_segments": True}}
    )
    assert (found.misplaced, found.reserved, found.max_reserved, found.recorded_max_reserved) == (0, *[40 * MIB] * 3)


def test_a_block_from_before_the_history_reaches_to_where_the_next_allocation_begins() -> None:
    """Of 20 MiB, 4 + 0.5 were allocated for 4 before the history: the 512 KiB were too little to split off."""
    begin = 2**41
    end = begin + 4 * MIB + MIB // 2
    history = [
        {"action": "alloc", "addr": end, "size": 3 * MIB, "stream": 0},
        {"action": "free_requested", "addr": begin, "size": 4 * MIB, "stream": 0},
        {"action": "free_completed", "addr": begin, "size": 4 * MIB, "stream": 0},
        {"action": "alloc", "addr": begin, "size": 4 * MIB + MIB // 4, "stream": 0},
    ]
    sizes = [(4 * MIB + MIB // 2, "active_allocated"), (3 * MIB, "active_allocated"), (25 * MIB // 2, "inactive")]
    blocks = [{"size": size, "state": state} for size, state in sizes]
    segment = {"address": begin, "total_size": 20 * MIB, "segment_type": "large", "blocks": blocks}
    found = replay_snapshot({"segments": [segment], "device_traces": [history]})
    assert (found.misplaced, found.allocated) == (0, 15 * MIB // 2)
    assert found.allocated_after.tolist() == [size * MIB // 2 for size in (15, 6, 6, 15)]


def test_a_history_that_begins_while_a_freed_block_waits_for_a_stream_does_not_count_it() -> None:
    oracle = Oracle(AllocatorSettings(), None, shuffled(0))
    run(oracle, [alloc(0, 40 * MIB), alloc(1, 30 * MIB), (0, 0, FREE_REQUESTED)])
    first = len(oracle.history)
    run(oracle, [alloc(2, 20 * MIB), free(0)])
    found = replay_snapshot(oracle.snapshot(oracle.history[first:]))
    assert (found.misplaced, found.max_allocated, found.reserved) == (0, 50 * MIB, 90 * MIB)
    assert found.allocated_after.tolist() == [30 * MIB, 50 * MIB, 50 * MIB]  # a segment, its block, the free


def test_a_history_that_begins_after_its_segment_was_reserved_uses_that_segment() -> None:
    """With ``max_split_size``, a cached segment of 20 MiB would not serve 3; one that was reserved for them does."""
    oracle = Oracle(AllocatorSettings.parse("max_split_size_mb:20"), None, shuffled(0))
    run(oracle, [alloc(0, 3 * MIB)])
    found = replay_snapshot(oracle.snapshot(oracle.history[1:]))
    assert (found.misplaced, found.complete, found.reserved, found.max_reserved) == (0, False, 20 * MIB, 20 * MIB)


def test_other_settings_say_what_would_have_been_reserved_instead() -> None:
    oracle = Oracle(AllocatorSettings(), None, ascending())
    run(oracle, [alloc(0, 40 * MIB), free(0), alloc(1, 60 * MIB), free(1), alloc(2, 80 * MIB)])
    snapshot = oracle.snapshot(oracle.history)
    assert replay_snapshot(snapshot).max_reserved == 180 * MIB
    grown = replay_snapshot(snapshot, AllocatorSettings(expandable_segments=True))
    assert (grown.max_reserved, grown.recorded_max_reserved, grown.misplaced) == (80 * MIB, 180 * MIB, None)
    full = replay_snapshot(snapshot, capacity=100 * MIB)
    assert (full.out_of_memory, full.retries, full.max_reserved) == (None, 1, 100 * MIB)
    # The entry that needs the second segment: it goes by the trace, segments and all.
    short = replay_snapshot(snapshot, capacity=50 * MIB)
    assert snapshot["device_traces"][0][short.out_of_memory or 0]["size"] == 60 * MIB


@pytest.mark.parametrize("text", ["", "expandable_segments:True"])
def test_a_new_segment_comes_where_a_restored_state_has_none(text: str) -> None:
    before = simulate(alloc(0, 30 * MIB), text=text)
    after = simulate(alloc(1, 50 * MIB), alloc(2, 70 * MIB), text=text, blocks=before["blocks"])
    addresses = sorted(after["addresses"].tolist() + before["addresses"].tolist())
    assert len(set(addresses)) == 3
    assert addresses[1] - addresses[0] >= 30 * MIB
