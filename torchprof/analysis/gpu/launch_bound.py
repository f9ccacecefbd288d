"""Launch-bound modules: the host takes longer to launch their kernels than the device takes to run them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from torchprof.analysis.gpu.waits import Waits
from torchprof.analysis.steps import active_steps
from torchprof.analysis.time.module_records import DATA, OTHER, module_records
from torchprof.trace.trace import Trace

__all__ = ["LaunchBound", "launch_bound_modules"]


@dataclass(frozen=True, slots=True)
class LaunchBound:
    """A launch-bound module, without the modules below it.

    Attributes:
        host: nanoseconds of host time in the module's own code and ops, without waits.
        device: nanoseconds of device time in the kernels that these launched.
    """

    module: str
    host: int
    device: int


def launch_bound_modules(trace: Trace, waits: Sequence[Waits]) -> list[LaunchBound]:
    """Launch-bound modules, the largest difference first.

    Args:
        waits: all waits of the host. Their time does not count as time that the host took to launch.
    """
    steps = max(1, len(active_steps(trace)))
    waited: dict[str, int] = defaultdict(int)
    for wait in waits:
        waited[wait.module] += wait.time
    found = []
    for record in module_records(trace):
        if not record["path"] and record["name"] in (DATA, OTHER):
            continue
        module = record["path"] or record["name"]
        device = round(record.get("device_self", 0) * steps)
        host = round(record["self"] * steps) - waited[module]
        if 0 < device < host:
            found.append(LaunchBound(module, host, device))
    return sorted(found, key=lambda bound: bound.device - bound.host)
