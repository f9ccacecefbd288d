"""What copies to other devices, dtypes and layouts were, in words."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from torchprof.advice.ops_of import input_tensors, output_tensors
from torchprof.analysis.device_names import device_name
from torchprof.trace.trace import Trace

__all__ = ["from_and_to"]


def from_and_to(trace: Trace, rows: npt.NDArray[np.int64]) -> list[tuple[str, str]]:
    """Of each of these ops: ``("cuda:0", "cpu")`` of devices, ``("float32", "float16")`` on one device."""
    known: dict[tuple[int, int], tuple[str, str]] = {}
    found = []
    for pair in zip(input_tensors(trace, rows, 0).tolist(), output_tensors(trace, rows).tolist(), strict=True):
        if pair not in known:
            known[pair] = _words(trace, *pair)
        found.append(known[pair])
    return found


def _words(trace: Trace, before: int, after: int) -> tuple[str, str]:
    a, b = trace.tensors[before], trace.tensors[after]
    devices = tuple(device_name(trace, int(each["device_type"]), int(each["device_index"])) for each in (a, b))
    dtypes = tuple(trace.dtypes[int(each["dtype"])].name for each in (a, b))
    first, second = devices if devices[0] != devices[1] else dtypes
    return first, second
