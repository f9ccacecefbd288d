"""`fragmentation`: an allocator that reserves more while much of what it has is in no block."""

from __future__ import annotations

import pytest
from handwritten import trace

import torchprof
from torchprof.advice.registry import NotTold
from torchprof.advice.rules.fragmentation import fragmentation

GIB = 2**30


def totals(*of_allocator: tuple[int, int]) -> torchprof.Trace:
    """What a GPU's allocator had allocated and reserved, in GiB, one after the other."""
    return trace(
        allocations=[{"start": 0, "bytes": GIB, "device_type": 1, "device_index": 0}],
        allocator_totals=[
            {"time": at, "allocated": allocated * GIB, "reserved": reserved * GIB, "device_index": 0}
            for at, (allocated, reserved) in enumerate(of_allocator)
        ],
    )


def test_more_is_reserved_while_much_is_unused() -> None:
    (found,) = fragmentation(totals((6, 8), (5, 8), (6, 10), (6, 10)))
    assert found.what == "The allocator reserved more of cuda:0 while 4,096.0 MiB of its 10.0 GiB were in no block"
    assert found.worth is not None
    assert (found.worth.low, found.worth.high, found.worth.whole) == (0, 4 * GIB, 10 * GIB)
    assert "expandable_segments" in found.advice
    assert found.details == ("it reserved more 1 time in the recording",)


def test_what_is_left_of_an_earlier_peak_is_used_again() -> None:
    assert list(fragmentation(totals((6, 10), (5, 10), (6, 10)))) == []


def test_an_allocator_that_grows_as_it_is_filled() -> None:
    assert list(fragmentation(totals((6, 8), (8, 8), (10, 10)))) == []


def test_a_small_program() -> None:
    small = trace(
        allocations=[{"start": 0, "bytes": 1000, "device_type": 1, "device_index": 0}],
        allocator_totals=[
            {"time": at, "allocated": 1024, "reserved": (at + 1) * 2 * 2**20, "device_index": 0} for at in range(2)
        ],
    )
    assert list(fragmentation(small)) == []


def test_on_a_cpu_it_cannot_be_told() -> None:
    with pytest.raises(NotTold, match="no allocator"):
        list(fragmentation(trace(allocations=[{"start": 0, "bytes": 1}])))
