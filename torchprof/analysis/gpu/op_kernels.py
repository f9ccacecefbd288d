"""The kernels that every op launched."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from torchprof.analysis.gpu.kernels import kernel_times
from torchprof.analysis.remembered import remembered
from torchprof.analysis.spans import with_descendants
from torchprof.trace.trace import Trace

__all__ = ["device_times_of_ops", "kernels_of_ops"]

Ints = npt.NDArray[np.int64]


@remembered
def kernels_of_ops(trace: Trace) -> tuple[Ints, Ints]:
    """The device time and the number of the kernels that every op launched itself."""
    of_ops = np.flatnonzero(trace.kernels["op"] >= 0)
    op = trace.kernels["op"][of_ops]
    time = np.bincount(op, weights=kernel_times(trace.kernels)[of_ops], minlength=len(trace.ops))
    return time.astype(np.int64), np.bincount(op, minlength=len(trace.ops)).astype(np.int64)


@remembered
def device_times_of_ops(trace: Trace) -> Ints:
    """The device time of the kernels that every op launched, itself or in ops inside it."""
    return with_descendants(kernels_of_ops(trace)[0], trace.ops["parent"])
