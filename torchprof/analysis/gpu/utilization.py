"""Model FLOPs utilization: the FLOPs that were computed, relative to what the devices can compute.

Model FLOPs utilization (MFU) is defined in appendix B of "PaLM: Scaling Language Modeling with Pathways" (Chowdhery et al.
2022) as the observed throughput relative to the one at peak FLOPs: here ``FLOPs of the ops / (span x devices x peak)``. FLOPs
are counted for every op that ran, not estimated from the number of parameters as in the paper. FLOPs of activations that
checkpointing recomputes are left out; with them it is the hardware FLOPs utilization (HFU).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from torchprof.analysis.model.flops import unknown_op
from torchprof.analysis.time.totals import step_totals
from torchprof.trace.schema import Phase
from torchprof.trace.trace import Trace

__all__ = ["Utilization", "utilization"]


@dataclass(frozen=True, slots=True)
class Utilization:
    """FLOPs of the active steps, and what the devices can compute in that time.

    Attributes:
        flops: of ops that ran on devices.
        recomputed: the part of these that recomputes forward inside backward.
        span: nanoseconds from the start of the first kernel on any device to the end of the last.
        devices: the number of devices that ran kernels.
        peak: FLOPs per second that each of them can compute.
        unknown: ops that ran on devices and whose FLOPs are unknown: with some, the utilizations are lower bounds.
    """

    flops: int
    recomputed: int
    span: int
    devices: int
    peak: float
    unknown: tuple[str, ...] = ()

    @property
    def mfu(self) -> float:
        """Model FLOPs utilization: without recomputation."""
        return (self.flops - self.recomputed) / self._possible if self._possible else 0.0

    @property
    def hfu(self) -> float:
        """Hardware FLOPs utilization: with recomputation."""
        return self.flops / self._possible if self._possible else 0.0

    @property
    def _possible(self) -> float:
        return self.span * 1e-9 * self.devices * self.peak


def utilization(trace: Trace, *, span: int, devices: int, device_types: Sequence[int], peak: float) -> Utilization:
    """The utilization of the active steps, counting ops that have an input on a device.

    Args:
        span, devices, peak: as in `Utilization`.
        device_types: the types of the devices, numbered as in ``trace.tensors["device_type"]``.
    """
    totals = step_totals(trace)
    signature = totals.ops["signature"]
    on_device = _has_input_on(trace, device_types)[signature]
    flops = np.where(on_device, totals.op_flops, 0)
    recomputed = flops[totals.ops["phase"] == Phase.RECOMPUTATION]
    unknown = {unknown_op(trace, int(row)) for row in np.unique(signature[on_device & totals.op_unknown])}
    return Utilization(int(flops.sum()), int(recomputed.sum()), span, devices, peak, tuple(sorted(unknown)))


def _has_input_on(trace: Trace, device_types: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Whether each signature has an input on a device of one of these types."""
    on_device = np.isin(trace.tensors["device_type"], device_types)[trace.operands]
    up_to = np.append(0, np.cumsum(on_device))
    first = trace.signatures["inputs"].astype(np.int64)
    found: npt.NDArray[np.bool_] = up_to[first + trace.signatures["n_inputs"]] > up_to[first]
    return found
