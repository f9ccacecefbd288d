"""Why a program ran out of memory: on histories that the oracle of the allocator recorded."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from oracle_allocator import Oracle

import torchprof
from torchprof.allocator.settings import AllocatorSettings
from torchprof.errors import ArgumentError

MIB = 2**20
Step = tuple[int, int]


def run(steps: list[Step], capacity: int, text: str = "") -> dict[str, Any]:
    """(number, size) allocates and (number, 0) frees; the last one fails."""
    oracle = Oracle(AllocatorSettings.parse(text), capacity, slots())
    for number, size in steps[:-1]:
        if size:
            assert oracle.allocate(number, size, 0)
        else:
            oracle.free(number)
    assert not oracle.allocate(*steps[-1], 0)
    frames = [{"filename": "/a/train.py", "line": 12, "name": "step"}]
    size, free = oracle.settings.round(steps[-1][1]), capacity - oracle.reserved
    oracle.history.append({"action": "oom", "device_free": free, "size": size, "stream": 0, "frames": frames})
    return oracle.snapshot(oracle.history)


def slots() -> Iterator[int]:
    return itertools.count(2**41, 2**41)


def halves() -> list[Step]:
    """Three times 40 MiB are reserved, freed, and used in halves of which the first is freed again."""
    steps: list[Step] = [(number, 40 * MIB) for number in (0, 1, 2)]
    steps += [(number, 0) for number in (0, 1, 2)]
    steps += [(number, 20 * MIB) for number in range(3, 9)]
    return [*steps, (3, 0), (5, 0), (7, 0), (9, 40 * MIB)]


def test_the_request_that_failed_and_what_was_free_in_pieces() -> None:
    found = torchprof.explain_oom(run(halves(), 130 * MIB))
    assert (found.device, found.requested, found.device_free, found.earlier) == ("cuda:0", 40 * MIB, 10 * MIB, 0)
    assert (found.capacity, found.reserved, found.allocated) == (130 * MIB, 120 * MIB, 60 * MIB)
    assert (found.free, found.largest_free, found.pieces, found.missing) == (60 * MIB, 20 * MIB, 3, 0)
    assert found.stack == ("/a/train.py:12 step",)
    assert found.reproduced


def test_a_setting_that_would_have_saved_the_run_is_named() -> None:
    """Pages that are free can be had again, wherever they are."""
    found = torchprof.explain_oom(run(halves(), 130 * MIB))
    assert found.saved_by[0] == "expandable_segments:True"
    assert "PYTORCH_ALLOC_CONF=expandable_segments:True would have saved the run" in str(found)
    first = found.attempt_table.to_dict()[0]
    assert (first["name"], first["fits"], first["served"]) == ("(as recorded)", False, 9)
    assert first["outcome"] == "out of memory after 9 of 10 allocations"


@pytest.mark.parametrize("text", ["expandable_segments:True", "max_split_size_mb:32", "roundup_power2_divisions:4"])
def test_an_attempt_fits_where_the_allocator_with_these_settings_serves_all(text: str) -> None:
    attempts = torchprof.explain_oom(run(halves(), 130 * MIB)).attempts
    oracle = Oracle(AllocatorSettings.parse(text), 130 * MIB, slots())
    served = [oracle.allocate(number, size, 0) if size else oracle.free(number) is None for number, size in halves()]
    found = next(attempt for attempt in attempts if attempt.text == text)
    assert (found.fits, found.max_reserved) == (all(served), oracle.max_reserved)


def test_where_too_much_is_allocated_no_setting_helps_and_it_says_by_how_much() -> None:
    found = torchprof.explain_oom(run([(0, 60 * MIB), (1, 30 * MIB), (2, 40 * MIB)], 100 * MIB))
    assert (found.missing, found.saved_by) == (30 * MIB, [])
    assert "No setting would have saved the run: 30.0 MiB more are needed" in str(found)


def test_a_limit_of_the_process_is_told_from_a_full_device() -> None:
    snapshot = run([(0, 60 * MIB), (1, 50 * MIB)], 100 * MIB)
    snapshot["device_traces"][0][-1]["device_free"] = 1000 * MIB
    found = torchprof.explain_oom(snapshot)
    assert (found.limited, found.capacity) == (True, 60 * MIB)
    assert "a limit such as torch.cuda.set_per_process_memory_fraction" in str(found)
    assert torchprof.explain_oom(snapshot, capacity=200 * MIB).attempts[0].fits


def test_what_the_program_frees_afterwards_does_not_count() -> None:
    snapshot = run(halves(), 130 * MIB)
    first = snapshot["segments"][0]["blocks"]
    address = snapshot["segments"][0]["address"] + 20 * MIB
    free = {"addr": address, "size": 20 * MIB, "stream": 0}
    snapshot["device_traces"][0] += [{"action": "free_requested", **free}, {"action": "free_completed", **free}]
    first[:] = [{"size": 40 * MIB, "state": "inactive"}]
    found = torchprof.explain_oom(snapshot)
    assert (found.allocated, found.free, found.reproduced) == (60 * MIB, 60 * MIB, True)


def test_a_history_in_which_nothing_failed_is_refused() -> None:
    snapshot = run(halves(), 130 * MIB)
    del snapshot["device_traces"][0][-1]
    with pytest.raises(ArgumentError, match="no request failed in the history of device 0"):
        torchprof.explain_oom(snapshot)
