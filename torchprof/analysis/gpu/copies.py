"""Copies between host and devices, by direction and module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from torchprof.analysis.gpu.kernels import kernel_steps, kernel_times
from torchprof.analysis.groups import Groups
from torchprof.analysis.lookups import modules_of_calls
from torchprof.analysis.steps import active_steps
from torchprof.trace.schema import Activity, Direction
from torchprof.trace.trace import Trace

__all__ = ["DIRECTIONS", "Copies", "copies_by_direction"]

DIRECTIONS: Final[dict[int, str]] = {
    Direction.OTHER: "",
    Direction.HOST_TO_DEVICE: "host to device",
    Direction.DEVICE_TO_HOST: "device to host",
    Direction.ON_DEVICE: "on device",
    Direction.BETWEEN_DEVICES: "between devices",
}


@dataclass(frozen=True, slots=True)
class Copies:
    """Copies in one direction for one module: their number, bytes (None: not known of all), nanoseconds of device time."""

    direction: str
    module: str
    count: int
    bytes: int | None
    time: int


def copies_by_direction(trace: Trace, labels: Sequence[str]) -> list[Copies]:
    """Copies of active steps by direction and module, most time first.

    Args:
        labels: of modules, as `module_labels` returns them.
    """
    counted = kernel_steps(trace, active_steps(trace)) >= 0
    copies = trace.kernels[counted & (trace.kernels["kind"] == Activity.COPY)]
    module = modules_of_calls(trace, copies["module_call"])
    groups = Groups.by([copies["direction"], module])
    time, moved = groups.sums(kernel_times(copies)), groups.sums(copies["bytes"])
    unknown = groups.sums(copies["bytes"] == 0)  # files of HIP do not have the size of some
    found = []
    for group, first in enumerate(groups.first.tolist()):
        direction = DIRECTIONS.get(int(copies["direction"][first]), "") or "elsewhere"
        count = int(groups.count[group])
        found.append(
            Copies(direction, labels[module[first]], count, None if unknown[group] else int(moved[group]), int(time[group]))
        )
    return sorted(found, key=lambda copies: -copies.time)
