"""Memory over a window of a trace, on allocations written by hand."""

from handwritten import trace, two_layer_trace

from torchprof.analysis.memory.changes import MemoryWindow, memory_between
from torchprof.analysis.memory.devices import real_and_meta


def test_a_window_counts_what_was_allocated_the_most_held_and_what_is_kept() -> None:
    allocations = two_layer_trace().allocations
    assert memory_between(allocations, 0, 100_000) == MemoryWindow(allocated=4500, peak=4000, kept=1500)


def test_a_window_leaves_out_what_happened_around_it() -> None:
    assert memory_between(two_layer_trace().allocations, 25_000, 35_000) == MemoryWindow(allocated=0, peak=0, kept=-3000)


def test_what_was_freed_before_does_not_add_to_the_peak() -> None:
    rows = [{"start": 10, "end": 20, "bytes": 100}, {"start": 30, "bytes": 100, "thread": 1}]
    assert memory_between(trace(allocations=rows).allocations, 0, 40).peak == 100


def test_an_empty_window_is_zero() -> None:
    assert memory_between(trace().allocations, 0, 10) == MemoryWindow(0, 0, 0)


def test_meta_tensors_stand_for_memory_but_take_none() -> None:
    real, meta = real_and_meta(trace(allocations=[{"bytes": 1, "device_type": 14}, {"bytes": 2, "device_type": 0}]))
    assert real["bytes"].tolist() == [2]
    assert meta["bytes"].tolist() == [1]
