"""The devices that rows of a trace belong to, and their names: ``"cpu"``, ``"meta"``, ``"cuda:0"``."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.errors import ArgumentError
from torchprof.trace.schema import DEVICE_NAMES, Rows
from torchprof.trace.trace import Trace

__all__ = ["device_named", "devices_by_memory", "on_device"]

SINGLE: Final = [DEVICE_NAMES.index("cpu"), DEVICE_NAMES.index("meta")]
"""There is only one of each, whatever its index."""


def devices_by_memory(trace: Trace) -> list[str]:
    """The devices of ``trace.allocations`` that were handed out anything, the one with the most first."""
    totals = np.bincount(_numbers(trace.allocations), weights=trace.allocations["bytes"])
    return [_name(number) for number in np.argsort(-totals, kind="stable").tolist() if totals[number]]


def device_named(trace: Trace, device: str | None) -> str:
    """The one that is meant: a device, or a kind of which there is only one; None: the one that was handed out the most.

    Raises:
        ArgumentError: it has no memory in this trace, or there are several of its kind.
    """
    seen = devices_by_memory(trace)
    if device is None:
        return seen[0] if seen else "cpu"
    matching = [device] if device in seen else [name for name in seen if name.partition(":")[0] == device]
    if len(matching) == 1:
        return matching[0]
    if not len(trace.allocations) and str(device).partition(":")[0] in DEVICE_NAMES:
        return device
    if matching:
        raise ArgumentError(f"device={device!r} could be any of {_listed(sorted(matching))}: name one of these")
    raise ArgumentError(f"device={device!r}: no memory was recorded there; the trace has {_listed(seen) or 'none at all'}")


def on_device(rows: Rows, device: str) -> npt.NDArray[np.bool_]:
    """Which of these rows, with columns ``device_type`` and ``device_index``, belong to the device with this name."""
    numbers = _numbers(rows)
    named = [number for number in np.flatnonzero(np.bincount(numbers)).tolist() if _name(number) == device]
    mask: npt.NDArray[np.bool_] = np.isin(numbers, named)
    return mask


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names))


def _numbers(rows: Rows) -> npt.NDArray[np.int64]:
    """A number for each device: of its type, and of its index, which is -1 where there is only one."""
    index = np.where(np.isin(rows["device_type"], SINGLE), -1, rows["device_index"]).astype(np.int64)
    return rows["device_type"].astype(np.int64) * 256 + index + 1


def _name(number: int) -> str:
    kind, index = divmod(number, 256)
    return f"{DEVICE_NAMES[kind]}:{index - 1}" if index else DEVICE_NAMES[kind]
