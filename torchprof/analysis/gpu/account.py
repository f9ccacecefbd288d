"""The account of devices: how busy they were, why they were idle, what was copied, and where the host waited for them.

All figures are sums over the active steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Self

from torchprof.analysis.gpu.backend import gpu_backend, why_no_kernels
from torchprof.analysis.gpu.copies import Copies, copies_by_direction
from torchprof.analysis.gpu.devices import Device, devices_and_gaps
from torchprof.analysis.gpu.gaps import Gaps
from torchprof.analysis.gpu.graphs import Graphs, cuda_graphs
from torchprof.analysis.gpu.idle import Idle, idle_times
from torchprof.analysis.gpu.launch_bound import LaunchBound, launch_bound_modules
from torchprof.analysis.gpu.waits import Waits, host_waits
from torchprof.analysis.model.module_tree import module_labels
from torchprof.errors import ArgumentError
from torchprof.trace.trace import Trace

__all__ = ["GpuAccount"]


@dataclass(frozen=True)
class GpuAccount:
    """What the devices of a trace did. Made by `GpuAccount.of`."""

    trace: Trace

    @classmethod
    def of(cls, trace: Trace) -> Self:
        """Account for the devices of a trace.

        Raises:
            ArgumentError: no device was recorded, or the trace holds sums only.
        """
        if trace.facts.get("aggregate"):
            raise ArgumentError(
                "trace was recorded with aggregate=True, which keeps no single kernels, nor the gaps between them: by_kernel, "
                "by_module and by_op have their sums; record without aggregate for the account"
            )
        if gpu_backend(trace) == "off":
            raise ArgumentError(why_no_kernels(trace))
        return cls(trace)

    @cached_property
    def devices(self) -> list[Device]:
        """Every device that ran a kernel of an active step."""
        return [device for device, _ in self._devices_and_gaps]

    @cached_property
    def idle(self) -> list[Idle]:
        """Idle time of all devices by cause, module and op, most first; it adds up to that of the devices."""
        return idle_times(self.trace, [gaps for _, gaps in self._devices_and_gaps], self._labels)

    @cached_property
    def copies(self) -> list[Copies]:
        """Copies by direction and module, most time first."""
        return copies_by_direction(self.trace, self._labels)

    @cached_property
    def waits(self) -> list[Waits]:
        """Runtime calls in which the host waited for a device, by op and module, most time first."""
        return host_waits(self.trace, self._labels)

    @cached_property
    def graphs(self) -> Graphs:
        """Launches of CUDA graphs, and the kernels that they ran."""
        return cuda_graphs(self.trace)

    @cached_property
    def launch_bound(self) -> list[LaunchBound]:
        """Modules whose kernels take less time than the host takes to launch them, the largest difference first."""
        return launch_bound_modules(self.trace, self.waits)

    @cached_property
    def _labels(self) -> list[str]:
        return module_labels(self.trace)

    @cached_property
    def _devices_and_gaps(self) -> list[tuple[Device, Gaps]]:
        return devices_and_gaps(self.trace)
