"""How much of what devices could compute a program computed.

Model FLOPs utilization (MFU) is defined in appendix B of "PaLM: Scaling Language Modeling with Pathways" (Chowdhery et al.
2022) as the observed throughput relative to the one at peak FLOPs: here ``FLOPs of the ops / (span x devices x peak)``. FLOPs
are counted op by op as they ran, not estimated from the number of parameters as there; those of activations that checkpointing
computed again are left out. With them it is the hardware FLOPs utilization (HFU).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from torchprof.analysis.time.totals import step_totals
from torchprof.trace.schema import Phase
from torchprof.trace.trace import Trace

__all__ = ["Utilization", "utilization"]


@dataclass(frozen=True, slots=True)
class Utilization:
    """FLOPs of the active steps, against what the devices could have computed meanwhile.

    Attributes:
        flops: of ops that ran on devices.
        recomputed: of these, those of forward run again inside backward.
        span: nanoseconds from the start of the first kernel on any device to the end of the last.
        devices: how many devices worked.
        peak: FLOPs per second that each of them can do.
    """

    flops: int
    recomputed: int
    span: int
    devices: int
    peak: float

    @property
    def mfu(self) -> float:
        """Model FLOPs utilization: without what was recomputed."""
        return (self.flops - self.recomputed) / self._possible if self._possible else 0.0

    @property
    def hfu(self) -> float:
        """Hardware FLOPs utilization: with what was recomputed."""
        return self.flops / self._possible if self._possible else 0.0

    @property
    def _possible(self) -> float:
        return self.span * 1e-9 * self.devices * self.peak


def utilization(trace: Trace, *, span: int, devices: int, device_types: Sequence[int], peak: float) -> Utilization:
    """The utilization of the active steps; counts ops that were given a tensor on a device of one of these types."""
    totals = step_totals(trace)
    flops = np.where(_given_device(trace, device_types)[totals.ops["signature"]], totals.op_flops, 0)
    recomputed = flops[totals.ops["phase"] == Phase.RECOMPUTATION]
    return Utilization(int(flops.sum()), int(recomputed.sum()), span, devices, peak)


def _given_device(trace: Trace, device_types: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Whether a signature has an input on such a device."""
    there = np.isin(trace.tensors["device_type"], device_types)[trace.operands]
    up_to = np.append(0, np.cumsum(there))
    first = trace.signatures["inputs"].astype(np.int64)
    given: npt.NDArray[np.bool_] = up_to[first + trace.signatures["n_inputs"]] > up_to[first]
    return given
