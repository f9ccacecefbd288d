"""Memory as events of a timeline: a counter of the bytes held, for each type of device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.analysis.memory.changes import Changes
from torchprof.exporters.trace_events import microseconds
from torchprof.trace.trace import Trace

__all__ = ["memory_events"]

Ints = npt.NDArray[np.int64]

MAX_COUNTERS: Final = 100_000
"""The most events of counters in one file: viewers slow down with more."""


def memory_events(trace: Trace) -> Iterator[list[str]]:
    """Bytes held over time, for each type of device. At the start, those are held that were allocated before."""
    device_types = np.unique(trace.allocations["device_type"]).tolist()
    for device_type in device_types:
        changes = Changes(trace.allocations[trace.allocations["device_type"] == device_type])
        times = np.append(0, changes.times)
        held = np.append(changes.held_before, changes.held)
        last_at_time = np.append(np.diff(times) != 0, True)
        times, held = times[last_at_time], held[last_at_time]
        shown = _highest(held, MAX_COUNTERS // len(device_types))
        common = f'"ph":"C","pid":1,"name":"bytes held ({trace.device_types[device_type]})"'
        columns = zip(times[shown].tolist(), held[shown].tolist(), strict=True)
        yield [f'{{{common},"ts":{microseconds(time)},"args":{{"bytes":{count}}}}}' for time, count in columns]


def _highest(values: Ints, most: int) -> Ints:
    """The rows to draw where there are more than ``most``: the highest of every few, and both ends of the curve."""
    if len(values) <= most:
        return np.arange(len(values))
    few = -(-len(values) // (most - 2))
    padded = np.pad(values, (0, -len(values) % few), mode="edge").reshape(-1, few)
    highest = np.arange(len(padded)) * few + padded.argmax(axis=1)
    rows: Ints = np.unique(np.concatenate([[0], highest, [len(values) - 1]]).clip(max=len(values) - 1))
    return rows
