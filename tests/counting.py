"""How much memory a program takes on the CPU, counted by PyTorch's own profiler: nothing of torchprof takes part."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

__all__ = ["counted_peak", "memory_reports", "without_collection"]


@contextmanager
def without_collection() -> Iterator[None]:
    """What is in reference cycles goes before, and nothing during it: blocks of tests before would be freed at any time."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def memory_reports(run: Callable[[], object]) -> list[int]:
    """What PyTorch's profiler says of memory on the CPU while ``run`` runs: bytes allocated, negative for freed, in order."""
    with (
        without_collection(),
        torch.autograd.profiler.profile(use_cpu=True, use_kineto=True, profile_memory=True) as profiled,
    ):
        run()
    results = profiled.kineto_results
    assert results is not None
    events = [event for event in results.events() if event.name() == "[memory]"]
    return [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]


def counted_peak(run: Callable[[], object], before: Iterable[torch.Tensor]) -> int:
    """The most bytes that are held while ``run`` runs, with those of the tensors that are there before."""
    storages = [tensor.untyped_storage() for tensor in before]
    now = peak = sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
    with without_collection(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    assert profiled.profiler is not None
    events: list[tuple[int, int]] = []

    def find(event: Any) -> None:
        if event.name == "[memory]" and event.extra_fields.device.type == "cpu":
            events.append((event.start_time_ns, event.extra_fields.alloc_size))
        for child in event.children:
            find(child)

    for root in profiled.profiler.kineto_results.experimental_event_tree():
        find(root)
    for _, size in sorted(events, key=lambda event: event[0]):
        now += size
        peak = max(peak, now)
    return peak
