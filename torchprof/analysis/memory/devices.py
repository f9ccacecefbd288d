"""The devices whose memory a trace describes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from torchprof.analysis.device_names import devices_of
from torchprof.analysis.remembered import remembered
from torchprof.errors import ArgumentError
from torchprof.trace.schema import Rows, Use
from torchprof.trace.trace import Trace

__all__ = ["devices_by_memory", "real_and_meta", "resolve_device"]


@remembered
def devices_by_memory(trace: Trace) -> tuple[str, ...]:
    """The devices on which memory was allocated: those that hold parameters first, then those with the most allocated bytes.

    PyTorch computes shapes on ``meta``, for a ``DTensor`` in every op, which can add up to more bytes than the
    model's device has.
    """
    names, device = devices_of(trace, trace.allocations)
    allocated = np.bincount(device, weights=trace.allocations["bytes"], minlength=len(names))
    holds = np.bincount(device, weights=trace.allocations["uses"] & Use.PARAMETER != 0, minlength=len(names)) > 0
    return tuple(names[row] for row in np.lexsort((-allocated, ~holds)).tolist() if allocated[row])


def resolve_device(trace: Trace, device: str | None) -> str:
    """The name of one device of the trace.

    Args:
        device: a device such as ``"cuda:1"``; a type such as ``"cuda"``, if the trace has one device of it; or None, for the
            device that holds parameters, or else the one with the most allocated bytes.

    Raises:
        ArgumentError: no memory was recorded on this device, or there are several of this type.
    """
    devices = devices_by_memory(trace)
    if device is None:
        return devices[0] if devices else "cpu"
    matching = [device] if device in devices else [name for name in devices if name.partition(":")[0] == device]
    if len(matching) == 1:
        return matching[0]
    if not len(trace.allocations) and str(device).partition(":")[0] in trace.device_types.values():
        return device
    if matching:
        raise ArgumentError(f"device={device!r} could be any of {_listed(sorted(matching))}: name one of these")
    raise ArgumentError(f"device={device!r}: no memory was recorded there; the trace has {_listed(devices) or 'none at all'}")


def real_and_meta(trace: Trace) -> tuple[Rows, Rows]:
    """The allocations on real devices, and those of ``meta`` tensors, which stand for memory but take none."""
    meta = trace.allocations["device_type"] == trace.device_types.number("meta")
    return trace.allocations[~meta], trace.allocations[meta]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))
