"""How much memory a program takes on the CPU, counted by PyTorch's own profiler: nothing of torchprof takes part."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

__all__ = ["counted_peak"]


def counted_peak(run: Callable[[], object], before: Iterable[torch.Tensor]) -> int:
    """The most bytes that are held while ``run`` runs, with those of the tensors that are there before."""
    storages = [tensor.untyped_storage() for tensor in before]
    now = peak = sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
    gc.collect()
    gc.disable()  # what is in a reference cycle would go at any time
    try:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            run()
    finally:
        gc.enable()
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
